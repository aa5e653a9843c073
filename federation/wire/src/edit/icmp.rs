//! ICMP errors that answer a packet (RFC 792, RFC 4443).

use std::net::IpAddr;

use crate::{
    checksum::Sum,
    icmp::is_error,
    ip::{self, ICMP, ICMPV6, Packet},
    tcp::Segment,
};

/// The longest error over IPv4 (RFC 1812 section 4.3.2.3) and IPv6 (RFC 4443 section 2.4).
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;
/// Type, code, checksum and the four bytes that each error uses in its own way.
const HEADER_LEN: usize = 8;

/// "Communication administratively prohibited", from `from` to the sender of `packet`. `None` when
/// no error may be sent about it: see [`icmp_too_big`].
#[must_use]
pub fn icmp_admin_prohibited(packet: &Packet<'_>, from: IpAddr) -> Option<Vec<u8>> {
    error(packet, from, [3, 13], [1, 1], 0)
}

/// "Fragmentation needed" (RFC 1191) or "packet too big": only `mtu` bytes fit.
///
/// `None` when no error may be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e): about an
/// ICMP error, a fragment other than the first, or to or about an address that is not one host's;
/// or when `from` is of the other family.
#[must_use]
pub fn icmp_too_big(packet: &Packet<'_>, from: IpAddr, mtu: u16) -> Option<Vec<u8>> {
    error(packet, from, [3, 4], [2, 0], mtu)
}

/// "Time exceeded": the packet's time to live ran out. `None` as for [`icmp_too_big`].
#[must_use]
pub fn icmp_time_exceeded(packet: &Packet<'_>, from: IpAddr) -> Option<Vec<u8>> {
    error(packet, from, [11, 0], [3, 0], 0)
}

/// `v4` and `v6` are type and code; the low 16 bits of the fifth to eighth byte carry `mtu` in
/// both families.
fn error(packet: &Packet<'_>, from: IpAddr, v4: [u8; 2], v6: [u8; 2], mtu: u16) -> Option<Vec<u8>> {
    let (protocol, [kind, code], limit) = match from {
        IpAddr::V4(_) => (ICMP, v4, MAX_V4 - ip::V4_HEADER_LEN),
        IpAddr::V6(_) => (ICMPV6, v6, MAX_V6 - ip::V6_HEADER_LEN),
    };
    if packet.fragment().is_some_and(|f| f.offset != 0)
        || is_error(packet)
        || !is_one_host(packet.src())
        || !is_one_host(packet.dst())
    {
        return None;
    }
    let [m0, m1] = mtu.to_be_bytes();
    let mut message = vec![kind, code, 0, 0, 0, 0, m0, m1];
    message.extend_from_slice(quote(packet, limit - HEADER_LEN));
    let sum = match protocol {
        ICMP => Sum::default(),
        _ => Sum::pseudo_header(from, packet.src(), ICMPV6, message.len()),
    };
    let checksum = sum.bytes(&message).checksum().to_be_bytes();
    message.get_mut(2..4)?.copy_from_slice(&checksum);
    ip::with_header(from, packet.src(), protocol, &message)
}

/// As much of the packet as fits. Of a TCP segment only the headers: the payload of a SYN may be a
/// token, which has no business in an error that a pod reads.
fn quote<'a>(packet: &Packet<'a>, limit: usize) -> &'a [u8] {
    let length = match Segment::of(packet) {
        Ok(segment) => packet.header_len() + segment.header_len(),
        Err(_) => packet.total_len(),
    };
    let bytes = packet.bytes();
    bytes.get(..length.min(limit)).unwrap_or(bytes)
}

fn is_one_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(a) if a.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}
