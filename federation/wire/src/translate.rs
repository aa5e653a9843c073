//! Addresses exchanged for others of the same family, in place: 1:1 prefix translation. Nothing is
//! allocated, no length changes, and every checksum that covers an address follows it incrementally
//! (RFC 1624), so that one that was wrong stays wrong.
//!
//! An ICMP error quotes a packet that went the other way: the address that is the error's source by
//! its network's view is the quoted packet's destination (RFC 5508 section 4.2, RFC 7915 section 4.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    ParseError,
    checksum::{Change, update},
    icmp,
    ip::{self, Packet, V4_HEADER_LEN, V6_HEADER_LEN},
    tcp, udp,
};

/// Length in bytes of the fixed part of an ICMP error, before what it quotes.
const ICMP_HEADER_LEN: usize = 8;
/// Where the checksum of an ICMP message stands.
const ICMP_CHECKSUM_AT: usize = 2;

/// One of the two addresses of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Who sent it.
    Source,
    /// Whom it is for.
    Destination,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// Exchanges the address at `end` of `packet`, and in what an ICMP error quotes the one at the other
/// end, for what `map` says; where it says nothing, the address stays. `map` keeps the family.
///
/// TCP, UDP and ICMP for IPv6 carry checksums over addresses; protocols that are not carried (DCCP,
/// UDP-Lite) do too and are left alone. A later fragment has no checksum but that of its IPv4 header.
///
/// # Errors
/// As [`Packet::parse`]; nothing changed then.
pub fn translate(
    packet: &mut [u8],
    end: End,
    map: impl Fn(IpAddr) -> Option<IpAddr>,
) -> Result<(), ParseError> {
    let parsed = Packet::parse(packet)?;
    let (length, header_len) = (parsed.total_len(), parsed.header_len());
    let upper = Upper {
        protocol: parsed.protocol(),
        is_here: parsed
            .fragment()
            .is_none_or(|fragment| fragment.offset == 0),
    };
    let quotes = upper.is_here && icmp::is_error(&parsed);
    let old = match end {
        End::Source => parsed.src(),
        End::Destination => parsed.dst(),
    };
    let Some((header, payload)) = packet
        .get_mut(..length)
        .and_then(|packet| packet.split_at_mut_checked(header_len))
    else {
        return Err(ParseError::Length);
    };
    if let Some(new) = map(old) {
        exchange(header, payload, upper, end, (old, new));
    }
    if quotes {
        translate_quoted(payload, old.is_ipv6(), end.other(), map);
    }
    Ok(())
}

/// What follows an IP header.
#[derive(Clone, Copy)]
struct Upper {
    protocol: u8,
    /// False in a later fragment.
    is_here: bool,
}

impl Upper {
    /// Where in it stands a checksum that covers the addresses.
    fn checksum_at(self) -> Option<usize> {
        match self.protocol {
            _ if !self.is_here => None,
            ip::TCP => Some(tcp::CHECKSUM_AT),
            ip::UDP => Some(udp::CHECKSUM_AT),
            ip::ICMPV6 => Some(ICMP_CHECKSUM_AT),
            _ => None,
        }
    }
}

/// What was written, for a checksum that covers header and payload too.
#[derive(Default)]
struct Written {
    address: Option<Change>,
    /// Words, as they were and as they are: of the IPv4 header's checksum and of the upper one.
    words: [Option<(u16, u16)>; 2],
}

