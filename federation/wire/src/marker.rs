//! The TCP option that says "a token of ours is here": marker and CONFIRM share one ExID.
//!
//! docs/spec/handshake.md, "Wire format". The marker is `fd 04 4c 42`.

use crate::tcp::options::{EXPERIMENT_1, Options};

/// Our experiment identifier under kind 253 (RFC 6994): `LB`.
pub const EXID: u16 = 0x4c42;

/// The option on SYN and SYN-ACK whose payload is HELLO or REPLY: kind, length, ExID.
pub const MARKER: [u8; 4] = [EXPERIMENT_1, 4, 0x4c, 0x42];

/// What a segment carries under our ExID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OurOption<'a> {
    /// Nothing.
    Absent,
    /// [`MARKER`].
    Marker,
    /// CONFIRM, with its MAC.
    Confirm(&'a [u8; 16]),
    /// Another length, or more than one option of ours.
    Malformed,
}

/// Looks for our option in `options`.
pub(crate) fn find<'a>(options: Options<'a>) -> OurOption<'a> {
    let mut ours = options.filter_map(|option| option.experiment(EXID));
    match (ours.next(), ours.next()) {
        (None, _) => OurOption::Absent,
        (Some([]), None) => OurOption::Marker,
        (Some(content), None) => content
            .try_into()
            .map_or(OurOption::Malformed, OurOption::Confirm),
        (Some(_), Some(_)) => OurOption::Malformed,
    }
}
