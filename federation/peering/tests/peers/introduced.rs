//! A member introduces others to each other: what it says is numbered, for one recipient, never older
//! than what was seen, and taken back when it does not vouch any more.

use std::time::Duration;

use handshake::admission::Target;
use identity::IssuerKey;
use peering::{
    introductions::Introduction,
    peer_messages::PeerMessage,
    peers::{IntroduceError, OwnKeys, Pair, Party, PeerEvent},
};

use crate::net::{Cluster, World, domain, pin, range, root, secs};

const DAY: Duration = Duration::from_hours(24);

fn party(name: &str) -> Party {
    Party {
        trust_domain: domain(name),
        name: name.into(),
        endpoints: vec!["192.0.2.9:4433".parse().unwrap()],
    }
}

fn introduce(world: &mut World, a: &str, b: &str, life: Duration) -> Result<Pair, IntroduceError> {
    world.with("hub", |hub, now| {
        hub.peering.introduce([party(a), party(b)], life, now)
    })
}

/// Three members of which two know the third alone.
fn star() -> World {
    let mut world = World::mesh(&["hub", "left", "right"]);
    for (at, other) in [("left", "right"), ("right", "left")] {
        world.disconnect(at, other);
        world.with(at, |cluster, now| {
            cluster
                .peers
                .retain(|peer| peer.trust_domain.as_str() == "hub");
            cluster
                .peering
                .set_peers(cluster.peers.clone(), now)
                .unwrap();
        });
    }
    world.run(secs(1));
    world
}

/// Whom `at` knows by the hub.
fn known(world: &mut World, at: &str) -> Option<Vec<Introduction>> {
    let known = world.get(at).peering.introduced(&domain("hub"));
    known.map(<[_]>::to_vec)
}

/// The newest list that `from` ever sent to `to`.
fn list(world: &World, from: &str, to: &str) -> Vec<u8> {
    let sent = world.sent.iter().rev();
    let mut lists =
        sent.filter(|(f, t, bytes)| f.as_str() == from && t.as_str() == to && bytes[0] == 19);
    lists.next().unwrap().2.clone()
}

fn alarm(world: &mut World, at: &str, words: &str) {
    let alarms = world.get(at).alarms();
    assert!(alarms.iter().any(|said| said.contains(words)), "{alarms:?}");
}

#[test]
fn each_of_two_learns_the_name_and_the_root_of_the_other_and_forgets_them_when_that_is_taken_back()
{
    let mut world = star();
    let pair = introduce(&mut world, "left", "right", DAY).unwrap();
    world.run(crate::net::LATENCY);
    for (at, other) in [("left", "right"), ("right", "left")] {
        let told = known(&mut world, at).unwrap();
        let [told] = &told[..] else {
            panic!("{told:?}");
        };
        let root = world.get(other).root.clone();
        assert_eq!((told.trust_domain.as_str(), told.roots.len()), (other, 1));
        assert!(told.has_root(&pin(&root)));
        assert_eq!((told.number, told.until), (pair.number, pair.until));
        assert_eq!(told.ranges, world.get(other).ranges);
        let events = &world.get(at).events;
        assert!(events.contains(&PeerEvent::IntroductionsChanged(domain("hub"))));
    }
    // Nobody else is believed or spoken with by that alone: who is a peer, the operator's program says.
    assert_eq!(world.get("left").peering.peers().count(), 1);
    // All of them know it after a restart, and without a session.
    for name in ["hub", "left", "right"] {
        world.restart(name);
    }
    assert_eq!(known(&mut world, "left").unwrap().len(), 1);
    // Taken back while it is away, it hears that when it comes.
    let withdrawn = world.with("hub", |hub, now| {
        hub.peering.withdraw(&domain("right"), &domain("left"), now)
    });
    assert_eq!(withdrawn.unwrap(), pair);
    assert_eq!(known(&mut world, "left").unwrap().len(), 1);
    world.connect("hub", "left");
    world.connect("hub", "right");
    world.run(secs(1));
    assert_eq!(known(&mut world, "left"), Some(vec![]));
    assert_eq!(known(&mut world, "right"), Some(vec![]));
    assert_eq!(world.get("left").alarms(), Vec::<&str>::new());
}

