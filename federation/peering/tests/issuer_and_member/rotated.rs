//! Another key signs.

use std::time::Duration;

use identity::{IssuerKey, PodChange, PodRecord, TrustBundle};
use peering::member::MemberEvent;

use crate::{
    own_records, problems,
    world::{World, bundle, domain, labels, pod},
};

fn key(seed: u8) -> IssuerKey {
    IssuerKey::from_seed(&[seed; 32])
}

/// From now on everybody believes exactly the keys of `seeds`.
fn believe(world: &mut World, sequence: u64, seeds: &[u8]) {
    let keys = seeds.iter().map(|seed| key(*seed).public()).collect();
    let bundle = TrustBundle {
        issuer_keys: keys,
        ..bundle("east", sequence, 1)
    };
    world.bundles.insert(bundle).unwrap();
    world.issuer.set_bundles(&world.bundles);
    world.settle();
}

#[test]
fn credentials_follow_the_key_by_themselves() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    believe(&mut world, 2, &[1, 2]);
    let now = world.now();
    world.issuer.set_key(key(2), false, now);
    world.settle();
    assert!(
        world.proven("node1", "a").is_some(),
        "the old one is believed"
    );
    // Credentials live for ten minutes.
    world.run(Duration::from_mins(11));
    believe(&mut world, 3, &[2]);
    assert!(world.proven("node1", "a").is_some());
    assert!(problems(&world, "node1").is_empty());
}

#[test]
fn an_old_key_that_goes_sooner_leaves_nobody_without_a_credential() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    believe(&mut world, 2, &[1, 2]);
    let now = world.now();
    world.issuer.set_key(key(2), true, now);
    world.settle();
    believe(&mut world, 3, &[2]);
    assert!(world.proven("node1", "a").is_some());
    assert!(problems(&world, "node1").is_empty());
}

/// The simulator found this: what was issued anew was lost with a session.
#[test]
fn a_credential_that_nobody_believes_is_asked_for_again_at_once() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    believe(&mut world, 2, &[1, 2]);
    world.disconnect("node1");
    let now = world.now();
    world.issuer.set_key(key(2), true, now);
    world.settle();
    believe(&mut world, 3, &[2]);
    assert!(world.proven("node1", "a").is_none());
    world.connect("node1");
    world.settle();
    assert!(world.proven("node1", "a").is_some());
    assert!(problems(&world, "node1").is_empty());
}

#[test]
fn what_was_said_of_pods_holds_for_who_believes_the_new_key_alone() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "gone", "frontend", "10.1.1.10"));
    world.put(pod("node1", "other", "api", "10.1.1.11"));
    world.delete("gone");
    let mut relabelled = pod("node1", "other", "api", "10.1.1.11");
    relabelled.labels = labels(&[("app", "web")]);
    world.put(relabelled);
    assert_eq!(own_records(&world).len(), 2);
    believe(&mut world, 2, &[1, 2]);
    let now = world.now();
    world.issuer.set_key(key(2), false, now);
    world.settle();
    believe(&mut world, 3, &[2]);
    let mut said: Vec<_> = own_records(&world)
        .into_iter()
        .map(|verified| verified.record.pod_uid)
        .collect();
    said.sort();
    assert_eq!(said, ["gone", "other"]);
    assert!(problems(&world, "node1").is_empty());
    assert_eq!(
        world.proven("node1", "other").unwrap().labels,
        labels(&[("app", "web")])
    );
}

#[test]
fn agents_hear_which_root_signs_and_again_in_each_session() {
    let mut world = World::new(&["node1"]);
    world.issuer.set_signing_root([7; 32]);
    world.settle();
    let heard = |world: &World| {
        let events = world.agents["node1"].events.iter();
        let roots = events.filter(|event| **event == MemberEvent::SigningRoot([7; 32]));
        roots.count()
    };
    assert_eq!(heard(&world), 1);
    world.issuer.set_signing_root([7; 32]);
    world.settle();
    assert_eq!(heard(&world), 1);
    world.disconnect("node1");
    world.connect("node1");
    world.settle();
    assert_eq!(heard(&world), 2);
}

/// The simulator found this: a peer that offers less signs anew what it offers, and we kept the rest.
#[test]
fn what_a_peers_retired_key_signed_is_handed_to_no_agent() {
    let mut world = World::new(&["node1", "node2"]);
    let west = domain("west");
    let believed = |sequence, seeds: &[u8]| TrustBundle {
        issuer_keys: seeds.iter().map(|seed| key(*seed).public()).collect(),
        ..bundle("west", sequence, 3)
    };
    let hear = |world: &mut World, bundle: TrustBundle| {
        world.bundles.insert(bundle).unwrap();
        world.issuer.set_bundles(&world.bundles);
    };
    hear(&mut world, believed(1, &[3, 4]));
    world.settle();
    world.disconnect("node2");
    for (uid, seed) in [("old", 3), ("new", 4)] {
        let gone = PodRecord {
            pod_uid: uid.into(),
            generation: 4,
            change: PodChange::Gone,
        };
        let record = key(seed).sign_record(&west, u64::from(seed), &gone);
        let now = world.now().unix;
        let verified = record.verify(&believed(1, &[3, 4]), now).unwrap();
        world.issuer.handle_peer_record(&record, &verified);
    }
    hear(&mut world, believed(2, &[4]));
    world.connect("node2");
    world.settle();
    let heard = world.agents["node2"].member.records();
    assert!(heard.newest(&west, "new").is_some());
    assert!(heard.newest(&west, "old").is_none());
    assert!(problems(&world, "node2").is_empty());
}
