//! A flood of half-open connections. Threat row 14.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Nodes, Pair, support};
use landbridge_gateway_core::{Disposition, Limits};
use support::{API, Conn, FRONTEND, at};

fn conn(number: u32) -> Conn {
    let cport = 1024 + (number % 60_000) as u16;
    let cisn = 1000 + number * 7;
    Conn {
        cport,
        cisn,
        ..Conn::new(FRONTEND, API)
    }
}

#[test]
fn a_flood_of_half_open_connections_costs_no_packet_of_established_ones() {
    flood(100_000);
}

#[test]
#[ignore = "takes half a minute"]
fn a_flood_of_a_million() {
    flood(1_000_000);
}

/// `count` half-open connections are tried while the table holds 256.
fn flood(count: u32) {
    const LIVE: u32 = 1000;
    let limits = Limits {
        established: 4 * LIVE,
        half_open: 256,
        nonces: 2 * count as usize,
        flow_shards: 4,
        ..Limits::default()
    };
    let (mut pair, mut nodes) = (Pair::new(&limits), Nodes::new());
    for number in 0..LIVE {
        pair.establish(&mut nodes, &conn(number), at(0));
    }
    assert_eq!(pair.east.dataplane.flows().established(), LIVE as usize);
    // Each flood SYN is one that the agent of a compromised node could send: it proves all it can.
    for number in LIVE..LIVE + count {
        let now = at(u64::from(number / 100));
        let syn = support::out(&mut nodes.east, &conn(number).syn(), now);
        let outcome = pair.east.node_sends(&syn, now);
        assert!(
            matches!(outcome.disposition, Disposition::Forward(_)),
            "{outcome:?}"
        );
    }
    assert!(pair.east.dataplane.flows().half_open() <= 256);
    let now = at(u64::from(count / 100));
    for number in 0..LIVE {
        let conn = conn(number);
        assert!(
            pair.east_to_west(&conn.request(b"x"), now).is_ok(),
            "{number}"
        );
        assert!(
            pair.west_to_east(&conn.response(b"hello"), now).is_ok(),
            "{number}"
        );
    }
    assert_eq!(pair.east.dataplane.flows().established(), LIVE as usize);
}

#[test]
fn at_the_limit_new_flows_are_refused_and_old_ones_go_on() {
    let limits = Limits {
        established: 100,
        half_open: 1000,
        flow_shards: 1,
        ..Limits::default()
    };
    let (mut pair, mut nodes) = (Pair::new(&limits), Nodes::new());
    for number in 0..100 {
        pair.establish(&mut nodes, &conn(number), at(0));
    }
    let late = conn(100);
    let syn = support::out(&mut nodes.east, &late.syn(), at(1));
    let syn = pair.east_to_west(&syn, at(1)).unwrap();
    support::into(&mut nodes.west, &syn, at(1));
    let syn_ack = support::out(&mut nodes.west, &late.syn_ack(), at(1));
    let syn_ack = pair.west_to_east(&syn_ack, at(1)).unwrap();
    support::into(&mut nodes.east, &syn_ack, at(1));
    let ack = support::out(&mut nodes.east, &late.ack(), at(1));
    pair.east_to_west(&ack, at(1)).unwrap();
    let response = late.response(b"hello");
    let refused = pair.west_to_east(&response, at(1));
    assert_eq!(refused, Err(policy::DropReason::TableFull));
    for number in 0..100 {
        assert!(
            pair.east_to_west(&conn(number).request(b"x"), at(1))
                .is_ok()
        );
    }
}
