//! What gateways learn of each other, and what `status` says of it.

use peering::{
    peer_messages::{Enforcing, PeerMessage, RecordBatch},
    peers::{PeerEvent, TunnelState},
};
use serde_bytes::ByteBuf;

use crate::net::{World, domain, hash, pin, policy, range, root, secs};

pub fn digest_hash(world: &mut World, of: &str, at: &str) -> Option<[u8; 32]> {
    let digest = world.get(at).peering.digest(&domain(of))?;
    Some(digest.hash)
}

#[test]
fn three_clusters_learn_all_of_each_other() {
    let names = ["east", "north", "west"];
    let mut world = World::mesh(&names);
    for at in names {
        assert_eq!(world.get(at).peering.bundles().iter().count(), 3);
        assert_eq!(world.get(at).peering.ranges().len(), 3);
        for of in names.into_iter().filter(|of| *of != at) {
            let its_root = world.get(of).root.clone();
            let bundle = world.get(at).peering.bundles().bundle(&domain(of)).cloned();
            assert_eq!(bundle.unwrap().x509_roots, [its_root]);
            let digest = world.get(at).peering.digest(&domain(of)).cloned().unwrap();
            assert_eq!(digest.hash, hash("first"));
            assert_eq!(digest.part.as_deref(), Some(&policy(of, "first")));
            // One association per sending queue, made by the receiver.
            let (send, receive) = crate::tunnel::spis(&mut world, at, of);
            assert_eq!((send.len(), &send), (2, &receive));
            let endpoint = world.get(at).peering.tunnel(&domain(of)).endpoint;
            assert_eq!(endpoint.unwrap().port(), 1000);
            let status = world.status(at, of);
            assert!(status.connected);
            assert_eq!(status.problems, Vec::<String>::new());
            assert_eq!(status.enforced_hash, status.announced_hash);
            assert_eq!(status.clock_offset_ms, Some(0));
        }
    }
    assert!(names.iter().all(|name| world.get(name).alarms().is_empty()));
}

#[test]
fn a_policy_reaches_the_peers_and_what_is_enforced_is_told_apart() {
    let mut world = World::mesh(&["east", "west"]);
    world.with("west", |west, now| {
        west.peering
            .set_policy(hash("second"), &policy("west", "second"), now);
    });
    world.run(secs(1));
    assert_eq!(
        digest_hash(&mut world, "west", "east"),
        Some(hash("second"))
    );
    assert_eq!(
        world.status("east", "west").problems,
        Vec::<String>::new(),
        "it may take a while"
    );
    world.run(secs(31));
    let problems = world.status("east", "west").problems;
    assert!(
        problems[0].starts_with("it announced policy 2 and enforces 1 still"),
        "{problems:?}"
    );
    world.with("west", |west, now| {
        west.peering.set_enforcing(hash("second"), now)
    });
    world.run(secs(1));
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());

    world.with("west", |west, now| {
        west.peering.set_enforcing(hash("secret"), now)
    });
    world.run(secs(1));
    let problems = world.status("east", "west").problems;
    assert!(
        problems[0].starts_with("it enforces a policy that it did not announce"),
        "{problems:?}"
    );
}

#[test]
fn what_a_peer_enforces_is_not_believed_for_another() {
    let mut world = World::mesh(&["east", "north", "west"]);
    let enforcing = Enforcing {
        sequence: 1,
        hash: hash("other"),
    };
    world.say("west", "east", &PeerMessage::Enforcing(enforcing));
    assert_eq!(world.status("east", "north").problems, Vec::<String>::new());
    assert_eq!(world.status("east", "west").problems.len(), 1);
}

#[test]
fn a_policy_too_large_to_announce_is_announced_by_its_hash() {
    let mut world = World::mesh(&["east", "west"]);
    world.with("west", |west, now| {
        let mut part = policy("west", "big");
        std::sync::Arc::make_mut(&mut part.policies[0]).name = "x".repeat(identity::MAX_SIGNED);
        west.peering.set_policy(hash("big"), &part, now);
    });
    world.run(secs(1));
    let digest = world
        .get("east")
        .peering
        .digest(&domain("west"))
        .cloned()
        .unwrap();
    assert_eq!((digest.hash, digest.part.clone()), (hash("big"), None));
    let now = world.now("west").unix;
    let problems = world.get("west").peering.status(now).problems;
    assert!(
        problems[0].contains("too large to be announced"),
        "{problems:?}"
    );
}

