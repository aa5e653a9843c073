//! `networking.k8s.io/v1` NetworkPolicy -> the model, validated and defaulted as the API server
//! does (`pkg/apis/networking/validation`, `pkg/apis/networking/v1/defaults.go`).

use identity::Assurance;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use policy::model::{
    Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, PeerMatch, Policy, PolicyKind,
    Rule, Tier, WorkloadSelector,
};

use super::{
    common::{ip_block, ports},
    kind::Name,
    scope::{annotated, clusters, scopes},
    selector::selector,
};
use crate::{
    crd::ScopeWord,
    fault::{Faults, FieldPath},
};

/// Where a NetworkPolicy stands among the ordered policies.
pub(super) const NETWORK_POLICY_ORDER: u32 = 1000;

/// The policy that `object` describes; nothing of it counts when `faults` refuse it.
pub(super) fn network_policy(object: &NetworkPolicy, name: &Name, faults: &mut Faults) -> Policy {
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    let scope = annotated(&annotations, faults);
    let missing = NetworkPolicySpec::default();
    let spec = object.spec.as_ref().unwrap_or(&missing);
    let path = FieldPath::of(&["spec"]);
    let pods = spec
        .pod_selector
        .as_ref()
        .map_or_else(LabelSelector::default, |s| {
            selector(s, &path.key("podSelector"), faults)
        });
    let directions = directions(spec, &path, faults);
    let reader = Reader {
        namespace: &name.namespace,
        scope,
    };
    let mut rules = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        // Rules of a direction that does not count are checked all the same.
        let read = reader.rules(spec, direction, &path, faults);
        if directions.contains(&direction) {
            rules.extend(read);
        }
    }
    let scopes = scopes(scope);
    let isolates = directions
        .iter()
        .flat_map(|d| scopes.iter().map(move |s| (*d, *s)));
    Policy {
        staged: false,
        kind: PolicyKind::NetworkPolicy,
        namespace: Some(name.namespace.clone()),
        name: name.name.clone(),
        tier: Tier::Application,
        order: NETWORK_POLICY_ORDER,
        subject: WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: NamespaceMatch::Names(vec![name.namespace.clone()]),
            pods,
            service_accounts: Vec::new(),
        },
        isolates: isolates.collect(),
        rules,
    }
}

/// What isolates all pods of `namespace` on ingress, under the name of the old annotation.
pub(crate) fn default_deny(namespace: &str) -> Policy {
    Policy {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some(namespace.to_owned()),
        name: super::OLD_ANNOTATION.to_owned(),
        tier: Tier::Application,
        order: NETWORK_POLICY_ORDER,
        subject: WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: NamespaceMatch::Names(vec![namespace.to_owned()]),
            pods: LabelSelector::default(),
            service_accounts: Vec::new(),
        },
        staged: false,
        isolates: vec![(Direction::Ingress, policy::model::Scope::Local)],
        rules: Vec::new(),
    }
}

/// `policyTypes`, or Ingress, and Egress when there is an egress rule.
fn directions(spec: &NetworkPolicySpec, path: &FieldPath, faults: &mut Faults) -> Vec<Direction> {
    let has = |list: Option<usize>| list.is_some_and(|len| len > 0);
    let has_egress = has(spec.egress.as_ref().map(Vec::len));
    let listed = spec.policy_types.as_deref().unwrap_or_default();
    if listed.is_empty() {
        let egress = has_egress.then_some(Direction::Egress);
        return [Direction::Ingress].into_iter().chain(egress).collect();
    }
    let path_of_types = path.key("policyTypes");
    let mut directions = Vec::new();
    for (index, word) in listed.iter().enumerate() {
        match word.as_str() {
            "Ingress" => directions.push(Direction::Ingress),
            "Egress" => directions.push(Direction::Egress),
            other => {
                let message = format!("{other:?} is no policy type");
                faults.add(path_of_types.index(index), message, "Ingress or Egress");
            }
        }
    }
    if listed.len() > 2 {
        faults.add(
            path_of_types,
            format!("lists {} types", listed.len()),
            "at most Ingress and Egress",
        );
    }
    let idle = [
        (
            Direction::Ingress,
            "ingress",
            has(spec.ingress.as_ref().map(Vec::len)),
        ),
        (Direction::Egress, "egress", has_egress),
    ];
    for (direction, field, has_rules) in idle {
        if has_rules && !directions.contains(&direction) {
            let message = "the rules have no effect, because policyTypes leaves the direction out";
            faults.warn(path.key(field), message, "");
        }
    }
    directions.sort();
    directions.dedup();
    directions
}

