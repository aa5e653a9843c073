//! What a peer may not say.

use peering::{
    peer_messages::{
        Associations, DigestPiece, Hello, Instance, MAX_MESSAGE, PEER_PROTOCOL, PeerMessage,
        PieceWanted, TunnelKey, TunnelSecret,
    },
    peers::MembershipError,
};

use crate::net::{self, Cluster, World, domain, hash, policy, range, secs};

fn hello(name: &str) -> Hello {
    Hello {
        version: PEER_PROTOCOL,
        trust_domain: domain(name),
        instance: Instance([9; 16]),
        clock: identity::UnixMillis(net::START),
        tunnel_port: 1000,
        queues: 1,
        seen_bundle: 0,
        seen_digest: 0,
        seen_revocations: 0,
        records_of: Instance::default(),
        records_position: 0,
    }
}

/// What east says when it closes the session because of `messages`.
fn closes(greeted: bool, messages: &[Vec<u8>]) -> String {
    let mut world = World::new(&["east", "west"]);
    world.connect("east", "west");
    if greeted {
        world.run(secs(1));
    }
    for message in messages {
        assert!(world.is_connected("east", "west"));
        world.inject("west", "east", message);
    }
    assert!(!world.is_connected("east", "west"), "not closed");
    world.get("east").closed.last().unwrap().1.clone()
}

#[test]
fn a_peer_that_breaks_the_rules_loses_its_session() {
    let with = |change: fn(&mut Hello)| {
        let mut hello = hello("west");
        change(&mut hello);
        vec![PeerMessage::Hello(hello).encode()]
    };
    let one = |message: PeerMessage| vec![message.encode()];
    assert_eq!(
        closes(false, &with(|h| h.trust_domain = domain("east"))),
        "it says that it is this cluster: two clusters with one trust domain"
    );
    assert_eq!(
        closes(false, &with(|h| h.trust_domain = domain("north"))),
        "it greets as another cluster than it is"
    );
    assert_eq!(
        closes(false, &with(|h| h.version = 1)),
        "it speaks version 1, here is version 3"
    );
    let first = "a greeting must come first, and once";
    assert_eq!(closes(false, &one(PeerMessage::Ping(1))), first);
    assert_eq!(closes(true, &with(|_| {})), first);
    assert_eq!(closes(true, &[vec![]]), "an empty message");
    assert_eq!(
        closes(true, &[vec![4; MAX_MESSAGE + 1]]),
        "1048576 bytes in a message of kind 4, at most 1048575 are allowed"
    );
    assert_eq!(
        closes(true, &[vec![1; 2000]]),
        "1999 bytes in a message of kind 1, at most 1024 are allowed"
    );
    assert_eq!(
        closes(true, &[vec![6, 0xff]]),
        "a message of kind 6 is malformed"
    );
    assert!(
        closes(true, &one(PeerMessage::Bundle("{".into())))
            .starts_with("its bundle cannot be read")
    );
    assert_eq!(
        closes(
            true,
            &one(PeerMessage::Ranges(vec![range(1, "10.2.0.0/16"); 2]))
        ),
        "two of its ranges have one number"
    );
    assert_eq!(
        closes(true, &one(PeerMessage::InUse(99))),
        "it uses associations that were never offered"
    );
    assert_eq!(
        closes(true, &one(PeerMessage::RecordsSeen(99))),
        "it has records that were never sent"
    );
    assert_eq!(
        closes(
            true,
            &one(PeerMessage::PieceWanted(PieceWanted {
                sequence: 1,
                offset: 0
            }))
        ),
        "it asks for a piece of the digest that is not the next one"
    );
    let piece = |length, offset| DigestPiece {
        sequence: 9,
        length,
        offset,
        bytes: vec![1; 10],
    };
    for pieces in [
        vec![piece(20, 10)],
        vec![piece(20, 0), piece(20, 5)],
        vec![piece(5, 0)],
        vec![piece(u64::MAX, 0)],
    ] {
        let pieces = pieces.into_iter().map(PeerMessage::DigestPiece);
        let pieces: Vec<_> = pieces.map(|piece| piece.encode()).collect();
        assert_eq!(
            closes(true, &pieces),
            "a piece of its digest is not the next one"
        );
    }
    let key = TunnelKey {
        spi: 7,
        secret: TunnelSecret::from_bytes(vec![1; 16]),
    };
    let twice = Associations {
        generation: 99,
        keys: vec![key.clone(), key.clone()],
    };
    assert_eq!(
        closes(true, &one(PeerMessage::Associations(twice))),
        "two associations have one SPI"
    );
    let old = Associations {
        generation: 1,
        keys: vec![key],
    };
    assert_eq!(
        closes(true, &one(PeerMessage::Associations(old))),
        "it offers associations that it replaced before"
    );
    let flood = vec![PeerMessage::Ping(1).encode(); 1001];
    assert_eq!(closes(true, &flood), "too many messages");
}

