//! CONFIRM: the initiator's proof, an option on its ACK.
//!
//! docs/spec/handshake.md, "Wire format": kind 0, length 1, ExID 2..4, MAC 4..20.

use crate::{marker::EXID, tcp::options::EXPERIMENT_1};

/// Length in bytes of the option.
pub const LEN: usize = 20;

/// The owned form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// HMAC-SHA256 over the transcript under the initiator's pair key, truncated to 16 bytes.
    pub mac: [u8; 16],
}

impl Confirm {
    /// The option's bytes. [`crate::tcp::Segment::our_option`] reads them back.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = EXPERIMENT_1;
        bytes[1] = LEN as u8;
        bytes[2..4].copy_from_slice(&EXID.to_be_bytes());
        bytes[4..].copy_from_slice(&self.mac);
        bytes
    }
}