/// Reads the rules of one policy.
struct Reader<'a> {
    namespace: &'a str,
    scope: ScopeWord,
}

impl Reader<'_> {
    fn rules(
        &self,
        spec: &NetworkPolicySpec,
        direction: Direction,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<Rule> {
        let mut rules = Vec::new();
        match direction {
            Direction::Ingress => {
                for (index, rule) in spec.ingress.iter().flatten().enumerate() {
                    let path = path.key("ingress").index(index);
                    let peers = self.peers(rule.from.as_ref(), &path.key("from"), faults);
                    let ports = rule.ports.as_ref();
                    rules.push(self.rule(direction, index, peers, ports, &path, faults));
                }
            }
            Direction::Egress => {
                for (index, rule) in spec.egress.iter().flatten().enumerate() {
                    let path = path.key("egress").index(index);
                    let peers = self.peers(rule.to.as_ref(), &path.key("to"), faults);
                    let ports = rule.ports.as_ref();
                    rules.push(self.rule(direction, index, peers, ports, &path, faults));
                }
            }
        }
        rules
    }

    fn rule(
        &self,
        direction: Direction,
        index: usize,
        peers: Vec<PeerMatch>,
        listed: Option<&Vec<NetworkPolicyPort>>,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Rule {
        let place = match direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        Rule {
            not_ports: Vec::new(),
            name: format!("{place}[{index}]"),
            direction,
            action: Action::Allow,
            reject: false,
            scopes: scopes(self.scope),
            peers,
            ports: ports(listed, &path.key("ports"), faults),
            assurance: Assurance::Agent,
        }
    }

    /// An absent or empty list matches every peer.
    fn peers(
        &self,
        listed: Option<&Vec<NetworkPolicyPeer>>,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<PeerMatch> {
        let listed = listed.into_iter().flatten().enumerate();
        let peers = listed.filter_map(|(index, p)| self.peer(p, &path.index(index), faults));
        peers.collect()
    }

    fn peer(
        &self,
        peer: &NetworkPolicyPeer,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Option<PeerMatch> {
        let of_namespaces = peer.namespace_selector.as_ref();
        let of_namespaces =
            of_namespaces.map(|s| selector(s, &path.key("namespaceSelector"), faults));
        let of_pods = peer.pod_selector.as_ref();
        let of_pods = of_pods.map(|s| selector(s, &path.key("podSelector"), faults));
        if let Some(block) = &peer.ip_block {
            if of_namespaces.is_some() || of_pods.is_some() {
                let message = "stands together with a selector";
                faults.add(path.key("ipBlock"), message, "two peers, one with each");
            }
            return ip_block(block, &path.key("ipBlock"), faults);
        }
        let (clusters, namespaces) = match (of_namespaces, &of_pods) {
            (Some(labels), _) => (clusters(self.scope), NamespaceMatch::Labels(labels)),
            (None, Some(_)) => {
                if self.scope == ScopeWord::Remote {
                    let message = "podSelector alone means this cluster, but the policy speaks of others only, so it never matches";
                    faults.warn(path.clone(), message, "a namespaceSelector beside it");
                }
                let own = NamespaceMatch::Names(vec![self.namespace.to_owned()]);
                (ClusterMatch::Own, own)
            }
            (None, None) => {
                let expected = "podSelector, namespaceSelector or ipBlock";
                faults.add(path.clone(), "the peer is empty", expected);
                return None;
            }
        };
        Some(PeerMatch::Workload(WorkloadSelector {
            clusters,
            namespaces,
            pods: of_pods.unwrap_or_default(),
            service_accounts: Vec::new(),
        }))
    }
}
