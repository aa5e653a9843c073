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
