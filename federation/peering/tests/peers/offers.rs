//! A peer is told what concerns the pods that are offered to it, and nothing of others.

use std::sync::Arc;

use peering::Signature;
use policy::{OfferedPart, model::*};

use crate::{
    net::{World, domain, hash, offer, policy, secs},
    services::services,
};

/// A policy for each of these namespaces.
fn set(namespaces: &[&str], order: u32) -> PolicySet {
    let template = policy("west", "x");
    let policies = namespaces.iter().map(|namespace| {
        let mut policy = Policy::clone(&template.policies[0]);
        policy.namespace = Some((*namespace).into());
        policy.order = order;
        policy.isolates = vec![(Direction::Ingress, Scope::Remote)];
        policy.subject.namespaces = NamespaceMatch::Names(vec![(*namespace).into()]);
        Arc::new(policy)
    });
    PolicySet {
        policies: policies.collect(),
        ..template
    }
}

fn announce(world: &mut World, name: &str, part: &PolicySet) {
    world.with("west", |west, now| {
        west.peering.set_policy(hash(name), part, now);
        west.peering.set_enforcing(hash(name), now);
    });
    world.run(secs(1));
}

/// The namespaces that the digest which `at` holds of west names.
fn told(world: &mut World, at: &str) -> Vec<String> {
    let digest = world.get(at).peering.digest(&domain("west")).cloned();
    let part = digest.unwrap().part.clone().unwrap();
    let names = part.policies.iter().map(|policy| policy.namespace.clone());
    names.map(Option::unwrap).collect()
}

fn sequence(world: &mut World, at: &str) -> u64 {
    world
        .get(at)
        .peering
        .digest(&domain("west"))
        .unwrap()
        .sequence
}

/// Everything that west sent to `to` since, by kind, and whether any of it holds `text`.
fn sent(world: &mut World, to: &str, text: &str) -> (Vec<u8>, bool) {
    let sent = std::mem::take(&mut world.sent);
    let sent = sent
        .into_iter()
        .filter(|(a, b, _)| a.as_str() == "west" && b.as_str() == to);
    let sent: Vec<_> = sent.map(|(_, _, bytes)| bytes).collect();
    let held = |bytes: &Vec<u8>| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    let kinds = sent
        .iter()
        .map(|bytes| bytes[0])
        .filter(|kind| [4, 5, 13, 15].contains(kind));
    (kinds.collect(), sent.iter().any(held))
}

fn no_problems(world: &mut World, names: &[&str]) {
    for at in names {
        let status = world.status(at, "west");
        assert_eq!(status.problems, Vec::<String>::new(), "{at}");
        assert_eq!(status.enforced_hash, status.announced_hash, "{at}");
        assert!(world.get(at).alarms().is_empty(), "{at}");
        let seen = (status.digest_sequence, status.announced_hash);
        let status = world.status("west", at);
        assert_eq!(seen, (status.told_sequence, status.told_hash), "{at}");
    }
}

/// East may meet what is public, north all.
fn world() -> World {
    let mut world = World::mesh(&["east", "north", "west"]);
    world.with("west", |west, now| west.offer("east", &["public"], now));
    announce(&mut world, "both", &set(&["public", "vault"], 1));
    world
}

