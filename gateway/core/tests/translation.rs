//! Two clusters whose pods have the same addresses: each sees the other's elsewhere, and not at the same
//! place. docs/decisions/overlapping-ranges.md.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Gateway, NODE, Nodes, Pair, address, support};
use identity::{IdentityNetworks, IdentityRange};
use landbridge_gateway_core::{
    Disposition, Limits, Side,
    nexthop::{Next, NextHops, Route},
};
use policy::DropReason;
use support::{Conn, FRONTEND, Seg, at, domain, into, out};
use wire::{edit, icmp::IcmpError, ip::Packet, tcp::Segment};

/// What every pod range is.
const REAL: &str = "10.1.0.0/16";
/// Where east sees west, and west east.
const WEST_IN_EAST: &str = "100.64.0.0/16";
const EAST_IN_WEST: &str = "100.65.0.0/16";

fn networks(cluster: &str) -> IdentityNetworks {
    let (other, seen) = match cluster {
        "east" => ("west", WEST_IN_EAST),
        _ => ("east", EAST_IN_WEST),
    };
    let range = |name, prefix: &str, real: Option<&str>| IdentityRange {
        prefix: prefix.parse().unwrap(),
        trust_domain: domain(name),
        range_id: 1,
        real: real.map(|real| real.parse().unwrap()),
    };
    let ranges = vec![range(cluster, REAL, None), range(other, seen, Some(REAL))];
    IdentityNetworks::new(ranges).unwrap()
}

/// West's API has the address that east's frontend has.
fn pods(cluster: &str) -> BTreeMap<std::net::IpAddr, handshake::node::LocalPod> {
    let here = |pod: &str, at: &str| (address(at), support::local_pod(cluster, pod));
    match cluster {
        "east" => BTreeMap::from([here("frontend", "10.1.1.10")]),
        _ => BTreeMap::from([here("api", "10.1.1.10"), here("db", "10.1.1.11")]),
    }
}

fn overlapping() -> (Pair, Nodes) {
    let mut pair = Pair::new(&Limits::default());
    let set = |gateway: &mut Gateway, cluster| {
        let claims = pods(cluster).into_iter();
        let claims = claims.map(|(at, pod)| (at, pod.identity.unwrap().claims));
        gateway.judge_by(|transit| {
            transit.networks = networks(cluster);
            transit.pods = claims.collect();
        });
    };
    let node = address("172.16.2.11");
    pair.west.lan.hops = NextHops::new(
        vec![Route {
            prefix: "10.1.1.0/24".parse().unwrap(),
            next: Next::Router(node),
        }],
        BTreeMap::from([(node, NODE)]),
    );
    set(&mut pair.east, "east");
    set(&mut pair.west, "west");
    let node = |cluster, seed| {
        let policies = support::policies(cluster, false);
        let mut snapshot = support::snapshot(cluster, pods(cluster), &policies);
        snapshot.networks = networks(cluster);
        support::node(snapshot, seed)
    };
    let nodes = Nodes {
        east: node("east", 11),
        west: node("west", 12),
    };
    (pair, nodes)
}

/// One connection, as both of its ends see it.
struct Views {
    east: Conn,
    west: Conn,
}

fn views(server: &str) -> Views {
    Views {
        east: Conn::new(FRONTEND, address(&format!("100.64.1.{server}"))),
        west: Conn::new(address("100.65.1.10"), address(&format!("10.1.1.{server}"))),
    }
}

/// Up to the first data; the bytes that the pods got.
fn establish(pair: &mut Pair, nodes: &mut Nodes, views: &Views) {
    let syn = out(&mut nodes.east, &views.east.syn(), at(0));
    let syn = pair.east_to_west(&syn, at(0)).unwrap();
    check(&into(&mut nodes.west, &syn, at(0)), &views.west, true);
    let syn_ack = out(&mut nodes.west, &views.west.syn_ack(), at(0));
    let syn_ack = pair.west_to_east(&syn_ack, at(0)).unwrap();
    check(&into(&mut nodes.east, &syn_ack, at(0)), &views.east, false);
    let ack = out(&mut nodes.east, &views.east.ack(), at(0));
    let ack = pair.east_to_west(&ack, at(0)).unwrap();
    check(&into(&mut nodes.west, &ack, at(0)), &views.west, true);
    let response = out(&mut nodes.west, &views.west.response(b"hello"), at(0));
    let response = pair.west_to_east(&response, at(0)).unwrap();
    check(&into(&mut nodes.east, &response, at(0)), &views.east, false);
}

/// A segment with the addresses of `conn` and a checksum that holds between them.
fn check(packet: &[u8], conn: &Conn, to_server: bool) {
    let packet = Packet::parse(packet).unwrap();
    let ends = match to_server {
        true => (conn.client, conn.server),
        false => (conn.server, conn.client),
    };
    assert_eq!((packet.src(), packet.dst()), ends);
    let segment = Segment::of(&packet).unwrap();
    assert!(segment.checksum_holds(packet.src(), packet.dst()));
}

