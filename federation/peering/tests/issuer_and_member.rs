//! The issuer and the agents of its nodes, in virtual time.
#![allow(clippy::unwrap_used, missing_docs)]

mod node_world;

use std::{collections::BTreeSet, time::Duration};

use identity::{
    IssuerKey, PodChange, PodRecord, SignedRecord, TrustBundle, UnixMillis, VerifiedRecord,
};
use node_world::{START, World, bundle, domain, issuer, labels, now_at, pod, range};
use peering::{
    issuer::{IssuerConfig, IssuerEvent, IssuerState},
    member::MemberEvent,
    node_messages::{AgentPublicKey, Boot, NODE_PROTOCOL, Numbered, ToIssuer, ToNode},
    records::RecordState,
};
use proptest::prelude::*;

fn own_records(world: &World) -> Vec<VerifiedRecord> {
    let east = world.bundles.bundle(&domain("east")).unwrap();
    world
        .issuer
        .own_records(0)
        .map(|(_, record)| record.verify(east, world.now().unix).unwrap())
        .collect()
}

fn problems(world: &World, node: &str) -> Vec<String> {
    let events = &world.agents[node].events;
    let words = |event: &MemberEvent| match event {
        MemberEvent::Problem(words) => Some(words.clone()),
        _ => None,
    };
    events.iter().filter_map(words).collect()
}