#[test]
fn what_is_not_offered_is_not_told() {
    let mut world = world();
    assert_eq!(told(&mut world, "east"), ["public"]);
    assert_eq!(told(&mut world, "north"), ["public", "vault"]);
    let whole = set(&["public", "vault"], 1);
    let part = OfferedPart::new(&whole, &offer(&["public"]), None, None);
    let digest = world.get("east").peering.digest(&domain("west")).unwrap();
    // Its hash says nothing of the rest either.
    assert_eq!(digest.hash, part.hash());
    assert!(!sent(&mut world, "east", "vault").1);
    no_problems(&mut world, &["east", "north"]);

    // It hears of nothing when something changes that is not its own.
    let before = sequence(&mut world, "east");
    announce(
        &mut world,
        "other vault",
        &[set(&["public"], 1), set(&["vault"], 2)].concat(),
    );
    assert_eq!(sent(&mut world, "east", "vault"), (vec![], false));
    assert_eq!(sequence(&mut world, "east"), before);
    assert!(sequence(&mut world, "north") > before);
    no_problems(&mut world, &["east", "north"]);
    // And of what is by what differs, as everybody.
    let mut many = services(200);
    for policy in &mut many.policies {
        Arc::make_mut(policy).subject.namespaces = NamespaceMatch::Names(vec!["public".into()]);
    }
    let vault = set(&["vault"], 2);
    announce(&mut world, "many", &[many.clone(), vault.clone()].concat());
    sent(&mut world, "east", "vault");
    Arc::make_mut(&mut many.policies[100]).order = 7;
    announce(&mut world, "other public", &[many, vault].concat());
    assert_eq!(sent(&mut world, "east", "vault"), (vec![13, 5], false));
    assert!(sequence(&mut world, "east") > before);
    no_problems(&mut world, &["east", "north"]);
}

trait Concat {
    fn concat(&self) -> PolicySet;
}

impl Concat for [PolicySet; 2] {
    fn concat(&self) -> PolicySet {
        let mut all = self[0].clone();
        all.policies.extend(self[1].policies.iter().cloned());
        all.policies.sort_by(|a, b| policy::canonical_order(a, b));
        all
    }
}

#[test]
fn an_offer_changes_under_a_session() {
    let mut world = world();
    let mut last = sequence(&mut world, "east");
    for (namespaces, expected) in [
        (&[][..], &["public", "vault"][..]),
        (&["public"], &["public"]),
        (&["other"], &[]),
        (&["public", "vault"], &["public", "vault"]),
        (&[], &["public", "vault"]),
        (&["vault", "public"], &["public", "vault"]),
        (&["public"], &["public"]),
    ] {
        world.sent.clear();
        world.with("west", |west, now| west.offer("east", namespaces, now));
        world.run(secs(1));
        assert_eq!(told(&mut world, "east"), expected);
        if !expected.contains(&"vault") {
            assert!(!sent(&mut world, "east", "vault").1);
        }
        let now = sequence(&mut world, "east");
        assert!(now > last, "{now} after {last}");
        last = now;
        no_problems(&mut world, &["east", "north"]);
    }
    assert!(world.is_connected("east", "west"));
}

/// Who comes to others that were told less lately must not be told what is old for it.
#[test]
fn who_changes_between_offers_never_goes_back() {
    let mut world = world();
    for round in 0..3 {
        // East's own digest goes on alone, and north's is older.
        announce(
            &mut world,
            &format!("public {round}"),
            &set(&["public", "vault"], 2),
        );
        for (who, namespaces) in [
            ("north", &["public"][..]),
            ("east", &[]),
            ("north", &[]),
            ("east", &["public"]),
        ] {
            world.with("west", |west, now| west.offer(who, namespaces, now));
            world.run(secs(1));
            no_problems(&mut world, &["east", "north"]);
        }
        world.restart(if round == 1 { "east" } else { "west" });
        if round != 1 {
            world.with("west", |west, now| {
                let part = set(&["public", "vault"], round);
                west.peering.set_policy(hash("again"), &part, now);
                west.peering.set_enforcing(hash("again"), now);
            });
        }
        world.connect_all();
        world.run(secs(1));
        no_problems(&mut world, &["east", "north"]);
    }
}

/// Whatever the number of peers: one signature for all who are offered the same.
#[test]
fn peers_with_one_offer_share_a_digest() {
    let mut world = World::mesh(&["a", "b", "c", "d", "e", "west"]);
    for who in ["a", "b", "c"] {
        // However it is written.
        let namespaces: &[&str] = if who == "a" {
            &["x", "public"]
        } else {
            &["public", "x", "x"]
        };
        world.with("west", |west, now| west.offer(who, namespaces, now));
    }
    world.get("west").peering.take_signatures();
    announce(&mut world, "both", &set(&["public", "vault"], 1));
    let made = world.get("west").peering.take_signatures();
    let digests = made
        .iter()
        .filter(|made| matches!(made, Signature::Digest(_)));
    assert_eq!(digests.count(), 2);
    let narrow = sequence(&mut world, "a");
    assert_eq!(
        [sequence(&mut world, "b"), sequence(&mut world, "c")],
        [narrow; 2]
    );
    assert_eq!(sequence(&mut world, "d"), sequence(&mut world, "e"));
    assert_ne!(sequence(&mut world, "d"), narrow);
    no_problems(&mut world, &["a", "b", "c", "d", "e"]);
}

