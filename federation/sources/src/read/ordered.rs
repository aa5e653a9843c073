//! What the policies of `policy.networking.k8s.io` have in common, whichever version wrote them: an
//! order among the rules of an object, and rules that fail closed alone.

use identity::Assurance;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use policy::model::{
    Action, Direction, NamespaceMatch, PeerMatch, Policy, PolicyKind, PortMatch, PortSpec, Rule,
    Tier, WorkloadSelector,
};
use serde::Deserialize;

use super::{
    common::{block, number},
    kind::Name,
    network_set::domains,
    scope::{clusters, scopes},
    selector::selector,
};
use crate::{
    crd::ScopeWord,
    draft::{Draft, Named, NamedRule, no_workload, nobody, takes_names},
    fault::{Faults, FieldPath},
};

/// The protocols that a port without one may mean: TCP, UDP, SCTP.
pub(super) const WITH_PORTS: [u8; 3] = [6, 17, 132];
/// The longest name of a rule in characters.
const MAX_RULE_NAME: usize = 100;
/// The last priority.
const MAX_PRIORITY: i32 = 1000;

/// Workloads of chosen namespaces: a subject, or a peer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NamespacedPod {
    /// All namespaces when it is absent.
    pub namespace_selector: Option<LabelSelector>,
    pub pod_selector: Option<LabelSelector>,
}

/// Who a policy is about. Exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subject {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPod>,
}

/// The other end. Exactly one field is set; ingress knows the first two only.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Peer {
    pub namespaces: Option<LabelSelector>,
    pub pods: Option<NamespacedPod>,
    pub nodes: Option<LabelSelector>,
    pub networks: Option<Vec<String>>,
    pub domain_names: Option<Vec<String>>,
}

/// One rule, as far as all versions agree.
pub(super) struct RuleText<'a> {
    pub name: &'a str,
    /// `None` when its word is not known, which was told.
    pub action: Option<Action>,
    pub peers: &'a [Peer],
    /// `None` matches every protocol and port.
    pub ports: Option<Vec<PortMatch>>,
}

/// How much an object of some version may hold.
pub(super) struct Bounds {
    pub rules: usize,
    pub peers: usize,
    pub networks: usize,
}

/// Reads the rules of one object.
pub(super) struct Reader<'a> {
    pub scope: ScopeWord,
    pub bounds: &'a Bounds,
}

/// What a peer says.
enum Meaning {
    Any(Vec<PeerMatch>),
    /// What another object defines.
    Named(Named),
    /// It cannot be enforced, which was told: an Accept matches nothing then, and anything else denies all.
    Closed,
}

