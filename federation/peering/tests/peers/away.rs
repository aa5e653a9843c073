//! A peer that stays away for longer than its rule allows, and what holds of it then.

use std::time::Duration;

use handshake::admission::lasting;
use identity::AwayRule;
use peering::peers::PeerEvent;
use policy::DropReason;

use crate::{
    net::{World, domain, secs},
    revoked::believed,
};

const AWAY: Result<(), DropReason> = Err(DropReason::PeerAway);
const HOUR: Duration = Duration::from_hours(1);

fn set_rule(world: &mut World, rule: Option<&str>) {
    let rule: Option<AwayRule> = rule.map(|rule| rule.parse().unwrap());
    world.with("east", |east, now| {
        let west = domain("west");
        let mut peers = east.peers.iter_mut();
        peers.find(|p| p.trust_domain == west).unwrap().away = rule;
        east.peering.set_peers(east.peers.clone(), now).unwrap();
    });
}

/// East, which may miss west by `rule`, and north, of which there is none.
fn ruled(rule: &str) -> World {
    let mut world = World::mesh(&["east", "west", "north"]);
    set_rule(&mut world, Some(rule));
    world.run(secs(600));
    world
}

fn west(world: &mut World) -> Result<(), DropReason> {
    believed(world, "east", "west", "api")
}

fn problems(world: &mut World) -> String {
    world.status("east", "west").problems.join("\n")
}

/// When the bundle by which credentials of west are checked ends.
fn bundle_ends(world: &mut World) -> u64 {
    let peering = &world.get("east").peering;
    let bundles = lasting(peering.bundles(), peering.restrictions());
    bundles.bundle(&domain("west")).unwrap().expires_at.0
}

#[test]
fn a_peer_that_is_away_for_too_long_is_closed_until_it_is_heard_again() {
    let mut world = ruled("1h:closed");
    world.disconnect("east", "west");
    world.disconnect("east", "north");
    world.run(HOUR - secs(1));
    assert_eq!(west(&mut world), Ok(()), "to the second");
    world.get("east").events.clear();
    world.run(secs(1));
    assert_eq!(west(&mut world), AWAY);
    assert_eq!(believed(&mut world, "east", "north", "api"), Ok(()));
    assert_eq!(believed(&mut world, "east", "east", "api"), Ok(()));
    let events = &world.get("east").events;
    assert!(
        events.contains(&PeerEvent::RestrictionsChanged),
        "told to gateway and agents: {events:?}"
    );
    let said = problems(&mut world);
    let expected = "heard last at 2027-01-15T08:10:01Z, and may be away for 1h: nothing of it is \
                    admitted until it is heard again";
    assert!(said.contains(expected), "{said}");
    let status = world.status("east", "west");
    assert_eq!(status.away.as_deref(), Some("1h:closed"));
    assert_eq!(status.heard.as_deref(), Some("2027-01-15T08:10:01Z"));
    // A dialled connection that does not greet is no sign of life.
    world.run(HOUR);
    assert_eq!(west(&mut world), AWAY);
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(west(&mut world), Ok(()));
    assert_eq!(problems(&mut world), "");
    assert_eq!(world.status("east", "west").heard, None);
}

#[test]
fn sessions_that_come_and_go_within_the_limit_close_nothing() {
    let mut world = ruled("1h:closed");
    for _ in 0..8 {
        world.disconnect("east", "west");
        world.run(secs(50 * 60));
        assert_eq!(west(&mut world), Ok(()));
        world.connect("east", "west");
        world.run(secs(60));
    }
}

/// Whoever restarts the gateway does not give the peer more time, nor does a crash without a word.
#[test]
fn how_long_a_peer_is_away_outlives_restarts() {
    let mut world = ruled("1h:closed");
    world.disconnect("east", "west");
    for _ in 0..6 {
        world.run(secs(9 * 60));
        world.restart("east");
        assert_eq!(west(&mut world), Ok(()));
    }
    world.run(secs(6 * 60));
    assert_eq!(west(&mut world), AWAY);
    world.restart("east");
    assert_eq!(west(&mut world), AWAY, "from the start on");
    // A gateway that was off for longer than the limit does not know its peer either.
    let mut world = ruled("1h:closed");
    world.disconnect("east", "west");
    let disk = world.get("east").disk.clone();
    world.run(2 * HOUR);
    world.get("east").disk = disk;
    world.restart("east");
    assert_eq!(west(&mut world), AWAY);
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(west(&mut world), Ok(()));
}

