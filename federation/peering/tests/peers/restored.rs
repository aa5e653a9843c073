//! A gateway on a state of the past, restored from a backup or copied back: it says nothing that its
//! peers would take for newer, undoes no revocation, and goes on when its operator says so.

use handshake::admission::Target;
use peering::{
    peer_messages::{Hello, PeerMessage},
    peers::{RestoreError, Restored, Sequences, mark_restored},
};
use policy::DropReason;

use crate::{
    exchange::digest_hash,
    net::{World, domain, hash, secs},
    revoked::{account, believed, revoke},
};

const REVOKED: Result<(), DropReason> = Err(DropReason::Revoked);

fn api() -> Target {
    Target::Identity(account("west", "api"))
}

/// West makes a backup, and then goes on: other policies, other bundles, a revocation.
fn world() -> (World, std::collections::BTreeMap<String, Vec<u8>>) {
    let mut world = World::mesh(&["east", "west", "north"]);
    revoke(
        &mut world,
        "west",
        "west",
        Target::Identity(account("west", "old")),
    );
    world.run(secs(1));
    let backup = world.get("west").disk.clone();
    for name in ["second", "third", "fourth"] {
        world.with("west", |west, now| west.set_policy(name, now));
        world.run(secs(6 * 3600));
    }
    revoke(&mut world, "west", "west", api());
    world.run(secs(1));
    (world, backup)
}

/// West on the backup: with its mark, as `landbridge restore` puts it back, or without.
fn go_back(world: &mut World, mut disk: std::collections::BTreeMap<String, Vec<u8>>, marked: bool) {
    if marked {
        let at = world.now("west").unix;
        let own = mark_restored(Some(&disk["own"]), at).unwrap().unwrap();
        disk.insert("own".into(), own);
    }
    world.get("west").disk = disk;
    world.get("west").policy = "of the past".into();
    world.restart("west");
    world.get("west").events.clear();
}

fn seen(world: &mut World, of: &str) -> (Option<u64>, Option<u64>) {
    let status = world.status(of, "west");
    (status.bundle_sequence, status.digest_sequence)
}

fn problems(world: &mut World) -> String {
    let now = world.now("west").unix;
    world.get("west").peering.status(now).problems.join("\n")
}

fn confirm(world: &mut World, without: bool) -> Result<Sequences, RestoreError> {
    world.with("west", |west, now| {
        west.peering.confirm_restored(without, now)
    })
}

fn restored(world: &mut World) -> Option<Restored> {
    world.get("west").peering.restored()
}

/// Whatever west said since: none of it has a number.
fn says_nothing(world: &World, since: usize, to: &str) -> bool {
    let said = world.sent[since..].iter();
    let mut said = said.filter(|(from, at, _)| from.as_str() == "west" && at.as_str() == to);
    said.all(|(_, _, bytes)| !matches!(bytes[0], 2 | 4 | 5 | 13 | 15 | 17))
}

#[test]
fn a_restore_from_an_old_backup_is_refused_until_it_is_confirmed() {
    let (mut world, backup) = world();
    let before = seen(&mut world, "east");
    go_back(&mut world, backup, true);
    let since = world.sent.len();
    let all = vec![domain("east"), domain("north")];
    assert_eq!(restored(&mut world), Some(Restored::Waits(all)));
    let said = problems(&mut world);
    assert!(
        said.contains("until east, north said what they have seen"),
        "{said}"
    );
    assert_eq!(
        believed(&mut world, "west", "west", "old"),
        REVOKED,
        "of the backup"
    );

    world.connect("east", "west");
    world.run(secs(6 * 3600));
    assert!(says_nothing(&world, since, "east"));
    let refused = Restored::Refused(vec![domain("east")]);
    assert_eq!(restored(&mut world), Some(refused));
    let said = problems(&mut world);
    let expected = "from an old backup, which knows bundle 1, digest 1, revocations 1; east has seen \
                    bundle 4, digest 4, revocations 2: nothing is said to peers";
    assert!(said.contains(expected), "{said}");
    // What was revoked since is so again, before anybody confirms.
    assert_eq!(believed(&mut world, "west", "west", "api"), REVOKED);
    // It is so after another restart as well.
    world.restart("west");
    world.connect_all();
    world.run(secs(1));
    assert!(matches!(restored(&mut world), Some(Restored::Refused(_))));
    assert!(says_nothing(&world, since, "east") && says_nothing(&world, since, "north"));
    assert_eq!(
        digest_hash(&mut world, "west", "east"),
        Some(hash("fourth"))
    );
    assert!(world.get("east").alarms().is_empty());

    let gone_on = confirm(&mut world, false).unwrap();
    world.run(secs(1));
    assert_eq!(restored(&mut world), None);
    for peer in ["east", "north"] {
        let (bundle, digest) = seen(&mut world, peer);
        assert_eq!(
            (bundle, digest),
            (Some(gone_on.bundle), Some(gone_on.digest))
        );
        assert!(bundle > before.0 && digest > before.1);
        assert_eq!(
            digest_hash(&mut world, "west", peer),
            Some(hash("of the past"))
        );
        assert_eq!(world.status(peer, "west").problems, Vec::<String>::new());
        assert_eq!(believed(&mut world, peer, "west", "api"), REVOKED);
        assert_eq!(believed(&mut world, peer, "west", "old"), REVOKED);
    }
    assert_eq!(problems(&mut world), "");
    assert!(world.get("east").alarms().is_empty());
    assert_eq!(confirm(&mut world, false), Err(RestoreError::Nothing));
    // And stays so: the next restart is one as any other.
    world.restart("west");
    world.connect_all();
    world.run(secs(1));
    assert_eq!(restored(&mut world), None);
    assert_eq!(world.status("east", "west").problems, Vec::<String>::new());
    assert_eq!(world.status("west", "east").problems, Vec::<String>::new());
}