#[test]
fn pod_ranges_are_those_of_the_configuration_or_free_ones() {
    // Configured: what it announces changes nothing, and is said.
    let mut world = World::mesh(&["east", "west"]);
    world.with("west", |west, now| {
        west.peering
            .set_own_ranges(vec![range(1, "10.2.0.0/16"), range(2, "10.1.0.0/24")], now);
    });
    world.run(secs(1));
    assert_eq!(world.status("east", "west").ranges, ["10.2.0.0/16"]);
    assert_eq!(
        world.status("east", "west").problems,
        [
            "it announces the pod ranges [1 = 10.2.0.0/16, 2 = 10.1.0.0/24], and [1 = 10.2.0.0/16] \
          are configured"
        ]
    );

    // Not configured: what is nobody's.
    let mut world = World::new(&["east", "north", "west"]);
    let open = |world: &mut World, at: &str| {
        world.with(at, |it, now| {
            for peer in &mut it.peers {
                peer.ranges = None;
            }
            it.peering.set_peers(it.peers.clone(), now).unwrap();
        });
    };
    open(&mut world, "east");
    world.connect("east", "north");
    world.run(secs(1));
    world.with("west", |west, now| {
        let ranges = vec![
            range(1, "10.2.7.0/24"),
            range(2, "10.1.0.0/16"),
            range(3, "10.9.0.0/16"),
        ];
        west.peering.set_own_ranges(ranges, now);
    });
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(world.status("east", "north").ranges, ["10.2.0.0/16"]);
    assert_eq!(world.status("east", "west").ranges, ["10.9.0.0/16"]);
    let problems = world.status("east", "west").problems;
    assert!(problems[0].contains("overlaps"), "{problems:?}");

    // A number never gets another meaning.
    world.with("west", |west, now| {
        west.peering
            .set_own_ranges(vec![range(3, "10.8.0.0/16")], now);
    });
    world.run(secs(1));
    assert_eq!(world.status("east", "west").ranges, ["10.9.0.0/16"]);
    let alarms = world.get("east").alarms().join("\n");
    assert!(
        alarms.contains("its range number 3 was 10.9.0.0/16 and is 10.8.0.0/16 now"),
        "{alarms}"
    );
}

/// Two peers and the own cluster with one range: what is mapped is seen elsewhere, and a mapping that
/// cannot be is refused in words.
#[test]
fn overlapping_ranges_are_taken_where_they_are_mapped_to() {
    let mut world = World::mesh(&["east", "north", "west"]);
    let same = vec![range(1, "10.1.0.0/16")];
    for name in ["north", "west"] {
        let same = same.clone();
        world.with(name, move |it, now| it.peering.set_own_ranges(same, now));
    }
    let map = |world: &mut World, to: &[(&str, &str)]| {
        world.with("east", |east, now| {
            for peer in &mut east.peers {
                peer.ranges = Some(same.clone());
                let mut to = to.iter();
                let to = to.find(|(name, _)| peer.trust_domain.as_str().starts_with(name));
                peer.mapped = to
                    .map(|(_, to)| (1, to.parse().unwrap()))
                    .into_iter()
                    .collect();
            }
            let peers = east.peers.clone();
            east.peering.set_peers(peers, now).unwrap();
        });
        world.run(secs(1));
    };
    map(
        &mut world,
        &[("north", "100.64.0.0/16"), ("west", "100.65.0.0/16")],
    );
    let seen = |world: &mut World, name| world.status("east", name).ranges;
    assert_eq!(
        seen(&mut world, "north"),
        ["100.64.0.0/16 (there 10.1.0.0/16)"]
    );
    assert_eq!(
        seen(&mut world, "west"),
        ["100.65.0.0/16 (there 10.1.0.0/16)"]
    );
    let all = world.get("east").peering.ranges();
    let all: Vec<_> = all
        .iter()
        .map(|r| (r.prefix.to_string(), r.range_id))
        .collect();
    let expected = ["10.1.0.0/16", "100.64.0.0/16", "100.65.0.0/16"];
    assert_eq!(all, expected.map(|prefix| (prefix.to_owned(), 1)));

    for (to, why) in [
        ("100.65.0.0/17", "which has another size"),
        ("fd00::/16", "which has another size"),
        ("100.64.0.0/16", "overlaps 100.64.0.0/16 of north"),
        ("10.1.0.0/16", "overlaps 10.1.0.0/16 of east"),
    ] {
        map(&mut world, &[("north", "100.64.0.0/16"), ("west", to)]);
        assert_eq!(seen(&mut world, "west"), [""; 0], "{to}");
        let problems = world.status("east", "west").problems;
        assert!(
            problems.iter().any(|said| said.contains(why)),
            "{to}: {problems:?}"
        );
    }
}

