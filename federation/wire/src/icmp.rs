//! ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443): errors and the packets they are about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{ParseError, bytes::Reader, checksum::Sum, flow::FlowKey, ip};

/// Length in bytes of the fixed part of an error.
const HEADER_LEN: usize = 8;

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Destination unreachable, with its code.
    Unreachable(u8),
    /// Fragmentation needed or packet too big: the next hop takes this many bytes.
    TooBig(u32),
    /// Time exceeded, with its code.
    TimeExceeded(u8),
    /// Parameter problem, with its code.
    ParameterProblem(u8),
    /// Any other error type, such as source quench and redirect, which nobody should follow.
    Other(u8),
}

/// A checked ICMP error: type 0, code 1, checksum 2..4, value 4..8, the packet it is about from 8.
/// The checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// What it says.
    pub kind: ErrorKind,
    /// The connection of the embedded packet, in the direction in which it was sent. A live flow
    /// must have the same: otherwise the error is forged or late.
    pub about: FlowKey,
    /// The sequence number of an embedded TCP segment.
    pub seq: Option<u32>,
}

/// Whether `packet` is an ICMP error, by its type alone (RFC 4443: types under 128).
#[must_use]
pub fn is_error(packet: &ip::Packet<'_>) -> bool {
    match (packet.protocol(), packet.payload().first()) {
        (ip::ICMP, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (ip::ICMPV6, Some(kind)) => *kind < 128,
        _ => false,
    }
}

impl IcmpError {
    /// The error in `packet`.
    ///
    /// # Errors
    /// [`ParseError::Protocol`] when it is no ICMP error of its family or what it embeds is
    /// neither TCP nor UDP, [`ParseError::Fragment`] when it or what it embeds is a fragment,
    /// [`ParseError::Checksum`], [`ParseError::Truncated`], [`ParseError::Version`].
    pub fn of(packet: &ip::Packet<'_>) -> Result<Self, ParseError> {
        let own_protocol = if packet.is_v6() { ip::ICMPV6 } else { ip::ICMP };
        if packet.protocol() != own_protocol || !is_error(packet) {
            return Err(ParseError::Protocol);
        }
        if packet.fragment().is_some() {
            return Err(ParseError::Fragment);
        }
        let message = packet.payload();
        let sum = match own_protocol {
            ip::ICMP => Sum::default(),
            _ => Sum::pseudo_header(packet.src(), packet.dst(), own_protocol, message.len()),
        };
        if !sum.bytes(message).holds() {
            return Err(ParseError::Checksum);
        }
        let (header, embedded) = message
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(ParseError::Truncated)?;
        let [kind, code, _, _, value @ ..] = *header;
        let value = u32::from_be_bytes(value);
        let kind = match (packet.is_v6(), kind) {
            (false, 3) if code == 4 => ErrorKind::TooBig(value & 0xffff),
            (false, 3) | (true, 1) => ErrorKind::Unreachable(code),
            (true, 2) => ErrorKind::TooBig(value),
            (false, 11) | (true, 3) => ErrorKind::TimeExceeded(code),
            (false, 12) | (true, 4) => ErrorKind::ParameterProblem(code),
            (_, other) => ErrorKind::Other(other),
        };
        let (about, seq) = if packet.is_v6() {
            embedded_v6(embedded)
        } else {
            embedded_v4(embedded)
        }?;
        Ok(Self { kind, about, seq })
    }
}

/// The tuple of an IPv4 packet of which perhaps only the header and eight bytes are left. Its
/// checksum is not looked at: routers change the header before they quote it.
fn embedded_v4(bytes: &[u8]) -> Result<(FlowKey, Option<u32>), ParseError> {
    let fixed = bytes
        .first_chunk::<{ ip::V4_HEADER_LEN }>()
        .ok_or(ParseError::Truncated)?;
    if fixed[0] >> 4 != 4 {
        return Err(ParseError::Version);
    }
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    if header_len < ip::V4_HEADER_LEN {
        return Err(ParseError::Length);
    }
    if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0 {
        return Err(ParseError::Fragment);
    }
    let src = Ipv4Addr::from_octets([fixed[12], fixed[13], fixed[14], fixed[15]]);
    let dst = Ipv4Addr::from_octets([fixed[16], fixed[17], fixed[18], fixed[19]]);
    let upper = bytes.get(header_len..).ok_or(ParseError::Truncated)?;
    embedded_upper(fixed[9], src.into(), dst.into(), upper)
}

/// The tuple of an IPv6 packet without extension headers. One with them is `Protocol`: such a
/// packet of ours is never sent.
fn embedded_v6(bytes: &[u8]) -> Result<(FlowKey, Option<u32>), ParseError> {
    let mut r = Reader(bytes);
    let [version, _, _, _, _, _, next, _] = r.array()?;
    if version >> 4 != 6 {
        return Err(ParseError::Version);
    }
    let src = Ipv6Addr::from_octets(r.array()?);
    let dst = Ipv6Addr::from_octets(r.array()?);
    embedded_upper(next, src.into(), dst.into(), r.0)
}

fn embedded_upper(
    protocol: u8,
    src: IpAddr,
    dst: IpAddr,
    upper: &[u8],
) -> Result<(FlowKey, Option<u32>), ParseError> {
    if !matches!(protocol, ip::TCP | ip::UDP) {
        return Err(ParseError::Protocol);
    }
    let mut r = Reader(upper);
    let key = FlowKey {
        protocol,
        src,
        dst,
        sport: r.u16()?,
        dport: r.u16()?,
    };
    // RFC 792: at least eight bytes of what follows the header are quoted.
    let second_word = r.u32()?;
    Ok((key, (protocol == ip::TCP).then_some(second_word)))
}
