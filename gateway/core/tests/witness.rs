//! What a capture is told of a packet: whose it is, how that is known, and which rule refused it.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Gateway, Nodes, Pair, support};
use handshake::transit::{Party, Standing};
use landbridge_gateway_core::{Disposition, Limits, Side, Witness};
use policy::DropReason;
use support::{API, Conn, FRONTEND, at, into, out};

fn watched() -> (Pair, Nodes, Conn) {
    let mut pair = Pair::new(&Limits::default());
    for gateway in [&mut pair.east, &mut pair.west] {
        gateway.cx.witness = Some(Box::default());
    }
    (pair, Nodes::new(), Conn::new(FRONTEND, API))
}

/// The sender and the receiver of the last packet: the pod's name and how it is known.
fn seen(gateway: &Gateway) -> [Option<(String, Standing)>; 2] {
    let Witness {
        sender, receiver, ..
    } = &**gateway.cx.witness.as_ref().unwrap();
    let word = |party: &Option<Party>| {
        let party = party.as_ref()?;
        Some((party.claims.display_name(), party.standing))
    };
    [word(sender), word(receiver)]
}

fn end(name: &str, standing: Standing) -> Option<(String, Standing)> {
    Some((name.into(), standing))
}

const CLIENT: &str = "east/shop/frontend";
const SERVER: &str = "west/shop/api";

#[test]
fn both_ends_are_known_as_soon_as_their_handshakes_passed() {
    use Standing::{Listed, OfFlow};
    let (mut pair, mut nodes, conn) = watched();
    let syn = out(&mut nodes.east, &conn.syn(), at(0));
    let syn = pair.east_to_west(&syn, at(0)).unwrap();
    // Nobody answered yet: the source's gateway has no list of the other cluster's pods.
    assert_eq!(seen(&pair.east), [end(CLIENT, OfFlow), None]);
    assert_eq!(seen(&pair.west), [end(CLIENT, OfFlow), end(SERVER, Listed)]);
    into(&mut nodes.west, &syn, at(0));
    let syn_ack = out(&mut nodes.west, &conn.syn_ack(), at(0));
    let syn_ack = pair.west_to_east(&syn_ack, at(0)).unwrap();
    let back = [end(SERVER, OfFlow), end(CLIENT, OfFlow)];
    assert_eq!(seen(&pair.west), back);
    assert_eq!(seen(&pair.east), back);
    into(&mut nodes.east, &syn_ack, at(0));
    let ack = out(&mut nodes.east, &conn.ack(), at(0));
    let ack = pair.east_to_west(&ack, at(0)).unwrap();
    assert_eq!(seen(&pair.west), [end(CLIENT, OfFlow), end(SERVER, OfFlow)]);
    into(&mut nodes.west, &ack, at(0));
    // Established by this one, and of an established flow with the next.
    for _ in 0..2 {
        let response = out(&mut nodes.west, &conn.response(b"hello"), at(0));
        pair.west_to_east(&response, at(0)).unwrap();
        assert_eq!(seen(&pair.east), back);
        let witness = pair.east.cx.witness.as_ref().unwrap();
        assert_eq!(witness.opened, response_sent(&response));
        assert_eq!(witness.peer, Some(support::domain("west")));
        assert_eq!(witness.key.unwrap().src, API);
    }
}

/// As it is when it comes out of the tunnel: one router further.
fn response_sent(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    wire::inplace::decrement_ttl(&mut packet).unwrap();
    packet
}

#[test]
fn a_refused_syn_presents_an_identity_and_names_the_rule_and_the_answer() {
    let (mut pair, mut nodes, conn) = watched();
    let set = support::policies("west", true);
    pair.west
        .judge_by(|transit| transit.policy = policy::compile(&set).unwrap().into());
    let mut east = support::east(false);
    east.pods
        .insert(FRONTEND, support::local_pod("east", "batch"));
    nodes.east = support::node(east, 11);
    let syn = out(&mut nodes.east, &conn.syn(), at(0));
    let sent = pair.east.node_sends(&syn, at(0));
    let outcome = pair.west.frame(Side::Wan, &sent.frame, at(0));
    let answered = Disposition::Answer(Side::Wan, DropReason::DeniedByRule);
    assert_eq!(outcome.disposition, answered);
    assert_eq!(
        seen(&pair.west),
        [
            end("east/shop/batch", Standing::Presented),
            end(SERVER, Standing::Listed)
        ]
    );
    let witness = pair.west.cx.witness.as_ref().unwrap();
    assert!(witness.rule.is_some());
    let reset = wire::ip::Packet::parse(&witness.answer).unwrap();
    assert_eq!((reset.src(), reset.dst()), (API, FRONTEND));
}

/// Whoever plays a SYN back presents an identity, and has none.
#[test]
fn a_replayed_syn_only_presents_and_nothing_stays_of_the_packet_before() {
    let (mut pair, mut nodes, conn) = watched();
    let syn = out(&mut nodes.east, &conn.syn(), at(0));
    let first = pair.east_to_west(&syn, at(0)).unwrap();
    into(&mut nodes.west, &first, at(0));
    let later = at(100_000);
    let refused = pair.east.node_sends(&syn, later);
    assert_eq!(refused.disposition, Disposition::Drop(DropReason::Stale));
    assert_eq!(seen(&pair.east), [end(CLIENT, Standing::Presented), None]);
    let unopened = pair.west.frame(Side::Wan, &[0; 60], at(0));
    assert!(matches!(unopened.disposition, Disposition::Drop(_)));
    let witness = pair.west.cx.witness.as_ref().unwrap();
    assert!(witness.opened.is_empty() && witness.peer.is_none() && witness.key.is_none());
    assert_eq!(seen(&pair.west), [None, None]);
}
