//! What is revoked reaches every peer, outlives restarts, and is never taken back by an old list.

use handshake::admission::{CredentialId, Target};
use identity::{ClaimLimits, Claims, NamePattern, SpiffeId, UnixMillis};
use peering::{
    peer_messages::PeerMessage,
    peers::{PeerEvent, RevokeError},
};
use policy::{DropReason, KnownKeys};

use crate::net::{World, domain, secs};

pub fn account(cluster: &str, name: &str) -> SpiffeId {
    SpiffeId::workload(&domain(cluster), "shop", name).unwrap()
}

fn claims(cluster: &str, name: &str) -> Claims {
    Claims {
        subject: account(cluster, name),
        issued_at: UnixMillis(0),
        expires_at: UnixMillis(u64::MAX),
        id: [7; 16],
        agent_key: [1; 32],
        pod: name.into(),
        pod_uid: "uid".into(),
        labels: identity::Labels::default(),
        namespace_labels: identity::Labels::default(),
        zone: None,
        named_ports: vec![],
        assurance: identity::Assurance::Agent,
        generation: 1,
    }
}

/// What `at` makes of the account `name` of `of`.
pub fn believed(world: &mut World, at: &str, of: &str, name: &str) -> Result<(), DropReason> {
    let restricted = world.get(at).peering.restrictions().clone();
    let pods = handshake::credentials::PodStates::default();
    handshake::admission::Admission::new(pods, restricted, KnownKeys::all())
        .check(&claims(of, name))
}

pub fn revoke(world: &mut World, at: &str, of: &str, target: Target) {
    let revoked = world.with(at, |cluster, now| {
        let peering = &mut cluster.peering;
        peering.revoke(&domain(of), target, "stolen", now)
    });
    revoked.unwrap();
}

const REVOKED: Result<(), DropReason> = Err(DropReason::Revoked);

#[test]
fn what_a_cluster_revokes_of_itself_holds_everywhere_until_it_takes_it_back() {
    let mut world = World::mesh(&["east", "west", "north"]);
    let target = || Target::Identity(account("west", "api"));
    revoke(&mut world, "west", "west", target());
    assert_eq!(
        believed(&mut world, "west", "west", "api"),
        REVOKED,
        "at once"
    );
    // One way, and no more.
    world.run(crate::net::LATENCY);
    for at in ["east", "north"] {
        assert_eq!(believed(&mut world, at, "west", "api"), REVOKED);
        assert_eq!(believed(&mut world, at, "west", "db"), Ok(()));
        assert_eq!(believed(&mut world, at, "east", "api"), Ok(()));
        let events = &world.get(at).events;
        assert!(events.contains(&PeerEvent::RestrictionsChanged));
    }
    // Whoever was not there hears it when it comes, and nobody forgets it.
    world.restart("east");
    assert_eq!(
        believed(&mut world, "east", "west", "api"),
        REVOKED,
        "by its disk"
    );
    world.restart("west");
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
    assert_eq!(believed(&mut world, "west", "west", "api"), REVOKED);
    let taken = world.with("west", |west, now| {
        west.peering.restore_revoked(&domain("west"), target(), now)
    });
    assert_eq!(taken.unwrap().reason, "stolen");
    world.run(secs(1));
    assert_eq!(believed(&mut world, "east", "west", "api"), Ok(()));
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
}

#[test]
fn what_is_revoked_of_a_peer_holds_here_alone() {
    let mut world = World::mesh(&["east", "west", "north"]);
    let sent = world.sent.len();
    revoke(
        &mut world,
        "east",
        "west",
        Target::Identity(account("west", "api")),
    );
    world.run(secs(1));
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
    assert_eq!(believed(&mut world, "north", "west", "api"), Ok(()));
    assert_eq!(believed(&mut world, "west", "west", "api"), Ok(()));
    let told = &world.sent[sent..];
    assert!(
        told.iter().all(|(_, _, bytes)| bytes[0] != 17),
        "nobody was told"
    );
    assert!(world.is_connected("east", "west"), "the rest of it goes on");
    world.restart("east");
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
}

