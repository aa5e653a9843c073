//! Who gets which credential, and when.

use std::{collections::BTreeSet, time::Duration};

use peering::{
    issuer::{IssuerConfig, IssuerEvent, IssuerState},
    member::MemberEvent,
};

use crate::{
    own_records, problems,
    world::{World, domain, issuer, labels, pod, range},
};

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
            assert_eq!(
                said[0],
                "clock off by 60 s: here it is 2027-01-15T07:59:00Z, at the issuer \
                 2027-01-15T08:00:00Z; more than 30 s is not tolerated"
            );
            let heard = |event: &IssuerEvent| matches!(event, IssuerEvent::Problem(words) if words.contains("clock of node node1"));
            assert!(world.issuer_events.iter().any(heard));
        }
    }
}

/// The issuer hears of a pod first, and its credential reaches an agent that does not know the pod yet.
/// The agent's question a moment later is answered at once, not when it is repeated.
#[test]
fn a_credential_that_came_too_early_is_asked_for_again_and_comes() {
    let mut world = World::new(&["node1"]);
    let pod = pod("node1", "a", "frontend", "10.1.1.10");
    world.put(pod.clone());
    // The issuer forgets the pod first: the agent asks for what the record voided, and waits.
    world.workloads.clear();
    world.issuer.set_workloads(Vec::new(), world.now());
    world.settle();
    world.publish();
    // It comes back, again for the issuer first.
    world.elapsed += Duration::from_secs(10);
    world.workloads.insert("a".into(), pod.clone());
    world.issuer.set_workloads(vec![pod], world.now());
    world.settle();
    world.elapsed += Duration::from_millis(50);
    world.publish();
    assert!(world.proven("node1", "a").is_some());
}
