//! Links that lose messages, agents that were away, and restarts.

use std::{collections::BTreeSet, time::Duration};

use identity::{IssuerKey, PodChange, PodRecord, TrustBundle};
use peering::{
    member::MemberEvent,
    node_messages::{Numbered, ToNode},
};
use proptest::prelude::*;

use crate::{
    own_records,
    world::{START, World, bundle, domain, labels, pod, range},
};

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
    /// pod prove labels that it never had.
    #[test]
    fn loss_and_restarts_heal(acts in prop::collection::vec(any_act(), 1..40), seed: u64) {
        let mut world = World::new(&["node0", "node1", "node2"]);
        let mut sequence = 1;
        let mut had = BTreeSet::new();
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
            let now: Vec<_> = world.workloads.values().collect();
            had.extend(now.iter().map(|pod| (pod.uid.clone(), pod.labels.clone())));
            for agent in world.agents.values() {
                let proven = agent.member.pods().filter_map(|pod| pod.identity);
                for claims in proven.map(|identity| identity.claims) {
                    let proves = (claims.pod_uid.clone(), claims.labels.clone());
                    prop_assert!(had.contains(&proves), "{proves:?}");
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
        .verify(world.bundles.bundle(&domain("east")).unwrap(), START)
        .unwrap();
    world.issuer.handle_peer_record(&own, &verified);
    world.settle();
    assert!(world.agents["node1"].member.records().is_empty());
}
