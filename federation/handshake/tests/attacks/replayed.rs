//! Can a genuine packet be used twice, too late, or against its sender?

use handshake::transit::Origin;
use policy::DropReason;

use super::*;

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
    assert_eq!(dropped(to_pod(&mut b, &syn, 6)), DropReason::Replay);
    // After the connection is gone.
    let key = b.flows().next().unwrap().key;
    b.handle_flow_gone(&key);
    for (ms, reason) in [
        (1_005, DropReason::Replay),
        (45_000, DropReason::Replay),
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
