//! A digest that changed in one policy is told by that policy.

use std::sync::Arc;

use peering::peer_messages::{DigestChange, PeerMessage};
use policy::model::PolicySet;

use crate::{
    net::{World, domain, hash, secs},
    services::{service, services},
};

fn announce(world: &mut World, name: &str, part: &PolicySet) {
    world.with("west", |west, now| {
        west.peering.set_policy(hash(name), part, now)
    });
    world.run(secs(1));
}

fn held(world: &mut World) -> Option<Arc<PolicySet>> {
    world
        .get("east")
        .peering
        .digest(&domain("west"))?
        .part
        .clone()
}

/// The lengths of the digests that were sent from one to the other since, whole or as a change.
fn digests(world: &mut World, from: &str, to: &str) -> Vec<(u8, usize)> {
    let sent = std::mem::take(&mut world.sent);
    let sent = sent
        .iter()
        .filter(|(a, b, _)| a.as_str() == from && b.as_str() == to);
    let sent = sent.map(|(_, _, bytes)| (bytes[0], bytes.len()));
    sent.filter(|(kind, _)| [WHOLE, CHANGE, WANTED, PIECE, PIECE_WANTED].contains(kind))
        .collect()
}

const WHOLE: u8 = 4;
const CHANGE: u8 = 13;
const WANTED: u8 = 14;
const PIECE: u8 = 15;
const PIECE_WANTED: u8 = 16;

#[test]
fn one_changed_policy_of_many_is_sent_alone() {
    let mut world = World::mesh(&["east", "west"]);
    let mut part = services(500);
    announce(&mut world, "many", &part);
    let before = held(&mut world).unwrap();
    assert_eq!(*before, part);
    digests(&mut world, "west", "east");

    part.policies[250] = Arc::new(service(250, 8443));
    announce(&mut world, "changed", &part);
    let after = held(&mut world).unwrap();
    assert_eq!(*after, part);
    let [(CHANGE, length)] = digests(&mut world, "west", "east")[..] else {
        panic!("not a change")
    };
    assert!(length <= 1024, "{length} bytes");
    // What did not change is not read again.
    assert!(Arc::ptr_eq(&before.policies[0], &after.policies[0]));

    part.policies.remove(0);
    announce(&mut world, "less", &part);
    assert!(*held(&mut world).unwrap() == part);
    let [(CHANGE, length)] = digests(&mut world, "west", "east")[..] else {
        panic!("not a change")
    };
    assert!(length <= 400, "{length} bytes");
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
    assert!(world.get("east").alarms().is_empty());
}

#[test]
fn whoever_has_the_last_digest_is_told_so_and_whoever_has_none_gets_all() {
    let mut world = World::mesh(&["east", "west"]);
    let part = services(50);
    announce(&mut world, "many", &part);
    digests(&mut world, "west", "east");
    world.disconnect("east", "west");
    world.connect("east", "west");
    world.run(secs(1));
    let [(CHANGE, length)] = digests(&mut world, "west", "east")[..] else {
        panic!("not a change")
    };
    assert!(length <= 400, "{length} bytes");

    // It comes back with what it stored, and catches up with what it missed.
    world.restart("east");
    announce(&mut world, "more", &services(51));
    world.connect("east", "west");
    world.run(secs(1));
    assert!(matches!(
        digests(&mut world, "west", "east")[..],
        [(CHANGE, _)]
    ));
    assert_eq!(*held(&mut world).unwrap(), services(51));

    world.get("east").disk.remove("peer-west");
    world.restart("east");
    world.connect("east", "west");
    world.run(secs(1));
    assert!(matches!(
        digests(&mut world, "west", "east")[..],
        [(WHOLE, _)]
    ));
    assert_eq!(*held(&mut world).unwrap(), services(51));
}

#[test]
fn one_that_is_far_behind_gets_all() {
    let mut world = World::mesh(&["east", "west"]);
    world.disconnect("east", "west");
    for count in 0..12 {
        announce(&mut world, &format!("{count}"), &services(count));
    }
    digests(&mut world, "west", "east");
    world.connect("east", "west");
    world.run(secs(1));
    assert!(matches!(
        digests(&mut world, "west", "east")[..],
        [(WHOLE, _)]
    ));
    assert_eq!(*held(&mut world).unwrap(), services(11));
}

