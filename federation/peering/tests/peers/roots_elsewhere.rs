//! Peers whose roots are known from elsewhere (a bundle endpoint): there is no pin.

use crate::{
    exchange::digest_hash,
    net::{World, hash, pin, root, secs},
};

/// Configures west's only peer by this pin.
fn pinned(world: &mut World, by: Option<[u8; 32]>) {
    world.with("west", |west, now| {
        west.peers[0].pin = by;
        west.peering.set_peers(west.peers.clone(), now).unwrap();
    });
}

#[test]
fn a_first_bundle_needs_no_root_that_is_known_here() {
    let mut world = World::new(&["east", "west"]);
    pinned(&mut world, None);
    world.connect("east", "west");
    world.run(secs(1));
    assert!(world.is_connected("east", "west"));
    assert_eq!(digest_hash(&mut world, "east", "west"), Some(hash("first")));
    let west = world.get("west");
    assert_eq!(west.peering.pin(&crate::net::domain("east")), None);
}

#[test]
fn a_peer_keeps_what_it_said_when_its_roots_come_from_elsewhere_and_back() {
    let mut world = World::mesh(&["east", "west"]);
    let own = pin(&world.get("east").root);
    let held = |world: &mut World| digest_hash(world, "east", "west");
    for by in [None, Some(own), None] {
        pinned(&mut world, by);
        world.run(secs(1));
        assert!(world.is_connected("east", "west"), "{by:?}");
        assert_eq!(held(&mut world), Some(hash("first")), "{by:?}");
    }
    assert_eq!(world.get("west").closed, []);

    // The same while the gateway was down.
    for by in [Some(own), None] {
        world.with("west", |west, _| west.peers[0].pin = by);
        world.restart("west");
        assert_eq!(held(&mut world), Some(hash("first")), "{by:?}");
    }

    // A root that it never had is another cluster.
    pinned(&mut world, Some(pin(&root("another"))));
    assert_eq!(held(&mut world), None);
}