#[test]
fn records_arrive_once_and_all_of_them_again_after_a_restart() {
    let mut world = World::mesh(&["east", "west"]);
    for i in 0..600 {
        world.get("west").record(&format!("pod-{i}"), i + 1);
    }
    world.pump();
    world.run(secs(1));
    let received = |world: &mut World| std::mem::take(&mut world.get("east").received);
    let all = received(&mut world);
    assert_eq!(all.len(), 600);
    assert_eq!(all[599], (domain("west"), "pod-599".into(), 600));
    // Nothing again after the loss of a session, but for what is new.
    world.disconnect("east", "west");
    world.with("west", |west, _| west.record("late", 9));
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(received(&mut world), [(domain("west"), "late".into(), 9)]);
    // The memory of records dies with a process, so they come again.
    world.restart("east");
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(received(&mut world).len(), 601);
    // The positions of a former life mean nothing.
    world.restart("west");
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(received(&mut world).len(), 601);
}

#[test]
fn a_batch_that_is_said_again_withholds_no_later_record() {
    let mut world = World::mesh(&["east", "west"]);
    world.with("west", |west, _| west.record("first", 1));
    world.run(secs(1));
    // Of a former process of west: more positions than this one has.
    let batch = PeerMessage::Records(RecordBatch {
        position: 9,
        records: Vec::new(),
    });
    world.say("west", "east", &batch);
    world.run(secs(1));
    world.connect("east", "west");
    world.run(secs(1));
    world.get("east").received.clear();
    world.with("west", |west, _| west.record("second", 2));
    world.run(secs(1));
    let second = (domain("west"), "second".into(), 2);
    assert_eq!(world.get("east").received, [second]);
}

#[test]
fn a_record_that_does_not_hold_is_refused_and_others_of_the_batch_are_not() {
    let mut world = World::mesh(&["east", "north", "west"]);
    let mut forged = world.get("north").own_records.clone();
    world.get("north").record("of-north", 1);
    forged.append(&mut world.get("north").own_records.clone());
    world.get("west").record("of-west", 1);
    let records = [forged, world.get("west").own_records.clone()].concat();
    let records = records
        .iter()
        .map(|(_, _, record)| ByteBuf::from(record.bytes()));
    let batch = PeerMessage::Records(RecordBatch {
        position: 5,
        records: records.chain([ByteBuf::from(vec![1, 2, 3])]).collect(),
    });
    world.say("west", "east", &batch);
    assert_eq!(
        world.get("east").received,
        [(domain("west"), "of-west".into(), 1)]
    );
    let problems = world.status("east", "west").problems.join("\n");
    assert!(
        problems.contains("a record of a pod is refused"),
        "{problems}"
    );
}

