//! Sequences: they only rise, on disk first, whatever restarts and whoever replays.

use peering::peers::{PeerEvent, Peering, PeeringConfig};

use crate::net::{Cluster, World, domain, hash, pin, root, secs};

#[test]
fn a_restarted_gateway_goes_on_above_its_sequences() {
    let mut world = World::mesh(&["east", "west"]);
    let before = world.status("east", "west");
    world.restart("west");
    world.connect("east", "west");
    world.run(secs(1));
    let after = world.status("east", "west");
    assert!(after.bundle_sequence > before.bundle_sequence);
    assert!(after.digest_sequence > before.digest_sequence);
    assert_eq!(after.problems, Vec::<String>::new());
    // And remembers what its peer said, before it hears from it.
    world.restart("west");
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "east", "west"),
        Some(hash("first"))
    );
    let events = &world.get("west").events;
    assert!(events.contains(&PeerEvent::DigestChanged(domain("east"))));
    let bundle = world
        .get("west")
        .peering
        .bundles()
        .bundle(&domain("east"))
        .cloned();
    assert!(bundle.is_some());
}

#[test]
fn replayed_messages_of_an_older_session_are_refused() {
    let mut world = World::mesh(&["east", "west"]);
    let old: Vec<_> = world
        .sent
        .iter()
        .filter(|(from, _, bytes)| from.as_str() == "west" && matches!(bytes[0], 2 | 4))
        .cloned()
        .collect();
    world.with("west", |west, now| west.set_policy("second", now));
    // The bundle is announced again after a fifth of its life.
    world.run(secs(5 * 3600));
    world.disconnect("east", "west");
    world.connect("east", "west");
    world.run(secs(1));
    for (from, to, bytes) in &old {
        world.inject(from.as_str(), to.as_str(), bytes);
    }
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "west", "east"),
        Some(hash("second"))
    );
    assert_eq!(world.get("east").alarms().len(), 2, "bundle and digest");
    // After a restart of the receiver too.
    world.restart("east");
    world.get("east").events.clear();
    world.connect("east", "west");
    world.run(secs(1));
    for (from, to, bytes) in &old {
        world.inject(from.as_str(), to.as_str(), bytes);
    }
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "west", "east"),
        Some(hash("second"))
    );
    assert_eq!(world.get("east").alarms().len(), 2);
}

#[test]
fn one_sequence_with_two_contents_is_an_alarm() {
    let mut world = World::mesh(&["east", "west"]);
    let backup = world.get("west").disk.clone();
    world.with("west", |west, now| west.set_policy("second", now));
    world.run(secs(1));
    // The same cluster elsewhere, on an old copy of its state.
    let mut other = World::new(&["west", "north"]);
    other.get("west").disk = backup;
    other.get("west").policy = "forged".into();
    let (seed, root) = (world.get("west").seed, world.get("west").root.clone());
    other.get("west").seed = seed;
    other.get("west").root = root;
    other.restart("west");
    other.connect("west", "north");
    other.run(secs(1));
    let is_digest = |bytes: &[u8]| bytes[0] == 4;
    let forged = other
        .sent
        .iter()
        .rfind(|(_, to, bytes)| to.as_str() == "north" && is_digest(bytes));
    let forged = forged.unwrap().2.clone();
    world.inject("west", "east", &forged);
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "west", "east"),
        Some(hash("second"))
    );
    let alarms = world.get("east").alarms().join("\n");
    assert!(
        alarms.contains("two different digests have the sequence 2"),
        "{alarms}"
    );
}

#[test]
fn nothing_is_said_or_believed_before_it_is_stored() {
    let mut world = World::mesh(&["east", "west"]);
    world.get("west").disk_full = true;
    let sent = world.sent.len();
    world.with("west", |west, now| west.set_policy("second", now));
    world.run(secs(5));
    assert!(
        world.sent[sent..]
            .iter()
            .all(|(from, _, _)| from.as_str() != "west")
    );
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "west", "east"),
        Some(hash("first"))
    );
    let now = world.now("west").unix;
    let problems = world.get("west").peering.status(now).problems;
    assert_eq!(
        problems,
        ["own sequences cannot be stored: nothing is said or believed until it is"]
    );
    world.get("west").disk_full = false;
    world.pump();
    world.run(secs(1));
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "west", "east"),
        Some(hash("second"))
    );

    // A peer's digest is not acted on before it is stored.
    world.get("east").disk_full = true;
    world.get("east").events.clear();
    world.with("west", |west, now| west.set_policy("third", now));
    world.run(secs(1));
    assert!(world.get("east").events.is_empty());
    world.get("east").disk_full = false;
    world.pump();
    assert!(
        world
            .get("east")
            .events
            .contains(&PeerEvent::DigestChanged(domain("west")))
    );
}

