//! Packets through two gateways: what arrives, what is refused and why, and what the sender is told.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Gateway, NODE, Nodes, Outcome, Pair, address, ethernet, lan, support, wan};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket};
use landbridge_gateway_core::{
    Disposition, Event, Limits, Side,
    nexthop::{Next, NextHops, Route},
    psp::{AssociationKey, SendAssociation},
};
use policy::DropReason;
use support::{API, Conn, FRONTEND, Seg, at};
use wire::{
    edit,
    ip::Packet,
    tcp::{Flags, Segment},
};

fn limits() -> Limits {
    Limits {
        established: 1000,
        half_open: 1000,
        nonces: 10_000,
        flow_shards: 4,
        ..Limits::default()
    }
}

fn opened() -> (Pair, Nodes, Conn) {
    let (mut pair, mut nodes) = (Pair::new(&limits()), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    pair.establish(&mut nodes, &conn, at(0));
    (pair, nodes, conn)
}

fn events(gateway: &mut Gateway) -> Vec<Event> {
    std::iter::from_fn(|| gateway.cx.poll_event()).collect()
}

/// The IP packet in an answer on `side`, and the reason.
fn answer(outcome: &Outcome, side: Side) -> (Vec<u8>, DropReason) {
    let Disposition::Answer(on, reason) = outcome.disposition else {
        panic!("{outcome:?}")
    };
    assert_eq!(on, side);
    (
        wire::ethernet::Frame::parse(&outcome.frame)
            .unwrap()
            .payload()
            .to_vec(),
        reason,
    )
}

fn segment(packet: &[u8]) -> (Flags, u32, u32) {
    let packet = Packet::parse(packet).unwrap();
    let segment = Segment::of(&packet).unwrap();
    assert!(segment.checksum_holds(packet.src(), packet.dst()));
    (segment.flags(), segment.seq(), segment.ack())
}

#[test]
fn a_connection_is_proven_and_carries_data_both_ways() {
    let (mut pair, _, conn) = opened();
    for gateway in [&mut pair.east, &mut pair.west] {
        assert!(matches!(&events(gateway)[..], [Event::Opened(ends)] if ends.key.dport == 80));
        assert_eq!(
            (
                gateway.dataplane.flows().established(),
                gateway.cx.totals.forwarded
            ),
            (1, 4)
        );
    }
    let request = conn.request(b"GET /");
    let arrived = pair.east_to_west(&request, at(1)).unwrap();
    let (before, after) = (
        Packet::parse(&request).unwrap(),
        Packet::parse(&arrived).unwrap(),
    );
    assert_eq!((before.ttl(), after.ttl()), (64, 62));
    assert_eq!(before.payload(), after.payload());
    let flow = &pair.west.dataplane.list(10)[0];
    assert_eq!((flow.packets, flow.over), ([1, 1], false));
    assert_eq!(flow.bytes[0], request.len() as u64);
}

#[test]
fn nothing_of_the_inner_packet_is_readable_on_the_wan() {
    let (mut pair, _, conn) = opened();
    let secret = b"a very recognisable piece of plain text";
    let sent = pair.east.node_sends(&conn.request(secret), at(1));
    assert_eq!(sent.disposition, Disposition::Forward(Side::Wan));
    assert!(!sent.frame.windows(8).any(|w| w == &secret[..8]));
    assert!(
        !sent
            .frame
            .windows(4)
            .any(|w| w == [10, 1, 1, 10] || w == [10, 2, 1, 10])
    );
    // An independent parser reads the outer headers, padding and all.
    let outer = SlicedPacket::from_ethernet(&sent.frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &outer.net else {
        panic!("not IPv4")
    };
    let header = ip.header().to_header();
    assert_eq!(
        (header.source, header.destination),
        ([192, 0, 2, 1], [192, 0, 2, 2])
    );
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    assert!(header.dont_fragment);
    let Some(etherparse::TransportSlice::Udp(udp)) = outer.transport else {
        panic!("not UDP")
    };
    assert_eq!((udp.destination_port(), udp.checksum()), (1000, 0));
    assert_eq!(
        usize::from(header.total_len),
        conn.request(secret).len() + 60
    );
}

#[test]
fn the_mss_of_both_syns_fits_the_tunnel() {
    let (mut pair, mut nodes) = (Pair::new(&limits()), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    let mss = |packet: &[u8]| Segment::of(&Packet::parse(packet).unwrap()).unwrap().mss();
    let syn = support::out(&mut nodes.east, &conn.syn(), at(0));
    let arrived = pair.east_to_west(&syn, at(0)).unwrap();
    assert_eq!(mss(&arrived), Some(1400));
    segment(&arrived);
    support::into(&mut nodes.west, &arrived, at(0));
    let syn_ack = support::out(&mut nodes.west, &conn.syn_ack(), at(0));
    let arrived = pair.west_to_east(&syn_ack, at(0)).unwrap();
    assert!(mss(&arrived).unwrap() <= 1400);
    segment(&arrived);
}

#[test]
fn a_replayed_tunnel_frame_is_refused() {
    let (mut pair, _, conn) = opened();
    let sent = pair.east.node_sends(&conn.request(b"x"), at(1));
    let first = pair.west.frame(Side::Wan, &sent.frame, at(1));
    assert_eq!(first.disposition, Disposition::Forward(Side::Lan));
    let again = pair.west.frame(Side::Wan, &sent.frame, at(1));
    assert_eq!(
        again.disposition,
        Disposition::Drop(DropReason::TunnelReplay)
    );
}

/// Threat row 29, on the whole frame: what the ICV covers is refused, and a bit of the outer
/// headers never changes what arrives.
#[test]
fn a_flipped_bit_of_a_frame_changes_nothing_that_arrives() {
    let (mut pair, _, conn) = opened();
    let arrives = pair.east_to_west(&conn.request(b"x"), at(1)).unwrap();
    for bit in 0..8 * 120 {
        let mut frame = pair.east.node_sends(&conn.request(b"x"), at(1)).frame;
        frame[bit / 8] ^= 0x80 >> (bit % 8);
        let outcome = pair.west.frame(Side::Wan, &frame, at(1));
        let sealed = bit >= (14 + 20 + 8) * 8;
        match outcome.disposition {
            Disposition::Forward(_) => {
                assert!(!sealed, "bit {bit}");
                assert_eq!(outcome.frame[14..], arrives, "bit {bit}");
            }
            Disposition::Drop(_) => {}
            Disposition::Answer(..) => panic!("a forger got an answer: bit {bit}"),
        }
    }
}

fn syn(src: &str, dst: &str) -> Vec<u8> {
    Seg {
        src: address(src),
        dst: address(dst),
        sport: 40_000,
        dport: 80,
        seq: 1,
        ack: None,
        flags: "S",
        payload: Vec::new(),
    }
    .build()
}

/// Threat row 30.
#[test]
fn a_peer_speaks_for_its_own_addresses_to_ours_only() {
    let mut pair = Pair::new(&limits());
    let tunnel = pair.lying_peer();
    for (src, dst) in [
        ("10.3.1.10", "10.2.1.10"),
        ("10.2.1.11", "10.2.1.10"),
        ("192.0.2.1", "10.2.1.10"),
        ("198.51.100.7", "10.2.1.10"),
        ("10.1.1.10", "10.1.1.11"),
        ("10.1.1.10", "10.3.1.10"),
        ("10.1.1.10", "198.51.100.7"),
        ("10.1.1.10", "172.16.2.1"),
        ("10.1.1.10", "192.0.2.1"),
    ] {
        let outcome = pair.west.through_tunnel(&tunnel, &syn(src, dst), at(0));
        let expected = Disposition::Drop(DropReason::TunnelInnerAddress);
        assert_eq!(outcome.disposition, expected, "{src} {dst}");
    }
    // The right addresses get as far as the handshake.
    let outcome = pair
        .west
        .through_tunnel(&tunnel, &syn("10.1.1.10", "10.2.1.10"), at(0));
    assert_eq!(
        outcome.disposition,
        Disposition::Drop(DropReason::NoIdentity)
    );
}

#[test]
fn an_address_of_another_cluster_does_not_get_into_the_tunnel() {
    let mut pair = Pair::new(&limits());
    for (src, dst, reason) in [
        ("10.2.1.11", "10.2.1.10", DropReason::NoIdentity),
        ("172.16.1.11", "10.2.1.10", DropReason::NoIdentity),
        ("10.1.1.10", "10.1.1.11", DropReason::NoRoute),
        ("10.1.1.10", "10.3.1.10", DropReason::NoRoute),
        ("172.16.1.1", "10.2.1.10", DropReason::TunnelInnerAddress),
    ] {
        let outcome = pair.east.node_sends(&syn(src, dst), at(0));
        assert_eq!(
            outcome.disposition,
            Disposition::Drop(reason),
            "{src} {dst}"
        );
    }
}

/// Threat row 31: what could go round loses a hop each time, and never enters twice.
#[test]
fn a_packet_that_ran_out_of_hops_is_answered_and_goes_nowhere() {
    let (mut pair, _, conn) = opened();
    for ttl in [0, 1] {
        let mut packet = conn.request(b"x");
        packet[8] = ttl;
        packet[10..12].fill(0);
        let sum = wire::checksum::Sum::default()
            .bytes(&packet[..20])
            .checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let outcome = pair.east.node_sends(&packet, at(1));
        let (icmp, reason) = answer(&outcome, Side::Lan);
        assert_eq!(reason, DropReason::TtlExceeded);
        let icmp = Packet::parse(&icmp).unwrap();
        assert_eq!((icmp.src(), icmp.dst()), (address("172.16.1.1"), FRONTEND));
        assert_eq!(&icmp.payload()[..2], [11, 0]);
        let link = wire::ethernet::Frame::parse(&outcome.frame).unwrap();
        assert_eq!((link.dst(), link.src()), (NODE, lan(1).mac));
    }
    // A tunnel frame as an inner packet: its destination is the end of a tunnel.
    let tunnel = pair.lying_peer();
    let frame = pair.west.tunnel_frame(&tunnel, &conn.request(b"x"));
    let outcome = pair.west.through_tunnel(&tunnel, &frame[14..], at(1));
    assert_eq!(
        outcome.disposition,
        Disposition::Drop(DropReason::TunnelInnerAddress)
    );
}

#[test]
fn what_is_not_carried_has_a_reason() {
    let (mut pair, _, conn) = opened();
    let udp = |payload: &[u8]| {
        let mut bytes = Vec::new();
        let builder = PacketBuilder::ipv4([10, 1, 1, 10], [10, 2, 1, 10], 64).udp(53, 53);
        builder.write(&mut bytes, payload).unwrap();
        bytes
    };
    let mut echo = Vec::new();
    PacketBuilder::ipv4([10, 1, 1, 10], [10, 2, 1, 10], 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut echo, b"ping")
        .unwrap();
    let mut fragment = conn.request(b"x");
    fragment[6] = 0x20;
    fragment.resize(fragment.len().next_multiple_of(4), 0);
    let length = (20 + (fragment.len() - 20) / 8 * 8) as u16;
    fragment[2..4].copy_from_slice(&length.to_be_bytes());
    fragment[10..12].fill(0);
    let sum = wire::checksum::Sum::default()
        .bytes(&fragment[..20])
        .checksum();
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    for (packet, reason) in [
        (udp(b"query"), DropReason::UnsupportedProtocol),
        (echo, DropReason::UnsupportedProtocol),
        (fragment, DropReason::Fragment),
        (conn.syn(), DropReason::NoIdentity),
        (vec![0x45; 10], DropReason::Malformed),
        (vec![], DropReason::Malformed),
    ] {
        let outcome = pair.east.node_sends(&packet, at(1));
        assert_eq!(
            outcome.disposition,
            Disposition::Drop(reason),
            "{packet:x?}"
        );
    }
    // Frames that are not for us, not IP, or disagree with themselves.
    let request = conn.request(b"x");
    for (frame, reason) in [
        (ethernet(NODE, NODE, &request), DropReason::NoRoute),
        (
            ethernet(lan(1).mac, NODE, &[])[..13].to_vec(),
            DropReason::Malformed,
        ),
        (
            [
                &wire::ethernet::header(lan(1).mac, NODE, 0x0806)[..],
                &request,
            ]
            .concat(),
            DropReason::Malformed,
        ),
        (
            [
                &wire::ethernet::header(lan(1).mac, NODE, 0x86dd)[..],
                &request,
            ]
            .concat(),
            DropReason::Malformed,
        ),
        (
            [
                &ethernet(lan(1).mac, NODE, &[])[..12],
                &[0x81, 0, 0, 1, 8, 0],
                &request,
            ]
            .concat(),
            DropReason::Malformed,
        ),
    ] {
        let outcome = pair.east.frame(Side::Lan, &frame, at(1));
        assert_eq!(outcome.disposition, Disposition::Drop(reason), "{frame:x?}");
    }
    // On the WAN side: not for the tunnel, an unknown association, a broken one.
    let (own, peer) = (wan(1).mac, wan(2).mac);
    let mut other_port = Vec::new();
    PacketBuilder::ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64)
        .udp(1, 999)
        .write(&mut other_port, b"x")
        .unwrap();
    let unknown = SendAssociation::new(77, &AssociationKey::Aes128([1; 16]));
    let known = pair.east.snapshot.inbound.keys().next().copied().unwrap();
    let forged = SendAssociation::new(known, &AssociationKey::Aes128([1; 16]));
    for (frame, reason) in [
        (ethernet(own, peer, &request), DropReason::NoRoute),
        (ethernet(own, peer, &other_port), DropReason::NoRoute),
        (
            pair.east.tunnel_frame(&unknown, &request),
            DropReason::TunnelUnknownSpi,
        ),
        (
            pair.east.tunnel_frame(&forged, &request),
            DropReason::TunnelBadAuth,
        ),
    ] {
        let outcome = pair.east.frame(Side::Wan, &frame, at(1));
        assert_eq!(outcome.disposition, Disposition::Drop(reason));
    }
}

#[test]
fn without_tunnel_neighbour_or_readiness_nothing_new_passes() {
    let mut nodes = Nodes::new();
    let conn = Conn::new(FRONTEND, API);
    let syn = support::out(&mut nodes.east, &conn.syn(), at(0));
    let mut lonely = Gateway::new("east", &limits());
    let drop = |outcome: Outcome| match outcome.disposition {
        Disposition::Drop(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(drop(lonely.node_sends(&syn, at(0))), DropReason::NoTunnel);

    let (mut pair, _, conn) = opened();
    pair.east.ready = false;
    pair.east.load();
    assert_eq!(
        drop(pair.east.node_sends(&syn, at(1))),
        DropReason::NotReady
    );
    assert!(
        pair.east_to_west(&conn.request(b"x"), at(1)).is_ok(),
        "an established flow goes on"
    );

    let to_peers = Route {
        prefix: "192.0.2.0/24".parse().unwrap(),
        next: Next::Link,
    };
    pair.east.wan.hops = NextHops::new(vec![to_peers], Default::default());
    pair.east.load();
    events(&mut pair.east);
    assert_eq!(
        drop(pair.east.node_sends(&conn.request(b"x"), at(1))),
        DropReason::NoNeighbour
    );
    let missing = address("192.0.2.2");
    assert!(
        matches!(events(&mut pair.east)[..], [Event::Unresolved(Side::Wan, a)] if a == missing)
    );

    let sent = pair.west.node_sends(&conn.response(b"y"), at(1));
    let to_pods = Route {
        prefix: "10.1.1.0/24".parse().unwrap(),
        next: Next::Router(address("172.16.1.11")),
    };
    pair.east.lan.hops = NextHops::new(vec![to_pods], Default::default());
    pair.east.load();
    assert_eq!(
        drop(pair.east.frame(Side::Wan, &sent.frame, at(1))),
        DropReason::NoNeighbour
    );
}

#[test]
fn a_withdrawn_peer_loses_everything() {
    let (mut pair, _, conn) = opened();
    let sent = pair.west.node_sends(&conn.response(b"y"), at(1));
    pair.east.paired = false;
    pair.east.load();
    let outcome = pair.east.node_sends(&conn.request(b"x"), at(1));
    assert_eq!(outcome.disposition, Disposition::Drop(DropReason::NoRoute));
    let outcome = pair.east.frame(Side::Wan, &sent.frame, at(1));
    assert_eq!(
        outcome.disposition,
        Disposition::Drop(DropReason::TunnelUnknownSpi)
    );
}

/// A flow is decided again when the epoch changes: it goes on, or it is cut and reset.
#[test]
fn a_changed_policy_reaches_live_flows() {
    let (mut pair, _, conn) = opened();
    pair.west.judge_by(|_| {});
    assert!(pair.east_to_west(&conn.request(b"x"), at(1)).is_ok());
    assert_eq!(pair.west.dataplane.list(1)[0].epoch, 2);

    pair.west.judge_by(|transit| {
        let mut set = support::policies("west", false);
        std::sync::Arc::make_mut(&mut set.policies[0]).rules.clear();
        transit.policy = policy::compile(&set).unwrap().into();
    });
    events(&mut pair.west);
    let sent = pair.east.node_sends(&conn.request(b"x"), at(2));
    let outcome = pair.west.frame(Side::Wan, &sent.frame, at(2));
    let Disposition::Answer(Side::Wan, reason) = outcome.disposition else {
        panic!("{outcome:?}")
    };
    assert_eq!(reason, DropReason::DeniedByDefault);
    assert!(matches!(&events(&mut pair.west)[..], [Event::Cut { key, .. }] if key.src == FRONTEND));
    assert_eq!(pair.west.dataplane.flows().established(), 0);
    // The reset goes through east, which knows the flow, to the client's node.
    let back = pair.east.frame(Side::Wan, &outcome.frame, at(2));
    assert_eq!(back.disposition, Disposition::Forward(Side::Lan));
    let (flags, seq, _) = segment(&back.frame[14..]);
    assert_eq!((flags, seq), (Flags(Flags::RST), conn.sisn + 1));
    // The server is told when it next sends.
    let outcome = pair.west.node_sends(&conn.response(b"y"), at(2));
    let (reset, reason) = answer(&outcome, Side::Lan);
    assert_eq!(
        (segment(&reset).0, reason),
        (Flags(Flags::RST), DropReason::UnknownFlow)
    );
}

#[test]
fn a_stray_segment_is_answered_within_a_rate() {
    let mut pair = Pair::new(&limits());
    let conn = Conn::new(FRONTEND, API);
    let mut answers = 0;
    for _ in 0..1100 {
        let outcome = pair.east.node_sends(&conn.request(b"x"), at(5));
        match outcome.disposition {
            Disposition::Answer(Side::Lan, DropReason::UnknownFlow) => answers += 1,
            Disposition::Drop(DropReason::UnknownFlow) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, 1000);
    assert_eq!(pair.east.cx.totals.originated, 1000);
    assert_eq!(pair.east.cx.totals.dropped(DropReason::UnknownFlow), 1100);
}

/// Threat row 9: an injector beside the path.
#[test]
fn injected_segments_have_no_effect_and_no_answer() {
    let (mut pair, _, conn) = opened();
    for (flags, seq, ack) in [
        ("R", 0x7000_0000, None),
        ("R", conn.cisn.wrapping_sub(20_000_000), None),
        ("P", 0x7000_0000, Some(conn.sisn + 1)),
        ("P", conn.cisn + 1, Some(0x7000_0000)),
        ("F", 0x7000_0000, Some(conn.sisn + 1)),
    ] {
        let packet = conn.client_sends(flags, seq, ack, b"evil");
        let outcome = pair.east.node_sends(&packet, at(1));
        let expected = Disposition::Drop(DropReason::UnknownFlow);
        assert_eq!(outcome.disposition, expected, "{flags} {seq}");
    }
    // A SYN on the live tuple is a handshake like any other, and this one proves nothing.
    let outcome = pair.east.node_sends(&conn.syn(), at(1));
    assert_eq!(
        outcome.disposition,
        Disposition::Drop(DropReason::NoIdentity)
    );
    assert!(pair.east_to_west(&conn.request(b"x"), at(1)).is_ok());
    assert!(pair.west_to_east(&conn.response(b"hello"), at(1)).is_ok());
}

/// Threat row 15: a new connection on the tuple of an old one is proven anew, and replaces it.
#[test]
fn a_reused_tuple_is_opened_by_a_new_handshake_only() {
    let (mut pair, mut nodes, conn) = opened();
    let first = pair.west.dataplane.list(1)[0].ends.clone();
    let again = Conn {
        cisn: 0x5000_0000,
        sisn: 0x7000_0000,
        ..conn.clone()
    };
    pair.establish(&mut nodes, &again, at(10_000));
    let flows = pair.west.dataplane.list(10);
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].ends.key, first.key);
    assert!(pair.east_to_west(&again.request(b"x"), at(10_001)).is_ok());
    // The old connection's segments are out of the new one's window.
    assert_eq!(
        pair.east_to_west(&conn.request(b"x"), at(10_001)),
        Err(DropReason::UnknownFlow)
    );
}

#[test]
fn while_a_new_handshake_fails_the_old_connection_goes_on() {
    let (mut pair, mut nodes, conn) = opened();
    let again = Conn {
        cisn: 0x5000_0000,
        ..conn.clone()
    };
    let syn = support::out(&mut nodes.east, &again.syn(), at(10_000));
    pair.east_to_west(&syn, at(10_000)).unwrap();
    // The server still has the old connection: a challenge ACK, and the client's data.
    assert!(
        pair.west_to_east(
            &conn.server_sends("", conn.sisn + 6, Some(conn.cisn + 1), b""),
            at(10_001)
        )
        .is_ok()
    );
    assert!(pair.east_to_west(&conn.request(b"x"), at(10_001)).is_ok());
    // The attempt expires; nothing of it is left.
    for gateway in [&mut pair.east, &mut pair.west] {
        gateway.dataplane.handle_timeout(at(90_000));
        assert_eq!(gateway.dataplane.flows().half_open(), 0);
    }
    assert!(pair.east_to_west(&conn.request(b"x"), at(90_000)).is_ok());
    assert!(
        pair.west_to_east(&conn.response(b"hello"), at(90_000))
            .is_ok()
    );
}

#[test]
fn a_closed_port_is_told_at_once() {
    let (mut pair, mut nodes) = (Pair::new(&limits()), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    let syn = support::out(&mut nodes.east, &conn.syn(), at(0));
    let syn = pair.east_to_west(&syn, at(0)).unwrap();
    support::into(&mut nodes.west, &syn, at(0));
    let reset = conn.server_sends("R", 0, Some(conn.cisn + 1), b"");
    let reset = support::out(&mut nodes.west, &reset, at(0));
    assert!(pair.west_to_east(&reset, at(0)).is_ok());
    assert_eq!(pair.east.dataplane.flows().half_open(), 0);
    assert_eq!(pair.west.dataplane.flows().half_open(), 0);
}

#[test]
fn a_packet_that_does_not_fit_is_answered_with_the_size_that_does() {
    let (mut pair, _, conn) = opened();
    let largest = vec![7; 1440 - conn.request(b"").len()];
    assert!(pair.east_to_west(&conn.request(&largest), at(1)).is_ok());
    let big = conn.request(&[&largest[..], b"x"].concat());
    let (icmp, reason) = answer(&pair.east.node_sends(&big, at(1)), Side::Lan);
    assert_eq!(reason, DropReason::TooBig);
    let icmp = Packet::parse(&icmp).unwrap();
    let error = wire::icmp::IcmpError::of(&icmp).unwrap();
    assert_eq!(error.kind, wire::icmp::ErrorKind::TooBig(1440));
    // The far side's own interface is narrower: its answer comes back through the tunnel.
    pair.west.lan.interface.mtu = 1300;
    pair.west.load();
    let sent = pair.east.node_sends(&conn.request(&largest), at(1));
    let outcome = pair.west.frame(Side::Wan, &sent.frame, at(1));
    assert_eq!(
        outcome.disposition,
        Disposition::Answer(Side::Wan, DropReason::TooBig)
    );
    let back = pair.east.frame(Side::Wan, &outcome.frame, at(1));
    assert_eq!(back.disposition, Disposition::Forward(Side::Lan));
    let icmp = Packet::parse(&back.frame[14..]).unwrap();
    assert_eq!((icmp.src(), icmp.dst()), (API, FRONTEND));
}

/// Threat row 34.
#[test]
fn an_icmp_error_passes_only_for_a_packet_in_flight() {
    let (mut pair, _, conn) = opened();
    let sent = conn.request(b"x");
    pair.east_to_west(&sent, at(1)).unwrap();
    let too_big = |packet: &[u8], mtu| {
        edit::icmp_too_big(&Packet::parse(packet).unwrap(), address("172.16.2.99"), mtu).unwrap()
    };
    // From a router of west's cluster, about a packet that east's pod sent.
    assert!(pair.west_to_east(&too_big(&sent, 1300), at(1)).is_ok());
    let unknown = Conn {
        cport: 41_000,
        ..conn.clone()
    }
    .request(b"x");
    let old = conn.client_sends(
        "P",
        conn.cisn.wrapping_sub(20_000_000),
        Some(conn.sisn + 1),
        b"x",
    );
    for (packet, reason) in [
        (too_big(&unknown, 1300), DropReason::UnknownFlow),
        (too_big(&old, 1300), DropReason::UnknownFlow),
        (too_big(&sent, 500), DropReason::Malformed),
    ] {
        let outcome = pair.west.node_sends(&packet, at(1));
        assert_eq!(outcome.disposition, Disposition::Drop(reason));
    }
    // The wrong way round: west's pod cannot be told about east's packet, nor from east's side.
    let wrong_way = pair.east.node_sends(&too_big(&sent, 1300), at(1));
    assert!(matches!(wrong_way.disposition, Disposition::Drop(_)));
}
