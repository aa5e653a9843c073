//! What everybody hears when a pod is relabelled or deleted.

use std::time::Duration;

use handshake::credentials::PodState;
use identity::PodChange;
use peering::issuer::{IssuerEvent, IssuerState};

use crate::{
    own_records,
    world::{World, domain, labels, pod},
};

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
    let PodState::Relabelled(claims) = state else {
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
        assert_eq!(*state, PodState::Gone);
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
            assert_eq!(gone, Some(&PodState::Gone));
        }
    }
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
    assert!(matches!(state("a").1, PodState::Relabelled(claims) if claims.labels == after.labels));
    assert!(state("b").0 > before[1].generation);
    assert_eq!(*state("b").1, PodState::Gone);
    assert_eq!(*state("c").1, PodState::Gone);
    // A pod that did not change makes no news, and an agent that knows all hears nothing twice.
    world.put(pod("node1", "d", "frontend", "10.1.1.50"));
    let records = own_records(&world).len();
    let stored = world.issuer.state();
    world.restart_issuer(stored);
    world.publish();
    assert_eq!(own_records(&world).len(), records);
    assert!(world.proven("node1", "d").is_some());
}

/// What `offer` lets a peer hear from `position` on: UIDs, whether they are gone, and up to where.
fn heard(world: &World, offer: &str, position: u64) -> (Vec<(String, bool)>, u64) {
    let offer = serde_json::from_str(offer).unwrap();
    let (records, through) = world.issuer.records_for(&offer, position, 2);
    let bundle = world.bundles.bundle(&domain("east")).unwrap();
    let read = records.iter().map(|(_, record)| {
        let record = record.verify(bundle, world.now().unix).unwrap().record;
        (record.pod_uid, record.change == PodChange::Gone)
    });
    (read.collect(), through)
}

#[test]
fn a_peer_hears_of_pods_that_are_offered_to_it_alone() {
    const FRONTENDS: &str = r#"{"labels":[{"key":"app","values":["frontend"]}]}"#;
    let mut world = World::new(&["node1"]);
    for (uid, app) in [("a", "frontend"), ("b", "api"), ("c", "api")] {
        world.put(pod(
            "node1",
            uid,
            app,
            &format!("10.1.1.{}", uid.as_bytes()[0]),
        ));
    }
    let relabel = |world: &mut World, uid: &str, app: &str| {
        let mut relabelled = world.workloads[uid].clone();
        relabelled.labels = labels(&[("app", app), ("more", "x")]);
        world.put(relabelled);
    };
    let gone = |uid: &str| (String::from(uid), true);
    relabel(&mut world, "b", "api");
    world.delete("c");
    // Nothing of pods that were never its own, and it is past them.
    let (records, first) = heard(&world, FRONTENDS, 0);
    assert_eq!(records, []);
    assert!(first > 0);
    assert_eq!(heard(&world, "{}", 0).0, [("b".into(), false), gone("c")]);
    // Into the offer, and out of it.
    relabel(&mut world, "b", "frontend");
    let (records, second) = heard(&world, FRONTENDS, first);
    assert_eq!(records, [("b".into(), false)]);
    relabel(&mut world, "b", "api");
    assert_eq!(heard(&world, FRONTENDS, second).0, []);
    world.delete("a");
    let (records, third) = heard(&world, FRONTENDS, second);
    assert_eq!(records, [gone("a")]);
    assert_eq!(heard(&world, FRONTENDS, third).0, []);
    // No more than asked for, and from there on.
    let (records, through) = heard(&world, "{}", 0);
    assert_eq!(records.len(), 2);
    assert_eq!(heard(&world, "{}", through).0.len(), 1);
    // Of those that a former life saw last nobody knows what they were.
    world.restart_issuer(world.issuer.state());
    let (records, _) = heard(&world, FRONTENDS, 0);
    assert_eq!(records, [gone("a"), gone("c")]);
}

/// After a restart the issuer says of a relabelled pod once more what it is, in a credential. Were that
/// for a key which nobody holds any more, the pod's own agent would be left without one, and cut what
/// the pod is doing.
#[test]
fn a_restarted_issuer_names_the_key_that_the_agent_has_now() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    world.put(pod("node1", "a", "other", "10.1.1.10"));
    let old = world.proven("node1", "a").unwrap().agent_key;
    world.disconnect("node1");
    world.add_agent("node1");
    world.connect("node1");
    world.settle();
    let key = world.proven("node1", "a").unwrap().agent_key;
    assert_ne!(key, old);
    world.elapsed += Duration::from_secs(5);
    world.restart_issuer(world.stored.clone());
    let record = own_records(&world).pop().unwrap();
    assert_eq!(record.claims.unwrap().agent_key, key);
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
    assert_eq!(what, PodState::Gone);
    let said = |event: &&IssuerEvent| matches!(event, IssuerEvent::Problem(words) if words.contains("key-14 (69 bytes)"));
    world.run(Duration::from_mins(1));
    assert_eq!(world.issuer_events.iter().filter(said).count(), 1, "once");
    world.put(good);
    let after = world.proven("node1", "a").unwrap();
    assert!(after.generation > cut);
    let (back, what) = state(&world);
    assert_eq!(back, after.generation);
    assert!(matches!(what, PodState::Relabelled(_)));
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
        (generation, *state == PodState::Gone)
    };
    assert_eq!(newest(&world), (again.generation, false));
    world.put(pod("node2", "a", "frontend", "10.1.2.10"));
    assert!(world.proven("node1", "a").is_none());
    let moved = world.proven("node2", "a").unwrap();
    assert!(moved.generation > again.generation);
    assert_ne!(moved.agent_key, again.agent_key);
    assert_eq!(newest(&world), (moved.generation, false));
}
