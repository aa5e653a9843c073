//! Segments that come late or twice, as they do after a pause on the path.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use handshake::node::{Handled, NodeLimits, Path};
use policy::DropReason;
use support::{API, Conn, FRONTEND, at};

/// A SYN that was overtaken by a younger copy of itself has an older timestamp, and the server's
/// kernel answers it with a bare ACK (RFC 7323 section 5.3). A reset of that ACK would make the
/// server forget the connection that the client already has.
#[test]
fn an_ack_of_a_server_before_confirm_goes_nowhere_and_resets_nothing() {
    let (mut east, mut west) = (
        support::node(support::east(false), 1),
        support::node(support::west(false), 2),
    );
    let conn = Conn::new(FRONTEND, API);
    let syn = support::out(&mut east, &conn.syn(), at(0));
    support::into(&mut west, &syn, at(0));
    let syn_ack = support::out(&mut west, &conn.syn_ack(), at(0));

    let bare = conn.server_sends("", conn.sisn + 1, Some(conn.cisn + 1), b"");
    let handled = west.handle_packet(Path::FromPod, &bare, at(1));
    assert!(matches!(handled, Handled::Drop(DropReason::NoIdentity)));
    assert!(west.poll_transmit().is_none());

    support::into(&mut east, &syn_ack, at(2));
    let ack = support::out(&mut east, &conn.ack(), at(2));
    support::into(&mut west, &ack, at(2));
    support::out(&mut west, &conn.response(b"hello"), at(3));
}

/// A connection was cut, the server's socket heard nothing of it, and the client comes with the same port again: the
/// socket answers by a challenge ACK (RFC 5961 section 4). It must end, or the client is shut out for as long as it lives.
#[test]
fn a_socket_of_a_cut_connection_gives_way_to_a_new_one() {
    let (mut east, mut west) = (
        support::node(support::east(false), 1),
        support::node(support::west(false), 2),
    );
    let cut = Conn::new(FRONTEND, API);
    let mut again = Conn::new(FRONTEND, API);
    again.cisn = cut.cisn.wrapping_add(1_000_000);
    again.sisn = cut.sisn.wrapping_add(1_000_000);

    let syn = support::out(&mut east, &again.syn(), at(0));
    support::into(&mut west, &syn, at(0));
    let (next, awaited) = (cut.sisn + 700, cut.cisn + 300);
    let challenge = cut.server_sends("", next, Some(awaited), b"");
    let handled = west.handle_packet(Path::FromPod, &challenge, at(1));
    assert!(matches!(handled, Handled::Drop(DropReason::NoIdentity)));
    let reset = west.poll_transmit().expect("the socket is told");
    assert!(reset.to_pod);
    let sliced = etherparse::SlicedPacket::from_ip(&reset.packet).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("a TCP segment")
    };
    assert_eq!(
        (tcp.source_port(), tcp.destination_port()),
        (cut.cport, cut.sport)
    );
    assert!(
        tcp.rst() && tcp.sequence_number() == awaited,
        "one that the socket must accept"
    );
    assert!(west.poll_transmit().is_none());

    // The client repeats its SYN, and is answered.
    let syn = support::out(&mut east, &again.syn(), at(1000));
    support::into(&mut west, &syn, at(1000));
    let syn_ack = support::out(&mut west, &again.syn_ack(), at(1000));
    support::into(&mut east, &syn_ack, at(1001));
    let ack = support::out(&mut east, &again.ack(), at(1002));
    support::into(&mut west, &ack, at(1002));
    support::out(&mut west, &again.response(b"hello"), at(1003));
}

/// Whoever may open a connection can make a stale socket speak: its resets have a rate.
#[test]
fn resets_of_stale_sockets_have_a_rate() {
    let (mut east, mut west) = (
        support::node(support::east(false), 1),
        support::node(support::west(false), 2),
    );
    let conn = Conn::new(FRONTEND, API);
    let syn = support::out(&mut east, &conn.syn(), at(0));
    support::into(&mut west, &syn, at(0));
    let challenge = conn.server_sends("", 5, Some(7), b"");
    let mut resets = 0;
    for _ in 0..1_000 {
        west.handle_packet(Path::FromPod, &challenge, at(1));
        while west.poll_transmit().is_some() {
            resets += 1;
        }
    }
    assert_eq!(resets, NodeLimits::default().resets_per_second);
}
