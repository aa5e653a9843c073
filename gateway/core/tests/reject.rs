//! A rule that rejects is answered at the gateway too, towards the one that dialled.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{Gateway, NODE, Nodes, Outcome, Pair, lan, support};
use landbridge_gateway_core::{Disposition, Limits, Side};
use policy::{
    DropReason,
    model::{Action, PolicySet},
};
use support::{API, Conn, FRONTEND, at, into, out};
use wire::{
    ip::Packet,
    tcp::{Flags, Segment},
};

const REFUSED: Flags = Flags(Flags::RST | Flags::ACK);

fn judge_by(gateway: &mut Gateway, set: &PolicySet) {
    gateway.judge_by(|transit| transit.policy = policy::compile(set).unwrap().into());
}

/// Nodes whose own policy allows everything that these tests refuse at the gateway.
fn batch_node() -> Nodes {
    let mut east = support::east(false);
    let batch = support::local_pod("east", "batch");
    east.pods.insert(FRONTEND, batch);
    Nodes {
        east: support::node(east, 11),
        ..Nodes::new()
    }
}

/// The RST in a frame for the node of gateway `number`.
fn reset_to_node(outcome: &Outcome, number: u8) -> Vec<u8> {
    let frame = wire::ethernet::Frame::parse(&outcome.frame).unwrap();
    assert_eq!((frame.dst(), frame.src()), (NODE, lan(number).mac));
    let packet = Packet::parse(frame.payload()).unwrap();
    assert_eq!((packet.src(), packet.dst()), (API, FRONTEND));
    let segment = Segment::of(&packet).unwrap();
    assert!(segment.checksum_holds(API, FRONTEND));
    assert_eq!((segment.flags(), segment.ack()), (REFUSED, 1_001));
    frame.payload().to_vec()
}

#[test]
fn the_destination_s_rule_rejects_the_syn_through_the_tunnel() {
    for reject in [true, false] {
        let (mut pair, mut nodes) = (Pair::new(&Limits::default()), batch_node());
        judge_by(&mut pair.west, &support::policies("west", reject));
        let conn = Conn::new(FRONTEND, API);
        let syn = out(&mut nodes.east, &conn.syn(), at(0));
        let sent = pair.east.node_sends(&syn, at(1));
        assert_eq!(sent.disposition, Disposition::Forward(Side::Wan));
        let outcome = pair.west.frame(Side::Wan, &sent.frame, at(2));
        let totals = &pair.west.cx.totals;
        assert_eq!(totals.dropped(DropReason::DeniedByRule), 1);
        assert_eq!((totals.originated, totals.replied), (reject.into(), 0));
        if !reject {
            let dropped = Disposition::Drop(DropReason::DeniedByRule);
            assert_eq!(outcome.disposition, dropped);
            continue;
        }
        let answered = Disposition::Answer(Side::Wan, DropReason::DeniedByRule);
        assert_eq!(outcome.disposition, answered);
        let back = pair.east.frame(Side::Wan, &outcome.frame, at(3));
        assert_eq!(back.disposition, Disposition::Forward(Side::Lan));
        let reset = reset_to_node(&back, 1);
        assert_eq!(pair.east.dataplane.flows().half_open(), 0);
        into(&mut nodes.east, &reset, at(4));
        assert_eq!(nodes.east.half_open(), (0, 0));
    }
}

/// What a rule on egress says of the destination's labels is known from the SYN-ACK only, and the
/// one to be told is whom it goes to.
#[test]
fn the_source_s_rule_rejects_the_syn_ack_towards_the_source() {
    for reject in [true, false] {
        let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
        let mut set = support::policies("east", reject);
        Arc::make_mut(&mut set.policies[0]).rules[0].action = Action::Deny;
        judge_by(&mut pair.east, &set);
        let conn = Conn::new(FRONTEND, API);
        let syn = out(&mut nodes.east, &conn.syn(), at(0));
        let syn = pair.east_to_west(&syn, at(1)).unwrap();
        into(&mut nodes.west, &syn, at(2));
        let syn_ack = out(&mut nodes.west, &conn.syn_ack(), at(3));
        let sent = pair.west.node_sends(&syn_ack, at(4));
        let outcome = pair.east.frame(Side::Wan, &sent.frame, at(5));
        if !reject {
            let dropped = Disposition::Drop(DropReason::DeniedByRule);
            assert_eq!(outcome.disposition, dropped);
            continue;
        }
        let answered = Disposition::Answer(Side::Lan, DropReason::DeniedByRule);
        assert_eq!(outcome.disposition, answered);
        assert_eq!(pair.east.cx.totals.originated, 1);
        let reset = reset_to_node(&outcome, 1);
        into(&mut nodes.east, &reset, at(6));
        assert_eq!(nodes.east.half_open(), (0, 0));
    }
}

/// The same at the gateway of the destination, when its policy changed since the SYN.
#[test]
fn a_rule_that_came_since_the_syn_rejects_the_syn_ack_through_the_tunnel() {
    let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut nodes.east, &conn.syn(), at(0));
    let syn = pair.east_to_west(&syn, at(1)).unwrap();
    into(&mut nodes.west, &syn, at(2));
    let syn_ack = out(&mut nodes.west, &conn.syn_ack(), at(3));
    let mut set = support::policies("west", true);
    Arc::make_mut(&mut set.policies[0]).rules[0].action = Action::Deny;
    judge_by(&mut pair.west, &set);
    let outcome = pair.west.node_sends(&syn_ack, at(4));
    let answered = Disposition::Answer(Side::Wan, DropReason::DeniedByRule);
    assert_eq!(outcome.disposition, answered);
    let back = pair.east.frame(Side::Wan, &outcome.frame, at(5));
    assert_eq!(back.disposition, Disposition::Forward(Side::Lan));
    let reset = reset_to_node(&back, 1);
    into(&mut nodes.east, &reset, at(6));
    assert_eq!(nodes.east.half_open(), (0, 0));
}
