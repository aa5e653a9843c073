//! Attacks on the handshake: rows 1-6, 8, 24 and 26 of the threat list. Each test names its row.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use handshake::{
    credentials::PodState,
    keys::AgentSecret,
    node::{Handled, Mark, Node, Path},
    transit::Origin,
};
use policy::DropReason;
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use support::*;
use wire::{edit::TcpEdit, hello, ip};

const HEADER: usize = hello::HEADER_LEN;

/// `packet` with another TCP payload, checksums valid.
fn with_payload(packet: &[u8], payload: &[u8]) -> Vec<u8> {
    TcpEdit::new(&ip::Packet::parse(packet).unwrap())
        .unwrap()
        .payload(payload)
        .finish()
        .unwrap()
}

/// `packet` without our option.
fn stripped_option(packet: &[u8]) -> Vec<u8> {
    TcpEdit::new(&ip::Packet::parse(packet).unwrap())
        .unwrap()
        .remove_exid()
        .finish()
        .unwrap()
}

fn to_pod(node: &mut Node, packet: &[u8], ms: u64) -> Handled {
    node.handle_packet(Path::ToPod, packet, at(ms))
}

/// An attacker inside the cluster who has the segment key makes the proof of a changed HELLO hold.
fn prove_again(payload: &mut [u8], cluster: &str) {
    let (id, mac) = segment_keys(cluster).prove(&payload[..HEADER]);
    payload[HEADER..HEADER + 8].copy_from_slice(&id);
    payload[HEADER + 8..HEADER + 24].copy_from_slice(&mac);
}

/// West seen from inside one cluster: both pods belong to it, so its own proof counts.
fn in_cluster() -> (Node, Node, Conn) {
    let mut one = west(false);
    one.pods.retain(|address, _| *address == DB);
    one.pods.insert(DB, local_pod("west", "frontend"));
    let mut other = west(false);
    other.pods.retain(|address, _| *address == API);
    (node(one, 1), node(other, 2), Conn::new(DB, API))
}

#[test]
fn row_1_forged_tokens_open_nothing_and_cost_no_signature() {
    let (mut a, mut b, conn) = in_cluster();
    let valid = out(&mut a, &conn.syn(), at(0));
    let token = tcp_payload(&valid).to_vec();
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let mut noise = vec![0; token.len()];
    for _ in 0..20_000 {
        rng.fill_bytes(&mut noise);
        noise[..8].copy_from_slice(&token[..8]);
        assert!(matches!(
            to_pod(&mut b, &with_payload(&valid, &noise), 1),
            Handled::Drop(_)
        ));
    }
    // Another key id makes the proof unknown, not wrong: the HELLO is genuine all the same, and is
    // let in by the bucket for those without proof.
    let key_id = HEADER * 8..(HEADER + 8) * 8;
    for bit in (0..token.len() * 8).filter(|bit| !key_id.contains(bit)) {
        let mut flipped = token.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let handled = to_pod(&mut b, &with_payload(&valid, &flipped), 1);
        assert!(
            matches!(handled, Handled::Drop(_)),
            "bit {bit} of the token: {handled:?}"
        );
    }
    assert_eq!((b.half_open().1, b.signature_checks()), (0, 0));
    into(&mut b, &valid, at(2));
}

#[test]
fn row_2_a_recorded_packet_opens_nothing_when_it_is_replayed() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(1));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
    into(&mut a, &syn_ack, at(3));
    let ack = out(&mut a, &conn.ack(), at(4));
    into(&mut b, &ack, at(5));

    // On its own tuple, once it is used.
    assert_eq!(dropped(to_pod(&mut b, &syn, 6)), DropReason::Superseded);
    // After the connection is gone.
    let key = b.flows().next().unwrap().key;
    b.handle_flow_gone(&key);
    for (ms, reason) in [
        (1_005, DropReason::Superseded),
        (45_000, DropReason::Superseded),
        (45_001, DropReason::Stale),
        (76_000, DropReason::Stale),
    ] {
        assert_eq!(dropped(to_pod(&mut b, &syn, ms)), reason, "at {ms}");
    }
    b.handle_timeout(at(80_000));
    assert_eq!(
        dropped(to_pod(&mut b, &ack, 80_001)),
        DropReason::UnknownFlow
    );
    // A restarted responder knows no nonce: the replay leaves a half-open entry, never a flow.
    let mut restarted = node(west(false), 9);
    into(&mut restarted, &syn, at(10));
    out(&mut restarted, &conn.syn_ack(), at(11));
    assert_eq!(
        dropped(to_pod(&mut restarted, &ack, 12)),
        DropReason::BadMac
    );
    // The REPLY of another handshake is not believed by a new one.
    let mut again = node(east(false), 5);
    out(&mut again, &conn.syn(), at(20));
    assert_eq!(
        dropped(to_pod(&mut again, &syn_ack, 21)),
        DropReason::BadMac
    );
}