/// Whoever was no peer for a time says all of it again: nothing that it revoked is believed afterwards.
#[test]
fn a_peer_that_left_and_came_back_is_believed_as_little_as_before() {
    let mut world = World::mesh(&["east", "west"]);
    let target = Target::Identity(account("west", "api"));
    revoke(&mut world, "west", "west", target);
    world.run(secs(1));
    for restarted in [false, true] {
        let peers = world.get("east").peers.clone();
        world.with("east", |east, now| {
            east.peering.set_peers(Vec::new(), now).unwrap();
        });
        assert_eq!(
            believed(&mut world, "east", "west", "api"),
            Ok(()),
            "not a peer"
        );
        if restarted {
            world.get("east").peers.clear();
            world.restart("east");
        }
        world.get("east").peers.clone_from(&peers);
        world.with("east", |east, now| {
            east.peering.set_peers(peers, now).unwrap();
        });
        world.connect("east", "west");
        world.run(secs(1));
        assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
        assert!(world.get("east").alarms().is_empty());
    }
}

/// It has no session either, whoever dials, until it is taken back.
#[test]
fn a_cluster_that_is_revoked_has_no_session() {
    let mut world = World::mesh(&["east", "west"]);
    revoke(&mut world, "east", "west", Target::Cluster);
    assert!(!world.is_connected("east", "west"));
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
    world.connect("east", "west");
    assert!(!world.is_connected("east", "west"));
    let (_, reason) = world.get("east").closed.last().unwrap().clone();
    assert_eq!(reason, "revoked: stolen");
    let problems = world.status("east", "west").problems;
    assert!(
        problems[0].starts_with("revoked here since"),
        "{problems:?}"
    );
    world
        .with("east", |east, now| {
            east.peering
                .restore_revoked(&domain("west"), Target::Cluster, now)
        })
        .unwrap();
    world.connect("east", "west");
    world.run(secs(1));
    assert!(world.is_connected("east", "west"));
    assert_eq!(believed(&mut world, "east", "west", "api"), Ok(()));
}

/// It can still say so, and take it back.
#[test]
fn a_cluster_that_revokes_itself_keeps_its_sessions() {
    let mut world = World::mesh(&["east", "west"]);
    revoke(&mut world, "west", "west", Target::Cluster);
    world.run(secs(1));
    assert!(world.is_connected("east", "west"));
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
}

#[test]
fn words_that_mean_the_same_are_one_revocation() {
    let mut world = World::mesh(&["east", "west"]);
    let labels = |pods: &str| Target::Labels {
        pods: pods.into(),
        namespaces: None,
    };
    revoke(&mut world, "west", "west", labels("app=='api'"));
    let now = world.now("west");
    let peering = &mut world.get("west").peering;
    let again = peering.revoke(&domain("west"), labels("app == \"api\""), "x", now);
    assert!(matches!(again, Err(RevokeError::Already(..))), "{again:?}");
    let unknown = peering.revoke(&domain("south"), Target::Cluster, "x", now);
    assert_eq!(unknown, Err(RevokeError::Unknown(domain("south"))));
    let foreign = Target::Identity(account("east", "api"));
    let foreign = peering.revoke(&domain("west"), foreign, "x", now);
    assert!(matches!(foreign, Err(RevokeError::Invalid(_))));
    let taken = peering.restore_revoked(&domain("west"), labels("(app == 'api')"), now);
    assert!(taken.is_ok(), "{taken:?}");
    let again = peering.restore_revoked(&domain("west"), labels("app=='api'"), now);
    assert!(matches!(again, Err(RevokeError::Not { .. })));
}

