//! Can the proof be left out?

use policy::DropReason;

use super::*;

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

/// A connection on the ports of a flow that lives here, opened up to the server's answer: only
/// CONFIRM opens it, whatever the older flow was allowed.
#[test]
fn row_9_a_bare_segment_never_opens_what_a_new_syn_began() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let old = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &old.syn(), at(0));
    assert!(open_with(&mut a, &mut b, &old, &syn, |p| p));
    let new = Conn {
        cisn: 70_000,
        sisn: 80_000,
        ..old.clone()
    };
    let syn = out(&mut node(east(false), 3), &new.syn(), at(10));
    into(&mut b, &syn, at(11));
    // The old socket may be there still and answer with a challenge ACK, and the client with a RST.
    let challenge = old.server_sends("", 9_001, Some(1_001), b"");
    let once = Handled::Accept(Mark::Once);
    assert_eq!(b.handle_packet(Path::FromPod, &challenge, at(12)), once);
    let reset = old.client_sends("R", 1_001, None, b"");
    assert_eq!(to_pod(&mut b, &reset, 13), once);
    // It is gone, and the listener answers: now this would be the client that has proven nothing.
    out(&mut b, &new.syn_ack(), at(14));
    for bare in [new.ack(), new.request(b"data"), old.request(b"data")] {
        assert_eq!(dropped(to_pod(&mut b, &bare, 15)), DropReason::NoIdentity);
    }
}
