//! Short ways to write identities and policies in tests.
#![allow(dead_code, clippy::unwrap_used)]

pub mod generate;

use std::collections::BTreeMap;

use identity::{Assurance, Claims, Labels, NamedPort, SpiffeId, TrustDomain, UnixMillis};
use landbridge_policy::model::*;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

pub fn td(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

/// `a=1 b=2` as labels.
pub fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace().map(|p| p.split_once('=').unwrap());
    let map: BTreeMap<_, _> = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    map.try_into().unwrap()
}

/// A pod `cluster/namespace/name` under service account `default`, with its labels. Its namespace
/// has the labels that every Kubernetes namespace has.
pub fn pod(path: &str, pod_labels: &str) -> Claims {
    let mut parts = path.split('/');
    let (cluster, namespace, name) = (
        td(parts.next().unwrap()),
        parts.next().unwrap(),
        parts.next().unwrap(),
    );
    Claims {
        subject: SpiffeId::workload(&cluster, namespace, "default").unwrap(),
        issued_at: UnixMillis(0),
        expires_at: UnixMillis(600_000),
        id: [0; 16],
        agent_key: [0; 32],
        pod: name.to_owned(),
        pod_uid: format!("uid-{name}"),
        labels: labels(pod_labels),
        namespace_labels: labels(&format!("kubernetes.io/metadata.name={namespace}")),
        zone: None,
        named_ports: Vec::new(),
        assurance: Assurance::Agent,
        generation: 1,
    }
}

pub fn with_namespace_labels(mut claims: Claims, more: &str) -> Claims {
    let name = claims.namespace().to_owned();
    claims.namespace_labels = labels(&format!("kubernetes.io/metadata.name={name} {more}"));
    claims
}

pub fn with_account(mut claims: Claims, account: &str) -> Claims {
    let namespace = claims.namespace().to_owned();
    claims.subject = SpiffeId::workload(claims.trust_domain(), &namespace, account).unwrap();
    claims
}

pub fn with_port(mut claims: Claims, name: &str, protocol: u8, port: u16) -> Claims {
    claims.named_ports.push(NamedPort {
        name: name.to_owned(),
        protocol,
        port,
    });
    claims.named_ports.sort();
    claims
}

pub fn with_assurance(mut claims: Claims, assurance: Assurance) -> Claims {
    claims.assurance = assurance;
    claims
}

/// `a=1 b!=2 c !d e=1,2 f!=1,2` as requirements.
pub fn selector(text: &str) -> LabelSelector {
    let values = |v: &str| v.split(',').map(str::to_owned).collect();
    let requirement = |word: &str| {
        let (key, operator) = if let Some((key, v)) = word.split_once("!=") {
            (key, Operator::NotIn(values(v)))
        } else if let Some((key, v)) = word.split_once('=') {
            (key, Operator::In(values(v)))
        } else if let Some(key) = word.strip_prefix('!') {
            (key, Operator::DoesNotExist)
        } else {
            (word, Operator::Exists)
        };
        Requirement {
            key: key.to_owned(),
            operator,
        }
    };
    text.split_whitespace().map(requirement).collect()
}

pub fn any_workload() -> WorkloadSelector {
    WorkloadSelector {
        clusters: ClusterMatch::Any,
        namespaces: NamespaceMatch::Any,
        pods: LabelSelector::default(),
        service_accounts: Vec::new(),
    }
}

/// Pods of the own cluster in `namespace` that fit `pods`.
pub fn own(namespace: &str, pods: &str) -> WorkloadSelector {
    WorkloadSelector {
        clusters: ClusterMatch::Own,
        namespaces: NamespaceMatch::Names(vec![namespace.to_owned()]),
        pods: selector(pods),
        service_accounts: Vec::new(),
    }
}

pub fn remote(cluster: &str, namespace: &str, pods: &str) -> WorkloadSelector {
    WorkloadSelector {
        clusters: ClusterMatch::Listed(vec![td(cluster)]),
        ..own(namespace, pods)
    }
}

pub fn rule(name: &str, direction: Direction, action: Action) -> Rule {
    Rule {
        name: name.to_owned(),
        direction,
        action,
        reject: false,
        scopes: vec![Scope::Local],
        peers: Vec::new(),
        ports: Vec::new(),
        not_ports: Vec::new(),
        assurance: Assurance::Agent,
    }
}

/// A FederationPolicy in the application tier that isolates nothing.
pub fn federation_policy(namespace: &str, name: &str, order: u32, rules: Vec<Rule>) -> Policy {
    Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
        tier: Tier::Application,
        order,
        subject: own(namespace, ""),
        staged: false,
        isolates: Vec::new(),
        rules,
    }
}

pub fn tcp(port: u16) -> PortMatch {
    PortMatch {
        protocol: TCP,
        port: PortSpec::Range(port, port),
    }
}

pub fn set(cluster: &str, policies: Vec<Policy>) -> PolicySet {
    PolicySet {
        cluster: td(cluster),
        policies: policies.into_iter().map(Into::into).collect(),
    }
}

/// A policy that isolates `subject` in its cluster and allows nothing.
pub fn policy_of(subject: WorkloadSelector) -> Policy {
    Policy {
        subject,
        isolates: vec![(Direction::Ingress, Scope::Local)],
        ..federation_policy("shop", "p", 1000, Vec::new())
    }
}
