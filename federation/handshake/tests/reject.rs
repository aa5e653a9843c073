//! `reject`: whoever is refused is told at once.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use handshake::node::{Path, Transmit};
use policy::{
    DropReason,
    model::{Action, Direction, PolicySet},
};
use support::*;

/// West's pods may send nothing to addresses, and say so.
fn refusing() -> PolicySet {
    let mut set = policies("west", false);
    let mut rule = set.policies[0].rules[0].clone();
    (rule.name, rule.action) = ("nothing-out".into(), Action::Deny);
    (rule.direction, rule.reject) = (Direction::Egress, true);
    (rule.peers, rule.ports) = (Vec::new(), Vec::new());
    Arc::make_mut(&mut set.policies[0]).rules.push(rule);
    set
}

#[test]
fn a_datagram_is_answered_by_icmp_and_a_segment_by_a_reset() {
    let mut snapshot = west(false);
    snapshot.policy = Arc::new(policy::compile(&refusing()).unwrap());
    let mut b = node(snapshot, 2);
    let mut datagram = Vec::new();
    PacketBuilder::ipv4([10, 2, 1, 10], [198, 51, 100, 7], 64)
        .udp(4_000, 53)
        .write(&mut datagram, b"question")
        .unwrap();
    let refused = b.handle_packet(Path::FromPod, &datagram, at(0));
    assert_eq!(dropped(refused), DropReason::DeniedByRule);
    let Transmit { packet, to_pod } = b.poll_transmit().expect("an ICMP error");
    assert!(to_pod);
    let sliced = SlicedPacket::from_ip(&packet).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else {
        panic!("not IPv4")
    };
    assert_eq!(ip.header().destination_addr(), API);
    let Some(TransportSlice::Icmpv4(icmp)) = &sliced.transport else {
        panic!("not ICMP")
    };
    // Destination unreachable, communication administratively prohibited; about this datagram.
    assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 13));
    assert!(icmp.payload().starts_with(&datagram[..28]));

    let segment = Conn::new(API, STRANGER).syn();
    let refused = b.handle_packet(Path::FromPod, &segment, at(1));
    assert_eq!(dropped(refused), DropReason::DeniedByRule);
    let reset = b.poll_transmit().expect("a reset").packet;
    let sliced = SlicedPacket::from_ip(&reset).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
        panic!("not TCP")
    };
    assert!(tcp.rst() && tcp.acknowledgment_number() == 1_001);
    assert_eq!(b.counters().originated, 2);
    // Neither an error nor a reset is answered.
    for answer in [&packet, &reset] {
        b.handle_packet(Path::FromPod, answer, at(2));
        assert_eq!(b.poll_transmit(), None);
    }
}