#[test]
fn row_2_a_gateway_refuses_a_nonce_on_another_tuple() {
    let mut a = node(east(false), 1);
    let (mut gateway, snapshot) = (transit(), transit_snapshot("east"));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    through(&mut gateway, Origin::Own, &syn, &snapshot, at(1)).unwrap();
    through(&mut gateway, Origin::Own, &syn, &snapshot, at(2)).unwrap();
    let mut moved = syn.clone();
    // Another source port: IPv4 header of 20 bytes, then the port.
    moved[20..22].copy_from_slice(&40_001_u16.to_be_bytes());
    let refused = through(&mut gateway, Origin::Own, &moved, &snapshot, at(3)).unwrap_err();
    assert_eq!(refused.reason, DropReason::Replay);
}

/// Row 3: every field that the transcript binds, changed alone on the way by an attacker who can
/// make segment proofs, is refused by the time the connection would open.
#[test]
fn row_3_every_bound_field_changed_alone_is_refused() {
    let fields: &[(&str, std::ops::Range<usize>)] = &[
        ("version", 4..5),
        ("flags", 5..6),
        ("credential length", 6..8),
        ("initiator nonce", 8..24),
        ("timestamp", 24..32),
        ("initiator ISN", 32..36),
        ("destination trust domain", 36..52),
        ("destination range", 52..54),
        ("destination offset", 54..70),
        ("destination port", 70..72),
        ("credential hash", 72..104),
        ("credential", 128..129),
    ];
    for (field, bytes) in fields {
        for place in [bytes.start, bytes.end - 1] {
            let (mut a, mut b, conn) = in_cluster();
            let syn = out(&mut a, &conn.syn(), at(0));
            let mut token = tcp_payload(&syn).to_vec();
            token[place] ^= 1;
            prove_again(&mut token, "west");
            let opened = open_with(&mut a, &mut b, &conn, &with_payload(&syn, &token), |p| p);
            assert!(!opened, "{field}, byte {place}");
        }
    }
    let (mut a, mut b, conn) = in_cluster();
    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(
        open_with(&mut a, &mut b, &conn, &syn, |p| p),
        "and unchanged it opens"
    );

    // REPLY: nonce 8..24, credential, MAC; and the SYN-ACK's sequence number.
    for place in [8, 23, 24, 500, usize::MAX] {
        let (mut a, mut b, conn) = in_cluster();
        let syn = out(&mut a, &conn.syn(), at(0));
        let opened = open_with(&mut a, &mut b, &conn, &syn, |syn_ack| {
            let mut reply = tcp_payload(&syn_ack).to_vec();
            let place = place.min(reply.len() - 1);
            reply[place] ^= 1;
            with_payload(&syn_ack, &reply)
        });
        assert!(!opened, "REPLY byte {place}");
    }
    let (mut a, mut b, conn) = in_cluster();
    let syn = out(&mut a, &conn.syn(), at(0));
    let moved = Conn {
        sisn: conn.sisn + 1,
        ..conn.clone()
    };
    let opened = open_with(&mut a, &mut b, &conn, &syn, |syn_ack| {
        let ours = stripped_option(&moved.syn_ack());
        let with_marker = TcpEdit::new(&ip::Packet::parse(&ours).unwrap())
            .unwrap()
            .add_option(&wire::marker::MARKER);
        with_marker.payload(tcp_payload(&syn_ack)).finish().unwrap()
    });
    assert!(!opened, "responder ISN");
}