#[test]
fn an_agent_gets_what_it_needs_and_nothing_of_other_nodes() {
    let mut world = World::new(&["node1", "node2"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    world.put(pod("node2", "b", "api", "10.1.2.10"));
    let claims = world.proven("node1", "a").unwrap();
    assert_eq!(
        claims.subject.to_string(),
        "spiffe://east/ns/shop/sa/frontend"
    );
    assert_eq!(claims.labels, labels(&[("app", "frontend")]));
    assert_eq!(claims.display_name(), "east/shop/pod-a");
    assert!(world.proven("node2", "b").is_some());
    for (node, other) in [("node1", "b"), ("node2", "a")] {
        let member = &world.agents[node].member;
        assert!(member.pods().all(|pod| pod.workload.uid != other));
        assert!(member.is_complete());
        assert_eq!(member.ranges(), [range()]);
        assert_eq!(
            member.segment_keys(),
            world.issuer.segment_keys().map(Clone::clone)
        );
        assert!(member.bundles().bundle(&domain("east")).is_some());
        let registry: Vec<_> = member.registry().cloned().collect();
        assert_eq!(
            registry,
            world.issuer.registry().cloned().collect::<Vec<_>>()
        );
        assert_eq!(registry.len(), 2);
        assert_eq!(registry[0].addresses, [world.address_of("a").unwrap()]);
        assert_eq!(registry[0].agent_keys.len(), 1);
        assert!(problems(&world, node).is_empty());
    }
}

/// Threat row 22: the node is who the transport says, and gets credentials for its own pods only.
#[test]
fn asking_for_a_pod_of_another_node_gives_nothing() {
    let mut world = World::new(&["node2"]);
    world.put(pod("node2", "b", "api", "10.1.2.10"));
    let now = world.now();
    let say = |world: &mut World, message: ToIssuer| {
        world
            .issuer
            .handle_node_message("node1", &message.encode(), now);
    };
    world.issuer.handle_node_connected("node1", now);
    say(
        &mut world,
        ToIssuer::Hello {
            version: NODE_PROTOCOL,
            boot: Boot::default(),
            position: 0,
            clock: START,
        },
    );
    let key = AgentPublicKey([9; 32]);
    say(&mut world, ToIssuer::Keys(vec![key]));
    let heard = |world: &mut World| {
        let mut heard = Vec::new();
        while let Some((node, bytes)) = world.issuer.poll_transmit() {
            if node == "node1" {
                heard.push(Numbered::decode(&bytes).unwrap().1);
            }
        }
        heard
    };
    heard(&mut world);
    let want = ToIssuer::Want {
        key,
        pods: vec!["b".into()],
    };
    say(&mut world, want);
    assert_eq!(heard(&mut world), []);
    let refused = IssuerEvent::Refused {
        node: "node1".into(),
        pod_uid: "b".into(),
    };
    let mut events = Vec::new();
    while let Some(event) = world.issuer.poll_event() {
        events.push(event);
    }
    assert!(events.contains(&refused), "{events:?}");
    // Nor later, when the pod changes.
    let mut relabelled = world.workloads["b"].clone();
    relabelled.labels = labels(&[("app", "other")]);
    world.issuer.set_workloads(vec![relabelled], now);
    assert!(
        !heard(&mut world)
            .iter()
            .any(|message| matches!(message, ToNode::Credentials(_)))
    );
}

#[test]
fn a_pod_that_the_agent_sees_first_gets_its_credential_when_the_issuer_sees_it() {
    let mut world = World::new(&["node1"]);
    let now = world.now();
    let workload = pod("node1", "a", "frontend", "10.1.1.10");
    let agent = world.agents.get_mut("node1").unwrap();
    agent.member.set_pods(vec![workload.clone()], now);
    world.settle();
    assert!(world.proven("node1", "a").is_none());
    world.issuer.set_workloads(vec![workload], now);
    world.settle();
    assert!(world.proven("node1", "a").is_some(), "without asking again");
}

#[test]
fn relabelling_gives_a_record_of_a_higher_generation_and_a_new_credential() {
    let mut world = World::new(&["node1", "node2"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let before = world.proven("node1", "a").unwrap();
    assert!(own_records(&world).is_empty());
    let mut relabelled = world.workloads["a"].clone();
    relabelled.labels = labels(&[("app", "frontend"), ("quarantine", "true")]);
    world.put(relabelled.clone());
    let after = world.proven("node1", "a").unwrap();
    assert!(after.generation > before.generation);
    assert_eq!(after.labels, relabelled.labels);
    let [record] = &own_records(&world)[..] else {
        panic!("one record");
    };
    assert_eq!(record.record.generation, after.generation);
    assert_eq!(record.claims.as_ref().unwrap().labels, relabelled.labels);
    assert!(world.issuer_events.contains(&IssuerEvent::RecordsChanged));
    // The other node knows, without any flow to tell it.
    let (generation, state) = world.agents["node2"]
        .member
        .records()
        .newest(&domain("east"), "a")
        .unwrap();
    assert_eq!(generation, after.generation);
    let RecordState::Relabelled(claims) = state else {
        panic!("{state:?}")
    };
    assert_eq!(claims.labels, relabelled.labels);
    // A change that policy cannot see is none.
    let mut moved = relabelled;
    moved.address = Some("10.1.1.77".parse().unwrap());
    world.put(moved);
    assert_eq!(
        world.proven("node1", "a").unwrap().generation,
        after.generation
    );
    assert_eq!(own_records(&world).len(), 1);
}

#[test]
fn deleting_gives_gone_and_only_for_pods_that_had_a_credential() {
    let mut world = World::new(&["node1", "node2"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    world.put(pod("node9", "never", "frontend", "10.1.9.10"));
    let before = world.proven("node1", "a").unwrap();
    world.delete("a");
    world.delete("never");
    let [record] = &own_records(&world)[..] else {
        panic!("one record")
    };
    assert_eq!(record.record.change, PodChange::Gone);
    assert!(record.record.generation > before.generation);
    for node in ["node1", "node2"] {
        let records = world.agents[node].member.records();
        let (_, state) = records.newest(&domain("east"), "a").unwrap();
        assert_eq!(*state, RecordState::Gone);
    }
    assert!(world.proven("node1", "a").is_none());
}

/// Threat row 24.
#[test]
fn a_thousand_new_pods_at_one_address_never_speak_as_the_old_one() {
    let mut world = World::new(&["node1", "node2"]);
    for round in 0..1000 {
        let app = if round % 2 == 0 { "frontend" } else { "api" };
        let (old, new) = (format!("uid-{}", round - 1), format!("uid-{round}"));
        world.workloads.remove(&old);
        world
            .workloads
            .insert(new.clone(), pod("node1", &new, app, "10.1.1.10"));
        // Agent and issuer may learn of it in either order, and nothing may have been delivered.
        let all: Vec<_> = world.workloads.values().cloned().collect();
        let now = world.now();
        if round % 3 == 0 {
            let agent = world.agents.get_mut("node1").unwrap();
            agent.member.set_pods(all, now);
        } else {
            world.issuer.set_workloads(all, now);
        }
        for settled in [false, true] {
            if settled {
                world.publish();
            }
            let pods: Vec<_> = world.agents["node1"].member.pods().collect();
            for pod in &pods {
                if let Some(identity) = pod.identity {
                    assert_eq!(identity.claims.pod_uid, pod.workload.uid);
                    assert_eq!(
                        identity.claims.service_account(),
                        pod.workload.service_account
                    );
                }
            }
        }
        assert_eq!(world.proven("node1", &new).unwrap().service_account(), app);
        if round > 0 {
            let records = world.agents["node2"].member.records();
            let gone = records
                .newest(&domain("east"), &old)
                .map(|(_, state)| state);
            assert_eq!(gone, Some(&RecordState::Gone));
        }
    }
}

#[test]
fn two_pods_at_one_address_have_no_identity() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    world.put(pod("node1", "b", "api", "10.1.1.10"));
    assert!(world.proven("node1", "a").is_none());
    assert!(world.proven("node1", "b").is_none());
    world.delete("b");
    assert!(world.proven("node1", "a").is_some());
}

/// Keys turn over every hour and credentials every few minutes, and there is no moment without a
/// valid credential whose key is held.
#[test]
fn hours_of_rotation_leave_no_moment_without_a_credential() {
    let mut world = World::new(&["node1", "node2"]);
    for n in 10..20 {
        world.put(pod(
            "node1",
            &format!("a{n}"),
            "frontend",
            &format!("10.1.1.{n}"),
        ));
        world.put(pod(
            "node2",
            &format!("b{n}"),
            "api",
            &format!("10.1.2.{n}"),
        ));
    }
    let mut credentials = BTreeSet::new();
    let mut keys = BTreeSet::new();
    let mut segment = BTreeSet::new();
    let mut check = |world: &World| {
        for n in 10..20 {
            for (node, uid) in [("node1", format!("a{n}")), ("node2", format!("b{n}"))] {
                let claims = world.proven(node, &uid);
                let claims = claims.unwrap_or_else(|| panic!("{uid} at {:?}", world.elapsed));
                // A peer whose clock is 30 s ahead believes it too.
                let ahead = world.now().unix.after(Duration::from_secs(30));
                assert!(claims.expires_at > ahead);
                credentials.insert(claims.id);
                keys.insert(claims.agent_key);
            }
        }
        for node in ["node1", "node2"] {
            let member = &world.agents[node].member;
            assert_eq!(
                member.segment_keys(),
                world.issuer.segment_keys().map(Clone::clone)
            );
            segment.insert(member.segment_keys()[0].id);
        }
    };
    // What is held changes only when somebody acts: if it is sound just before and just after each
    // act, there is no moment at which it is not.
    let end = Duration::from_hours(6);
    while world.elapsed < end {
        let next = world.next_act(end);
        world.elapsed = world.elapsed.max(next - Duration::from_millis(1));
        check(&world);
        world.step(next);
        check(&world);
    }
    assert!((12..=14).contains(&keys.len()), "{} agent keys", keys.len());
    assert!(
        (6..=7).contains(&segment.len()),
        "{} segment keys",
        segment.len()
    );
    // 580 s of validity, renewed at half of it or a little sooner.
    let each = credentials.len() / 20;
    assert!(
        (74..=90).contains(&each),
        "{each} credentials for each pod in six hours"
    );
    assert!(own_records(&world).is_empty(), "renewal is no news");
}

#[test]
fn an_issuer_that_is_away_leaves_an_expired_identity_and_comes_back() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    world.disconnect("node1");
    world.run(Duration::from_secs(579));
    assert!(world.proven("node1", "a").is_some());
    world.agents.get_mut("node1").unwrap().events.clear();
    world.run(Duration::from_secs(2));
    assert!(
        world.proven("node1", "a").is_none(),
        "nothing valid is left"
    );
    let agent = &world.agents["node1"];
    assert!(agent.events.contains(&MemberEvent::Changed));
    let pod = agent.member.pods().next().unwrap();
    assert_eq!(
        pod.identity.unwrap().claims.pod_uid,
        "a",
        "it still says what the pod is"
    );
    world.run(Duration::from_hours(3));
    world.connect("node1");
    world.settle();
    assert!(world.proven("node1", "a").is_some());
}

#[test]
fn a_restarted_issuer_remembers_who_was_deleted_and_relabelled() {
    let mut world = World::new(&["node1", "node2"]);
    for uid in ["a", "b", "c"] {
        world.put(pod(
            "node1",
            uid,
            "frontend",
            &format!("10.1.1.{}", uid.as_bytes()[0]),
        ));
    }
    world.delete("c");
    let before: Vec<_> = ["a", "b"]
        .map(|uid| world.proven("node1", uid).unwrap())
        .to_vec();
    let state = world.issuer.state();
    let json = serde_json::to_string(&state).unwrap();
    let state: IssuerState = serde_json::from_str(&json).unwrap();
    // While it is away: a is relabelled, b is deleted.
    let mut relabelled = world.workloads["a"].clone();
    relabelled.labels = labels(&[("app", "other")]);
    world.workloads.insert("a".into(), relabelled);
    world.workloads.remove("b");
    world.elapsed += Duration::from_secs(5);
    world.restart_issuer(state);
    world.publish();
    let after = world.proven("node1", "a").unwrap();
    assert_eq!(after.labels, labels(&[("app", "other")]));
    assert!(after.generation > before[0].generation);
    let records = world.agents["node2"].member.records();
    let state = |uid: &str| records.newest(&domain("east"), uid).unwrap();
    assert!(
        matches!(state("a").1, RecordState::Relabelled(claims) if claims.labels == after.labels)
    );
    assert!(state("b").0 > before[1].generation);
    assert_eq!(*state("b").1, RecordState::Gone);
    assert_eq!(*state("c").1, RecordState::Gone);
    // A pod that did not change makes no news, and an agent that knows all hears nothing twice.
    world.put(pod("node1", "d", "frontend", "10.1.1.50"));
    let records = own_records(&world).len();
    let stored = world.issuer.state();
    world.restart_issuer(stored);
    world.publish();
    assert_eq!(own_records(&world).len(), records);
    assert!(world.proven("node1", "d").is_some());
}

/// Threat row 19, for generations and record sequences: a state that is lost or old lets nothing
/// go back.
#[test]
fn numbers_never_go_back_also_without_the_state() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let old = world.issuer.state();
    let mut last = 0;
    for n in 0..50 {
        let mut relabelled = world.workloads["a"].clone();
        relabelled.labels = labels(&[("n", &n.to_string())]);
        world.put(relabelled);
        let record = own_records(&world).pop().unwrap();
        assert!(record.sequence > last && record.record.generation > last);
        last = record.sequence;
        world.elapsed += Duration::from_secs(1);
        if n % 10 == 9 {
            let state = if n % 20 == 9 {
                old.clone()
            } else {
                IssuerState::default()
            };
            world.restart_issuer(state);
            world.run(Duration::from_mins(6));
            assert!(world.proven("node1", "a").unwrap().generation > last);
        }
    }
}

#[test]
fn what_does_not_fit_is_cut_off_and_comes_back_when_it_fits() {
    let mut world = World::new(&["node1", "node2"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let good = world.workloads["a"].clone();
    let before = world.proven("node1", "a").unwrap();
    let mut large = good.clone();
    let value = "v".repeat(63);
    let keys: Vec<_> = (0..15).map(|n| format!("key-{n}")).collect();
    let pairs: Vec<_> = keys
        .iter()
        .map(|key| (key.as_str(), value.as_str()))
        .collect();
    large.labels = labels(&pairs);
    world.put(large);
    assert!(
        world.proven("node1", "a").is_none(),
        "the old labels do not go on"
    );
    let state = |world: &World| {
        let records = world.agents["node2"].member.records();
        let (generation, state) = records.newest(&domain("east"), "a").unwrap();
        (generation, state.clone())
    };
    let (cut, what) = state(&world);
    assert!(cut > before.generation);
    assert_eq!(what, RecordState::Gone);
    let said = |event: &&IssuerEvent| matches!(event, IssuerEvent::Problem(words) if words.contains("key-14 (69 bytes)"));
    world.run(Duration::from_mins(1));
    assert_eq!(world.issuer_events.iter().filter(said).count(), 1, "once");
    world.put(good);
    let after = world.proven("node1", "a").unwrap();
    assert!(after.generation > cut);
    let (back, what) = state(&world);
    assert_eq!(back, after.generation);
    assert!(matches!(what, RecordState::Relabelled(_)));
}

#[test]
fn a_pod_that_comes_back_or_moves_is_believed_again() {
    let mut world = World::new(&["node1", "node2"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let first = world.proven("node1", "a").unwrap();
    world.delete("a");
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let again = world.proven("node1", "a").unwrap();
    assert!(again.generation > first.generation);
    let newest = |world: &World| {
        let records = world.agents["node2"].member.records();
        let (generation, state) = records.newest(&domain("east"), "a").unwrap();
        (generation, *state == RecordState::Gone)
    };
    assert_eq!(newest(&world), (again.generation, false));
    world.put(pod("node2", "a", "frontend", "10.1.2.10"));
    assert!(world.proven("node1", "a").is_none());
    let moved = world.proven("node2", "a").unwrap();
    assert!(moved.generation > again.generation);
    assert_ne!(moved.agent_key, again.agent_key);
    assert_eq!(newest(&world), (moved.generation, false));
}

#[test]
fn an_unprotected_pod_has_an_entry_and_no_credential() {
    let mut world = World::new(&["node1", "node2"]);
    let mut open = pod("node1", "a", "frontend", "10.1.1.10");
    open.unprotected = true;
    world.put(open.clone());
    assert!(world.agents["node1"].member.pods().next().is_none());
    for node in ["node1", "node2"] {
        let unprotected: Vec<_> = world.agents[node].member.unprotected().collect();
        assert_eq!(unprotected, [open.address.unwrap()]);
    }
    assert_eq!(world.issuer.addresses().count(), 0);
    open.unprotected = false;
    world.put(open);
    assert!(world.proven("node1", "a").is_some());
    assert_eq!(world.agents["node2"].member.unprotected().count(), 0);
    assert_eq!(world.issuer.addresses().count(), 1);
}

#[test]
fn only_carried_labels_are_seen() {
    let mut world = World::new(&[]);
    let config = IssuerConfig {
        carried_labels: Some(vec!["app".into()]),
        ..IssuerConfig::new(domain("east"))
    };
    world.issuer = issuer(config, IssuerState::default(), 7, world.now());
    world.issuer.set_bundles(&world.bundles);
    world.add_agent("node1");
    world.connect("node1");
    let mut workload = pod("node1", "a", "frontend", "10.1.1.10");
    workload.labels = labels(&[("app", "frontend"), ("secret", "1")]);
    world.put(workload.clone());
    let claims = world.proven("node1", "a").unwrap();
    assert_eq!(claims.labels, labels(&[("app", "frontend")]));
    assert!(claims.namespace_labels.is_empty());
    workload.labels = labels(&[("app", "frontend"), ("secret", "2")]);
    world.put(workload);
    assert!(own_records(&world).is_empty(), "nobody can see that");
}

#[test]
fn a_peer_that_leaves_is_forgotten_also_by_an_agent_that_was_away() {
    let mut world = World::new(&["node1", "node2"]);
    let west = domain("west");
    world.bundles.insert(bundle("west", 1, 2)).unwrap();
    world.issuer.set_bundles(&world.bundles);
    world.settle();
    let key = IssuerKey::from_seed(&[2; 32]);
    let gone = PodRecord {
        pod_uid: "w".into(),
        generation: 4,
        change: PodChange::Gone,
    };
    let record = key.sign_record(&west, 1, &gone);
    let verified = record
        .verify(world.bundles.bundle(&west).unwrap(), world.now().unix)
        .unwrap();
    world.issuer.handle_peer_record(&record, &verified);
    world.settle();
    for node in ["node1", "node2"] {
        let member = &world.agents[node].member;
        assert!(member.bundles().bundle(&west).is_some());
        assert!(member.records().newest(&west, "w").is_some());
    }
    world.disconnect("node2");
    world.bundles.remove(&west);
    world.issuer.set_bundles(&world.bundles);
    world.settle();
    assert!(
        world.agents["node1"]
            .member
            .bundles()
            .bundle(&west)
            .is_none()
    );
    assert!(world.agents["node1"].member.records().is_empty());
    assert!(
        world.agents["node2"]
            .member
            .bundles()
            .bundle(&west)
            .is_some()
    );
    let state = world.issuer.state();
    world.restart_issuer(state);
    for node in ["node1", "node2"] {
        assert!(
            world.agents[node].member.bundles().bundle(&west).is_none(),
            "{node}"
        );
    }
}

/// Threat row 19, at the agent: its issuer cannot roll a bundle back.
#[test]
fn an_older_bundle_is_refused_by_the_agent() {
    let mut world = World::new(&["node1"]);
    world.bundles.insert(bundle("west", 5, 2)).unwrap();
    world.issuer.set_bundles(&world.bundles);
    world.settle();
    let mut old = identity::BundleStore::default();
    old.insert(bundle("east", 1, 1)).unwrap();
    old.insert(bundle("west", 4, 3)).unwrap();
    world.issuer.set_bundles(&old);
    world.settle();
    let held = world.agents["node1"]
        .member
        .bundles()
        .bundle(&domain("west"))
        .unwrap();
    assert_eq!(held.sequence, 5);
    assert!(problems(&world, "node1")[0].contains("bundle 4 of west is older than 5"));
}

/// Threat row 26: the issuer dates back and the agent allows ten seconds more.
#[test]
fn a_clock_that_is_29_seconds_off_works_and_a_minute_is_said() {
    for (clock, works) in [(-29_000, true), (29_000, true), (-60_000, false)] {
        let mut world = World::new(&[]);
        world.add_agent("node1");
        world.agents.get_mut("node1").unwrap().clock = clock;
        world.connect("node1");
        world.put(pod("node1", "a", "frontend", "10.1.1.10"));
        world.run(Duration::from_mins(30));
        assert_eq!(world.proven("node1", "a").is_some(), works, "{clock} ms");
        let said = problems(&world, "node1");
        assert_eq!(said.is_empty(), works, "{said:?}");
        if !works {
            assert!(
                said[0].contains("the issuer's clock says 1800000000 s"),
                "{said:?}"
            );
            assert!(said[0].contains("the one here 1799999940 s"), "{said:?}");
            let heard = |event: &IssuerEvent| matches!(event, IssuerEvent::Problem(words) if words.contains("clock of node node1"));
            assert!(world.issuer_events.iter().any(heard));
        }
    }
}

/// A node that asks without end makes no more signatures than its pods need.
#[test]
fn asking_again_and_again_is_answered_once() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let key = world.issuer.registry().next().unwrap().agent_keys[0];
    let want = ToIssuer::Want {
        key,
        pods: vec!["a".into(); 512],
    };
    let now = now_at(Duration::from_secs(10), 0);
    let mut answers = 0;
    for _ in 0..100 {
        world
            .issuer
            .handle_node_message("node1", &want.encode(), now);
        while let Some((_, bytes)) = world.issuer.poll_transmit() {
            if let ToNode::Credentials(granted) = Numbered::decode(&bytes).unwrap().1 {
                answers += granted.len();
            }
        }
    }
    assert_eq!(answers, 1);
}

#[test]
fn what_an_agent_would_not_send_is_refused_and_said() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let registry: Vec<_> = world.issuer.registry().cloned().collect();
    let unknown = AgentPublicKey([7; 32]);
    for (bytes, why) in [
        (
            ToIssuer::Keys(vec![AgentPublicKey([0; 32])]).encode(),
            "small order",
        ),
        (
            ToIssuer::Want {
                key: unknown,
                pods: vec!["a".into()],
            }
            .encode(),
            "does not announce",
        ),
        (vec![0; (1 << 20) + 1], "at most 1048576"),
        (b"nonsense".to_vec(), "not a message"),
    ] {
        world.issuer_events.clear();
        world
            .issuer
            .handle_node_message("node1", &bytes, world.now());
        world.settle();
        let said = |event: &IssuerEvent| matches!(event, IssuerEvent::Misbehaved { node, what } if node == "node1" && what.contains(why));
        assert!(
            world.issuer_events.iter().any(said),
            "{why}: {:?}",
            world.issuer_events
        );
    }
    assert_eq!(
        world.issuer.registry().cloned().collect::<Vec<_>>(),
        registry
    );
    // Before Hello nothing is answered.
    world.issuer.handle_node_connected("node3", world.now());
    let keys = ToIssuer::Keys(vec![unknown]).encode();
    world
        .issuer
        .handle_node_message("node3", &keys, world.now());
    assert_eq!(world.issuer.poll_transmit(), None);
    // Nor without a session.
    let hello = ToIssuer::Hello {
        version: 1,
        boot: Boot::default(),
        position: 0,
        clock: START,
    };
    world
        .issuer
        .handle_node_message("node4", &hello.encode(), world.now());
    assert_eq!(world.issuer.poll_transmit(), None);
}

#[test]
fn an_agent_believes_no_other_cluster_and_no_forged_record() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let now = world.now();
    let forged = IssuerKey::from_seed(&[66; 32]).sign_record(
        &domain("east"),
        u64::MAX,
        &PodRecord {
            pod_uid: "a".into(),
            generation: u64::MAX,
            change: PodChange::Gone,
        },
    );
    let message = ToNode::Records {
        position: 1,
        missed: false,
        records: vec![peering::node_messages::RelayedRecord {
            trust_domain: domain("east"),
            record: forged.bytes().to_vec(),
        }],
    };
    let welcome = |name: &str| ToNode::Welcome {
        version: NODE_PROTOCOL,
        trust_domain: domain(name),
        boot: Boot([1; 8]),
        clock: START,
    };
    world.disconnect("node1");
    let member = &mut world.agents.get_mut("node1").unwrap().member;
    member.handle_connected(now);
    member.handle_message(&Numbered(0, welcome("east")).encode(), now);
    member.handle_message(&Numbered(1, message).encode(), now);
    assert!(member.is_connected());
    assert!(member.records().is_empty());
    let said = member.poll_event();
    assert!(matches!(said, Some(MemberEvent::Problem(_))), "{said:?}");
    assert!(world.proven("node1", "a").is_some());

    let member = &mut world.agents.get_mut("node1").unwrap().member;
    member.handle_connected(now);
    member.handle_message(&Numbered(0, welcome("west")).encode(), now);
    assert!(!member.is_connected());
    let segment = ToNode::SegmentKeys(Vec::new());
    member.handle_message(&Numbered(1, segment).encode(), now);
    assert_eq!(
        member.segment_keys().len(),
        2,
        "nothing before Welcome is taken"
    );
}

/// What was said while an agent was away, and more than fits into one message, reaches it.
#[test]
fn a_hundred_records_reach_an_agent_that_was_away_once() {
    let mut world = World::new(&["node1", "node2"]);
    for n in 0..150 {
        let workload = pod(
            "node1",
            &format!("p{n}"),
            "frontend",
            &format!("10.1.3.{n}"),
        );
        world.workloads.insert(workload.uid.clone(), workload);
    }
    world.publish();
    world.disconnect("node2");
    for n in 0..150 {
        if n % 2 == 0 {
            world.workloads.remove(&format!("p{n}"));
        } else {
            let pod = world.workloads.get_mut(&format!("p{n}")).unwrap();
            pod.labels = labels(&[("app", "other")]);
        }
    }
    world.publish();
    assert!(world.agents["node2"].member.records().is_empty());
    world.connect("node2");
    world.settle();
    assert_eq!(world.agents["node2"].member.records().len(), 150);
    assert!(
        !world.agents["node2"]
            .events
            .contains(&MemberEvent::RecordsMissed)
    );
    // Again, and now nothing is new.
    world.disconnect("node2");
    world.connect("node2");
    let mut sizes = Vec::new();
    while let Some(bytes) = world
        .agents
        .get_mut("node2")
        .unwrap()
        .member
        .poll_transmit()
    {
        world
            .issuer
            .handle_node_message("node2", &bytes, world.now());
    }
    while let Some((_, bytes)) = world.issuer.poll_transmit() {
        if let ToNode::Records { records, .. } = Numbered::decode(&bytes).unwrap().1 {
            sizes.push(records.len());
        }
    }
    assert_eq!(sizes, [0]);
}

/// Everybody holds what the issuer holds.
fn assert_converged(world: &World) {
    for (node, agent) in &world.agents {
        let member = &agent.member;
        for workload in world.workloads.values().filter(|pod| pod.node == *node) {
            let claims = world.proven(node, &workload.uid);
            let claims = claims.unwrap_or_else(|| panic!("{} on {node}", workload.uid));
            assert_eq!(claims.labels, workload.labels);
        }
        assert_eq!(
            member.pods().count(),
            world
                .workloads
                .values()
                .filter(|pod| pod.node == *node)
                .count()
        );
        assert_eq!(member.ranges(), [range()]);
        assert_eq!(
            member.segment_keys(),
            world.issuer.segment_keys().map(Clone::clone)
        );
        let registry: Vec<_> = member.registry().cloned().collect();
        assert_eq!(
            registry,
            world.issuer.registry().cloned().collect::<Vec<_>>()
        );
        let bundles: Vec<_> = member.bundles().iter().map(|b| b.hash()).collect();
        assert_eq!(
            bundles,
            world.bundles.iter().map(|b| b.hash()).collect::<Vec<_>>()
        );
        for record in own_records(world) {
            let (generation, _) = member
                .records()
                .newest(&domain("east"), &record.record.pod_uid)
                .unwrap();
            assert_eq!(generation, record.record.generation);
        }
    }
}

#[derive(Clone, Debug)]
enum Act {
    Put(u8, u8),
    Delete(u8),
    Lose(u8),
    Reconnect(u8),
    Disconnect(u8),
    RestartAgent(u8),
    RestartIssuer,
    Wait(u16),
    Rotate,
}

fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..8u8, any::<u8>()).prop_map(|(pod, label)| Act::Put(pod, label)),
        2 => (0..8u8).prop_map(Act::Delete),
        2 => (0..100u8).prop_map(Act::Lose),
        2 => (0..3u8).prop_map(Act::Reconnect),
        1 => (0..3u8).prop_map(Act::Disconnect),
        1 => (0..3u8).prop_map(Act::RestartAgent),
        1 => Just(Act::RestartIssuer),
        4 => (0..2000u16).prop_map(Act::Wait),
        1 => Just(Act::Rotate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is lost and whoever restarts: once the links hold, all agree. And at no time does a
    /// pod prove labels other than ones it had, or a generation that was taken back.
    #[test]
    fn loss_and_restarts_heal(acts in prop::collection::vec(any_act(), 1..40), seed: u64) {
        let mut world = World::new(&["node0", "node1", "node2"]);
        let mut sequence = 1;
        for act in acts {
            let node = |n: u8| format!("node{n}");
            match act {
                Act::Put(n, label) => {
                    let mut workload = pod(&node(n % 3), &format!("p{n}"), "api", &format!("10.1.1.{n}"));
                    workload.labels = labels(&[("n", &label.to_string())]);
                    world.put(workload);
                }
                Act::Delete(n) => world.delete(&format!("p{n}")),
                Act::Lose(percent) => {
                    let mut state = seed | 1;
                    world.lose = Box::new(move || {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        state % 100 < u64::from(percent)
                    });
                }
                Act::Reconnect(n) => {
                    world.disconnect(&node(n));
                    world.connect(&node(n));
                    world.settle();
                }
                Act::Disconnect(n) => world.disconnect(&node(n)),
                Act::RestartAgent(n) => {
                    world.add_agent(&node(n));
                    world.issuer.handle_node_disconnected(&node(n), world.now());
                }
                Act::RestartIssuer => {
                    let state = world.issuer.state();
                    world.restart_issuer(state);
                }
                Act::Wait(seconds) => world.run(Duration::from_secs(seconds.into())),
                Act::Rotate => {
                    sequence += 1;
                    world.bundles.insert(TrustBundle { sequence, ..bundle("east", 1, 1) }).unwrap();
                    world.issuer.set_bundles(&world.bundles);
                    world.settle();
                }
            }
        }
        world.lose = Box::new(|| false);
        for node in ["node0", "node1", "node2"] {
            // A session that lost messages heals by itself with the next message, too.
            let up = world.agents[node].connected;
            if !up || seed % 2 == 0 {
                world.disconnect(node);
                world.connect(node);
            }
        }
        world.settle();
        world.bundles.insert(TrustBundle { sequence: 1000, ..bundle("east", 1, 1) }).unwrap();
        world.issuer.set_bundles(&world.bundles);
        world.settle();
        world.run(Duration::from_secs(10));
        assert_converged(&world);
    }

    #[test]
    fn any_bytes_panic_neither_side(bytes: Vec<u8>, node in "[a-z0-9]{0,5}") {
        let mut world = World::new(&["node1"]);
        let now = world.now();
        world.issuer.handle_node_message("node1", &bytes, now);
        world.issuer.handle_node_message(&node, &bytes, now);
        world.agents.get_mut("node1").unwrap().member.handle_message(&bytes, now);
        world.settle();
    }
}

#[test]
fn records_of_peers_are_relayed_once_and_own_ones_are_not_taken_from_peers() {
    let mut world = World::new(&["node1"]);
    let own = IssuerKey::from_seed(&[1; 32]).sign_record(
        &domain("east"),
        1,
        &PodRecord {
            pod_uid: "a".into(),
            generation: u64::MAX,
            change: PodChange::Gone,
        },
    );
    let verified = own
        .verify(
            world.bundles.bundle(&domain("east")).unwrap(),
            UnixMillis(START.0),
        )
        .unwrap();
    world.issuer.handle_peer_record(&own, &verified);
    world.settle();
    assert!(world.agents["node1"].member.records().is_empty());
    assert!(SignedRecord::from_bytes(own.bytes()).is_some());
}
