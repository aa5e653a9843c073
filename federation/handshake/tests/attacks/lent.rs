//! Can a genuine token be used by somebody else, or from elsewhere?

use policy::DropReason;
use wire::edit;

use super::*;

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

/// An ICMP error quotes a packet of a flow that lives, and goes to somebody who did not send it:
/// what it carries would reach a pod that proved and asked for nothing.
#[test]
fn an_icmp_error_reaches_only_the_sender_of_what_it_quotes() {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let syn = out(&mut a, &conn.syn(), at(0));
    assert!(open_with(&mut a, &mut b, &conn, &syn, |p| p));
    let quoted = conn.response(b"quoted");
    let error = edit::icmp_admin_prohibited(&ip::Packet::parse(&quoted).unwrap(), FRONTEND);
    let error = error.unwrap();
    let once = Handled::Accept(Mark::Once);
    assert_eq!(to_pod(&mut b, &error, 10), once);
    let astray = ip::with_header(FRONTEND, DB, ip::ICMP, &error[20..]).unwrap();
    assert_eq!(
        dropped(to_pod(&mut b, &astray, 11)),
        DropReason::UnknownFlow
    );
    let astray = ip::with_header(API, DB, ip::ICMP, &error[20..]).unwrap();
    let local = b.handle_packet(Path::Local, &astray, at(12));
    assert_eq!(dropped(local), DropReason::UnknownFlow);
}
