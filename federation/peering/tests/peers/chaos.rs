//! Any order of losses, restarts, changes and garbage: nothing panics, nothing false is believed,
//! and once all is connected again everybody knows all.

use std::collections::BTreeSet;

use crate::net::{World, domain, hash, offer, policy, secs};
use policy::OfferedPart;
use proptest::prelude::*;

const NAMES: [&str; 3] = ["east", "north", "west"];

#[derive(Clone, Debug)]
enum Do {
    Connect(usize, usize),
    Disconnect(usize, usize),
    Restart(usize),
    Policy(usize, u8),
    Record(usize, u8),
    FullDisk(usize, bool),
    Wait(u32),
    /// What the one offers to the other is narrowed, or is all again.
    Offer(usize, usize, bool),
    /// A message that was sent before, on a session of today: another's if it is signed.
    Replay(usize, usize, prop::sample::Index),
    /// A kind of a message, mostly one that there is, with a body that is none.
    Garbage(usize, usize, Vec<u8>),
    /// A message that was sent before, with one byte changed.
    Altered(usize, usize, prop::sample::Index, prop::sample::Index, u8),
}

fn action() -> impl Strategy<Value = Do> {
    let pair = || (0..3usize, 1..3usize).prop_map(|(a, step)| (a, (a + step) % 3));
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => pair().prop_map(|(a, b)| Do::Connect(a, b)),
        2 => pair().prop_map(|(a, b)| Do::Disconnect(a, b)),
        1 => (0..3usize).prop_map(Do::Restart),
        3 => (0..3usize, any::<u8>()).prop_map(|(a, n)| Do::Policy(a, n)),
        3 => (0..3usize, any::<u8>()).prop_map(|(a, n)| Do::Record(a, n)),
        1 => (0..3usize, any::<bool>()).prop_map(|(a, full)| Do::FullDisk(a, full)),
        2 => (pair(), any::<bool>()).prop_map(|((a, b), narrow)| Do::Offer(a, b, narrow)),
        4 => prop_oneof![0..50u32, 50..20_000_000u32].prop_map(Do::Wait),
        2 => (pair(), index()).prop_map(|((a, b), i)| Do::Replay(a, b, i)),
        2 => (pair(), 0..24u8, any::<Vec<u8>>()).prop_map(|((a, b), kind, mut bytes)| {
            bytes.insert(0, kind);
            Do::Garbage(a, b, bytes)
        }),
        2 => (pair(), index(), index(), any::<u8>())
            .prop_map(|((a, b), i, at, byte)| Do::Altered(a, b, i, at, byte)),
    ]
}

/// Policies that each cluster ever had: nothing else may ever be believed to be its own.
type Policies = [BTreeSet<String>; 3];

fn perform(world: &mut World, policies: &mut Policies, action: Do) {
    match action {
        Do::Connect(a, b) => world.connect(NAMES[a], NAMES[b]),
        Do::Disconnect(a, b) => world.disconnect(NAMES[a], NAMES[b]),
        Do::Restart(a) => world.restart(NAMES[a]),
        Do::Policy(a, number) => {
            let name = format!("policy-{number}");
            policies[a].insert(name.clone());
            world.with(NAMES[a], |cluster, now| cluster.set_policy(&name, now));
        }
        Do::Record(a, number) => world.with(NAMES[a], |cluster, _| {
            let generation = cluster.own_records.len() as u64 + 1;
            cluster.record(&format!("pod-{number}"), generation);
        }),
        Do::FullDisk(a, full) => {
            world.get(NAMES[a]).disk_full = full;
            world.pump();
        }
        Do::Offer(a, b, narrow) => world.with(NAMES[a], |cluster, now| {
            let namespaces: &[&str] = if narrow { &["shop"] } else { &[] };
            cluster.offer(NAMES[b], namespaces, now);
        }),
        Do::Wait(ms) => world.run(std::time::Duration::from_millis(ms.into())),
        Do::Replay(a, b, index) => {
            if !world.sent.is_empty() && world.is_connected(NAMES[a], NAMES[b]) {
                let (from, _, bytes) = world.sent[index.index(world.sent.len())].clone();
                // What is not signed is the peer's own word on a session that nobody else can
                // write to: only its own may come again, and only what has a sequence.
                if bytes[0] == 4 || (from == domain(NAMES[a]) && matches!(bytes[0], 2 | 9)) {
                    world.inject(NAMES[a], NAMES[b], &bytes);
                }
            }
        }
        Do::Garbage(a, b, bytes) => world.inject(NAMES[a], NAMES[b], &bytes),
        Do::Altered(a, b, index, at, byte) => {
            if !world.sent.is_empty() && world.is_connected(NAMES[a], NAMES[b]) {
                let (_, _, mut bytes) = world.sent[index.index(world.sent.len())].clone();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                if bytes[0] == 4 {
                    world.inject(NAMES[a], NAMES[b], &bytes);
                }
            }
        }
    }
}