#[test]
fn a_kind_from_the_future_is_ignored() {
    let mut world = World::mesh(&["east", "west"]);
    world.inject("west", "east", &[200, 1, 2, 3]);
    assert!(world.is_connected("east", "west"));
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
}

#[test]
fn a_digest_of_another_cluster_is_refused() {
    let mut world = World::mesh(&["east", "north", "west"]);
    let of_north = |message: &(_, _, Vec<u8>)| message.2[0] == 4;
    // North's own digest, signed by north, on west's session.
    let norths: Vec<_> = world
        .sent
        .iter()
        .filter(|m| m.0.as_str() == "north" && of_north(m))
        .cloned()
        .collect();
    world.inject("west", "east", &norths[0].2);
    let problems = world.status("east", "west").problems.join("\n");
    assert!(
        problems.contains("its digest is refused: no key"),
        "{problems}"
    );
    // A digest for north, signed by west: west's machine believes that it is north.
    let mut liar = World::new(&["x", "y", "north"]);
    let key = Cluster::key(world.get("west").seed);
    let now = liar.now("north");
    liar.get("north").peering.set_issuer_key(key, now);
    liar.with("north", |north, now| {
        north
            .peering
            .set_policy(hash("forged"), &policy("north", "forged"), now);
    });
    liar.connect("x", "north");
    liar.run(secs(1));
    let mut forged = liar
        .sent
        .iter()
        .filter(|m| m.0.as_str() == "north" && of_north(m));
    let forged = forged.next_back().unwrap().2.clone();
    world.inject("west", "east", &forged);
    let alarms = world.get("east").alarms().join("\n");
    assert!(
        alarms.contains("its digest is refused: it speaks for north"),
        "{alarms}"
    );
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "north", "east"),
        Some(hash("first"))
    );
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "west", "east"),
        Some(hash("first"))
    );
}

#[test]
fn two_clusters_with_one_trust_domain_are_refused_by_configuration() {
    let mut world = World::new(&["east", "west"]);
    let peers = world.get("east").peers.clone();
    let now = world.now("east");
    let east = &mut world.get("east").peering;
    let mut own = peers.clone();
    own[0].trust_domain = domain("east");
    let refused = east.set_peers(own, now);
    assert_eq!(refused, Err(MembershipError::Own(domain("east"))));
    let twice = vec![peers[0].clone(), peers[0].clone()];
    assert_eq!(
        east.set_peers(twice, now),
        Err(MembershipError::Twice(domain("west")))
    );
    assert_eq!(east.peers().count(), 1, "nothing changed");
    let why = "not trusted: spiffe://east/landbridge/gateway/gw1 is of our own trust domain: two \
               clusters with one trust domain";
    east.handle_refused(&domain("west"), why, now);
    let problems = world.status("east", "west").problems;
    assert!(
        problems[0].contains("two clusters with one trust domain"),
        "{problems:?}"
    );
}
