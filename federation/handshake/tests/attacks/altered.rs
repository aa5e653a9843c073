//! Can a genuine token be changed on the way?

use handshake::keys::AgentSecret;
use policy::DropReason;

use super::*;

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

    // Nor is it a retransmission, whose credential nobody looks at again.
    let (mut a, mut b, conn) = in_cluster();
    let syn = out(&mut a, &conn.syn(), at(0));
    into(&mut b, &syn, at(0));
    let mut token = tcp_payload(&syn).to_vec();
    token[HEADER + 24 + 99] ^= 1;
    let altered = with_payload(&syn, &token);
    let refused = Handled::Drop(DropReason::TranscriptMismatch);
    assert_eq!(to_pod(&mut b, &altered, 1), refused);
    into(&mut b, &syn, at(2));

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