/// Neither clock alone is believed: that one was set back gives no peer more time.
#[test]
fn a_clock_that_is_set_back_gives_nobody_more_time() {
    let mut world = ruled("1h:closed");
    world.disconnect("east", "west");
    world.run(secs(10 * 60));
    world.get("east").skew = -(3 * 3600 * 1000);
    world.run(secs(50 * 60));
    assert_eq!(west(&mut world), AWAY, "counted by the other clock");
    // After a restart there is no other clock: how long it was is not known.
    let mut world = ruled("1h:closed");
    world.disconnect("east", "west");
    world.get("east").skew = -(3 * 3600 * 1000);
    world.restart("east");
    assert_eq!(west(&mut world), AWAY);
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(west(&mut world), Ok(()));
    // Half a minute is what clocks may differ anyway.
    let mut world = ruled("1h:closed");
    world.disconnect("east", "west");
    world.get("east").skew = -29_000;
    world.restart("east");
    assert_eq!(west(&mut world), Ok(()));
    // One that is set ahead closes, as it ends bundles.
    world.get("east").skew = 3 * 3600 * 1000;
    world.run(secs(60));
    assert_eq!(west(&mut world), AWAY);
}

#[test]
fn a_peer_that_is_kept_is_believed_beyond_the_end_of_its_bundle() {
    let mut world = ruled("7d:keep");
    let end = bundle_ends(&mut world);
    world.disconnect("east", "west");
    while world.now("east").unix.0 < end {
        assert!(bundle_ends(&mut world) > world.now("east").unix.0 + 240_000);
        world.run(secs(60));
    }
    world.run(48 * HOUR);
    assert_eq!(west(&mut world), Ok(()));
    assert_eq!(bundle_ends(&mut world), u64::MAX);
    let said = problems(&mut world);
    assert!(
        said.contains(
            "2 d 23 h ago, and may be away for 7d: what it said last is kept in force, its bundle"
        ),
        "{said}"
    );
    assert!(!said.contains("none of its pods is believed"), "{said}");
    // It is back: what it says now holds, and ends.
    world.connect("east", "west");
    world.run(secs(1));
    let now = world.now("east").unix.0;
    assert!((now..now + 25 * 3_600_000).contains(&bundle_ends(&mut world)));
    assert_eq!(problems(&mut world), "");
}

/// What is not written is not extended: a bundle ends.
#[test]
fn without_a_rule_a_bundle_ends_and_with_closed_too() {
    for rule in [None, Some("7d:closed")] {
        let mut world = World::mesh(&["east", "west", "north"]);
        set_rule(&mut world, rule);
        world.disconnect("east", "west");
        world.run(25 * HOUR);
        let now = world.now("east").unix.0;
        assert!(bundle_ends(&mut world) < now);
        let said = problems(&mut world);
        assert!(said.contains("its bundle expired at"), "{said}");
    }
}

/// A rule is configuration: it comes and goes with it, and counts from when the peer was heard.
#[test]
fn a_rule_counts_from_the_last_word_whenever_it_was_written() {
    let mut world = World::mesh(&["east", "west", "north"]);
    world.disconnect("east", "west");
    world.run(2 * HOUR);
    assert_eq!(west(&mut world), Ok(()));
    set_rule(&mut world, Some("1h:closed"));
    assert_eq!(west(&mut world), AWAY);
    set_rule(&mut world, Some("3h:closed"));
    assert_eq!(west(&mut world), Ok(()));
    world.run(HOUR);
    assert_eq!(west(&mut world), AWAY);
    set_rule(&mut world, Some("3h:keep"));
    assert_eq!(west(&mut world), Ok(()));
    set_rule(&mut world, None);
    assert_eq!(west(&mut world), Ok(()));
}