#[test]
fn nobody_is_introduced_who_is_not_vouched_for() {
    let mut world = star();
    let refused = |made: Result<Pair, IntroduceError>| made.unwrap_err().to_string();
    let (same, stranger) = (("left", "left"), ("left", "stranger"));
    let said = refused(introduce(&mut world, same.0, same.1, DAY));
    assert!(said.contains("not to itself"), "{said}");
    let said = refused(introduce(&mut world, stranger.0, stranger.1, DAY));
    assert!(said.contains("stranger is no peer"), "{said}");
    let said = refused(introduce(&mut world, "left", "hub", DAY));
    assert!(said.contains("hub is no peer"), "{said}");
    let said = refused(introduce(&mut world, "left", "right", secs(1)));
    assert!(said.contains("1 minute to 365 days"), "{said}");
    introduce(&mut world, "left", "right", DAY).unwrap();
    world.run(secs(1));
    // Revoked here, it is vouched for no more; taken back, it is again.
    let revoke = |hub: &mut Cluster, now| {
        let reason = "stolen";
        hub.peering
            .revoke(&domain("right"), Target::Cluster, reason, now)
    };
    world.with("hub", revoke).unwrap();
    world.run(secs(1));
    assert_eq!(known(&mut world, "left"), Some(vec![]));
    let said = refused(introduce(&mut world, "left", "right", DAY));
    assert!(said.contains("right is revoked here"), "{said}");
    world.with("hub", |hub, now| {
        let restored = (hub.peering).restore_revoked(&domain("right"), Target::Cluster, now);
        restored.unwrap();
    });
    world.run(secs(1));
    assert_eq!(known(&mut world, "left").unwrap().len(), 1);
    // A peer no more, it is forgotten, and stays so when it comes back.
    let peers = world.get("hub").peers.clone();
    for some in [&peers[..1], &peers[..]] {
        world.with("hub", |hub, now| {
            hub.peering.set_peers(some.to_vec(), now).unwrap();
        });
        world.run(secs(1));
        assert_eq!(known(&mut world, "left"), Some(vec![]));
    }
}

#[test]
fn an_introduction_is_renewed_until_it_is_taken_back() {
    let mut world = star();
    let pair = introduce(&mut world, "left", "right", DAY).unwrap();
    world.run(DAY / 2 + secs(1));
    let told = known(&mut world, "left").unwrap().remove(0);
    assert!(told.until > pair.until, "at half of its life");
    assert_eq!(told.number, pair.number, "the same introduction");
    // The one who was introduced is none the wiser without its introducer.
    world.disconnect("hub", "left");
    world.run(DAY * 3);
    assert_eq!(known(&mut world, "left").unwrap().remove(0), told);
}

#[test]
fn an_old_altered_forged_or_retargeted_list_is_refused() {
    let mut world = star();
    introduce(&mut world, "left", "right", DAY).unwrap();
    world.run(secs(1));
    let old = list(&world, "hub", "left");
    let for_right = list(&world, "hub", "right");
    world
        .with("hub", |hub, now| {
            hub.peering.withdraw(&domain("left"), &domain("right"), now)
        })
        .unwrap();
    world.run(secs(1));
    assert_eq!(known(&mut world, "left"), Some(vec![]));
    let stays = |world: &mut World| assert_eq!(known(world, "left"), Some(vec![]));

    world.inject("hub", "left", &old);
    alarm(&mut world, "left", "are older than");
    stays(&mut world);
    // Its memory outlives the process, and a time as no peer.
    world.restart("left");
    world.connect("hub", "left");
    world.run(secs(1));
    world.inject("hub", "left", &old);
    stays(&mut world);
    let peers = world.get("left").peers.clone();
    for some in [vec![], peers] {
        world.with("left", |left, now| {
            left.peering.set_peers(some, now).unwrap();
        });
    }
    world.connect("hub", "left");
    world.run(secs(1));
    let before = world.get("left").alarms().len();
    world.inject("hub", "left", &old);
    assert_eq!(world.get("left").alarms().len(), before + 1);
    stays(&mut world);

    world.inject("hub", "left", &for_right);
    alarm(&mut world, "left", "were made for right");
    stays(&mut world);

    for at in [1, old.len() / 2, old.len() - 1] {
        let mut altered = old.clone();
        altered[at] ^= 1;
        world.inject("hub", "left", &altered);
        stays(&mut world);
    }
    // By the key of somebody else, who is a member as well or is none.
    let payload = identity::unproven_payload(&old[1..]).unwrap().to_vec();
    let right = world.get("right").seed;
    for key in [Cluster::key(right), IssuerKey::from_seed(&[99; 32])] {
        let forged = key.sign("introductions", &payload);
        world.say("hub", "left", &PeerMessage::Introductions(forged));
        stays(&mut world);
    }
    let other = Cluster::key(world.get("hub").seed).sign("revocations", &payload);
    world.say("hub", "left", &PeerMessage::Introductions(other));
    stays(&mut world);
    let problems = world.status("left", "hub").problems;
    let refused = |said: &String| said.contains("its introductions are refused");
    assert!(problems.iter().any(refused), "{problems:?}");
}

