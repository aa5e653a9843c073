//! Rewriting a packet into a fresh one with valid lengths and checksums.
//!
//! Everything here takes and returns IP packets without a link header.

mod icmp;
mod option_list;
mod reset;

use std::ops::Range;

pub use icmp::{icmp_admin_prohibited, icmp_time_exceeded, icmp_too_big};
pub use reset::{reset, reset_for};

use crate::{
    ParseError,
    checksum::Sum,
    ip,
    marker::EXID,
    tcp::{
        self, Segment,
        options::{self, TcpOption},
    },
};
use option_list::OptionList;

/// The lowest MSS that lowering leaves: what Linux calls `TCP_MIN_MSS`.
const MIN_MSS: u16 = 88;
/// Where the checksum stands in a segment.
const CHECKSUM: Range<usize> = tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2;

/// Why a segment cannot be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The packet holds no TCP segment that can be read.
    #[error("not an editable segment: {0}")]
    Parse(#[from] ParseError),
    /// Its TCP checksum does not hold: a rewrite would launder the damage.
    #[error("the TCP checksum does not hold")]
    Checksum,
    /// The options, even without no-ops, need more than 40 bytes.
    #[error("no room for the TCP options")]
    NoOptionSpace,
    /// The packet would be longer than its length field can say.
    #[error("the packet would be too long")]
    TooLong,
}

/// An edit of one TCP packet. Options that are not named keep their bytes and their order; no-ops
/// go only when their room is needed; what is added goes last. Only the new packet is allocated.
#[derive(Clone, Debug)]
pub struct TcpEdit<'a> {
    packet: ip::Packet<'a>,
    segment: Segment<'a>,
    options: OptionList,
    payload: [&'a [u8]; 3],
}

impl<'a> TcpEdit<'a> {
    /// Starts with `packet` as it is.
    ///
    /// # Errors
    /// [`EditError::Parse`] or [`EditError::Checksum`].
    pub fn new(packet: &ip::Packet<'a>) -> Result<Self, EditError> {
        Self::of(packet, &Segment::of(packet)?)
    }

    /// The same for who has read the segment of `packet` already.
    ///
    /// # Errors
    /// [`EditError::Checksum`].
    pub fn of(packet: &ip::Packet<'a>, segment: &Segment<'a>) -> Result<Self, EditError> {
        if !segment.checksum_holds(packet.src(), packet.dst()) {
            return Err(EditError::Checksum);
        }
        Ok(Self {
            packet: *packet,
            segment: *segment,
            options: OptionList::of(segment),
            payload: [segment.payload(), &[], &[]],
        })
    }

    /// Adds a whole option: kind, length, data.
    #[must_use]
    pub fn add_option(mut self, option: &[u8]) -> Self {
        self.options.push(option);
        self
    }

    /// Removes every option under our ExID: marker and CONFIRM.
    #[must_use]
    pub fn remove_exid(self) -> Self {
        self.remove_where(|option| option.experiment(EXID).is_some())
    }

    /// Removes every option of `kind`.
    #[must_use]
    pub fn remove_kind(self, kind: u8) -> Self {
        self.remove_where(|option| option.kind == kind)
    }

    /// Removes the Fast Open cookie: kind 34 and the experiment it was before.
    #[must_use]
    pub fn remove_fast_open(self) -> Self {
        self.remove_where(|option| {
            let experiment = matches!(option.kind, options::EXPERIMENT_1 | options::EXPERIMENT_2);
            option.kind == options::FAST_OPEN
                || (experiment
                    && option
                        .data
                        .starts_with(&options::FAST_OPEN_EXID.to_be_bytes()))
        })
    }

    /// Lowers the MSS option to at most `limit`; a segment without one is left alone.
    #[must_use]
    pub fn clamp_mss(self, limit: u16) -> Self {
        self.map_mss(|mss| mss.min(limit))
    }

    /// Lowers the MSS option by `by`, not below 88 bytes.
    #[must_use]
    pub fn reduce_mss_by(self, by: u16) -> Self {
        self.map_mss(|mss| mss.saturating_sub(by).max(mss.min(MIN_MSS)))
    }

    /// Replaces the payload.
    #[must_use]
    pub fn payload(self, payload: &'a [u8]) -> Self {
        self.payload_parts([payload, &[], &[]])
    }

    /// Replaces the payload by `parts`, one after the other.
    #[must_use]
    pub fn payload_parts(mut self, parts: [&'a [u8]; 3]) -> Self {
        self.payload = parts;
        self
    }

    /// The new packet.
    ///
    /// # Errors
    /// [`EditError::NoOptionSpace`] or [`EditError::TooLong`].
    pub fn finish(mut self) -> Result<Vec<u8>, EditError> {
        let options = self.options.packed()?;
        let mut header = *self.segment.header();
        let words = (tcp::HEADER_LEN + options.len()) / 4;
        // At most 15 words, because the options have at most 40 bytes.
        header[12] = (header[12] & 0x0f) | (words as u8) << 4;
        header[CHECKSUM].fill(0);
        let ip_header = self
            .packet
            .bytes()
            .get(..self.packet.header_len())
            .unwrap_or_default();
        let parts = self.payload;
        let payload: usize = parts.iter().map(|part| part.len()).sum();
        let length = ip_header.len() + header.len() + options.len() + payload;
        let mut bytes = Vec::with_capacity(length);
        for part in [ip_header, &header, options].iter().chain(&parts) {
            bytes.extend_from_slice(part);
        }
        write_checksum(&mut bytes, ip_header.len(), &self.packet).ok_or(EditError::TooLong)?;
        ip::write_length(&mut bytes, ip_header.len()).ok_or(EditError::TooLong)?;
        Ok(bytes)
    }

    fn remove_where(mut self, remove: impl Fn(&TcpOption<'_>) -> bool) -> Self {
        self.options
            .retain(|bytes| !TcpOption::of(bytes).is_some_and(|option| remove(&option)));
        self
    }

    fn map_mss(mut self, map: impl Fn(u16) -> u16) -> Self {
        self.options.map_mss(map);
        self
    }
}

/// Writes the TCP checksum of `bytes`, whose segment starts at `start` and has none yet. `None`
/// when it is no segment.
fn write_checksum(bytes: &mut [u8], start: usize, packet: &ip::Packet<'_>) -> Option<()> {
    let segment = bytes.get_mut(start..)?;
    let sum = Sum::pseudo_header(packet.src(), packet.dst(), ip::TCP, segment.len());
    let checksum = sum.bytes(segment).checksum().to_be_bytes();
    segment.get_mut(CHECKSUM)?.copy_from_slice(&checksum);
    Some(())
}
