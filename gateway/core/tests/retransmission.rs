//! Segments that come twice or late, as they do when a gateway or a node stood still for a while.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Nodes, Pair, support};
use landbridge_gateway_core::{Disposition, Limits};
use policy::DropReason;
use support::{API, Conn, FRONTEND, at};

fn parts() -> (Pair, Nodes, Conn) {
    let limits = Limits::default();
    (Pair::new(&limits), Nodes::new(), Conn::new(FRONTEND, API))
}

/// The client sends its SYN again before the answer to the first one reaches it, then ACK and data;
/// the server answers the second SYN, too. What it then sends acknowledges the data.
#[test]
fn a_repeated_syn_does_not_forget_what_the_client_sent() {
    let (mut pair, mut nodes, conn) = parts();
    let syn = support::out(&mut nodes.east, &conn.syn(), at(0));
    let arrived = pair.east_to_west(&syn, at(0)).unwrap();
    support::into(&mut nodes.west, &arrived, at(0));
    let syn_ack = support::out(&mut nodes.west, &conn.syn_ack(), at(1));
    let answer = pair.west_to_east(&syn_ack, at(1)).unwrap();

    let arrived = pair.east_to_west(&syn, at(2)).unwrap();
    support::into(&mut nodes.west, &arrived, at(2));
    support::into(&mut nodes.east, &answer, at(2));
    for segment in [conn.ack(), conn.request(b"GET /")] {
        let segment = support::out(&mut nodes.east, &segment, at(3));
        let arrived = pair.east_to_west(&segment, at(3)).unwrap();
        support::into(&mut nodes.west, &arrived, at(3));
    }
    pair.west_to_east(&syn_ack, at(4)).unwrap();

    let acknowledges = conn.server_sends("", conn.sisn + 1, Some(conn.cisn + 1 + 5), b"");
    assert!(pair.west_to_east(&acknowledges, at(5)).is_ok());
    for gateway in [&pair.east, &pair.west] {
        assert_eq!(gateway.dataplane.flows().established(), 1);
    }
}

/// A SYN-ACK that was overtaken by data is dropped; an answer to it would reset the connection.
#[test]
fn a_late_syn_ack_is_not_answered() {
    let (mut pair, mut nodes, conn) = parts();
    let syn = support::out(&mut nodes.east, &conn.syn(), at(0));
    let arrived = pair.east_to_west(&syn, at(0)).unwrap();
    support::into(&mut nodes.west, &arrived, at(0));
    let late = support::out(&mut nodes.west, &conn.syn_ack(), at(0));
    pair.establish(&mut nodes, &conn, at(1));
    let outcome = pair.west.node_sends(&late, at(2));
    let expected = Disposition::Drop(DropReason::UnknownFlow);
    assert_eq!(outcome.disposition, expected);
    assert!(pair.west_to_east(&conn.response(b"hello"), at(3)).is_ok());
}