fn exchange(
    header: &mut [u8],
    payload: &mut [u8],
    upper: Upper,
    end: End,
    (old, new): (IpAddr, IpAddr),
) -> Written {
    let change = match (old, new) {
        (IpAddr::V4(old), IpAddr::V4(new)) => {
            let at = match end {
                End::Source => 12,
                End::Destination => 16,
            };
            write(header, at, &old.octets(), &new.octets())
        }
        (IpAddr::V6(old), IpAddr::V6(new)) => {
            let at = match end {
                End::Source => 8,
                End::Destination => 24,
            };
            write(header, at, &old.octets(), &new.octets())
        }
        _ => None,
    };
    let Some(change) = change else {
        return Written::default();
    };
    let of_header = match old {
        IpAddr::V4(_) => patch(header, 10, |checksum| Some(change.apply(checksum))),
        IpAddr::V6(_) => None,
    };
    let of_upper = upper.checksum_at().and_then(|at| {
        patch(payload, at, |checksum| {
            match (upper.protocol, checksum, change.apply(checksum)) {
                // RFC 768: zero says that there is none, and one that is zero is sent as all ones.
                (ip::UDP, 0, _) => None,
                (ip::UDP, _, 0) => Some(0xffff),
                (_, _, new) => Some(new),
            }
        })
    });
    Written {
        address: Some(change),
        words: [of_header, of_upper],
    }
}

/// In the packet that the ICMP error in `message` quotes, of which the end may be missing.
fn translate_quoted(
    message: &mut [u8],
    is_v6: bool,
    end: End,
    map: impl Fn(IpAddr) -> Option<IpAddr>,
) {
    let Some((head, quoted)) = message.split_at_mut_checked(ICMP_HEADER_LEN) else {
        return;
    };
    let Some((header_len, upper, old)) = read_quoted(quoted, is_v6, end) else {
        return;
    };
    let (Some(new), Some((header, payload))) = (map(old), quoted.split_at_mut_checked(header_len))
    else {
        return;
    };
    let written = exchange(header, payload, upper, end, (old, new));
    patch(head, ICMP_CHECKSUM_AT, |checksum| {
        let checksum = written.address?.apply(checksum);
        let words = written.words.iter().flatten();
        Some(words.fold(checksum, |sum, (old, new)| update(sum, *old, *new)))
    });
}

/// Header length, what follows, and the address at `end`. Of IPv6 no extension headers are read: behind
/// one the checksum stays as it is, and no such packet is carried.
fn read_quoted(quoted: &[u8], is_v6: bool, end: End) -> Option<(usize, Upper, IpAddr)> {
    if is_v6 {
        let fixed = quoted.first_chunk::<V6_HEADER_LEN>()?;
        let upper = Upper {
            protocol: fixed[6],
            is_here: true,
        };
        let at = match end {
            End::Source => 8,
            End::Destination => 24,
        };
        let address = Ipv6Addr::from_octets(*fixed.get(at..)?.first_chunk()?);
        (fixed[0] >> 4 == 6).then_some((V6_HEADER_LEN, upper, address.into()))
    } else {
        let fixed = quoted.first_chunk::<V4_HEADER_LEN>()?;
        let header_len = usize::from(fixed[0] & 0x0f) * 4;
        let upper = Upper {
            protocol: fixed[9],
            is_here: u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff == 0,
        };
        let at = match end {
            End::Source => 12,
            End::Destination => 16,
        };
        let address = Ipv4Addr::from_octets(*fixed.get(at..)?.first_chunk()?);
        let is_whole = fixed[0] >> 4 == 4 && header_len >= V4_HEADER_LEN;
        is_whole.then_some((header_len, upper, address.into()))
    }
}

fn write(bytes: &mut [u8], at: usize, old: &[u8], new: &[u8]) -> Option<Change> {
    bytes
        .get_mut(at..)?
        .get_mut(..new.len())?
        .copy_from_slice(new);
    Some(Change::of(old, new))
}

/// Has the word at `at` changed. What it was and is.
fn patch(bytes: &mut [u8], at: usize, change: impl Fn(u16) -> Option<u16>) -> Option<(u16, u16)> {
    let word = bytes.get_mut(at..)?.first_chunk_mut::<2>()?;
    let old = u16::from_be_bytes(*word);
    let new = change(old)?;
    *word = new.to_be_bytes();
    Some((old, new))
}
