//! Steps of the protocol that later ones would hide, each by itself: the page of the
//! specification is docs/spec/handshake-protocol.md, its sections stand before each test.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use handshake::{
    node::{Handled, Node, NodeLimits, Path},
    transit::Origin,
};
use identity::UnixMillis;
use policy::DropReason;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use support::*;
use wire::{edit::TcpEdit, ip, marker::MARKER};

fn nodes() -> (Node, Node, Conn) {
    let conn = Conn::new(FRONTEND, API);
    (node(east(false), 1), node(west(false), 2), conn)
}

fn to_pod(node: &mut Node, packet: &[u8], ms: u64) -> Handled {
    node.handle_packet(Path::ToPod, packet, at(ms))
}

/// Section 5, step 2.
#[test]
fn a_hello_belongs_to_the_sequence_number_that_it_was_made_for() {
    let (mut a, mut b, conn) = nodes();
    let syn = out(&mut a, &conn.syn(), at(0));
    let other = Conn {
        cisn: conn.cisn + 1,
        ..conn
    };
    let bare = other.syn();
    let moved = TcpEdit::new(&ip::Packet::parse(&bare).unwrap()).unwrap();
    let moved = moved.add_option(&MARKER).payload(tcp_payload(&syn));
    let refused = dropped(to_pod(&mut b, &moved.finish().unwrap(), 1));
    assert_eq!(refused, DropReason::TranscriptMismatch);
}

/// Section 5, step 3: the proof of another cluster is unknown here.
#[test]
fn hellos_without_a_proof_share_one_bucket() {
    let limits = NodeLimits {
        unproven_per_second: 2,
        ..NodeLimits::default()
    };
    let rng = Box::new(ChaCha20Rng::seed_from_u64(2));
    let (mut a, _, conn) = nodes();
    let mut b = Node::new(Arc::new(west(false)), limits, rng);
    let mut dials = |cport, ms| {
        let conn = Conn {
            cport,
            ..conn.clone()
        };
        let syn = out(&mut a, &conn.syn(), at(ms));
        to_pod(&mut b, &syn, ms)
    };
    for cport in [1, 2] {
        assert!(matches!(dials(cport, 0), Handled::Rewrite { .. }));
    }
    assert_eq!(dropped(dials(3, 0)), DropReason::RateLimited);
    assert!(matches!(dials(4, 500), Handled::Rewrite { .. }));
}

/// Section 5, step 6.
#[test]
fn a_new_connection_displaces_one_that_opens_only_with_a_proof() {
    let (mut a, mut b, conn) = nodes();
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let other = Conn {
        cisn: 70_000,
        ..conn.clone()
    };
    let displacing = out(&mut a, &other.syn(), at(2));
    assert_eq!(
        dropped(to_pod(&mut b, &displacing, 3)),
        DropReason::BadProof
    );
    // What was opening can go on.
    let syn_ack = out(&mut b, &conn.syn_ack(), at(4));
    assert!(tcp_payload(&syn_ack).starts_with(b"LBRE"));
}

/// Section 7.
#[test]
fn policy_is_asked_again_when_it_changed_before_confirm() {
    let (mut a, mut b, conn) = nodes();
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
    into(&mut a, &syn_ack, at(3));
    let ack = out(&mut a, &conn.ack(), at(4));
    let mut closed = west(false);
    let mut set = policies("west", false);
    std::sync::Arc::make_mut(&mut set.policies[0]).rules.clear();
    closed.policy = Arc::new(policy::compile(&set).unwrap());
    closed.epoch = 2;
    b.set_snapshot(Arc::new(closed), at(5));
    assert_eq!(
        dropped(to_pod(&mut b, &ack, 6)),
        DropReason::DeniedByDefault
    );
    assert_eq!((b.flows().count(), b.half_open().1), (0, 0));
}

/// Section 8: a server that lost its state answers the same SYN anew.
#[test]
fn a_reply_is_proven_anew_for_another_sequence_number_of_the_server() {
    let (mut a, mut b, conn) = nodes();
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    out(&mut b, &conn.syn_ack(), at(2));
    let again = Conn {
        sisn: conn.sisn + 7,
        ..conn
    };
    let syn_ack = out(&mut b, &again.syn_ack(), at(3));
    into(&mut a, &syn_ack, at(4));
    let ack = out(&mut a, &again.ack(), at(5));
    into(&mut b, &ack, at(6));
}

/// Section 8: the credential that a retransmission carries is the one that is valid.
#[test]
fn a_renewed_credential_makes_a_new_hello_and_an_expired_one_none() {
    let (mut a, _, conn) = nodes();
    let first = out(&mut a, &conn.syn(), at(0));
    let mut renewed = east(false);
    renewed.epoch = 2;
    let pod = renewed.pods.get_mut(&FRONTEND).unwrap();
    let identity = pod.identity.as_mut().unwrap();
    let mut claims = (*identity.claims).clone();
    claims.expires_at = UnixMillis(START + 500_000);
    identity.credential = issuer("east").issue(&claims).unwrap();
    identity.claims = Arc::new(claims);
    let hash = identity.credential.hash();
    a.set_snapshot(Arc::new(renewed), at(1));
    let second = out(&mut a, &conn.syn(), at(2));
    assert_ne!(first, second);
    assert_eq!(tcp_payload(&second)[72..104], hash.0);
    let expired = a.handle_packet(Path::FromPod, &conn.syn(), at(500_000));
    assert_eq!(dropped(expired), DropReason::NoCredential);
}

/// Section 9.
#[test]
fn a_gateway_lets_no_segment_by_that_is_not_part_of_the_handshake() {
    let (mut a, mut b, conn) = nodes();
    let (mut gateway, snapshot) = (transit(), transit_snapshot("west"));
    let east = domain("east");
    let from_east = Origin::Peer(&east);
    let mut passes = |origin, packet: &[u8], ms| {
        through(&mut gateway, origin, packet, &snapshot, at(ms)).map_err(|r| r.reason)
    };
    let syn = out(&mut a, &conn.syn(), at(0));
    assert_eq!(
        passes(Origin::Own, &syn, 1),
        Err(DropReason::WrongTrustDomain)
    );
    let syn = passes(from_east, &syn, 1).unwrap();
    into(&mut b, &syn, at(2));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(3));
    assert_eq!(
        passes(from_east, &syn_ack, 4),
        Err(DropReason::WrongTrustDomain)
    );
    // Before REPLY not even with CONFIRM; after it, only with it.
    into(&mut a, &syn_ack, at(4));
    let ack = out(&mut a, &conn.ack(), at(5));
    assert_eq!(passes(from_east, &ack, 5), Err(DropReason::NoIdentity));
    passes(Origin::Own, &syn_ack, 6).unwrap();
    let bare = conn.request(b"data");
    assert_eq!(passes(from_east, &bare, 7), Err(DropReason::NoIdentity));
    passes(from_east, &ack, 8).unwrap();
    // A refusal of the server is bare, and acknowledges the SYN.
    for (ack, payload) in [(1_001, &b"payload"[..]), (1_002, b"")] {
        let reset = conn.server_sends("R", 0, Some(ack), payload);
        assert_eq!(passes(Origin::Own, &reset, 9), Err(DropReason::UnknownFlow));
    }
    let reset = conn.server_sends("R", 0, Some(1_001), b"");
    passes(Origin::Own, &reset, 10).unwrap();
    assert_eq!(passes(from_east, &ack, 11), Err(DropReason::UnknownFlow));
}
