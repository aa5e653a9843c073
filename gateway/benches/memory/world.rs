//! What the gateway and its peers agree on.

use std::{collections::BTreeMap, time::Instant};

use identity::{
    Assurance, ClaimLimits, Claims, IssuerKey, Labels, Mono, Now, SignedCredential, SpiffeId,
    TrustDomain, UnixMillis,
};
use peering::{
    peer_messages::AnnouncedRange,
    peers::{OwnKeys, PeerConfig},
};
use policy::model::{
    Action, ClusterMatch, Direction, NamespaceMatch, Operator, PeerMatch, Policy, PolicyKind,
    PolicySet, PortMatch, PortSpec, Requirement, Rule, Scope, Tier, WorkloadSelector,
};

use crate::common::{self, Cluster};

pub const PEERS: usize = 1_000;
/// Services of a cluster that others may reach.
pub const SERVICES: usize = 20;
/// Credentials that each has revoked.
pub const REVOKED: u8 = 5;

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub fn name(number: usize) -> String {
    format!("m{number}")
}

pub fn clock(begun: Instant) -> Now {
    Now {
        mono: Mono(begun.elapsed()),
        unix: common::now(),
    }
}

/// Of every cluster: which one it is does not matter for memory.
pub fn key() -> IssuerKey {
    IssuerKey::from_seed(&[7; 32])
}

pub fn keys(cluster: &Cluster) -> OwnKeys {
    OwnKeys {
        x509_roots: vec![cluster.root.certificate_der().to_vec()],
        issuer_keys: [7, 8]
            .map(|seed| IssuerKey::from_seed(&[seed; 32]).public())
            .into(),
        carried_labels: None,
    }
}

/// A peer without ranges of its own.
pub fn peer(name: &str, pin: [u8; 32]) -> PeerConfig {
    PeerConfig {
        trust_domain: domain(name),
        pin: Some(pin),
        or_roots: Vec::new(),
        ranges: None,
        mapped: BTreeMap::new(),
        limits: ClaimLimits::default(),
        offer: ClaimLimits::default(),
        away: None,
    }
}

/// 1,024 addresses each.
pub fn range(number: usize) -> AnnouncedRange {
    let (high, low) = (number / 64, 4 * (number % 64));
    AnnouncedRange {
        range_id: 1,
        prefix: format!("10.{high}.{low}.0/22").parse().unwrap(),
    }
}

/// A namespace with services, each of which two kinds of pods anywhere may reach.
pub fn policies(cluster: &str) -> PolicySet {
    let select = |clusters, app: String| WorkloadSelector {
        clusters,
        namespaces: NamespaceMatch::Any,
        pods: std::iter::once(Requirement {
            key: "app".into(),
            operator: Operator::In(vec![app]),
        })
        .collect(),
        service_accounts: Vec::new(),
    };
    let rule = |service: usize, caller: usize| Rule {
        not_ports: Vec::new(),
        name: format!("caller-{caller}"),
        direction: Direction::Ingress,
        action: Action::Allow,
        reject: false,
        scopes: vec![Scope::Local, Scope::Remote],
        peers: vec![PeerMatch::Workload(select(
            ClusterMatch::Any,
            format!("caller-{}", service + caller),
        ))],
        ports: vec![PortMatch {
            protocol: 6,
            port: PortSpec::Range(8080, 8080),
        }],
        assurance: Assurance::Agent,
    };
    let policies = (0..SERVICES).map(|service| Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: Some("shop".into()),
        name: format!("of-service-{service}"),
        tier: Tier::Application,
        order: 100,
        subject: select(ClusterMatch::Own, format!("service-{service}")),
        staged: false,
        isolates: vec![(Direction::Ingress, Scope::Remote)],
        rules: (0..2).map(|caller| rule(service, caller)).collect(),
    });
    PolicySet {
        cluster: domain(cluster),
        policies: policies.map(Into::into).collect(),
    }
}

/// Of a pod as Kubernetes clusters have them: four labels of its own, three of its namespace.
pub fn credential(of: &TrustDomain, pod: usize, now: UnixMillis) -> SignedCredential {
    let labels = |all: &[(&str, String)]| {
        let all = all
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()));
        Labels::try_from(all.collect::<BTreeMap<_, _>>()).unwrap()
    };
    let app = format!("caller-{}", pod % 20);
    let mut id = [0; 16];
    id[..8].copy_from_slice(&(pod as u64).to_be_bytes());
    let mut agent_key = [9; 32];
    agent_key[..8].copy_from_slice(&(pod as u64).to_be_bytes());
    let claims = Claims {
        subject: SpiffeId::workload(of, "shop", &app).unwrap(),
        issued_at: now,
        expires_at: now.after(std::time::Duration::from_mins(10)),
        id,
        agent_key,
        pod: format!("{app}-6d4cf56db6-{pod:05}"),
        pod_uid: format!("5b0c1f3e-8f5d-4c57-9f0e-{pod:012}"),
        labels: labels(&[
            ("app", app.clone()),
            ("app.kubernetes.io/version", "1.27.3".into()),
            ("tier", "backend".into()),
            ("team", format!("team-{}", pod % 7)),
        ]),
        namespace_labels: labels(&[
            ("kubernetes.io/metadata.name", "shop".into()),
            ("environment", "production".into()),
            ("team", "shop".into()),
        ]),
        zone: Some("eu-central-1a".into()),
        named_ports: Vec::new(),
        assurance: Assurance::Agent,
        generation: 1,
    };
    key().issue(&claims).unwrap()
}
