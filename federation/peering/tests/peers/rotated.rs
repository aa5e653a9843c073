//! Another key signs what a cluster says.

use peering::peers::OwnKeys;

use crate::net::{Cluster, World, domain, hash, pin, root, secs};

/// `east` is believed by the keys of `seeds` and by `roots`.
fn announce(world: &mut World, roots: &[Vec<u8>], seeds: &[u8]) {
    let keys = OwnKeys {
        x509_roots: roots.to_vec(),
        issuer_keys: seeds
            .iter()
            .map(|seed| Cluster::key(*seed).public())
            .collect(),
        carried_labels: None,
    };
    world.with("east", |east, now| east.peering.set_own_keys(keys, now));
    world.run(secs(1));
}

#[test]
fn keys_are_exchanged_under_a_session() {
    let mut world = World::mesh(&["east", "west"]);
    let old = world.get("east").root.clone();
    let new = root("east");
    let seed = world.get("east").seed;
    announce(&mut world, &[old, new.clone()], &[seed, 77]);
    world.with("east", |east, now| {
        east.peering.set_issuer_key(Cluster::key(77), now);
    });
    world.run(secs(1));
    announce(&mut world, &[new], &[77]);
    // What is signed by the new key is believed.
    world.with("east", |east, now| east.set_policy("second", now));
    world.run(secs(1));
    let heard = crate::exchange::digest_hash(&mut world, "east", "west");
    assert_eq!(heard, Some(hash("second")));
    assert!(world.is_connected("east", "west"));
    for name in ["east", "west"] {
        assert_eq!(world.get(name).closed, []);
        assert!(world.get(name).alarms().is_empty());
    }
    let problems = world.status("west", "east").problems;
    assert!(problems.is_empty(), "{problems:?}");
}

/// Who was away hears all of it by a key that it believes.
#[test]
fn what_was_said_before_is_said_by_the_new_key() {
    let mut world = World::mesh(&["east", "west", "north"]);
    let target =
        handshake::admission::Target::Credential(handshake::admission::CredentialId([7; 16]));
    world.with("east", |east, now| {
        let own = domain("east");
        east.peering.revoke(&own, target, "lost", now).unwrap();
    });
    world.run(secs(1));
    world.disconnect("east", "north");
    // North forgets what east said, as one that joins later never heard it.
    let north = world.get("north");
    north.disk.remove("peer-east");
    world.restart("north");
    let root = world.get("east").root.clone();
    let seed = world.get("east").seed;
    announce(&mut world, std::slice::from_ref(&root), &[seed, 77]);
    world.with("east", |east, now| {
        east.peering.set_issuer_key(Cluster::key(77), now);
    });
    let sent = world.sent.len();
    world.run(secs(1));
    assert_eq!(world.sent.len(), sent, "who has it is not told again");
    announce(&mut world, &[root], &[77]);
    world.connect("east", "north");
    world.run(secs(1));
    let heard = crate::exchange::digest_hash(&mut world, "east", "north");
    assert_eq!(heard, Some(hash("first")));
    assert_eq!(
        world.get("north").peering.revoked_by(&domain("east")).len(),
        1
    );
    assert!(world.get("north").alarms().is_empty());
    let problems = world.status("north", "east").problems;
    assert!(problems.is_empty(), "{problems:?}");
}

/// The operator of a peer follows with the pin, and nothing is lost.
#[test]
fn a_pin_of_a_root_that_was_announced_is_the_same_peer() {
    let mut world = World::mesh(&["east", "west"]);
    let old = world.get("east").root.clone();
    let new = root("east");
    let seed = world.get("east").seed;
    announce(&mut world, &[old, new.clone()], &[seed]);
    world.with("west", |west, now| {
        west.peers[0].pin = Some(pin(&new));
        west.peering.set_peers(west.peers.clone(), now).unwrap();
    });
    world.run(secs(1));
    assert!(world.is_connected("east", "west"));
    assert_eq!(world.get("west").closed, []);
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "east", "west"),
        Some(hash("first"))
    );
    // After a restart too: the pin that is stored is the new one.
    announce(&mut world, &[new], &[seed]);
    world.restart("west");
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(
        crate::exchange::digest_hash(&mut world, "east", "west"),
        Some(hash("first"))
    );
    // A pin that nobody announced is another peer, of which nothing is known.
    world.with("west", |west, now| {
        west.peers[0].pin = Some([9; 32]);
        west.peering.set_peers(west.peers.clone(), now).unwrap();
    });
    assert!(!world.is_connected("east", "west"));
}

/// By what it announced it is known, by a token and by introductions too: never as another one.
#[test]
fn a_cluster_is_known_by_every_root_that_it_announced() {
    let mut world = World::mesh(&["east", "west"]);
    let (old, new) = (world.get("east").root.clone(), root("east"));
    let seed = world.get("east").seed;
    let known = |world: &mut World| {
        let mut roots = world.get("west").peering.roots(&domain("east"));
        roots.dedup();
        roots
    };
    assert_eq!(known(&mut world), [pin(&old)]);
    announce(&mut world, &[old.clone(), new.clone()], &[seed]);
    let both = known(&mut world);
    assert!(both.contains(&pin(&old)) && both.contains(&pin(&new)));
    // The pin that the operator configured stays good for who meets it in the file.
    announce(&mut world, std::slice::from_ref(&new), &[seed]);
    assert_eq!(known(&mut world), [pin(&old), pin(&new)]);
    assert!(world.get("west").alarms().is_empty());
}
