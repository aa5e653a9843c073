//! IPv4 (RFC 791) and IPv6 (RFC 8200) behind one view.

mod v4;
mod v6;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{ParseError, checksum::Sum};

/// Protocol number of ICMP for IPv4.
pub const ICMP: u8 = 1;
/// Protocol number of IPv4 in a tunnel.
pub const IPV4: u8 = 4;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of IPv6 in a tunnel.
pub const IPV6: u8 = 41;
/// Protocol number of ICMP for IPv6.
pub const ICMPV6: u8 = 58;

/// Length of an IPv4 header without options.
pub const V4_HEADER_LEN: usize = 20;
/// Length of an IPv6 header without extension headers.
pub const V6_HEADER_LEN: usize = 40;

/// A checked view of one packet.
///
/// Checked: version, header and total length against the bytes, the IPv4 header checksum, the
/// IPv4 options (only no-op, record route, timestamp and router alert pass), the IPv6 extension
/// headers (at most 8: hop-by-hop first only, destination options, AH, one fragment header, and
/// routing headers that have nothing left to route). What follows the packet in the buffer, such
/// as Ethernet padding, is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Header and payload, cut to the total length.
    bytes: &'a [u8],
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    protocol: u8,
    fragment: Option<Fragment>,
    payload: &'a [u8],
}

/// Where a fragment belongs. An IPv6 atomic fragment (RFC 6946) is a whole packet, not this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Offset in bytes of the payload within that of the whole packet.
    pub offset: u16,
    /// Whether more fragments follow.
    pub more: bool,
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
}

impl<'a> Packet<'a> {
    /// Checks `bytes`, which start with the IP header.
    ///
    /// # Errors
    /// What is wrong; see the type for what is checked.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        match bytes.first().map(|b| b >> 4) {
            Some(4) => v4::parse(bytes),
            Some(6) => v6::parse(bytes),
            Some(_) => Err(ParseError::Version),
            None => Err(ParseError::Truncated),
        }
    }

    /// The packet's own bytes, header first, nothing after its total length.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Source address.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        self.src
    }

    /// Destination address.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// Whether it is IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }

    /// The protocol above IP, after all IPv6 extension headers.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Time to live or hop limit.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.ttl
    }

    /// `Some` when this is a fragment: then [`Packet::payload`] must not be read as a header.
    #[must_use]
    pub fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// What follows the header (and extension headers).
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Length in bytes of the header with options or extension headers.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.bytes.len() - self.payload.len()
    }

    /// Length in bytes of header and payload.
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether routers must not fragment it: the DF bit of IPv4, always in IPv6.
    #[must_use]
    pub fn dont_fragment(&self) -> bool {
        self.is_v6() || self.bytes.get(6).is_some_and(|flags| flags & 0x40 != 0)
    }
}

/// An IPv4 header without options: time to live 64, don't fragment. `tos` is DSCP and ECN. `None`
/// when `payload_len` is too long.
#[must_use]
pub fn v4_header(
    (src, dst): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    tos: u8,
    payload_len: usize,
) -> Option<[u8; V4_HEADER_LEN]> {
    let total = u16::try_from(payload_len.checked_add(V4_HEADER_LEN)?).ok()?;
    let mut header = [0; V4_HEADER_LEN];
    (header[0], header[1], header[6], header[8], header[9]) = (0x45, tos, 0x40, 64, protocol);
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header[12..16].copy_from_slice(&src.octets());
    header[16..20].copy_from_slice(&dst.octets());
    let checksum = Sum::default().bytes(&header).checksum();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    Some(header)
}

/// An IPv6 header: hop limit 64, no flow label. `class` is DSCP and ECN. `None` when `payload_len`
/// is too long.
#[must_use]
pub fn v6_header(
    (src, dst): (Ipv6Addr, Ipv6Addr),
    protocol: u8,
    class: u8,
    payload_len: usize,
) -> Option<[u8; V6_HEADER_LEN]> {
    let payload_len = u16::try_from(payload_len).ok()?;
    let mut header = [0; V6_HEADER_LEN];
    (header[0], header[1]) = (0x60 | class >> 4, class << 4);
    (header[6], header[7]) = (protocol, 64);
    header[4..6].copy_from_slice(&payload_len.to_be_bytes());
    header[8..24].copy_from_slice(&src.octets());
    header[24..40].copy_from_slice(&dst.octets());
    Some(header)
}

/// A packet from `src` to `dst` with such a header. `None` when the families differ or `payload`
/// is too long.
#[must_use]
pub fn with_header(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Option<Vec<u8>> {
    let length = payload.len();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Some([&v4_header((src, dst), protocol, 0, length)?, payload].concat())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Some([&v6_header((src, dst), protocol, 0, length)?, payload].concat())
        }
        _ => None,
    }
}

/// Writes the length of `packet` into its header, and the IPv4 header checksum. `header_len`
/// counts options, of IPv6 it is not needed. `None` when the length does not fit its field.
pub(crate) fn write_length(packet: &mut [u8], header_len: usize) -> Option<()> {
    let total = packet.len();
    if packet.first()? >> 4 == 4 {
        let header = packet.get_mut(..header_len)?;
        let fixed = header.first_chunk_mut::<V4_HEADER_LEN>()?;
        fixed[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
        fixed[10..12].fill(0);
        let checksum = Sum::default().bytes(header).checksum();
        header
            .get_mut(10..12)?
            .copy_from_slice(&checksum.to_be_bytes());
    } else {
        let payload_len = u16::try_from(total.checked_sub(V6_HEADER_LEN)?).ok()?;
        packet
            .get_mut(4..6)?
            .copy_from_slice(&payload_len.to_be_bytes());
    }
    Some(())
}
