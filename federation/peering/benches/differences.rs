//! How many bytes a peer is sent when one policy of many changes, and how many the whole digest has.
//! `scripts/bench policy` runs it; it prints a line of JSON per figure.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_macros
)]

use std::sync::Arc;

use peering::peer_messages::PeerMessage;

#[path = "../tests/peers/net.rs"]
mod net;
#[path = "../tests/peers/services.rs"]
mod services;

use net::{World, hash, secs};
use policy::model::PolicySet;
use services::{service, services};

const SIZES: [usize; 3] = [100, 1_000, 10_000];

fn main() {
    for policies in SIZES {
        let mut world = World::mesh(&["east", "west"]);
        let mut part = services(policies);
        let whole = sent(&mut world, "many", &part);
        part.policies[policies / 2] = Arc::new(service(policies / 2, 8443));
        let change = sent(&mut world, "changed", &part);
        for (name, bytes) in [
            ("raw whole digest", whole),
            ("scale changed digest", change),
        ] {
            println!(r#"{{"name": "{name}, {policies} policies", "unit": "B", "value": {bytes}}}"#);
        }
    }
}

/// The bytes of all messages about the digest, until the peer has it.
fn sent(world: &mut World, name: &str, part: &PolicySet) -> usize {
    world.sent.clear();
    world.with("west", |west, now| {
        west.peering.set_policy(hash(name), part, now)
    });
    world.run(secs(5));
    let held = world.get("east").peering.digest(&net::domain("west"));
    assert!(held.and_then(|held| held.part.as_deref()) == Some(part));
    let about = world.sent.iter().filter(|(_, _, bytes)| {
        matches!(
            PeerMessage::decode(bytes),
            Ok(Some(
                PeerMessage::Digest(_)
                    | PeerMessage::DigestChange(_)
                    | PeerMessage::DigestWanted(_)
                    | PeerMessage::DigestPiece(_)
                    | PeerMessage::PieceWanted(_)
            ))
        )
    });
    about.map(|(_, _, bytes)| bytes.len()).sum()
}