/// HELLO is bound to a range and an offset in it, which translation leaves alone: both enforcers agree on
/// the destination, although they see other addresses.
#[test]
fn clusters_with_the_same_pod_range_connect() {
    let (mut pair, mut nodes) = overlapping();
    let views = views("10");
    establish(&mut pair, &mut nodes, &views);
    for gateway in [&pair.east, &pair.west] {
        assert_eq!(gateway.dataplane.flows().established(), 1);
    }
    let arrived = pair.east_to_west(&views.east.request(b"GET /"), at(1));
    check(&arrived.unwrap(), &views.west, true);
    let arrived = pair.west_to_east(&views.west.response(b"hello"), at(1));
    check(&arrived.unwrap(), &views.east, false);
}

/// Policy is about labels, so it holds: west admits frontends to port 80, at any address.
#[test]
fn what_policy_denies_is_denied_at_any_address() {
    let (mut pair, mut nodes) = overlapping();
    for (port, expected) in [(80, None), (81, Some(DropReason::DeniedByDefault))] {
        let conn = Conn {
            sport: port,
            ..views("11").east
        };
        let syn = out(&mut nodes.east, &conn.syn(), at(0));
        assert_eq!(pair.east_to_west(&syn, at(0)).err(), expected);
    }
}

/// Only the local pods see a peer at the addresses that were chosen here: nobody sends from them, and
/// every address of the peer is seen at one place.
#[test]
fn a_peer_cannot_use_the_addresses_that_it_is_seen_at() {
    let (mut pair, mut nodes) = overlapping();
    let views = views("10");
    establish(&mut pair, &mut nodes, &views);
    let way = pair.lying_peer();
    let segment = |src: &str, flags| {
        let (conn, ack) = (&views.west, Some(views.west.sisn + 1));
        Seg {
            src: address(src),
            dst: conn.server,
            sport: conn.cport,
            dport: conn.sport,
            seq: conn.cisn + 1,
            ack,
            flags,
            payload: b"data".to_vec(),
        }
        .build()
    };
    let cases = [
        ("10.1.1.10", Disposition::Forward(Side::Lan)),
        (
            "100.65.1.10",
            Disposition::Drop(DropReason::TunnelInnerAddress),
        ),
        (
            "100.64.1.10",
            Disposition::Drop(DropReason::TunnelInnerAddress),
        ),
        (
            "192.0.2.9",
            Disposition::Drop(DropReason::TunnelInnerAddress),
        ),
    ];
    for (src, expected) in cases {
        let outcome = pair.west.through_tunnel(&way, &segment(src, "P"), at(1));
        assert_eq!(outcome.disposition, expected, "{src}");
    }
}

/// Whoever sent what did not fit recognises its packet in the error, which comes from where it sent it.
#[test]
fn an_icmp_error_tells_of_the_packet_that_its_receiver_sent() {
    let (mut pair, mut nodes) = overlapping();
    let views = views("10");
    establish(&mut pair, &mut nodes, &views);
    let request = views.east.request(&[7; 1000]);
    let arrived = pair.east_to_west(&request, at(1)).unwrap();
    // A router of west's cluster says so, about the packet as it saw it.
    let seen = Packet::parse(&arrived).unwrap();
    let error = edit::icmp_too_big(&seen, address("172.16.2.99"), 900).unwrap();
    let told = pair.west_to_east(&error, at(1)).unwrap();
    let told = Packet::parse(&told).unwrap();
    assert_eq!((told.src(), told.dst()), (address("172.16.2.99"), FRONTEND));
    let about = IcmpError::of(&told).unwrap().about;
    assert_eq!((about.src, about.dst), (FRONTEND, views.east.server));
    // West's gateway says so itself, as the pod.
    pair.west.lan.interface.mtu = 900;
    pair.west.load();
    let sent = pair.east.node_sends(&request, at(1));
    let answer = pair.west.frame(Side::Wan, &sent.frame, at(1));
    let reason = DropReason::TooBig;
    assert_eq!(answer.disposition, Disposition::Answer(Side::Wan, reason));
    let back = pair.east.frame(Side::Wan, &answer.frame, at(1));
    assert_eq!(back.disposition, Disposition::Forward(Side::Lan));
    let told = Packet::parse(&back.frame[14..]).unwrap();
    assert_eq!((told.src(), told.dst()), (views.east.server, FRONTEND));
    let about = IcmpError::of(&told).unwrap().about;
    assert_eq!((about.src, about.dst), (FRONTEND, views.east.server));
}

/// A RST that a gateway makes goes to the pod by the address that the pod has.
#[test]
fn a_reset_finds_its_way() {
    let (mut pair, mut nodes) = overlapping();
    let views = views("10");
    establish(&mut pair, &mut nodes, &views);
    // West forgets the flow and hears of it again.
    pair.west = {
        let fresh = overlapping().0.west;
        Gateway {
            tunnels: std::mem::take(&mut pair.west.tunnels),
            ..fresh
        }
    };
    pair.west.load();
    let sent = pair.east.node_sends(&views.east.request(b"x"), at(1));
    let answer = pair.west.frame(Side::Wan, &sent.frame, at(1));
    let reason = DropReason::UnknownFlow;
    assert_eq!(answer.disposition, Disposition::Answer(Side::Wan, reason));
    let back = pair.east.frame(Side::Wan, &answer.frame, at(1));
    assert_eq!(back.disposition, Disposition::Forward(Side::Lan));
    check(&back.frame[14..], &views.east, false);
}
