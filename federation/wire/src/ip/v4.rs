//! IPv4 headers and options.

use std::net::Ipv4Addr;

use super::{Fragment, Packet, V4_HEADER_LEN};
use crate::{ParseError, checksum::Sum};

/// Version and IHL 0, TOS 1, total length 2..4, id 4..6, flags and offset 6..8, TTL 8, protocol 9,
/// checksum 10..12, source 12..16, destination 16..20, options from 20.
pub(super) fn parse(bytes: &[u8]) -> Result<Packet<'_>, ParseError> {
    let fixed = bytes
        .first_chunk::<V4_HEADER_LEN>()
        .ok_or(ParseError::Truncated)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if header_len < V4_HEADER_LEN || total_len < header_len {
        return Err(ParseError::Length);
    }
    let bytes = bytes.get(..total_len).ok_or(ParseError::Truncated)?;
    let (header, payload) = bytes
        .split_at_checked(header_len)
        .ok_or(ParseError::Truncated)?;
    if !Sum::default().bytes(header).holds() {
        return Err(ParseError::Checksum);
    }
    check_options(header.get(V4_HEADER_LEN..).unwrap_or_default())?;
    let flags = u16::from_be_bytes([fixed[6], fixed[7]]);
    if flags & 0x8000 != 0 {
        return Err(ParseError::Reserved);
    }
    let (offset, more) = ((flags & 0x1fff) * 8, flags & 0x2000 != 0);
    let unaligned = more && !payload.len().is_multiple_of(8);
    if unaligned || usize::from(offset) + payload.len() > 0xffff {
        return Err(ParseError::Length);
    }
    Ok(Packet {
        bytes,
        src: Ipv4Addr::from_octets([fixed[12], fixed[13], fixed[14], fixed[15]]).into(),
        dst: Ipv4Addr::from_octets([fixed[16], fixed[17], fixed[18], fixed[19]]).into(),
        ttl: fixed[8],
        protocol: fixed[9],
        fragment: (offset != 0 || more).then(|| Fragment {
            offset,
            more,
            id: u16::from_be_bytes([fixed[4], fixed[5]]).into(),
        }),
        payload,
    })
}

/// Passes end of list, no-op, record route, timestamp and router alert. Source routes (RFC 7126
/// section 4.3 and 4.4) would carry a packet past what was decided on its destination; anything
/// unknown is refused.
fn check_options(mut options: &[u8]) -> Result<(), ParseError> {
    while let [kind, rest @ ..] = options {
        options = match (kind, rest) {
            (0, _) => return Ok(()),
            (1, _) => rest,
            (7 | 68 | 148, [length @ 2..=255, ..]) => options
                .get(usize::from(*length)..)
                .ok_or(ParseError::IpOption)?,
            _ => return Err(ParseError::IpOption),
        };
    }
    Ok(())
}