/// Nobody has seen more: it goes on by itself, once all have said so.
#[test]
fn a_restore_of_the_newest_state_goes_on_when_all_peers_were_heard() {
    let (mut world, _) = world();
    let newest = world.get("west").disk.clone();
    go_back(&mut world, newest, true);
    let since = world.sent.len();
    world.connect("east", "west");
    world.run(secs(1));
    assert_eq!(
        restored(&mut world),
        Some(Restored::Waits(vec![domain("north")]))
    );
    assert!(says_nothing(&world, since, "east"), "north may know more");
    world.connect("north", "west");
    world.run(secs(1));
    assert_eq!(restored(&mut world), None);
    assert_eq!(
        digest_hash(&mut world, "west", "east"),
        Some(hash("of the past"))
    );
    assert_eq!(believed(&mut world, "east", "west", "api"), REVOKED);
    assert_eq!(problems(&mut world), "");
}

/// Without the command: a directory that was copied back. Whoever saw more is told nothing.
#[test]
fn an_old_copy_of_the_state_is_found_out_by_who_has_seen_more() {
    let (mut world, backup) = world();
    go_back(&mut world, backup, false);
    let since = world.sent.len();
    world.connect_all();
    world.run(secs(6 * 3600));
    assert!(says_nothing(&world, since, "east") && says_nothing(&world, since, "north"));
    assert_eq!(
        digest_hash(&mut world, "west", "east"),
        Some(hash("fourth"))
    );
    let said = world.status("west", "east").problems.join("\n");
    assert!(
        said.contains(
            "it has seen bundle 4, digest 4, revocations 2 of this cluster, and bundle 1, digest 1, \
             revocations 1 is what this gateway remembers"
        ),
        "{said}"
    );
    let alarms = world.get("west").alarms().join("\n");
    assert!(alarms.contains("an old copy of its state"), "{alarms}");
    for at in ["east", "west", "north"] {
        assert_eq!(believed(&mut world, at, "west", "api"), REVOKED, "{at}");
    }
    confirm(&mut world, false).unwrap();
    world.run(secs(1));
    assert_eq!(
        digest_hash(&mut world, "west", "east"),
        Some(hash("of the past"))
    );
    for at in ["east", "west", "north"] {
        assert_eq!(believed(&mut world, at, "west", "api"), REVOKED, "{at}");
    }
    assert_eq!(world.status("west", "east").problems, Vec::<String>::new());
}

/// A start makes new numbers, so a copy that is one step old has the numbers of what it forgot.
#[test]
fn a_copy_that_is_one_step_old_is_found_out_too() {
    let mut world = World::mesh(&["east", "west"]);
    let backup = world.get("west").disk.clone();
    world.with("west", |west, now| west.set_policy("second", now));
    revoke(&mut world, "west", "west", api());
    world.run(secs(1));
    go_back(&mut world, backup, false);
    // One of the same number that says something else.
    revoke(
        &mut world,
        "west",
        "west",
        Target::Identity(account("west", "other")),
    );
    world.connect_all();
    world.run(secs(1));
    assert_eq!(
        digest_hash(&mut world, "west", "east"),
        Some(hash("second"))
    );
    assert!(
        world.get("east").alarms().is_empty(),
        "nothing contradicts itself"
    );
    confirm(&mut world, false).unwrap();
    world.run(secs(1));
    for name in ["api", "other"] {
        assert_eq!(
            believed(&mut world, "east", "west", name),
            REVOKED,
            "{name}"
        );
        assert_eq!(
            believed(&mut world, "west", "west", name),
            REVOKED,
            "{name}"
        );
    }
}

