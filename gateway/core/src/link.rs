//! The link and outer headers: taking them off and putting them on, in place.

use std::net::IpAddr;

use policy::DropReason;
use wire::{
    ethernet::{self, Mac},
    inplace, ip, psp, udp,
};

use crate::{
    frame::Frame,
    inner,
    snapshot::{Interface, Peer, Snapshot},
};

/// Bytes that the tunnel adds to an inner packet over IPv4: IP, UDP, PSP, ICV.
pub const OVERHEAD_V4: u16 = 60;
/// Over IPv6.
pub const OVERHEAD_V6: u16 = 80;

/// Takes the Ethernet header off; the sender's link address. What is left starts with the IP
/// header that the EtherType announced.
///
/// # Errors
/// [`DropReason::Malformed`], also for a tagged frame; [`DropReason::NoRoute`] for one to another
/// station.
pub fn take_ethernet(frame: &mut Frame<'_>, interface: &Interface) -> Result<Mac, DropReason> {
    let parsed = ethernet::Frame::parse(frame.packet()).map_err(inner::reason)?;
    if parsed.dst() != interface.mac {
        return Err(DropReason::NoRoute);
    }
    let version = parsed.payload().first().map(|byte| byte >> 4);
    let agrees = matches!(
        (parsed.ether_type(), version),
        (ethernet::IPV4, Some(4)) | (ethernet::IPV6, Some(6))
    );
    if !agrees || parsed.tags() > 0 {
        return Err(DropReason::Malformed);
    }
    let (src, header_len) = (parsed.src(), parsed.header_len());
    if frame.trim_front(header_len) {
        Ok(src)
    } else {
        Err(DropReason::Malformed)
    }
}

/// Puts an Ethernet header before the IP packet in `frame`.
///
/// # Errors
/// [`DropReason::TooBig`] without headroom.
pub fn put_ethernet(
    frame: &mut Frame<'_>,
    interface: &Interface,
    to: Mac,
) -> Result<(), DropReason> {
    let ether_type = match inplace::tunnel_protocol(frame.packet()) {
        Some(ip::IPV6) => ethernet::IPV6,
        _ => ethernet::IPV4,
    };
    let header = ethernet::header(to, interface.mac, ether_type);
    if frame.push_front(&header) {
        Ok(())
    } else {
        Err(DropReason::TooBig)
    }
}

/// Takes outer IP and UDP headers off a tunnel packet for this gateway. What is left starts with
/// the PSP header. Returns the ECN bits of the outer header.
///
/// # Errors
/// [`DropReason::NoRoute`] when it is not a packet for our tunnel, [`DropReason::Fragment`], or
/// [`DropReason::Malformed`].
pub fn take_outer(frame: &mut Frame<'_>, snapshot: &Snapshot) -> Result<u8, DropReason> {
    let packet = ip::Packet::parse(frame.packet()).map_err(inner::reason)?;
    let ours = snapshot.wan.addresses.contains(&packet.dst());
    if !ours || packet.protocol() != ip::UDP {
        return Err(DropReason::NoRoute);
    }
    // The UDP checksum is not looked at: the ICV covers more.
    let datagram = udp::Datagram::of(&packet).map_err(inner::reason)?;
    if datagram.dport() != snapshot.tunnel_port {
        return Err(DropReason::NoRoute);
    }
    let ecn = inplace::ecn(packet.bytes());
    let start = packet.header_len() + udp::HEADER_LEN;
    let length = datagram.payload().len();
    if !frame.trim_front(start) {
        return Err(DropReason::Malformed);
    }
    frame.truncate(length);
    Ok(ecn)
}

/// Carries congestion that the tunnel met into the inner packet (RFC 6040 section 4.2).
///
/// # Errors
/// [`DropReason::Malformed`] when the inner packet's ends do not understand ECN: then a router that
/// marks instead of dropping lost the signal, and dropping restores it.
pub fn carry_congestion(outer: u8, inner_packet: &mut [u8]) -> Result<(), DropReason> {
    const CONGESTION_EXPERIENCED: u8 = 3;
    match (outer, inplace::ecn(inner_packet)) {
        (CONGESTION_EXPERIENCED, 0) => Err(DropReason::Malformed),
        (CONGESTION_EXPERIENCED, _) => {
            inplace::set_congestion_experienced(inner_packet);
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Seals the IP packet in `frame` for `peer` with the association of `queue` and puts UDP, IP and
/// Ethernet headers before it.
///
/// # Errors
/// [`DropReason::NoTunnel`], [`DropReason::NoNeighbour`], [`DropReason::NoRoute`],
/// [`DropReason::TooBig`].
pub fn encapsulate(
    frame: &mut Frame<'_>,
    peer: &Peer,
    queue: usize,
    snapshot: &Snapshot,
) -> Result<(), DropReason> {
    let next_hop = peer.next_hop?;
    let count = peer.outbound.len().max(1);
    let association = peer
        .outbound
        .get(queue % count)
        .ok_or(DropReason::NoTunnel)?;
    let ecn = inplace::ecn(frame.packet());
    association.seal(frame)?;
    let port = association.source_port();
    let udp = udp::header(port, peer.port, frame.packet().len()).ok_or(DropReason::TooBig)?;
    if !frame.push_front(&udp) {
        return Err(DropReason::TooBig);
    }
    let length = frame.packet().len();
    let source = snapshot
        .wan
        .address_like(peer.endpoint)
        .ok_or(DropReason::NoRoute)?;
    let pushed = match (source, peer.endpoint) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = ip::v4_header((src, dst), ip::UDP, ecn, length);
            header.is_some_and(|header| frame.push_front(&header))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = ip::v6_header((src, dst), ip::UDP, ecn, length);
            header.is_some_and(|header| frame.push_front(&header))
        }
        _ => false,
    };
    if !pushed {
        return Err(DropReason::TooBig);
    }
    put_ethernet(frame, &snapshot.wan, next_hop)
}

/// The largest inner packet towards a peer at `endpoint`, and from it.
#[must_use]
pub fn inner_mtu(lan: &Interface, wan: &Interface, endpoint: IpAddr) -> u16 {
    let overhead = if endpoint.is_ipv4() {
        OVERHEAD_V4
    } else {
        OVERHEAD_V6
    };
    wan.mtu.saturating_sub(overhead).min(lan.mtu)
}

// The numbers of the specification and those of the formats agree.
const _: () = assert!(
    OVERHEAD_V4 as usize == ip::V4_HEADER_LEN + udp::HEADER_LEN + psp::HEADER_LEN + psp::ICV_LEN
        && OVERHEAD_V6 as usize
            == ip::V6_HEADER_LEN + udp::HEADER_LEN + psp::HEADER_LEN + psp::ICV_LEN
);