/// Changes that do not make what was signed: none is believed, and the whole is asked for once.
#[test]
fn a_change_that_does_not_hold_is_not_believed() {
    let mut world = World::mesh(&["east", "west"]);
    announce(&mut world, "many", &services(5));
    digests(&mut world, "west", "east");
    announce(&mut world, "changed", &services(6));
    let sent = world
        .sent
        .iter()
        .find(|(_, to, bytes)| to.as_str() == "east" && bytes[0] == CHANGE);
    let sent = PeerMessage::decode(&sent.unwrap().2).unwrap().unwrap();
    let PeerMessage::DigestChange(sound) = sent else {
        panic!("{sent:?}")
    };
    digests(&mut world, "west", "east");
    let known = held(&mut world).unwrap();
    let wrong: [fn(&mut DigestChange); 11] = [
        |c| c.base = [7; 32],
        |c| c.sequence += 1,
        |c| c.hash = [7; 32],
        |c| c.before.clear(),
        |c| c.after[20] ^= 1,
        |c| c.removed = vec![0],
        |c| c.removed = vec![1, 0],
        |c| c.removed = vec![u32::MAX],
        |c| c.added.clear(),
        |c| c.added[0].0 = u32::MAX,
        |c| c.added[0].1 = Arc::new(service(7, 1)),
    ];
    for change in wrong {
        let mut message = sound.clone();
        change(&mut message);
        world.say("west", "east", &PeerMessage::DigestChange(message));
        world.run(secs(1));
        assert!(Arc::ptr_eq(&known, &held(&mut world).unwrap()));
        assert!(matches!(
            digests(&mut world, "east", "west")[..],
            [(WANTED, _)]
        ));
    }
    assert!(world.get("east").alarms().is_empty());
    // Whoever asks again and again is not answered each time.
    let newest = digests_asked(&mut world, 3);
    assert_eq!(newest.iter().filter(|(kind, _)| *kind == WHOLE).count(), 1);
}

/// East says that it cannot use west's last change, `times` times; what west answers.
fn digests_asked(world: &mut World, times: usize) -> Vec<(u8, usize)> {
    announce(world, "again", &services(7));
    let now = world.now("west").unix;
    let sequence = world.get("west").peering.status(now).digest_sequence;
    world.sent.clear();
    for _ in 0..times {
        world.say("east", "west", &PeerMessage::DigestWanted(sequence));
        world.run(secs(1));
    }
    digests(world, "west", "east")
}

/// What does not fit into a message comes in pieces, each when it is asked for; a change in it is short still.
#[test]
fn thousands_of_policies_come_in_pieces() {
    let mut world = World::mesh(&["east", "west"]);
    world.run(secs(1));
    digests(&mut world, "west", "east");
    let mut part = services(10_000);
    announce(&mut world, "many", &part);
    world.run(secs(1));
    assert!(*held(&mut world).unwrap() == part);
    let sent = std::mem::take(&mut world.sent);
    let kinds = sent.iter().map(|(_, _, bytes)| bytes[0]);
    let kinds: Vec<u8> = kinds
        .filter(|kind| [WHOLE, CHANGE, PIECE, PIECE_WANTED].contains(kind))
        .collect();
    let count = kinds.iter().filter(|kind| **kind == PIECE).count();
    assert!(count > 4, "{count}");
    let mut expected = [PIECE, PIECE_WANTED].repeat(count);
    expected.pop();
    assert_eq!(kinds, expected);

    part.policies[5000] = Arc::new(service(5000, 8443));
    announce(&mut world, "changed", &part);
    assert!(*held(&mut world).unwrap() == part);
    let [(CHANGE, length)] = digests(&mut world, "west", "east")[..] else {
        panic!("not a change")
    };
    assert!(length <= 1024, "{length} bytes");

    // What changes while pieces are under way comes after them; a restart finds what was stored.
    world.get("east").disk.remove("peer-west");
    world.restart("east");
    world.connect("east", "west");
    while world.sent.iter().all(|(_, _, bytes)| bytes[0] != PIECE) {
        world.run(std::time::Duration::from_millis(1));
    }
    part.policies.remove(1);
    announce(&mut world, "less", &part);
    world.run(secs(1));
    assert!(*held(&mut world).unwrap() == part);
    assert!(matches!(
        digests(&mut world, "west", "east")[..],
        [(PIECE, _), .., (CHANGE, _)]
    ));
    world.restart("east");
    assert!(*held(&mut world).unwrap() == part);
    world.connect("east", "west");
    world.run(secs(1));
    assert!(matches!(
        digests(&mut world, "west", "east")[..],
        [(CHANGE, _)]
    ));
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
    assert_eq!(world.get("east").alarms(), Vec::<&str>::new());
}

/// Other thousands share nothing with those before: the whole is shorter.
#[test]
fn a_change_of_everything_is_sent_whole() {
    let mut world = World::mesh(&["east", "west"]);
    announce(&mut world, "many", &services(6_000));
    digests(&mut world, "west", "east");
    let policies = (0..6_000).map(|n| Arc::new(service(n, 8443))).collect();
    let part = PolicySet {
        policies,
        ..services(0)
    };
    announce(&mut world, "others", &part);
    assert!(*held(&mut world).unwrap() == part);
    let sent = digests(&mut world, "west", "east");
    assert!(sent.iter().all(|(kind, _)| *kind == PIECE), "{sent:?}");
    assert!(world.get("east").alarms().is_empty());
}
