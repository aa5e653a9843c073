//! Policies whose rules name what other objects define, until all objects are seen together.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use identity::Labels;
use ipnet::IpNet;
use policy::model::{
    Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, PeerMatch, Policy, Rule,
    WorkloadSelector,
};

use crate::fault::FieldPath;

/// What one object says: its policies, and the peers that they still lack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Draft {
    pub policies: Vec<Arc<Policy>>,
    pub open: Vec<Open>,
}

/// Peers of a rule that another object defines. Until they are known the rule lacks them, and one that has no other
/// peers holds [`nobody`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// The place of its policy in the draft.
    pub policy: usize,
    /// The place of its rule in the policy.
    pub rule: usize,
    pub named: Named,
    /// Where the name stands in the object.
    pub path: String,
}

/// A name that another object defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    /// A NetworkSet of a namespace.
    NetworkSet { namespace: String, name: String },
    /// A ClusterNetworkSet.
    ClusterNetworkSet(String),
    /// A zone of a Zones object.
    Zone(String),
    /// A service of a team.
    Service { team: String, service: String },
    /// The addresses of the nodes that fit.
    Nodes(LabelSelector),
}

/// A rule and the peers of it that other objects define, each with its place.
pub(crate) type NamedRule = (Rule, Vec<(Named, FieldPath)>);

/// What the names mean.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meanings {
    pub named: BTreeMap<Named, Vec<PeerMatch>>,
    /// The labels and addresses of the nodes.
    pub nodes: Vec<(Labels, Vec<IpAddr>)>,
}

impl Meanings {
    fn of(&self, named: &Named) -> Option<Vec<PeerMatch>> {
        let Named::Nodes(wanted) = named else {
            return self.named.get(named).cloned();
        };
        if self.nodes.is_empty() {
            return None;
        }
        let fitting = self.nodes.iter().filter(|(labels, _)| wanted.fits(labels));
        let addresses = fitting.flat_map(|(_, addresses)| addresses);
        let peers = addresses.map(|address| PeerMatch::Net {
            cidr: IpNet::from(*address),
            except: Vec::new(),
        });
        Some(peers.collect())
    }
}

impl Draft {
    /// Whether a rule speaks of nodes.
    pub fn names_nodes(&self) -> bool {
        let named = self.open.iter().map(|open| &open.named);
        named
            .into_iter()
            .any(|named| matches!(named, Named::Nodes(_)))
    }
}

impl From<Policy> for Draft {
    fn from(policy: Policy) -> Self {
        Self {
            policies: vec![policy.into()],
            open: Vec::new(),
        }
    }
}

impl Draft {
    /// `policy` with `rules`.
    pub fn of(policy: Policy, rules: Vec<NamedRule>) -> Self {
        let mut draft = Self::default();
        let mut policy = Policy {
            rules: Vec::with_capacity(rules.len()),
            ..policy
        };
        for (number, (rule, named)) in rules.into_iter().enumerate() {
            let open = named.into_iter().map(|(named, path)| Open {
                policy: 0,
                rule: number,
                named,
                path: path.to_string(),
            });
            draft.open.extend(open);
            policy.rules.push(rule);
        }
        draft.policies.push(policy.into());
        draft
    }

    /// The policies with all their peers. What nobody defines, and names of the DNS where they cannot be used, close
    /// the rule: an Allow or a Log matches nothing by it, a Deny or a Pass denies everything. `closed` hears of it.
    pub fn resolve(
        &self,
        meanings: &Meanings,
        mut closed: impl FnMut(&Open, Lack),
    ) -> Vec<Arc<Policy>> {
        let mut policies = self.policies.clone();
        for open in &self.open {
            let rules = policies.get_mut(open.policy);
            let rules = rules.map(|policy| &mut Arc::make_mut(policy).rules);
            let Some(rule) = rules.and_then(|r| r.get_mut(open.rule)) else {
                continue;
            };
            let lack = match meanings.of(&open.named) {
                Some(peers) => fill(rule, &peers),
                None => Some(Lack::Definition),
            };
            if let Some(lack) = lack {
                closed(open, lack);
                close(rule);
            }
        }
        policies
    }
}

/// Why a rule is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// Nobody defines what it names.
    Definition,
    /// Some of it are names of the DNS, which say nothing of who connects, and of a denial too little.
    Use,
}

/// Adds what the rule may hold of `peers`.
fn fill(rule: &mut Rule, peers: &[PeerMatch]) -> Option<Lack> {
    let takes_names = takes_names(rule.direction, rule.action);
    let is_usable = |p: &&PeerMatch| takes_names || !matches!(p, PeerMatch::Domain(_));
    // A closed rule has no peers, and stays so.
    if !rule.peers.is_empty() {
        rule.peers.extend(peers.iter().filter(is_usable).cloned());
    }
    (!peers.iter().all(|p| is_usable(&p))).then_some(Lack::Use)
}

/// Whether a rule may speak of names of the DNS.
pub(crate) fn takes_names(direction: Direction, action: Action) -> bool {
    direction == Direction::Egress && matches!(action, Action::Allow | Action::Log)
}

fn close(rule: &mut Rule) {
    if matches!(rule.action, Action::Deny | Action::Pass) {
        rule.action = Action::Deny;
        rule.peers.clear();
        rule.ports.clear();
        rule.not_ports.clear();
    }
}

/// Fits nothing, and keeps a list of peers from being empty, which would be everybody.
pub(crate) fn nobody() -> PeerMatch {
    PeerMatch::Workload(no_workload())
}

/// Chooses nothing.
pub(crate) fn no_workload() -> WorkloadSelector {
    WorkloadSelector {
        clusters: ClusterMatch::Own,
        namespaces: NamespaceMatch::Names(Vec::new()),
        pods: Default::default(),
        service_accounts: Vec::new(),
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkSet { namespace, name } => write!(f, "NetworkSet {namespace}/{name}"),
            Self::ClusterNetworkSet(name) => write!(f, "ClusterNetworkSet {name}"),
            Self::Zone(name) => write!(f, "zone {name}"),
            Self::Service { team, service } => write!(f, "service {team}/{service}"),
            Self::Nodes(_) => f.write_str("Node object"),
        }
    }
}
