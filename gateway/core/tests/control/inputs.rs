//! Policies, pods, peers and links on their way into the snapshot.

use handshake::admission::Target;
use identity::TrustDomain;
use landbridge_gateway_core::{
    Side,
    control::{Unready, assemble::Link},
};
use policy::{
    DropReason,
    model::{Policy, PolicyKind, PolicySet, PortMatch, PortSpec, Tier},
};

use crate::world::{World, domain, link, member, no_policies, now, pod};

/// A policy of this name that says nothing.
fn policies(cluster: &str, name: &str) -> PolicySet {
    let mut set = no_policies(cluster);
    let policy = Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: Some("shop".into()),
        name: name.into(),
        tier: Tier::Application,
        order: 1,
        subject: policy::model::WorkloadSelector {
            clusters: policy::model::ClusterMatch::Own,
            namespaces: policy::model::NamespaceMatch::Any,
            pods: policy::model::LabelSelector::default(),
            service_accounts: Vec::new(),
        },
        staged: false,
        isolates: Vec::new(),
        rules: Vec::new(),
    };
    set.policies.push(policy.into());
    set
}

fn hash(set: &PolicySet) -> [u8; 32] {
    policy::compile(set).unwrap().hash()
}

#[test]
fn each_learns_what_the_other_says() {
    let world = World::new();
    for (name, other) in [("east", "west"), ("west", "east")] {
        let snapshot = world.snapshot(name);
        assert!(snapshot.ready);
        let transit = &snapshot.transit;
        assert_eq!(transit.networks.ranges().len(), 2);
        assert!(transit.bundles.bundle(&domain(other)).is_some());
        assert!(transit.digests.contains_key(&domain(other)));
        let [peer] = &snapshot.peers[..] else {
            panic!("one peer")
        };
        // The tunnel ends where the peer says, at another port than its QUIC.
        assert_eq!((&peer.trust_domain, peer.port), (&domain(other), 1000));
        assert!(peer.next_hop.is_ok());
        assert_eq!((peer.outbound.len(), snapshot.inbound.len()), (1, 1));
    }
}

#[test]
fn nothing_opens_before_policy_links_and_storage_are_there() {
    let mut world = World::new();
    let east = world.get("east");
    assert_eq!(east.unready(), []);
    east.set_link(Side::Wan, Link::default());
    east.set_storing(false);
    let why = [Unready::NoInterface(Side::Wan), Unready::NotStoring];
    assert_eq!(east.unready(), why);
    let closed = east.poll_snapshot().unwrap();
    assert!(!closed.ready);
    east.set_link(Side::Wan, link(Side::Wan, "east"));
    east.set_storing(true);
    assert!(east.poll_snapshot().unwrap().ready);

    let mut east = crate::world::without_policy("east");
    assert!(east.poll_snapshot().is_none(), "nothing to decide by");
    assert!(east.unready().contains(&Unready::NoPolicy));
    east.set_policies(&no_policies("east"), now(Default::default()));
    assert!(east.poll_snapshot().is_some());
}

#[test]
fn an_epoch_rises_with_what_decides_and_not_with_routes() {
    let mut world = World::new();
    let epoch = world.snapshot("east").transit.epoch;
    let at = world.now();
    let east = world.get("east");
    assert!(east.poll_snapshot().is_none(), "nothing changed");
    east.set_link(Side::Lan, link(Side::Lan, "east"));
    assert_eq!(east.poll_snapshot().unwrap().transit.epoch, epoch);
    east.set_policies(&no_policies("east"), at);
    assert!(east.poll_snapshot().is_none(), "the same policies");
    east.set_policies(&policies("east", "new"), at);
    let snapshot = east.poll_snapshot().unwrap();
    assert_eq!(snapshot.transit.epoch, epoch + 1);
    assert_eq!(
        snapshot.transit.policy.hash(),
        hash(&policies("east", "new"))
    );
}

#[test]
fn policies_reach_the_peer_and_broken_ones_leave_the_last_in_force() {
    let mut world = World::new();
    let good = policies("west", "good");
    let at = world.now();
    world.get("west").set_policies(&good, at);
    world.settle();
    let heard = |world: &mut World| {
        let digest = world.get("east").peering().digest(&domain("west"));
        let digest = digest.unwrap();
        (digest.hash, digest.sequence)
    };
    let (announced, sequence) = heard(&mut world);
    assert_eq!(announced, hash(&good));

    let mut broken = policies("west", "broken");
    std::sync::Arc::make_mut(&mut broken.policies[0]).rules = vec![unmeant()];
    assert!(policy::compile(&broken).is_err());
    let west = world.get("west");
    west.set_policies(&broken, at);
    assert!(west.problems().any(|words| words.contains("broken")));
    world.settle();
    assert_eq!(world.snapshot("west").transit.policy.hash(), hash(&good));
    assert_eq!(heard(&mut world), (hash(&good), sequence));
    world.get("west").set_policies(&good, at);
    assert_eq!(world.get("west").problems().count(), 0);
}