/// Threat row 26: 30 seconds are tolerated, and beyond them both ends name both clocks, in status and log.
#[test]
fn a_clock_that_is_off_is_said_with_both_times_at_both_ends() {
    for (skew, here, there) in [
        (29_000, "", ""),
        (-29_000, "", ""),
        (
            31_000,
            "clock off by 31 s: here it is 2027-01-15T08:01:40Z, there 2027-01-15T08:02:11Z",
            "clock off by 31 s: here it is 2027-01-15T08:02:11Z, there 2027-01-15T08:01:40Z",
        ),
        (
            -31_000,
            "clock off by 31 s: here it is 2027-01-15T08:01:40Z, there 2027-01-15T08:01:09Z",
            "clock off by 31 s: here it is 2027-01-15T08:01:09Z, there 2027-01-15T08:01:40Z",
        ),
    ] {
        let mut world = World::new(&["east", "west"]);
        world.get("west").skew = skew;
        world.connect("east", "west");
        world.run(secs(100));
        let ends = [("east", "west", here, skew), ("west", "east", there, -skew)];
        for (at, of, said, offset) in ends {
            let status = world.status(at, of);
            assert_eq!(status.clock_offset_ms, Some(offset));
            let words = status.problems.join("\n");
            assert_eq!(words.is_empty(), said.is_empty(), "{words}");
            assert!(words.starts_with(said), "{words}");
            let logged = world.get(at).events.iter();
            let logged = logged.filter(|event| matches!(event, PeerEvent::Clock { .. }));
            assert_eq!(logged.count(), usize::from(!said.is_empty()), "once");
        }
        // Somebody puts it right.
        world.get("west").skew = 0;
        world.run(secs(100));
        let right = PeerEvent::Clock {
            peer: domain("west"),
            off: None,
        };
        assert_eq!(world.get("east").events.contains(&right), !here.is_empty());
        assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
    }
}

#[test]
fn a_withdrawn_peer_loses_all_at_once_and_its_sequences_are_remembered() {
    let mut world = World::mesh(&["east", "west"]);
    let backup = world.get("west").disk.clone();
    world.with("west", |west, now| west.set_policy("second", now));
    // Long enough for two more bundles.
    world.run(secs(11 * 3600));
    let peers = world.get("east").peers.clone();
    world.with("east", |east, now| {
        east.peering.set_peers(vec![], now).unwrap()
    });
    assert!(!world.is_connected("east", "west"));
    let east = &world.get("east").peering;
    assert!(east.bundles().bundle(&domain("west")).is_none());
    assert!(east.digest(&domain("west")).is_none());
    assert_eq!(east.tunnel(&domain("west")), TunnelState::default());
    assert_eq!(east.ranges().len(), 1);
    assert!(
        world
            .get("east")
            .events
            .contains(&PeerEvent::Removed(domain("west")))
    );

    // It comes back on an older state, after a restart of ours.
    world.restart("east");
    world.with("east", |east, now| {
        east.peering.set_peers(vec![], now).unwrap()
    });
    world.get("west").disk = backup;
    world.get("west").policy = "forged".into();
    world.restart("west");
    world.get("east").events.clear();
    world.with("east", |east, now| {
        east.peering.set_peers(peers.clone(), now).unwrap()
    });
    world.connect("east", "west");
    world.run(secs(1));
    // Its gateway hears of it, and says nothing; what it said once is refused all the same.
    let old = world
        .sent
        .iter()
        .find(|(from, _, bytes)| from.as_str() == "west" && bytes[0] == 2);
    let old = old.unwrap().2.clone();
    world.inject("west", "east", &old);
    let alarms = world.get("east").alarms().join("\n");
    assert!(
        alarms.contains("bundle 1 of west is older than 3"),
        "{alarms}"
    );
    let west = domain("west");
    assert!(world.get("east").peering.bundles().bundle(&west).is_none());
    assert!(world.get("east").peering.digest(&west).is_none());

    // Set up anew with another root, which the operator confirms by the pin: all is forgotten.
    let new_root = root("west again");
    world.get("west").disk.clear();
    world.get("west").root = new_root.clone();
    world.get("west").seed = 77;
    world.restart("west");
    world.with("east", |east, now| {
        let mut peers = peers.clone();
        peers[0].pin = Some(pin(&new_root));
        east.peering.set_peers(peers, now).unwrap();
    });
    world.connect("east", "west");
    world.run(secs(1));
    let status = world.status("east", "west");
    assert_eq!(status.problems, Vec::<String>::new());
    assert_eq!(status.digest_sequence, Some(1));
}
