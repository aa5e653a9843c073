//! Security associations: made by their receiver, renewed before they end, replaced at once.

use peering::{
    peer_messages::TunnelKey,
    peers::{DRAIN, REKEY_AFTER, REKEY_PACKETS, TunnelState},
};

use crate::net::{World, domain, secs};

/// {what `from` sends on, what `to` receives on}, by SPI.
pub fn spis(world: &mut World, from: &str, to: &str) -> (Vec<u32>, Vec<u32>) {
    let list = |keys: Vec<TunnelKey>| keys.iter().map(|key| key.spi).collect::<Vec<_>>();
    let send = world.get(from).peering.tunnel(&domain(to)).send;
    let receive = world.get(to).peering.tunnel(&domain(from)).receive;
    (list(send), list(receive))
}

#[test]
fn a_lost_session_keeps_the_tunnel_and_a_new_one_replaces_it_at_once() {
    let mut world = World::mesh(&["east", "west"]);
    let before = spis(&mut world, "east", "west");
    world.disconnect("east", "west");
    world.run(secs(100));
    assert_eq!(
        spis(&mut world, "east", "west"),
        before,
        "flows outlive a session"
    );
    let problems = world.status("east", "west").problems;
    assert!(
        problems[0].starts_with("not reachable since 2027-01-15T08:00:01Z: lost"),
        "{problems:?}"
    );

    world.connect("east", "west");
    assert_eq!(
        world.get("east").peering.tunnel(&domain("west")),
        TunnelState::default()
    );
    world.run(secs(1));
    let after = spis(&mut world, "east", "west");
    assert_eq!((after.0.len(), &after.0), (2, &after.1));
    assert!(after.0.iter().all(|spi| !before.0.contains(spi)));
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
}

#[test]
fn associations_are_renewed_every_hour_and_the_old_ones_drain() {
    let mut world = World::mesh(&["east", "west"]);
    let first = spis(&mut world, "east", "west").0;
    world.run(REKEY_AFTER - secs(2));
    assert_eq!(spis(&mut world, "east", "west").0, first);
    world.run(secs(2));
    let (send, receive) = spis(&mut world, "east", "west");
    assert!(send.iter().all(|spi| !first.contains(spi)), "renewed");
    assert!(
        first.iter().all(|spi| receive.contains(spi)),
        "the old ones still receive"
    );
    assert_eq!(receive.len(), 4);
    world.run(DRAIN);
    assert_eq!(
        spis(&mut world, "east", "west").1,
        send,
        "and are gone after 30 s"
    );
    // For a day: never more than two generations, never none. `check_tunnels` looks at each step.
    for _ in 0..24 * 60 {
        world.run(secs(60));
        let (send, receive) = spis(&mut world, "west", "east");
        assert!(send.len() == 2 && receive.len() <= 4);
    }
}

#[test]
fn associations_are_renewed_by_packets_once() {
    let mut world = World::mesh(&["east", "west"]);
    let first = spis(&mut world, "east", "west").0;
    for packets in [1, REKEY_PACKETS - 1] {
        world.with("east", |east, _| {
            east.peering.handle_sent(&domain("west"), first[0], packets)
        });
        world.run(secs(1));
    }
    assert_eq!(spis(&mut world, "east", "west").0, first);
    for _ in 0..3 {
        world.with("east", |east, _| {
            let west = domain("west");
            east.peering.handle_sent(&west, 12345, REKEY_PACKETS);
            east.peering.handle_sent(&west, first[1], REKEY_PACKETS);
        });
    }
    world.run(secs(1));
    let (send, receive) = spis(&mut world, "east", "west");
    assert!(send.iter().all(|spi| !first.contains(spi)));
    assert_eq!(receive.len(), 4, "one new generation, not three");
    let asked = world.sent.iter().filter(|(_, _, bytes)| bytes[0] == 8);
    assert_eq!(asked.count(), 1, "asked for once");
}
