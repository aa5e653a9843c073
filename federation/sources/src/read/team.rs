//! Team and PlatformAllowList -> the model.

use std::collections::BTreeMap;

use identity::Assurance;
use policy::model::{
    Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, Operator, PeerMatch, Policy,
    PolicyKind, Requirement, Rule, Scope, Tier, WorkloadSelector,
};

use super::{
    kind::Name, names::check_label_name, network_policy::NETWORK_POLICY_ORDER,
    network_set::network_set_at, policy_ports::ports, scope::scopes, selector::selector,
};
use crate::{
    crd::{
        IngressMode, PlatformAllowListSpec, PublicDestination, ScopeWord, TeamService, TeamSpec,
    },
    draft::{Draft, Named, Open, nobody},
    fault::{Faults, FieldPath},
};

/// The label that says which team a namespace belongs to, where a Team says nothing else.
const TEAM_LABEL: &str = "team";
/// The label that says which service a pod belongs to.
const SERVICE_LABEL: &str = "app";

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TeamObject {
    pub draft: Draft,
    /// The workloads of each service, for those that name it.
    pub services: BTreeMap<String, WorkloadSelector>,
}

/// The policies and services that `spec` describes; nothing of them counts when `faults` refuse it.
pub(super) fn team(spec: &TeamSpec, name: &Name, faults: &mut Faults) -> TeamObject {
    let path = FieldPath::of(&["spec"]);
    let namespaces = match &spec.namespace_selector {
        Some(labels) => selector(labels, &path.key("namespaceSelector"), faults),
        None => [is(TEAM_LABEL, &name.name)].into_iter().collect(),
    };
    let mut team = TeamObject {
        draft: Draft::default(),
        services: BTreeMap::new(),
    };
    for (index, service) in spec.services.iter().enumerate() {
        let path = path.key("services").index(index);
        check_label_name(&service.name, path.key("name"), faults);
        let pods = match &service.pod_selector {
            Some(labels) => selector(labels, &path.key("podSelector"), faults),
            None => [is(SERVICE_LABEL, &service.name)].into_iter().collect(),
        };
        let workloads = WorkloadSelector {
            clusters: ClusterMatch::Any,
            namespaces: NamespaceMatch::Labels(namespaces.clone()),
            pods,
            service_accounts: Vec::new(),
        };
        let subject = WorkloadSelector {
            clusters: ClusterMatch::Own,
            ..workloads.clone()
        };
        if team
            .services
            .insert(service.name.clone(), workloads)
            .is_some()
        {
            let message = format!("{:?} names another service of the team too", service.name);
            faults.add(path.key("name"), message, "each name once");
        }
        let label = format!("{}/{}", name.name, service.name);
        let (rules, open) = intent(service, team.draft.policies.len(), &path, faults);
        team.draft.open.extend(open);
        let policy = Policy {
            kind: PolicyKind::Team,
            namespace: None,
            name: label,
            tier: Tier::Application,
            order: NETWORK_POLICY_ORDER,
            subject,
            staged: false,
            isolates: [Direction::Ingress, Direction::Egress]
                .into_iter()
                .flat_map(|d| [(d, Scope::Local), (d, Scope::Remote)])
                .collect(),
            rules,
        };
        team.draft.policies.push(policy.into());
    }
    team
}

/// The rules of a service, and those peers that other teams define.
fn intent(
    service: &TeamService,
    policy: usize,
    path: &FieldPath,
    faults: &mut Faults,
) -> (Vec<Rule>, Vec<Open>) {
    let intent = &service.ingress_private;
    let path_of_ingress = path.key("ingressPrivate");
    let mut open = Vec::new();
    let mut rules = Vec::new();
    let listed = match (intent.mode, intent.services.is_empty()) {
        (IngressMode::AllowOnly, true) => {
            let message = "AllowOnly lists no service";
            faults.add(
                path_of_ingress.key("services"),
                message,
                "at least one, or mode DenyAll",
            );
            None
        }
        (IngressMode::AllowOnly, false) => Some(vec![nobody()]),
        (_, false) => {
            let message = format!("stands with mode {:?}", intent.mode);
            faults.add(path_of_ingress.key("services"), message, "mode AllowOnly");
            None
        }
        (IngressMode::AllowAll, true) => Some(vec![any_workload()]),
        (IngressMode::DenyAll, true) => None,
    };
    if let Some(peers) = listed {
        open = callers(
            &intent.services,
            (policy, rules.len()),
            &path_of_ingress.key("services"),
            faults,
        );
        rules.push(allow("ingressPrivate", Direction::Ingress, peers));
    }
    // Whom it calls is decided by them.
    rules.push(allow("private", Direction::Egress, vec![any_workload()]));
    rules.extend(public(
        &service.egress_public,
        &path.key("egressPublic"),
        faults,
    ));
    (rules, open)
}

