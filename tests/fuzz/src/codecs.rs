//! Messages between gateways, and between gateway and agent.

use peering::{
    node_messages::{Numbered, ToIssuer},
    peer_messages::PeerMessage,
};

use crate::{membership, signed};

/// What is read is written so that it is read the same.
pub fn peer(input: &[u8]) {
    if let Ok(Some(message)) = PeerMessage::decode(input) {
        assert_eq!(PeerMessage::decode(&message.encode()), Ok(Some(message)));
    }
}

/// One of some kinds; the fuzzer finds the others by the first byte.
pub fn peer_seeds() -> Vec<Vec<u8>> {
    let bundle = signed::bundle_seeds().remove(0);
    let digest = [
        b"\x01\x02\x03".to_vec(),
        signed::credential_seeds().remove(0),
    ]
    .concat();
    vec![
        PeerMessage::Bundle(String::from_utf8(bundle).unwrap()).encode(),
        PeerMessage::Digest(digest).encode(),
        PeerMessage::Ping(7).encode(),
        PeerMessage::Introductions(membership::introduction_seeds().remove(0)).encode(),
        PeerMessage::RevocationsWanted(1 << 40).encode(),
        PeerMessage::RevocationsReturned(membership::returned_seeds().remove(0)).encode(),
        (1..=12).collect(),
    ]
}

/// The same between gateway and agent.
pub fn node(input: &[u8]) {
    if let Ok(message) = ToIssuer::decode(input) {
        assert_eq!(ToIssuer::decode(&message.encode()), Ok(message));
    }
    if let Ok(message) = Numbered::decode(input) {
        assert_eq!(Numbered::decode(&message.encode()), Ok(message));
    }
}

/// An empty list of keys.
pub fn node_seeds() -> Vec<Vec<u8>> {
    vec![ToIssuer::Keys(Vec::new()).encode()]
}
