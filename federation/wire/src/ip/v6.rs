//! IPv6 headers and the bounded walk along the extension headers.

use std::net::Ipv6Addr;

use super::{Fragment, Packet, V6_HEADER_LEN};
use crate::ParseError;

/// More extension headers than any real packet has.
const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Version, class and flow label 0..4, payload length 4..6, next header 6, hop limit 7, source
/// 8..24, destination 24..40, extension headers and payload from 40. A jumbogram (RFC 2675) has
/// payload length zero and so fails on its first extension header.
pub(super) fn parse(bytes: &[u8]) -> Result<Packet<'_>, ParseError> {
    let fixed = bytes
        .first_chunk::<V6_HEADER_LEN>()
        .ok_or(ParseError::Truncated)?;
    let payload_len = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let bytes = bytes
        .get(..V6_HEADER_LEN + payload_len)
        .ok_or(ParseError::Truncated)?;
    let after = bytes.get(V6_HEADER_LEN..).unwrap_or_default();
    let (protocol, fragment, payload) = walk(fixed[6], after)?;
    let mut addresses = [[0; 16]; 2];
    for (address, from) in addresses.iter_mut().zip(fixed[8..40].as_chunks::<16>().0) {
        *address = *from;
    }
    let [src, dst] = addresses.map(|octets| Ipv6Addr::from_octets(octets).into());
    Ok(Packet {
        bytes,
        src,
        dst,
        ttl: fixed[7],
        protocol,
        fragment,
        payload,
    })
}

/// Next header and what follows, as long as it is an extension header that passes. What lies after
/// the fragment header of a fragment other than the first is not a header, so the walk ends there.
fn walk(mut next: u8, mut rest: &[u8]) -> Result<(u8, Option<Fragment>, &[u8]), ParseError> {
    let mut fragment = None;
    let mut seen_fragment = false;
    for position in 0..=MAX_EXTENSIONS {
        let length = match next {
            HOP_BY_HOP if position == 0 => eights(rest)?,
            HOP_BY_HOP => return Err(ParseError::IpOption),
            DESTINATION_OPTIONS => eights(rest)?,
            ROUTING => {
                // Type 2, segments left 3. Type 0 is refused (RFC 5095), and so is any header
                // with a segment left: the packet is going elsewhere than its destination says.
                match rest.get(2..4) {
                    None => return Err(ParseError::Truncated),
                    Some([1..=255, 0]) => eights(rest)?,
                    Some(_) => return Err(ParseError::IpOption),
                }
            }
            AUTHENTICATION => {
                // RFC 4302 section 2.2: in units of 4 bytes, minus 2.
                let units = *rest.get(1).ok_or(ParseError::Truncated)?;
                (usize::from(units) + 2) * 4
            }
            FRAGMENT if seen_fragment => return Err(ParseError::IpOption),
            FRAGMENT => {
                seen_fragment = true;
                fragment = parse_fragment(rest)?;
                8
            }
            _ => return Ok((next, fragment, rest)),
        };
        let header_next = *rest.first().ok_or(ParseError::Truncated)?;
        rest = rest.get(length..).ok_or(ParseError::Truncated)?;
        next = header_next;
        if fragment.is_some_and(|f| f.offset != 0) {
            return Ok((next, fragment, rest));
        }
    }
    Err(ParseError::IpOption)
}

/// The length of an extension header that counts in units of 8 bytes after the first 8.
fn eights(header: &[u8]) -> Result<usize, ParseError> {
    let units = *header.get(1).ok_or(ParseError::Truncated)?;
    Ok((usize::from(units) + 1) * 8)
}

/// Next header 0, reserved 1, offset and flags 2..4, identification 4..8.
fn parse_fragment(header: &[u8]) -> Result<Option<Fragment>, ParseError> {
    let (fixed, after) = header
        .split_first_chunk::<8>()
        .ok_or(ParseError::Truncated)?;
    let [_, _, o0, o1, i0, i1, i2, i3] = *fixed;
    let field = u16::from_be_bytes([o0, o1]);
    let (offset, more) = (field & 0xfff8, field & 1 != 0);
    // RFC 8200 section 4.5: all but the last have a multiple of 8 bytes, and the whole fits.
    if (more && !after.len().is_multiple_of(8)) || usize::from(offset) + after.len() > 0xffff {
        return Err(ParseError::Length);
    }
    let id = u32::from_be_bytes([i0, i1, i2, i3]);
    Ok((offset != 0 || more).then_some(Fragment { offset, more, id }))
}
