//! Nodes that ask for what is not theirs, and an issuer that is not the real one.

use std::time::Duration;

use identity::{IssuerKey, PodChange, PodRecord};
use peering::{
    issuer::IssuerEvent,
    member::MemberEvent,
    node_messages::{AgentPublicKey, Boot, NODE_PROTOCOL, Numbered, ToIssuer, ToNode},
};

use crate::{
    problems,
    world::{START, World, bundle, domain, labels, now_at, pod},
};

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

/// A node that asks without end makes no more signatures than its pods need: it hears the same again.
#[test]
fn asking_again_and_again_is_signed_once() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let key = world.issuer.registry().next().unwrap().agent_keys[0];
    let want = ToIssuer::Want {
        key,
        pods: vec!["a".into(); 512],
    };
    let now = now_at(Duration::from_secs(10), 0);
    let mut answers = Vec::new();
    for _ in 0..100 {
        world
            .issuer
            .handle_node_message("node1", &want.encode(), now);
        while let Some((_, bytes)) = world.issuer.poll_transmit() {
            if let ToNode::Credentials(granted) = Numbered::decode(&bytes).unwrap().1 {
                answers.extend(granted.into_iter().map(|it| it.credential));
            }
        }
    }
    assert_eq!(answers.len(), 100, "one for each message");
    answers.dedup();
    assert_eq!(answers.len(), 1);
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
