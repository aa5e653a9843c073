//! Resets (RFC 9293 section 3.10.7).

use crate::{
    ParseError,
    checksum::Sum,
    flow::FlowKey,
    ip::{self, TCP},
    tcp::{CHECKSUM_AT, Flags, HEADER_LEN, Segment},
};

/// The reset that answers `packet` to its sender, as a host without that connection would
/// (RFC 9293 section 3.10.7.1). `None` when the packet is a reset itself.
///
/// # Errors
/// When the packet holds no TCP segment that can be read.
pub fn reset_for(packet: &ip::Packet<'_>) -> Result<Option<Vec<u8>>, ParseError> {
    let segment = Segment::of(packet)?;
    let flags = segment.flags();
    if flags.rst() {
        return Ok(None);
    }
    let back = FlowKey::of(packet)?.reversed();
    Ok(if flags.ack() {
        reset(&back, segment.ack(), None)
    } else {
        reset(
            &back,
            0,
            Some(segment.seq().wrapping_add(segment.sequence_len())),
        )
    })
}

/// A reset from `key.src` to `key.dst` at `seq`, with an acknowledgment number if given.
/// `None` when the families of the addresses differ.
#[must_use]
pub fn reset(key: &FlowKey, seq: u32, ack: Option<u32>) -> Option<Vec<u8>> {
    let mut segment = [0; HEADER_LEN];
    segment[0..2].copy_from_slice(&key.sport.to_be_bytes());
    segment[2..4].copy_from_slice(&key.dport.to_be_bytes());
    segment[4..8].copy_from_slice(&seq.to_be_bytes());
    segment[8..12].copy_from_slice(&ack.unwrap_or(0).to_be_bytes());
    segment[12] = (HEADER_LEN as u8 / 4) << 4;
    segment[13] = Flags::RST | if ack.is_some() { Flags::ACK } else { 0 };
    let sum = Sum::pseudo_header(key.src, key.dst, TCP, HEADER_LEN).bytes(&segment);
    segment[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.checksum().to_be_bytes());
    ip::with_header(key.src, key.dst, TCP, &segment)
}