/// Rows 18 and 19: nobody brings an old list back, signs for another, or says two things under one
/// number.
#[test]
fn an_old_forged_or_foreign_list_is_refused() {
    let mut world = World::mesh(&["east", "west", "north"]);
    let first = Target::Identity(account("west", "first"));
    revoke(&mut world, "west", "west", first);
    world.run(secs(1));
    let old = lists(&world, "west");
    revoke(
        &mut world,
        "west",
        "west",
        Target::Identity(account("west", "second")),
    );
    world.run(secs(1));
    assert_eq!(believed(&mut world, "east", "west", "second"), REVOKED);
    for restarted in [false, true] {
        if restarted {
            world.restart("east");
            world.connect("east", "west");
            world.run(secs(1));
        }
        world.get("east").events.clear();
        world.inject("west", "east", &old[0]);
        assert_eq!(believed(&mut world, "east", "west", "second"), REVOKED);
        let alarms = world.get("east").alarms().join("\n");
        assert!(alarms.contains("are older than 2"), "{alarms}");
    }
    // North's own list, brought by west; and one that nobody of west signed.
    revoke(
        &mut world,
        "north",
        "north",
        Target::Identity(account("north", "api")),
    );
    world.run(secs(1));
    let north = lists(&world, "north");
    world.inject("west", "east", &north[0]);
    let problems = world.status("east", "west").problems.join("\n");
    assert!(
        problems.contains("its revocations are refused"),
        "{problems}"
    );
    let mut forged = old[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    world.inject("west", "east", &forged);
    assert_eq!(believed(&mut world, "east", "west", "second"), REVOKED);
    assert!(world.is_connected("east", "west"));
    world.say("west", "east", &PeerMessage::Revocations(vec![0xff; 100]));
    assert_eq!(believed(&mut world, "east", "west", "second"), REVOKED);
}

#[test]
fn nothing_is_revoked_or_told_before_it_is_stored() {
    let mut world = World::mesh(&["east", "west"]);
    world.get("west").disk_full = true;
    revoke(&mut world, "west", "west", Target::Cluster);
    world.run(secs(1));
    assert_eq!(believed(&mut world, "east", "west", "api"), Ok(()));
    world.get("west").disk_full = false;
    world.run(secs(1));
    world.with("west", |_, _| {});
    world.run(secs(1));
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
}

/// A credential lives for an hour at most: so does the memory that it is revoked.
#[test]
fn revoked_credentials_are_forgotten_when_they_expired_everywhere() {
    let mut world = World::mesh(&["east", "west"]);
    let credential = Target::Credential(CredentialId([7; 16]));
    revoke(&mut world, "west", "west", credential);
    world.run(secs(3600));
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
    world.run(secs(6 * 3600));
    assert!(world.get("west").peering.revoked_here().is_empty());
    assert_eq!(believed(&mut world, "east", "west", "api"), Ok(()));
}

/// What a peer may claim is configuration: it comes and goes with it, and is of that peer alone.
#[test]
fn limits_hold_as_long_as_they_are_configured() {
    let mut world = World::mesh(&["east", "west", "north"]);
    let limits = |namespaces: &[&str]| ClaimLimits {
        namespaces: namespaces
            .iter()
            .map(|name| NamePattern::new(name).unwrap())
            .collect(),
        ..ClaimLimits::default()
    };
    let configure = |world: &mut World, namespaces: &[&str]| {
        world.with("east", |east, now| {
            east.peers
                .iter_mut()
                .find(|peer| peer.trust_domain.as_str() == "west")
                .unwrap()
                .limits = limits(namespaces);
            let peers = east.peers.clone();
            east.peering.set_peers(peers, now).unwrap();
        });
        believed(world, "east", "west", "api")
    };
    let refused = Err(DropReason::ClaimNotAccepted);
    assert_eq!(configure(&mut world, &["bank"]), refused);
    assert!(world.is_connected("east", "west"), "its session goes on");
    assert_eq!(believed(&mut world, "east", "north", "api"), Ok(()));
    assert_eq!(configure(&mut world, &["bank", "shop"]), Ok(()));
    assert_eq!(configure(&mut world, &[]), Ok(()));
    // What is offered to it comes by the same way.
    world.with("east", |east, now| {
        for peer in &mut east.peers {
            peer.offer = limits(&["bank"]);
        }
        let peers = east.peers.clone();
        east.peering.set_peers(peers, now).unwrap();
    });
    let restricted = world.get("east").peering.restrictions();
    let offer = |of: &str| &restricted[&domain(of)].restrictions().offer;
    assert_eq!(
        (offer("west"), offer("north")),
        (&limits(&["bank"]), &limits(&["bank"]))
    );
}

/// The lists that `from` sent, oldest first.
fn lists(world: &World, from: &str) -> Vec<Vec<u8>> {
    let sent = world.sent.iter();
    let of = sent.filter(|(by, _, bytes)| by.as_str() == from && bytes[0] == 17);
    of.map(|(_, _, bytes)| bytes.clone()).collect()
}