/// The hash that those are told to whom less is offered.
fn narrowed(cluster: &str, name: &str) -> [u8; 32] {
    OfferedPart::new(&policy(cluster, name), &offer(&["shop"]), None, None).hash()
}

fn nothing_false_is_believed(world: &mut World, policies: &Policies) {
    for at in NAMES {
        for (i, of) in NAMES.into_iter().enumerate().filter(|(_, of)| *of != at) {
            let its_root = world.get(of).root.clone();
            let it = &world.get(at).peering;
            if let Some(bundle) = it.bundles().bundle(&domain(of)) {
                assert_eq!(bundle.x509_roots, [its_root]);
            }
            if let Some(digest) = it.digest(&domain(of)) {
                let known = policies[i].iter().find(|name| {
                    let hashes = [hash(name), narrowed(of, name)];
                    hashes.contains(&digest.hash)
                });
                let name = known.expect("a policy that it never had");
                assert_eq!(digest.part.as_deref(), Some(&policy(of, name)));
            }
            let mut others = world
                .get(at)
                .received
                .iter()
                .filter(|(from, _, _)| *from == domain(of));
            assert!(others.all(|(_, uid, _)| uid.starts_with("pod-")));
        }
    }
}

fn heal(world: &mut World, policies: &Policies) {
    for name in NAMES {
        world.get(name).disk_full = false;
    }
    world.pump();
    world.connect_all();
    world.run(secs(2));
    for at in NAMES {
        for of in NAMES.into_iter().filter(|of| *of != at) {
            let cluster = world.get(of);
            let all = cluster.peering.offered(&domain(at)).unwrap().is_empty();
            let wanted = match all {
                true => hash(&cluster.policy),
                false => narrowed(of, &cluster.policy),
            };
            let digest = world.get(at).peering.digest(&domain(of)).cloned();
            assert_eq!(
                digest.map(|digest| digest.hash),
                Some(wanted),
                "{at} of {of}"
            );
            let bundle = world.get(at).peering.bundles().bundle(&domain(of)).cloned();
            let own = world.get(of).peering.bundles().bundle(&domain(of)).cloned();
            assert_eq!(bundle.unwrap().sequence, own.unwrap().sequence);
            let send = world.get(at).peering.tunnel(&domain(of)).send;
            let receive = world.get(of).peering.tunnel(&domain(at)).receive;
            assert!(!send.is_empty() && send == receive, "{at} to {of}");
            let newest = world.get(of).own_records.len() as u64;
            let received = &world.get(at).received;
            let generations = received.iter().filter(|(from, _, _)| *from == domain(of));
            assert_eq!(generations.map(|r| r.2).max().unwrap_or(0), newest);
            let problems = world.status(at, of).problems;
            let refused = |problem: &String| problem.contains("refused");
            assert!(problems.iter().all(refused), "{at} of {of}: {problems:?}");
        }
    }
    nothing_false_is_believed(world, policies);
}

/// A world takes longer than a case of other tests: a fifth of the usual number, and of
/// `PROPTEST_CASES`. A failure prints its seed and the shortest list of actions.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig {
        cases: default.cases / 5,
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_happens_all_heals(actions in prop::collection::vec(action(), 1..60)) {
        let mut world = World::new(&NAMES);
        let mut policies: Policies = Default::default();
        policies.iter_mut().for_each(|names| { names.insert("first".into()); });
        for action in actions {
            perform(&mut world, &mut policies, action);
            nothing_false_is_believed(&mut world, &policies);
        }
        heal(&mut world, &policies);
    }
}