#[test]
fn a_peer_is_introduced_by_the_ranges_that_it_says_itself() {
    let mut world = star();
    world.with("right", |right, now| {
        let ranges = vec![range(7, "10.77.0.0/16")];
        right.peering.set_own_ranges(ranges, now);
    });
    world.run(secs(1));
    introduce(&mut world, "left", "right", DAY).unwrap();
    world.run(secs(1));
    let told = known(&mut world, "left").unwrap().remove(0);
    assert_eq!(told.ranges, [range(7, "10.77.0.0/16")]);
}

/// For a day after an exchange the old root signs: whoever is introduced by the new one alone would not
/// be believed by who meets it first.
#[test]
fn both_roots_are_told_while_one_is_exchanged() {
    let mut world = star();
    introduce(&mut world, "left", "right", DAY).unwrap();
    world.run(secs(1));
    let (old, new) = (world.get("right").root.clone(), root("right"));
    let announce = |world: &mut World, roots: &[&Vec<u8>]| {
        let roots: Vec<Vec<u8>> = roots.iter().copied().cloned().collect();
        world.with("right", |right, now| {
            let keys = OwnKeys {
                x509_roots: roots,
                issuer_keys: vec![Cluster::key(right.seed).public()],
                carried_labels: None,
            };
            right.peering.set_own_keys(keys, now);
        });
        world.run(secs(1));
        let told = known(world, "left").unwrap().remove(0);
        let known = [&old, &new].map(|root| told.has_root(&pin(root)));
        (told.roots.len(), known)
    };
    assert_eq!(announce(&mut world, &[&new, &old]), (2, [true, true]));
    assert_eq!(announce(&mut world, &[&new]), (1, [false, true]));

    let of_left = pin(&world.get("left").root.clone());
    world.with("right", |right, now| {
        let mut config = right.peers[0].clone();
        config.trust_domain = domain("left");
        config.pin = Some(of_left);
        config.ranges = None;
        let peers = vec![right.peers[0].clone(), config];
        right.peering.set_peers(peers, now).unwrap();
    });
    // Who is believed first by one of several holds the bundle with that alone.
    for (or_roots, believed) in [(vec![], false), (vec![pin(&new)], true)] {
        world.with("left", |left, now| {
            let mut config = left.peers[0].clone();
            config.trust_domain = domain("right");
            config.pin = Some([7; 32]);
            config.ranges = None;
            config.or_roots = or_roots;
            left.peering
                .set_peers(vec![left.peers[0].clone(), config], now)
                .unwrap();
        });
        world.connect("left", "right");
        world.run(secs(1));
        let bundle = world.get("left").peering.bundles().bundle(&domain("right"));
        assert_eq!(bundle.is_some(), believed);
    }
    let roots = world.get("left").peering.roots(&domain("right"));
    assert!(roots.contains(&[7; 32]) && roots.contains(&pin(&new)));
}

/// A hub on an old backup says its lists under numbers above all that it ever said, once it goes on.
#[test]
fn lists_of_a_restored_state_are_above_those_that_were_seen() {
    let mut world = star();
    introduce(&mut world, "left", "right", DAY).unwrap();
    world.run(secs(1));
    let backup = world.get("hub").disk.clone();
    for _ in 0..3 {
        let hub =
            |hub: &mut Cluster, now| hub.peering.withdraw(&domain("left"), &domain("right"), now);
        world.with("hub", hub).unwrap();
        introduce(&mut world, "left", "right", DAY).unwrap();
        world.run(secs(1));
    }
    let before = known(&mut world, "left").unwrap().remove(0).number;
    let at = world.now("hub").unix;
    let own = peering::peers::mark_restored(Some(&backup["own"]), at);
    let disk = &mut world.get("hub").disk;
    *disk = backup;
    disk.insert("own".into(), own.unwrap().unwrap());
    world.restart("hub");
    world.connect("hub", "left");
    world.run(secs(1));
    world
        .with("hub", |hub, now| hub.peering.confirm_restored(true, now))
        .unwrap();
    world.connect("hub", "right");
    world.run(secs(1));
    // The list of the backup, which counts again.
    assert_eq!(known(&mut world, "left").unwrap().remove(0).number, 1);
    let after = introduce(&mut world, "left", "right", DAY).unwrap().number;
    world.run(secs(1));
    assert!(after > before, "{after} {before}");
    for at in ["left", "right"] {
        let told = known(&mut world, at).unwrap().remove(0);
        assert_eq!(
            told.number, after,
            "what was removed under {before} may come back"
        );
        assert!(
            world.get(at).alarms().is_empty(),
            "{:?}",
            world.get(at).alarms()
        );
    }
}
