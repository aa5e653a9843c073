//! Changes to a packet that leave its length alone, with checksums updated incrementally. For the
//! path where every packet goes: nothing is allocated and nothing is parsed twice.

use crate::{
    checksum::update,
    ip::{self, V4_HEADER_LEN},
    tcp::{self, options},
};

/// Takes one from the time to live or hop limit; the packet starts with its IP header. `None`, and
/// no change, when it must not be forwarded any more.
#[must_use]
pub fn decrement_ttl(packet: &mut [u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk_mut::<V4_HEADER_LEN>()?;
            let ttl = header[8].checked_sub(1).filter(|ttl| *ttl > 0)?;
            patch_v4(header, 8, [ttl, header[9]]);
            Some(ttl)
        }
        _ => {
            let hop_limit = packet.get_mut(7)?;
            *hop_limit = hop_limit.checked_sub(1).filter(|limit| *limit > 0)?;
            Some(*hop_limit)
        }
    }
}

/// The two ECN bits (RFC 3168) of the packet.
#[must_use]
pub fn ecn(packet: &[u8]) -> u8 {
    match packet {
        [first, tos, ..] if first >> 4 == 4 => tos & 3,
        [_, class, ..] => class >> 4 & 3,
        _ => 0,
    }
}

/// Marks the packet "congestion experienced".
pub fn set_congestion_experienced(packet: &mut [u8]) {
    if packet.first().is_some_and(|first| first >> 4 == 4) {
        if let Some(header) = packet.first_chunk_mut::<V4_HEADER_LEN>() {
            patch_v4(header, 0, [header[0], header[1] | 3]);
        }
    } else if let Some(class) = packet.get_mut(1) {
        *class |= 3 << 4;
    }
}

/// Lowers the MSS option of the TCP segment that starts at `header_len` to at most `limit`.
/// Whether it was changed.
pub fn clamp_mss(packet: &mut [u8], header_len: usize, limit: u16) -> bool {
    let Some(segment) = packet.get_mut(header_len..) else {
        return false;
    };
    let Some(data_offset) = segment.get(12).map(|b| usize::from(b >> 4) * 4) else {
        return false;
    };
    let Some((at, old)) = find_mss(segment.get(..data_offset).unwrap_or_default()) else {
        return false;
    };
    if old <= limit {
        return false;
    }
    // At an odd offset the bytes of the option lie in two words of the sum, exchanged.
    let (was, is) = if at % 2 == 0 {
        (old, limit)
    } else {
        (old.swap_bytes(), limit.swap_bytes())
    };
    let [high, low] = limit.to_be_bytes();
    if let Some(mss) = segment.get_mut(at..at + 2) {
        mss.copy_from_slice(&[high, low]);
    }
    if let Some([c0, c1]) = segment.get_mut(tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2) {
        [*c0, *c1] = update(u16::from_be_bytes([*c0, *c1]), was, is).to_be_bytes();
    }
    true
}

/// Where in `header` the value of the MSS option stands, and the value.
fn find_mss(header: &[u8]) -> Option<(usize, u16)> {
    let mut at = tcp::HEADER_LEN;
    for option in options::Walk::new(header.get(tcp::HEADER_LEN..)?) {
        if let [options::MSS, 4, high, low] = *option {
            return Some((at + 2, u16::from_be_bytes([high, low])));
        }
        at += option.len();
    }
    None
}

/// Writes the aligned word at `at` of an IPv4 header and updates its checksum.
fn patch_v4(header: &mut [u8; V4_HEADER_LEN], at: usize, word: [u8; 2]) {
    let old = u16::from_be_bytes([header[at], header[at + 1]]);
    let checksum = u16::from_be_bytes([header[10], header[11]]);
    header[at..at + 2].copy_from_slice(&word);
    header[10..12].copy_from_slice(&update(checksum, old, u16::from_be_bytes(word)).to_be_bytes());
}

/// The protocol number under which a tunnel carries this packet.
#[must_use]
pub fn tunnel_protocol(packet: &[u8]) -> Option<u8> {
    match packet.first()? >> 4 {
        4 => Some(ip::IPV4),
        6 => Some(ip::IPV6),
        _ => None,
    }
}