#[test]
fn damaged_memory_is_no_memory_to_start_with() {
    let mut world = World::mesh(&["east", "west"]);
    let mut disk = world.get("east").disk.clone();
    disk.get_mut("peer-west").unwrap()[50] ^= 1;
    let started = Peering::new(
        PeeringConfig::new(domain("east")),
        Cluster::key(1),
        disk,
        Box::new(
            <rand_chacha::ChaCha20Rng as rand_chacha::rand_core::SeedableRng>::from_seed([1; 32]),
        ),
        world.now("east"),
    );
    let (file, error) = started.err().unwrap();
    assert_eq!(file, "peer-west");
    assert_eq!(error.to_string(), "damaged: its checksum does not hold");
}

#[test]
fn the_first_bundle_must_hold_the_pinned_root() {
    let mut world = World::new(&["east", "west"]);
    world.with("east", |east, now| {
        let mut peers = east.peers.clone();
        peers[0].pin = Some(pin(&root("another")));
        east.peering.set_peers(peers, now).unwrap();
    });
    world.connect("east", "west");
    world.run(secs(1));
    let problems = world.status("east", "west").problems;
    assert_eq!(
        problems,
        [
            "its bundle is not known: none of its pods is believed",
            "its first bundle does not hold the root of the configured pin",
            "its digest came before its bundle",
        ]
    );
    // Later ones need not: roots are rotated.
    let mut world = World::mesh(&["east", "west"]);
    let next = root("next");
    world.with("west", |west, now| {
        west.root = next.clone();
        west.set_keys(now);
    });
    world.run(secs(1));
    let bundle = world
        .get("east")
        .peering
        .bundles()
        .bundle(&domain("west"))
        .cloned();
    assert_eq!(bundle.unwrap().x509_roots, [next]);
}

#[test]
fn a_bundle_is_refreshed_while_there_is_a_session_and_expires_without() {
    let mut world = World::mesh(&["east", "west"]);
    let first = world.status("east", "west").bundle_sequence.unwrap();
    world.run(secs(3 * 24 * 3600));
    let status = world.status("east", "west");
    assert_eq!(
        status.bundle_sequence,
        Some(first + 15),
        "every fifth of a day"
    );
    assert_eq!(status.problems, Vec::<String>::new());

    world.disconnect("east", "west");
    // Announced last at 2.8 days and 48 minutes: it ends a day after that.
    world.run(secs(24 * 3600 - 60));
    let end = world.status("east", "west").bundle_expires_at.unwrap();
    while world.now("east").unix.to_string() < end {
        assert!(
            !world
                .status("east", "west")
                .problems
                .join("\n")
                .contains("expired")
        );
        world.get("east").events.clear();
        world.run(secs(1));
    }
    let told = world
        .get("east")
        .events
        .contains(&PeerEvent::BundlesChanged);
    assert!(told, "the end of a bundle is an event");
    let problems = world.status("east", "west").problems.join("\n");
    assert!(
        problems.contains(&format!("its bundle expired at {end}")),
        "{problems}"
    );
    assert!(
        problems.contains("not reachable since 2027-01-18T08:00:01Z"),
        "{problems}"
    );
    // It heals by itself.
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
}

#[test]
fn an_empty_bundle_makes_its_domain_invalid() {
    let mut world = World::mesh(&["east", "west"]);
    world.with("west", |west, now| {
        west.peering.set_own_keys(Default::default(), now)
    });
    world.run(secs(1));
    let problems = world.status("east", "west").problems;
    assert_eq!(problems, ["its bundle is empty: it withdrew every key"]);
    world.with("west", |west, now| west.set_policy("second", now));
    world.run(secs(1));
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "west", "east"),
        Some(hash("first"))
    );
    let problems = world.status("east", "west").problems.join("\n");
    assert!(
        problems.contains("its digest is refused: the bundle of west holds no issuer key"),
        "{problems}"
    );
}