/// Less than a message, and in pieces.
#[test]
fn an_offer_that_changes_while_pieces_are_under_way_is_told_after_them() {
    let mut world = World::mesh(&["east", "west"]);
    let mut part = services(10_000);
    for policy in &mut part.policies {
        Arc::make_mut(policy).subject.namespaces = NamespaceMatch::Names(vec!["shop".into()]);
    }
    part.policies.extend(set(&["vault"], 1).policies);
    part.policies.sort_by(|a, b| policy::canonical_order(a, b));
    world.sent.clear();
    world.with("west", |west, now| {
        west.peering.set_policy(hash("long"), &part, now)
    });
    // The first piece is under way.
    assert_eq!(sent(&mut world, "east", "vault").0, [15]);
    world.with("west", |west, now| west.offer("east", &["vault"], now));
    world.run(secs(5));
    assert_eq!(told(&mut world, "east"), ["vault"]);
    assert!(world.is_connected("east", "west"));
    assert!(world.get("east").alarms().is_empty());
}

#[test]
fn what_a_peer_enforces_is_compared_with_what_it_was_told() {
    let mut world = world();
    world.with("west", |west, now| {
        west.peering.set_enforcing(hash("unknown"), now)
    });
    world.run(secs(1));
    let problems = world.status("east", "west").problems.join(" ");
    assert!(
        problems.contains("it did not announce: 000000000000 instead"),
        "{problems}"
    );
}

fn received(world: &mut World, at: &str) -> Vec<String> {
    let received = std::mem::take(&mut world.get(at).received);
    received.into_iter().map(|(_, uid, _)| uid).collect()
}

#[test]
fn records_come_anew_when_the_offer_changes() {
    let mut world = world();
    world
        .get("west")
        .withheld
        .extend(["hidden".into(), "too".into()]);
    for (generation, uid) in ["open", "hidden", "too"].into_iter().enumerate() {
        world.with("west", |west, _| west.record(uid, generation as u64));
        world.run(secs(1));
    }
    assert_eq!(received(&mut world, "north"), ["open", "hidden", "too"]);
    assert_eq!(received(&mut world, "east"), ["open"]);
    assert!(!sent(&mut world, "east", "hidden").1);
    // What it was not told because it was not its own is behind it.
    world.with("west", |west, _| west.record("later", 9));
    world.run(secs(1));
    assert_eq!(received(&mut world, "east"), ["later"]);
    // And comes when it is.
    world.with("west", |west, now| west.offer("east", &[], now));
    world.run(secs(1));
    assert_eq!(
        received(&mut world, "east"),
        ["open", "hidden", "too", "later"]
    );
    // Also when the offer changes while records are under way, or the session is lost then.
    for lost in [false, true] {
        world.with("west", |west, now| west.offer("east", &["public"], now));
        world.run(secs(1));
        received(&mut world, "east");
        world.with("west", |west, _| west.record("open", 10));
        world.with("west", |west, now| west.offer("east", &[], now));
        if lost {
            world.disconnect("east", "west");
            world.connect("east", "west");
        }
        world.run(secs(1));
        let uids = received(&mut world, "east");
        for uid in ["hidden", "too", "later", "open"] {
            assert!(uids.iter().any(|of| of == uid), "{uid} of {uids:?}");
        }
        assert!(world.is_connected("east", "west"));
    }
    // A session that comes again repeats nothing.
    world.disconnect("east", "west");
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(received(&mut world, "east"), Vec::<String>::new());
    assert!(world.get("west").closed.is_empty());
    assert!(world.get("east").closed.is_empty());
}