/// SYN as given, then the rest of the handshake with the SYN-ACK changed; whether data gets in.
fn open_with(
    a: &mut Node,
    b: &mut Node,
    conn: &Conn,
    syn: &[u8],
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> bool {
    let Handled::Rewrite { .. } = to_pod(b, syn, 1) else {
        return false;
    };
    let syn_ack = match b.handle_packet(Path::FromPod, &conn.syn_ack(), at(2)) {
        Handled::Rewrite { packet, .. } => change(packet),
        _ => return false,
    };
    if matches!(to_pod(a, &syn_ack, 3), Handled::Drop(_)) {
        return false;
    }
    let ack = match a.handle_packet(Path::FromPod, &conn.request(b"data"), at(4)) {
        Handled::Rewrite { packet, .. } => packet,
        _ => return false,
    };
    matches!(
        to_pod(b, &ack, 5),
        Handled::Rewrite {
            mark: Mark::Established,
            ..
        }
    )
}

/// Row 3: a pod that the frontend dials passes HELLO, REPLY and CONFIRM on to the api, rewriting
/// addresses, to be the frontend there.
#[test]
fn row_3_a_relay_cannot_lend_an_identity() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let dialled = Conn::new(FRONTEND, DB);
    let syn = out(&mut a, &dialled.syn(), at(0));
    let token = tcp_payload(&syn).to_vec();
    let relayed = Conn {
        client: DB,
        server: API,
        ..dialled.clone()
    };
    // By a raw packet that passes the enforcer of its node: a token from a pod is spoofed.
    let raw = out(&mut node(east(false), 3), &dialled.syn(), at(0));
    assert_eq!(
        dropped(b.handle_packet(Path::Local, &raw, at(1))),
        DropReason::SpoofedIdentity
    );
    // By a raw packet of a node without enforcer, with the frontend's address.
    for conn in [
        relayed,
        Conn {
            server: API,
            ..dialled
        },
    ] {
        let bare = TcpEdit::new(&ip::Packet::parse(&conn.syn()).unwrap())
            .unwrap()
            .add_option(&wire::marker::MARKER)
            .payload(&token)
            .finish()
            .unwrap();
        let refused = dropped(to_pod(&mut b, &bare, 2));
        assert_eq!(refused, DropReason::TranscriptMismatch, "{conn:?}");
    }
}

#[test]
fn row_4_nothing_can_be_reflected() {
    let (mut a, _, _) = in_cluster();
    let conn = Conn::new(DB, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    let token = tcp_payload(&syn).to_vec();
    let reply_to = |flags: &'static str, ack| {
        let bare = Conn::new(DB, API).server_sends(flags, 5_000, ack, b"");
        TcpEdit::new(&ip::Packet::parse(&bare).unwrap())
            .unwrap()
            .add_option(&wire::marker::MARKER)
            .payload(&token)
            .finish()
            .unwrap()
    };
    // Our SYN back as a SYN, and a SYN of theirs while ours is outstanding.
    let refused = dropped(to_pod(&mut a, &reply_to("S", None), 1));
    assert_eq!(refused, DropReason::TranscriptMismatch);
    let mut there = west(false);
    there.pods.retain(|address, _| *address == API);
    let mut b = node(there, 2);
    let back = Conn {
        client: API,
        server: DB,
        cport: 80,
        sport: 40_000,
        ..conn.clone()
    };
    let crossing = out(&mut b, &back.syn(), at(1));
    assert_eq!(
        dropped(to_pod(&mut a, &crossing, 2)),
        DropReason::SimultaneousOpen
    );
    // Our SYN back as a SYN-ACK.
    let refused = dropped(to_pod(&mut a, &reply_to("S", Some(1_001)), 3));
    assert_eq!(refused, DropReason::NoIdentity);
}

#[test]
fn row_5_a_stranger_in_the_middle_cannot_put_its_own_credential_or_key() {
    // The attacker has a valid credential of its own in the initiator's cluster (another key).
    let mallory = AgentSecret::from_bytes([77; 32]);
    let credential = issuer("east")
        .issue(&claims("east", "frontend", &mallory))
        .unwrap();
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    let mut token = tcp_payload(&syn)[..HEADER + 24].to_vec();
    let length = u16::try_from(credential.bytes().len()).unwrap();
    token[6..8].copy_from_slice(&length.to_be_bytes());
    token[72..104].copy_from_slice(&credential.hash().0);
    token[HEADER..].fill(0);
    token.extend_from_slice(credential.bytes());
    into(&mut b, &with_payload(&syn, &token), at(1));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
    assert_eq!(dropped(to_pod(&mut a, &syn_ack, 3)), DropReason::BadMac);
}

#[test]
fn row_6_a_stolen_token_is_worth_nothing_from_elsewhere() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    // From an address of the own cluster, or from outside every identity network.
    for (thief, reason) in [
        (DB, DropReason::WrongTrustDomain),
        (STRANGER, DropReason::SpoofedIdentity),
    ] {
        let theft = Conn {
            client: thief,
            ..conn.clone()
        };
        let bare = TcpEdit::new(&ip::Packet::parse(&theft.syn()).unwrap())
            .unwrap()
            .add_option(&wire::marker::MARKER)
            .payload(tcp_payload(&syn))
            .finish()
            .unwrap();
        assert_eq!(dropped(to_pod(&mut b, &bare, 1)), reason, "{thief}");
    }
}

