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
    // From here on nobody of this cluster looks at it.
    peer.translation.outbound(frame.packet_mut())?;
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use peering::{
        peer_messages::{TunnelKey, TunnelSecret},
        peers::TunnelState,
    };

    use super::*;
    use crate::{
        control::{
            assemble::{Link, Parts, PeerState, assemble},
            tunnels::Tunnels,
        },
        nexthop::{Next, NextHops, Route},
        psp::{AssociationKey, ReceiveAssociation},
        testing::{domain, transit_snapshot},
    };

    /// A gateway at `own` with a peer at `peer`, on the link of its own.
    fn snapshot(own: &str, peer: &str) -> Snapshot {
        let peer: IpAddr = peer.parse().unwrap();
        let route = Route {
            prefix: peer.into(),
            next: Next::Link,
        };
        let link = Link {
            interface: Interface {
                mac: Mac([2; 6]),
                addresses: vec![own.parse().unwrap()],
                mtu: 1500,
            },
            hops: NextHops::new(vec![route], BTreeMap::from([(peer, Mac([4; 6]))])),
        };
        let key = TunnelKey {
            spi: 9,
            secret: TunnelSecret::from_bytes(vec![5; 16]),
        };
        let state = TunnelState {
            send: vec![key],
            ..TunnelState::default()
        };
        let mut tunnels = Tunnels::default();
        assert!(tunnels.set(&domain("west"), &state).is_empty());
        assemble(Parts {
            transit: Arc::new(transit_snapshot()),
            ready: true,
            lan: &link,
            wan: &link,
            tunnel_port: 1000,
            peers: vec![PeerState {
                trust_domain: domain("west"),
                endpoint: peer,
                port: 1001,
                tunnel: tunnels.of(&domain("west")),
            }],
        })
    }

    fn inner(v6: bool, ecn: u8) -> Vec<u8> {
        if v6 {
            let ends = ("fd00:1::a".parse().unwrap(), "fd00:2::a".parse().unwrap());
            [
                &ip::v6_header(ends, ip::TCP, ecn, 20).unwrap()[..],
                &[7; 20],
            ]
            .concat()
        } else {
            let ends = ([10, 1, 1, 10].into(), [10, 2, 1, 10].into());
            [
                &ip::v4_header(ends, ip::TCP, ecn, 20).unwrap()[..],
                &[7; 20],
            ]
            .concat()
        }
    }

    #[test]
    fn each_family_travels_in_each() {
        for (own, peer, overhead) in [
            ("192.0.2.1", "192.0.2.2", OVERHEAD_V4),
            ("fd00:9::1", "fd00:9::2", OVERHEAD_V6),
        ] {
            let here = snapshot(own, peer);
            assert_eq!(here.peers[0].inner_mtu, 1500 - overhead);
            for v6 in [false, true] {
                let packet = inner(v6, 1);
                let mut memory = [0; 300];
                memory[100..100 + packet.len()].copy_from_slice(&packet);
                let mut frame = Frame::new(&mut memory, 100..100 + packet.len()).unwrap();
                encapsulate(&mut frame, &here.peers[0], 0, &here).unwrap();
                let bytes = frame.packet().to_vec();
                assert_eq!(bytes.len(), 14 + packet.len() + usize::from(overhead));
                let outer = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
                let Some(etherparse::TransportSlice::Udp(udp)) = outer.transport else {
                    panic!("not UDP")
                };
                assert_eq!((udp.destination_port(), udp.checksum()), (1001, 0));
                // The peer's view of it.
                let there = Snapshot {
                    wan: Interface {
                        mac: Mac([4; 6]),
                        addresses: vec![peer.parse().unwrap()],
                        mtu: 1500,
                    },
                    tunnel_port: 1001,
                    ..here.clone()
                };
                assert_eq!(take_ethernet(&mut frame, &there.wan), Ok(Mac([2; 6])));
                assert_eq!(take_outer(&mut frame, &there), Ok(1));
                let header = psp::Header::parse(frame.packet()).unwrap();
                let association = ReceiveAssociation::new(9, &AssociationKey::Aes128([5; 16]));
                association.open(&header, &mut frame).unwrap();
                assert_eq!(frame.packet(), packet);
            }
        }
    }

    #[test]
    fn congestion_is_carried_inwards_or_the_packet_dropped() {
        for v6 in [false, true] {
            for (outer, before, after) in [
                (0, 0, Some(0)),
                (1, 1, Some(1)),
                (3, 1, Some(3)),
                (3, 2, Some(3)),
                (3, 0, None),
            ] {
                let mut packet = inner(v6, before);
                let carried = carry_congestion(outer, &mut packet);
                assert_eq!(carried.ok().map(|()| inplace::ecn(&packet)), after);
                assert!(ip::Packet::parse(&packet).is_ok());
            }
        }
    }
}
