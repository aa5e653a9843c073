//! Policies as teams write them, each for a service that two of another cluster may call.

use std::sync::Arc;

use identity::Assurance;
use policy::model::{
    Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, Operator, PeerMatch, Policy,
    PolicySet, PortMatch, PortSpec, Requirement, Rule, Scope, Term, WorkloadSelector,
};

use crate::net::{domain, policy};

/// What a team writes: its service, and two that may call it.
pub fn service(number: usize, port: u16) -> Policy {
    let named = |key: &str, value: String| {
        LabelSelector(vec![Term::Label(Requirement {
            key: key.into(),
            operator: Operator::In(vec![value]),
        })])
    };
    let caller = |place: usize| Rule {
        name: format!("ingress[{place}]"),
        direction: Direction::Ingress,
        action: Action::Allow,
        reject: false,
        scopes: vec![Scope::Remote],
        peers: vec![PeerMatch::Workload(WorkloadSelector {
            clusters: ClusterMatch::Listed(vec![domain("east")]),
            namespaces: NamespaceMatch::Names(vec!["shop".into()]),
            pods: named("app", format!("caller-{place}-of-{number}")),
            service_accounts: Vec::new(),
        })],
        ports: vec![PortMatch {
            protocol: 6,
            port: PortSpec::Range(port, port),
        }],
        not_ports: Vec::new(),
        assurance: Assurance::Agent,
    };
    let set = policy("west", &format!("service-{number:04}"));
    Policy {
        subject: WorkloadSelector {
            pods: named("app", format!("service-{number}")),
            ..set.policies[0].subject.clone()
        },
        isolates: vec![(Direction::Ingress, Scope::Remote)],
        rules: (0..2).map(caller).collect(),
        ..Policy::clone(&set.policies[0])
    }
}

pub fn services(count: usize) -> PolicySet {
    PolicySet {
        cluster: domain("west"),
        policies: (0..count).map(|n| Arc::new(service(n, 443))).collect(),
    }
}