/// Without the list that a peer has seen, something would be believed again.
#[test]
fn revocations_that_are_not_given_back_need_a_word_of_their_own() {
    let (mut world, backup) = world();
    go_back(&mut world, backup, true);
    world.connect("east", "west");
    let hello = world.sent.iter().rfind(|(from, to, bytes)| {
        from.as_str() == "east" && to.as_str() == "west" && bytes[0] == 1
    });
    // East greets, and is gone before it answers.
    let hello = hello.unwrap().2.clone();
    world.inject("east", "west", &hello);
    world.disconnect("east", "west");
    let expected = RestoreError::Revocations {
        peer: domain("east"),
        theirs: 2,
    };
    assert_eq!(confirm(&mut world, false), Err(expected));
    assert_eq!(believed(&mut world, "west", "west", "api"), Ok(()));
    confirm(&mut world, true).unwrap();
    assert_eq!(restored(&mut world), None);
}

/// Only what this cluster signed, and forgot, is taken back.
#[test]
fn a_peer_cannot_make_up_what_was_revoked_nor_bring_back_what_was_taken_back() {
    let mut world = World::mesh(&["east", "west"]);
    revoke(&mut world, "west", "west", api());
    world.run(secs(1));
    let lists = |world: &World| -> Vec<Vec<u8>> {
        let said = world
            .sent
            .iter()
            .filter(|(from, _, bytes)| from.as_str() == "west" && bytes[0] == 17);
        said.map(|(_, _, bytes)| bytes[1..].to_vec()).collect()
    };
    let list = lists(&world).pop().unwrap();
    world.with("west", |west, now| {
        let domain = west.name.clone();
        west.peering.restore_revoked(&domain, api(), now).unwrap();
    });
    world.run(secs(1));
    let returned = |world: &mut World, list: &[u8]| {
        let mut hello = greeting(world);
        hello.seen_revocations = 1_000;
        world.connect("east", "west");
        world.say("east", "west", &PeerMessage::Hello(hello));
        let list = PeerMessage::RevocationsReturned(list.to_vec());
        world.say("east", "west", &list);
        assert!(world.is_connected("east", "west"), "it was asked");
        believed(world, "west", "west", "api")
    };
    assert_eq!(returned(&mut world, &list), Ok(()), "of this process");
    world.restart("west");
    world.connect_all();
    world.run(secs(1));
    assert_eq!(returned(&mut world, &list), Ok(()), "of one before");
    let mut forged = list.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(returned(&mut world, &forged), Ok(()));
    let it_holds = |world: &mut World| {
        let problems = world.status("west", "east").problems.join("\n");
        problems.contains("it holds a list of our revocations")
    };
    assert!(it_holds(&mut world));
    world.connect_all();
    world.run(secs(1));
    assert!(!it_holds(&mut world), "it says so no longer");
    world.say("east", "west", &PeerMessage::RevocationsReturned(forged));
    assert!(!world.is_connected("east", "west"), "nobody asked");
}

/// The last that east said to west.
fn greeting(world: &World) -> Hello {
    let hello = world.sent.iter().rfind(|(from, to, bytes)| {
        from.as_str() == "east" && to.as_str() == "west" && bytes[0] == 1
    });
    match PeerMessage::decode(&hello.unwrap().2).unwrap() {
        Some(PeerMessage::Hello(hello)) => hello,
        other => panic!("no greeting: {other:?}"),
    }
}

/// One that lies about what it has seen is told nothing, and stops nobody else.
#[test]
fn a_peer_that_claims_too_much_hurts_itself_alone() {
    let mut world = World::mesh(&["east", "west", "north"]);
    world.disconnect("east", "west");
    world.restart("west");
    world.connect("north", "west");
    world.connect("east", "west");
    let mut hello = greeting(&world);
    for (claimed, words) in [
        (9, "it has seen bundle 1, digest 9"),
        (u64::MAX, "nobody ever said"),
    ] {
        world.connect("east", "west");
        hello.seen_digest = claimed;
        world.say("east", "west", &PeerMessage::Hello(hello.clone()));
        let said = world.status("west", "east").problems.join("\n");
        assert!(said.contains(words), "{said}");
        let since = world.sent.len();
        let name = format!("after {claimed}");
        world.with("west", |west, now| west.set_policy(&name, now));
        world.run(std::time::Duration::from_millis(10));
        assert!(says_nothing(&world, since, "east"));
        world.run(secs(1));
        assert_eq!(digest_hash(&mut world, "west", "north"), Some(hash(&name)));
    }
    assert_eq!(restored(&mut world), None, "the gateway goes on");
}
