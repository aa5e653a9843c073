//! Rewriting a packet into a fresh one with valid lengths and checksums.
//!
//! Everything here takes and returns IP packets without a link header.

mod icmp;
mod reset;

use std::borrow::Cow;

pub use icmp::{icmp_admin_prohibited, icmp_time_exceeded, icmp_too_big};
pub use reset::{reset, reset_for};

use crate::{
    ParseError,
    checksum::Sum,
    ip,
    marker::EXID,
    tcp::{
        self, MAX_OPTIONS, Segment,
        options::{self, TcpOption},
    },
};

/// The lowest MSS that lowering leaves: what Linux calls `TCP_MIN_MSS`.
const MIN_MSS: u16 = 88;

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
/// go only when their room is needed; what is added goes last.
#[derive(Clone, Debug)]
pub struct TcpEdit<'a> {
    packet: ip::Packet<'a>,
    segment: Segment<'a>,
    /// Options in order, no-ops as one byte each.
    options: Vec<Cow<'a, [u8]>>,
    payload: &'a [u8],
}

impl<'a> TcpEdit<'a> {
    /// Starts with `packet` as it is.
    ///
    /// # Errors
    /// [`EditError::Parse`] or [`EditError::Checksum`].
    pub fn new(packet: &ip::Packet<'a>) -> Result<Self, EditError> {
        let segment = Segment::of(packet)?;
        if !segment.checksum_holds(packet.src(), packet.dst()) {
            return Err(EditError::Checksum);
        }
        Ok(Self {
            packet: *packet,
            segment,
            options: segment.options_with_nops().map(Cow::Borrowed).collect(),
            payload: segment.payload(),
        })
    }

    /// Adds a whole option: kind, length, data.
    #[must_use]
    pub fn add_option(mut self, option: &[u8]) -> Self {
        self.options.push(Cow::Owned(option.to_vec()));
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
    pub fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// The new packet.
    ///
    /// # Errors
    /// [`EditError::NoOptionSpace`] or [`EditError::TooLong`].
    pub fn finish(self) -> Result<Vec<u8>, EditError> {
        let options = self.packed_options()?;
        let mut header = *self.segment.header();
        let words = (tcp::HEADER_LEN + options.len()) / 4;
        // At most 15 words, because the options have at most 40 bytes.
        header[12] = (header[12] & 0x0f) | (words as u8) << 4;
        header[16..18].fill(0);
        let segment = [&header[..], &options, self.payload].concat();
        let ip_header = self
            .packet
            .bytes()
            .get(..self.packet.header_len())
            .unwrap_or_default();
        assemble(ip_header, &self.packet, segment, tcp::CHECKSUM_AT).ok_or(EditError::TooLong)
    }

    fn remove_where(mut self, remove: impl Fn(&TcpOption<'_>) -> bool) -> Self {
        self.options
            .retain(|bytes| !TcpOption::of(bytes).is_some_and(|option| remove(&option)));
        self
    }

    fn map_mss(mut self, map: impl Fn(u16) -> u16) -> Self {
        for option in &mut self.options {
            if let [options::MSS, 4, high, low] = **option {
                let [high, low] = map(u16::from_be_bytes([high, low])).to_be_bytes();
                *option = Cow::Owned(vec![options::MSS, 4, high, low]);
            }
        }
        self
    }

    /// The option list, padded to a multiple of four.
    fn packed_options(&self) -> Result<Vec<u8>, EditError> {
        let mut packed = self.options.concat();
        if packed.len() > MAX_OPTIONS {
            let spacing = |option: &&Cow<'_, [u8]>| ***option != [options::NOP];
            packed = self
                .options
                .iter()
                .filter(spacing)
                .flat_map(|o| o.iter().copied())
                .collect();
        }
        packed.resize(packed.len().next_multiple_of(4), options::NOP);
        if packed.len() > MAX_OPTIONS {
            return Err(EditError::NoOptionSpace);
        }
        Ok(packed)
    }
}

/// `ip_header` and `upper` as one packet between the addresses of `packet`, with lengths and both
/// checksums written; the upper one, at `checksum_at`, is zero before. `None` when too long.
fn assemble(
    ip_header: &[u8],
    packet: &ip::Packet<'_>,
    mut upper: Vec<u8>,
    checksum_at: usize,
) -> Option<Vec<u8>> {
    let sum = Sum::pseudo_header(packet.src(), packet.dst(), packet.protocol(), upper.len());
    let checksum = sum.bytes(&upper).checksum().to_be_bytes();
    upper
        .get_mut(checksum_at..)?
        .first_chunk_mut::<2>()?
        .clone_from(&checksum);
    let mut bytes = [ip_header, &upper].concat();
    ip::write_length(&mut bytes, ip_header.len())?;
    Some(bytes)
}