impl Reader<'_> {
    /// The rules of one direction, in their order.
    pub fn rules<'r>(
        &self,
        rules: impl ExactSizeIterator<Item = RuleText<'r>>,
        direction: Direction,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<NamedRule> {
        let bounds = self.bounds;
        if rules.len() > bounds.rules {
            let expected = format!("at most {}", bounds.rules);
            faults.add(
                path.clone(),
                format!("holds {} rules", rules.len()),
                expected,
            );
        }
        let read = rules.enumerate();
        read.map(|(index, rule)| self.rule(&rule, direction, index, &path.index(index), faults))
            .collect()
    }

    fn rule(
        &self,
        rule: &RuleText<'_>,
        direction: Direction,
        index: usize,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> NamedRule {
        let (place, field) = match direction {
            Direction::Ingress => ("ingress", "from"),
            Direction::Egress => ("egress", "to"),
        };
        if rule.name.chars().count() > MAX_RULE_NAME || rule.name.chars().any(char::is_control) {
            let expected =
                format!("at most {MAX_RULE_NAME} characters, none of them a control character");
            faults.add(path.key("name"), "is no name of a rule", expected);
        }
        let path = path.key(field);
        if rule.peers.is_empty() || rule.peers.len() > self.bounds.peers {
            let expected = format!("from 1 to {}", self.bounds.peers);
            faults.add(
                path.clone(),
                format!("holds {} peers", rule.peers.len()),
                expected,
            );
        }
        // Where the action is not known, the object is refused.
        let mut action = rule.action.unwrap_or(Action::Deny);
        let mut peers = Vec::new();
        let mut named = Vec::new();
        let mut closed = false;
        for (index, peer) in rule.peers.iter().enumerate() {
            match self.peer(peer, (direction, action), &path.index(index), faults) {
                Meaning::Any(more) => peers.extend(more),
                Meaning::Named(what) => named.push((what, path.index(index))),
                Meaning::Closed => closed = true,
            }
        }
        let mut ports = rule.ports.clone().unwrap_or_default();
        if closed && action != Action::Allow {
            action = Action::Deny;
            peers.clear();
            ports.clear();
        } else if peers.is_empty() {
            // An empty list would be everybody.
            peers.push(nobody());
        }
        let rule = Rule {
            not_ports: Vec::new(),
            name: match rule.name {
                "" => format!("{place}[{index}]"),
                name => name.to_owned(),
            },
            direction,
            action,
            reject: false,
            scopes: scopes(self.scope),
            peers,
            ports,
            assurance: Assurance::Agent,
        };
        (rule, named)
    }

    fn peer(
        &self,
        peer: &Peer,
        (direction, action): (Direction, Action),
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Meaning {
        let set = [
            ("namespaces", peer.namespaces.is_some()),
            ("pods", peer.pods.is_some()),
            ("nodes", peer.nodes.is_some()),
            ("networks", peer.networks.is_some()),
            ("domainNames", peer.domain_names.is_some()),
        ];
        let fields: Vec<&str> = set
            .iter()
            .filter(|(_, set)| *set)
            .map(|(f, _)| *f)
            .collect();
        let known = match direction {
            Direction::Ingress => "namespaces or pods",
            Direction::Egress => "namespaces, pods, networks, nodes or domainNames",
        };
        match fields[..] {
            [] => {
                let message = "the peer is empty, so an accepting rule matches nothing by it, and any other denies everything";
                faults.warn(path.clone(), message, known);
                return Meaning::Closed;
            }
            [_] => {}
            _ => faults.add(path.clone(), format!("has {}", fields.join(" and ")), known),
        }
        let outside = ["nodes", "networks", "domainNames"];
        if direction == Direction::Ingress
            && let Some(field) = fields.iter().find(|f| outside.contains(f))
        {
            faults.add(path.key(field), "stands in an ingress rule", known);
        }
        if let Some(nodes) = &peer.nodes {
            let nodes = selector(nodes, &path.key("nodes"), faults);
            return Meaning::Named(Named::Nodes(nodes));
        }
        if let Some(names) = &peer.domain_names {
            return self.names(
                names,
                takes_names(direction, action),
                &path.key("domainNames"),
                faults,
            );
        }
        if let Some(networks) = &peer.networks {
            return Meaning::Any(self.networks(networks, &path.key("networks"), faults));
        }
        let selected = workloads((&peer.namespaces, &peer.pods), self.scope, path, faults);
        Meaning::Any(selected.map(PeerMatch::Workload).into_iter().collect())
    }

    fn names(
        &self,
        names: &[String],
        is_accept: bool,
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Meaning {
        let most = self.bounds.networks;
        if names.is_empty() || names.len() > most {
            let message = format!("holds {} names", names.len());
            faults.add(path.clone(), message, format!("from 1 to {most}"));
        }
        if !is_accept {
            faults.add(
                path.clone(),
                "stand in a rule that does not accept",
                "a rule that accepts",
            );
        }
        Meaning::Any(domains(names, path, faults))
    }

    fn networks(
        &self,
        networks: &[String],
        path: &FieldPath,
        faults: &mut Faults,
    ) -> Vec<PeerMatch> {
        let most = self.bounds.networks;
        if networks.is_empty() || networks.len() > most {
            let expected = format!("from 1 to {most}");
            faults.add(
                path.clone(),
                format!("holds {} networks", networks.len()),
                expected,
            );
        }
        let parsed = networks.iter().enumerate();
        let parsed = parsed.filter_map(|(index, text)| block(text, path.index(index), faults));
        let net = |cidr: IpNet| PeerMatch::Net {
            cidr,
            except: Vec::new(),
        };
        parsed.map(net).collect()
    }
}

/// The pods of a subject; that of no pod when it is refused.
pub(super) fn subject(
    subject: &Subject,
    path: &FieldPath,
    faults: &mut Faults,
) -> WorkloadSelector {
    let fields = (&subject.namespaces, &subject.pods);
    if let (Some(_), Some(_)) | (None, None) = fields {
        let message = "names not exactly one kind of subject";
        faults.add(path.clone(), message, "namespaces or pods");
    }
    workloads(fields, ScopeWord::Local, path, faults).unwrap_or_else(no_workload)
}

fn workloads(
    (namespaces, pods): (&Option<LabelSelector>, &Option<NamespacedPod>),
    scope: ScopeWord,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<WorkloadSelector> {
    let (namespaces, pods) = match (namespaces, pods) {
        (Some(namespaces), _) => (selector(namespaces, &path.key("namespaces"), faults), None),
        (None, Some(chosen)) => {
            let path = path.key("pods");
            if chosen.pod_selector.is_none() {
                let expected = "a selector; {} chooses all pods of the namespaces";
                faults.add(path.key("podSelector"), "is missing", expected);
            }
            let mut part = |wanted: &Option<LabelSelector>, field: &str| {
                selector(
                    &wanted.clone().unwrap_or_default(),
                    &path.key(field),
                    faults,
                )
            };
            let namespaces = part(&chosen.namespace_selector, "namespaceSelector");
            (namespaces, Some(part(&chosen.pod_selector, "podSelector")))
        }
        (None, None) => return None,
    };
    Some(WorkloadSelector {
        clusters: clusters(scope),
        namespaces: NamespaceMatch::Labels(namespaces),
        pods: pods.unwrap_or_default(),
        service_accounts: Vec::new(),
    })
}

/// Ports from `first` to `last` of a protocol.
pub(super) fn range(
    protocol: u8,
    (first, at_first): (i32, FieldPath),
    (last, at_last): (i32, FieldPath),
    faults: &mut Faults,
) -> Option<PortMatch> {
    let first = number(first, at_first, faults);
    let last_number = number(last, at_last.clone(), faults);
    let (first, last) = first.zip(last_number)?;
    if last <= first {
        let expected = format!("a number above {first}, up to 65535");
        faults.add(at_last, format!("{last} is not above {first}"), expected);
        return None;
    }
    Some(PortMatch {
        protocol,
        port: PortSpec::Range(first, last),
    })
}

/// The ports of a rule: what `one` reads of each item of `listed`, at most `most`. `None` without a list.
pub(super) fn port_list<T>(
    listed: Option<&Vec<T>>,
    most: usize,
    (rule, field): (&FieldPath, &str),
    faults: &mut Faults,
    one: impl Fn(&T, &FieldPath, &mut Faults) -> Vec<PortMatch>,
) -> Option<Vec<PortMatch>> {
    let listed = listed?;
    let path = rule.key(field);
    if listed.is_empty() || listed.len() > most {
        let message = format!("holds {} {field}", listed.len());
        let expected = format!("from 1 to {most}, or no such field");
        faults.add(path.clone(), message, expected);
    }
    let mut ports = Vec::new();
    for (index, item) in listed.iter().enumerate() {
        ports.extend(one(item, &path.index(index), faults));
    }
    Some(ports)
}

/// The order of an object.
pub(super) fn priority(priority: i32, faults: &mut Faults) -> u32 {
    if !(0..=MAX_PRIORITY).contains(&priority) {
        let path = FieldPath::of(&["spec", "priority"]);
        faults.add(
            path,
            format!("{priority} is no priority"),
            "a number from 0 to 1000",
        );
    }
    u32::try_from(priority).unwrap_or_default()
}

/// A cluster-wide policy that isolates nobody.
pub(super) fn policy(
    kind: PolicyKind,
    name: &Name,
    tier: Tier,
    order: u32,
    subject: WorkloadSelector,
    rules: Vec<NamedRule>,
) -> Draft {
    let policy = Policy {
        staged: false,
        kind,
        namespace: None,
        name: name.name.clone(),
        tier,
        order,
        subject,
        isolates: Vec::new(),
        rules: Vec::new(),
    };
    Draft::of(policy, rules)
}