/// The policy that `spec` describes.
pub(super) fn platform(spec: &PlatformAllowListSpec, name: &Name, faults: &mut Faults) -> Draft {
    let path = FieldPath::of(&["spec"]);
    let namespaces = match &spec.namespace_selector {
        Some(labels) => selector(labels, &path.key("namespaceSelector"), faults),
        None => {
            let requirement = Requirement {
                key: TEAM_LABEL.into(),
                operator: Operator::Exists,
            };
            [requirement].into_iter().collect()
        }
    };
    let mut rules = Vec::new();
    let mut open = Vec::new();
    if !spec.ingress_private.is_empty() {
        open = callers(
            &spec.ingress_private,
            (0, 0),
            &path.key("ingressPrivate"),
            faults,
        );
        rules.push(allow("ingressPrivate", Direction::Ingress, vec![nobody()]));
    }
    rules.extend(public(
        &spec.egress_public,
        &path.key("egressPublic"),
        faults,
    ));
    let policy = Policy {
        kind: PolicyKind::PlatformAllowList,
        namespace: None,
        name: name.name.clone(),
        tier: Tier::Application,
        order: NETWORK_POLICY_ORDER,
        subject: WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: NamespaceMatch::Labels(namespaces),
            pods: LabelSelector::default(),
            service_accounts: Vec::new(),
        },
        staged: false,
        isolates: Vec::new(),
        rules,
    };
    Draft {
        policies: vec![policy.into()],
        open,
    }
}

/// `team/service` of a list, for the rule at `place`.
fn callers(
    services: &[String],
    (policy, rule): (usize, usize),
    path: &FieldPath,
    faults: &mut Faults,
) -> Vec<Open> {
    let mut open = Vec::new();
    for (index, text) in services.iter().enumerate() {
        let path = path.index(index);
        match text.split_once('/') {
            Some((team, service))
                if !team.is_empty() && !service.is_empty() && !service.contains('/') =>
            {
                open.push(Open {
                    policy,
                    rule,
                    named: Named::Service {
                        team: team.to_owned(),
                        service: service.to_owned(),
                    },
                    path: path.to_string(),
                });
            }
            _ => faults.add(path, format!("{text:?} names no service"), "team/service"),
        }
    }
    open
}

/// A rule for each destination outside.
fn public(destinations: &[PublicDestination], path: &FieldPath, faults: &mut Faults) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (index, destination) in destinations.iter().enumerate() {
        let path = path.index(index);
        let peers = network_set_at(&destination.nets, &destination.domains, &path, faults);
        if destination.nets.is_empty() && destination.domains.is_empty() {
            faults.add(
                path.clone(),
                "names no destination",
                "`domains`, `nets` or both",
            );
        }
        let listed = destination.ports.as_deref().unwrap_or_default();
        rules.push(Rule {
            ports: ports(listed, &path.key("ports"), faults),
            // What has an identity is never meant by its address.
            scopes: vec![Scope::Local],
            ..allow(&format!("egressPublic[{index}]"), Direction::Egress, peers)
        });
    }
    rules
}

fn allow(name: &str, direction: Direction, peers: Vec<PeerMatch>) -> Rule {
    Rule {
        name: name.to_owned(),
        direction,
        action: Action::Allow,
        reject: false,
        scopes: scopes(ScopeWord::All),
        peers,
        ports: Vec::new(),
        not_ports: Vec::new(),
        assurance: Assurance::Agent,
    }
}

fn any_workload() -> PeerMatch {
    PeerMatch::Workload(WorkloadSelector {
        clusters: ClusterMatch::Any,
        namespaces: NamespaceMatch::Any,
        pods: LabelSelector::default(),
        service_accounts: Vec::new(),
    })
}

fn is(key: &str, value: &str) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator: Operator::In(vec![value.to_owned()]),
    }
}

/// A document without kind that begins with `team`, as the object that it is short for.
pub(super) fn from_plain(tree: &serde_json::Value) -> Option<serde_json::Value> {
    let map = tree.as_object()?;
    let team = map.get("team")?;
    if map.contains_key("kind") || map.contains_key("apiVersion") {
        return None;
    }
    let mut spec = map.clone();
    spec.remove("team");
    Some(serde_json::json!({
        "apiVersion": crate::crd::API_VERSION,
        "kind": "Team",
        "metadata": {"name": team},
        "spec": spec,
    }))
}
