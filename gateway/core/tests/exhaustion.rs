//! A flood of half-open connections. Threat row 14.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Nodes, Pair, made_up, support};
use landbridge_gateway_core::{Disposition, Limits, context::Event};
use policy::DropReason;
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
    assert_eq!(refused, Err(DropReason::TableFull));
    for number in 0..100 {
        assert!(
            pair.east_to_west(&conn(number).request(b"x"), at(1))
                .is_ok()
        );
    }
}

/// Threat row 12: who may make segment proofs makes up credentials. They take a quarter of a core, whichever
/// shard they come to, and whoever was seen before does not notice.
#[test]
fn made_up_credentials_take_their_budget_and_no_connection() {
    const A_SECOND: u64 = 10_000;
    let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
    pair.establish(&mut nodes, &conn(0), at(0));
    let mut refused = std::collections::BTreeMap::<_, u64>::new();
    for number in 0..2 * A_SECOND {
        let now = at(number * 1_000 / A_SECOND);
        let conn = conn(50_000 + (number % 1_000) as u32);
        let genuine = support::out(&mut nodes.east, &conn.syn(), now);
        let outcome = pair.east.node_sends(&made_up(&genuine, number), now);
        let Disposition::Drop(reason) = outcome.disposition else {
            panic!("{outcome:?}");
        };
        *refused.entry(reason).or_insert(0) += 1;
        if number % 100 == 0 {
            let number = 1 + (number / 100) as u32;
            pair.establish(&mut nodes, &self::conn(number), now);
        }
    }
    // What was saved before, and a quarter of the time, at 50 us each.
    let allowed = 500 + 1_999 * 5;
    let checked = refused[&DropReason::BadCredential];
    assert!(
        (allowed - 3..=allowed + 1).contains(&checked),
        "{refused:?}"
    );
    assert_eq!(checked + refused[&DropReason::VerifyBudget], 2 * A_SECOND);
    // The rest are of the two that connect.
    let flows = pair.east.dataplane.flows();
    assert_eq!(
        flows.signature_checks() - refused[&DropReason::BadCredential],
        2
    );
    assert_eq!(pair.west.dataplane.flows().signature_checks(), 2);
}

#[test]
fn a_flood_of_forged_handshakes_takes_no_event_that_control_needs() {
    const FORGED: u64 = 5_000;
    let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
    let genuine = support::out(&mut nodes.east, &conn(0).syn(), at(0));
    // Two words of the proof's MAC change places: the checksum still holds.
    let mut forged = genuine.clone();
    let mac = genuine.len() - support::tcp_payload(&genuine).len() + 112;
    forged[mac..mac + 4].rotate_left(2);
    for _ in 0..FORGED {
        let outcome = pair.east.node_sends(&forged, at(0));
        assert_eq!(outcome.disposition, Disposition::Drop(DropReason::BadProof));
    }
    pair.establish(&mut nodes, &conn(1), at(0));
    let mut told = 0;
    let mut opened = 0;
    let mut count = |event| match event {
        Event::Refused { .. } => told += 1,
        Event::RefusedMore(more) => told += more,
        Event::Opened(_) => opened += 1,
        other => panic!("{other:?}"),
    };
    let cx = &mut pair.east.cx;
    let events: Vec<_> = std::iter::from_fn(|| cx.poll_event()).collect();
    assert!(events.len() < 200, "{} events wake control", events.len());
    events.into_iter().for_each(&mut count);
    cx.sum_up(at(1_000).mono);
    std::iter::from_fn(|| cx.poll_event()).for_each(&mut count);
    assert_eq!((told, opened, cx.lost_events()), (FORGED, 1, 0));
}