#[test]
fn row_8_stripping_the_option_the_payload_or_both_closes() {
    let conn = Conn::new(FRONTEND, API);
    type Change = fn(&[u8]) -> Vec<u8>;
    let changes: [Change; 4] = [
        stripped_option,
        |p| with_payload(p, b""),
        |p| stripped_option(&with_payload(p, b"")),
        |p| with_payload(p, &vec![0; tcp_payload(p).len()]),
    ];
    for (i, change) in changes.iter().enumerate() {
        let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
        let syn = out(&mut a, &conn.syn(), at(0));
        assert_eq!(
            dropped(to_pod(&mut b, &change(&syn), 1)),
            DropReason::NoIdentity,
            "SYN {i}"
        );
        into(&mut b, &syn, at(1));
        let syn_ack = out(&mut b, &conn.syn_ack(), at(2));
        let refused = dropped(to_pod(&mut a, &change(&syn_ack), 3));
        assert_eq!(refused, DropReason::NoIdentity, "SYN-ACK {i}");
        into(&mut a, &syn_ack, at(3));
        let ack = out(&mut a, &conn.request(b"data"), at(4));
        let refused = dropped(to_pod(&mut b, &stripped_option(&ack), 5));
        assert_eq!(refused, DropReason::NoIdentity, "ACK {i}");
    }
    // A plain SYN with the address of a pod that has an agent.
    let mut b = node(west(false), 2);
    assert_eq!(
        dropped(to_pod(&mut b, &conn.syn(), 1)),
        DropReason::NoIdentity
    );
}

#[test]
fn row_9_an_injected_syn_never_rides_on_a_live_flow() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
    assert_eq!(
        dropped(to_pod(&mut b, &conn.syn(), 10)),
        DropReason::NoIdentity
    );
    let injected = Conn {
        cisn: 77,
        ..conn.clone()
    }
    .syn();
    assert_eq!(
        dropped(to_pod(&mut b, &injected, 11)),
        DropReason::NoIdentity
    );
}

#[test]
fn row_24_a_new_pod_on_an_old_address_is_judged_as_itself() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
    // The frontend is deleted, and batch gets its address.
    let mut next = east(false);
    next.epoch = 2;
    next.pods.insert(FRONTEND, local_pod("east", "batch"));
    a.set_snapshot(Arc::new(next), at(20));
    assert_eq!(a.flows().count(), 0, "the old pod's flow is cut with it");
    let conn = Conn {
        cport: 40_001,
        ..conn
    };
    let syn = out(&mut a, &conn.syn(), at(21));
    assert_eq!(dropped(to_pod(&mut b, &syn, 22)), DropReason::DeniedByRule);
}

#[test]
fn a_relabelled_or_deleted_peer_is_decided_by_what_it_is_now() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
    for (uid, state, reason) in [
        (
            "uid-east-frontend",
            PodState::Relabelled(Arc::new({
                let mut claims = claims("east", "batch", &secret("east"));
                claims.generation = 2;
                claims
            })),
            DropReason::DeniedByRule,
        ),
        ("uid-east-frontend", PodState::Gone, DropReason::Revoked),
    ] {
        let mut b = {
            let mut fresh = node(west(false), 4);
            fresh
                .restore_flow(b.flows().next().unwrap().clone())
                .unwrap();
            fresh
        };
        let mut next = west(false);
        next.epoch = 2;
        next.changes.insert(domain("east"), uid.into(), state);
        b.set_snapshot(Arc::new(next), at(30));
        assert_eq!(b.flows().count(), 0);
        let again = Conn {
            cport: 41_000,
            ..conn.clone()
        };
        let syn = out(&mut a, &again.syn(), at(31));
        assert_eq!(dropped(to_pod(&mut b, &syn, 32)), reason);
    }
}

#[test]
fn row_26_clocks_may_differ_by_30_s_even_for_a_14_s_old_retransmission() {
    let conn = Conn::new(FRONTEND, API);
    for (made, judged, fresh) in [
        (0, 44_000, true),
        (0, 45_001, false),
        (60_000, 30_000, true),
        (61_000, 30_000, false),
    ] {
        let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
        let syn = out(&mut a, &conn.syn(), at(made));
        let handled = to_pod(&mut b, &syn, judged);
        assert_eq!(
            !matches!(handled, Handled::Drop(_)),
            fresh,
            "{made} {judged}: {handled:?}"
        );
    }
}