/// A rule whose port range ends before it begins.
fn unmeant() -> policy::model::Rule {
    policy::model::Rule {
        not_ports: Vec::new(),
        name: "r".into(),
        direction: policy::model::Direction::Ingress,
        action: policy::model::Action::Allow,
        reject: false,
        scopes: vec![policy::model::Scope::Local],
        peers: Vec::new(),
        ports: vec![PortMatch {
            protocol: 6,
            port: PortSpec::Range(2, 1),
        }],
        assurance: identity::Assurance::Agent,
    }
}

#[test]
fn a_pod_that_was_relabelled_or_deleted_is_known_to_both() {
    let mut world = World::new();
    world.set_pods(&[pod("a", "web")]);
    let transit = |world: &World, name| world.snapshot(name).transit.clone();
    let claims = transit(&world, "east")
        .pods
        .values()
        .next()
        .unwrap()
        .clone();
    assert_eq!(claims.labels.value("app"), Some("web"));
    assert!(world.agent.pods().next().unwrap().identity.is_some());

    world.set_pods(&[pod("a", "db")]);
    for name in ["east", "west"] {
        let newest = transit(&world, name).admission.newest(&claims).unwrap();
        assert_eq!(newest.labels.value("app"), Some("db"), "{name}");
    }
    world.set_pods(&[]);
    for name in ["east", "west"] {
        assert!(transit(&world, name).admission.newest(&claims).is_err());
    }
    // What was said of it outlives the process that said it.
    world.restart("east");
    assert!(transit(&world, "east").admission.newest(&claims).is_err());
    world.restart("west");
    assert!(transit(&world, "west").admission.newest(&claims).is_err());
}

/// What is revoked, or may not be claimed, is so for the gateway and for its agents, and nobody else's.
#[test]
fn what_restricts_a_cluster_reaches_its_gateways_and_agents() {
    let mut world = World::new();
    world.set_pods(&[pod("a", "web")]);
    let claims = world.snapshot("east").transit.pods.values().next().cloned();
    let claims = claims.unwrap();
    let labels = Target::Labels {
        pods: "app == 'web'".into(),
        namespaces: None,
    };
    let at = world.now();
    let east = domain("east");
    let revoked = world
        .get("east")
        .revoke(&east, labels.clone(), "stolen", at);
    revoked.unwrap();
    world.settle();
    for name in ["east", "west"] {
        let refused = world.snapshot(name).transit.admission.newest(&claims);
        assert_eq!(refused, Err(DropReason::Revoked), "{name}");
    }
    assert_eq!(world.agent.restrictions().len(), 1);
    let restored = world.get("east").restore_revoked(&east, labels, at);
    restored.unwrap();
    world.settle();
    for name in ["east", "west"] {
        let believed = world.snapshot(name).transit.admission.newest(&claims);
        assert!(believed.is_ok(), "{name}");
    }
    assert!(world.agent.restrictions().is_empty());
}

#[test]
fn a_peer_that_left_is_gone_from_everything() {
    let mut world = World::new();
    world.set_pods(&[pod("a", "web")]);
    world.set_pods(&[pod("a", "db")]);
    assert!(!world.get("west").records().is_empty());
    let at = world.now();
    world.get("west").set_peers(Vec::new(), at).unwrap();
    world.settle();
    assert!(world.get("west").records().is_empty());
    let snapshot = world.snapshot("west");
    assert!(snapshot.peers.is_empty() && snapshot.inbound.is_empty());
    let transit = &snapshot.transit;
    assert!(transit.bundles.bundle(&domain("east")).is_none());
    assert!(transit.digests.is_empty());
    let owner = |address: [u8; 4]| transit.networks.lookup(address.into());
    assert!(owner([10, 1, 1, 10]).is_none());
    assert_eq!(world.get("west").addresses().count(), 0);
}

#[test]
fn the_tunnel_ends_at_the_quic_address_until_the_peer_says_where() {
    let mut world = World::apart();
    let ends = |world: &World| -> Vec<(TrustDomain, u16)> {
        let peers = world.snapshot("east").peers.iter();
        peers
            .map(|peer| (peer.trust_domain.clone(), peer.port))
            .collect()
    };
    assert_eq!(ends(&world), [(domain("west"), crate::world::QUIC_PORT)]);
    world.connect();
    assert_eq!(ends(&world), [(domain("west"), 1000)]);
    // A lost session changes nothing; another address does.
    let at = world.now();
    let east = world.get("east");
    east.handle_peer_disconnected(&domain("west"), "lost", at);
    world.settle();
    assert_eq!(ends(&world), [(domain("west"), 1000)]);
    let mut moved = member("west");
    moved.address.set_port(5544);
    world.get("east").set_peers(vec![moved], at).unwrap();
    world.settle();
    assert_eq!(ends(&world), [(domain("west"), 5544)]);
}
