//! Segments that come late or twice, as they do after a pause on the path.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use handshake::node::{Handled, Path};
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
