//! The raw objects of a world: what people wrote, before any machine looked at it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use handshake::admission::Target;
use identity::{
    Assurance, ClaimLimits, Claims, IdentityNetworks, IdentityRange, LabelLimit, Labels,
    NamePattern, SpiffeId, TrustDomain, UnixMillis, Workload,
};
use policy::model::{
    Action, ClusterMatch, Direction, LabelSelector, NamespaceMatch, Operator, PeerMatch, Policy,
    PolicyKind, PolicySet, PortMatch, PortSpec, Requirement, Rule, Scope, Tier, WorkloadSelector,
};

use crate::dice::Dice;

/// Names of clusters.
const NAMES: [&str; 8] = [
    "east", "west", "north", "south", "upper", "lower", "inner", "outer",
];
/// Nodes of each cluster.
pub const NODES: usize = 2;
/// Ports that every pod listens on.
pub const PORTS: [u16; 2] = [80, 81];
const APPS: [&str; 3] = ["a", "b", "c"];
const NAMESPACES: [&str; 2] = ["x", "y"];

/// Everything that exists.
#[derive(Clone, Debug)]
pub struct Objects {
    /// By their number.
    pub clusters: Vec<Cluster>,
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name.
    pub domain: TrustDomain,
    /// Its pods by address.
    pub pods: BTreeMap<IpAddr, Pod>,
    /// Its policies.
    pub policies: PolicySet,
    /// What it revoked of its own pods.
    pub revoked: BTreeSet<Revoked>,
    /// The clusters that may not claim the second namespace here, by number: for the whole run.
    pub limited: BTreeSet<usize>,
    /// The clusters that may not meet all of its pods, by number.
    pub offers: BTreeMap<usize, Offer>,
}

/// Pods that are offered to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Those of a namespace.
    Namespace(&'static str),
    /// Those with this label `app`.
    App(&'static str),
}

impl Offer {
    fn holds(self, pod: &Pod) -> bool {
        match self {
            Self::Namespace(namespace) => pod.namespace == namespace,
            Self::App(app) => pod.app == app,
        }
    }
}

/// Pods that are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    /// By their label `app`.
    App(&'static str),
    /// By their SPIFFE ID, which all of a namespace share.
    Namespace(&'static str),
}

impl Revoked {
    /// As a gateway is told.
    #[must_use]
    pub fn target(self, domain: &TrustDomain) -> Target {
        match self {
            Self::App(app) => Target::Labels {
                pods: format!("app == \"{app}\""),
                namespaces: None,
            },
            Self::Namespace(namespace) => {
                let id = SpiffeId::workload(domain, namespace, "default");
                Target::Identity(id.expect("an ID"))
            }
        }
    }

    fn hits(self, pod: &Pod) -> bool {
        match self {
            Self::App(app) => pod.app == app,
            Self::Namespace(namespace) => pod.namespace == namespace,
        }
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, never used again: `p`, cluster, `-`, node, `-`, nine digits.
    pub name: String,
    /// Its namespace.
    pub namespace: &'static str,
    /// The value of its label `app`.
    pub app: &'static str,
    /// The number of its node.
    pub node: usize,
    /// Rises with every relabelling.
    pub generation: u64,
}

impl Objects {
    /// `clusters` clusters with two nodes each and one to three pods on each node.
    pub fn random(clusters: usize, dice: &mut Dice) -> Self {
        let mut all: Vec<_> = (0..clusters)
            .map(|number| Cluster::random(number, dice))
            .collect();
        for (number, cluster) in all.iter_mut().enumerate() {
            let others = (0..clusters).filter(|other| *other != number);
            cluster.limited = others.filter(|_| dice.percent(10)).collect();
        }
        Self { clusters: all }
    }

    /// Who owns which addresses.
    #[must_use]
    pub fn networks(&self) -> IdentityNetworks {
        let ranges = self
            .clusters
            .iter()
            .enumerate()
            .map(|(number, cluster)| IdentityRange {
                prefix: prefix(number).parse().expect("a prefix"),
                trust_domain: cluster.domain.clone(),
                range_id: 1,
                real: None,
            });
        IdentityNetworks::new(ranges.collect()).expect("disjoint")
    }

    /// The cluster that owns `address`.
    #[must_use]
    pub fn cluster_of(&self, address: IpAddr) -> Option<usize> {
        let IpAddr::V4(v4) = address else { return None };
        usize::from(v4.octets()[1])
            .checked_sub(1)
            .filter(|number| *number < self.clusters.len())
    }

    /// The pod at `address`.
    #[must_use]
    pub fn pod(&self, address: IpAddr) -> Option<&Pod> {
        self.clusters[self.cluster_of(address)?].pods.get(&address)
    }

    /// What `address` truly is, or `None` when no pod has it.
    #[must_use]
    pub fn claims(&self, address: IpAddr) -> Option<Claims> {
        let cluster = &self.clusters[self.cluster_of(address)?];
        Some(
            cluster
                .pods
                .get(&address)?
                .claims(&cluster.domain, [0; 32], UnixMillis(0)),
        )
    }
}

impl Cluster {
    fn random(number: usize, dice: &mut Dice) -> Self {
        let domain = TrustDomain::new(NAMES[number]).expect("a name");
        let mut pods = BTreeMap::new();
        for node in 0..NODES {
            for place in 0..1 + dice.below(3) {
                let address = address(number, node, place);
                pods.insert(address, Pod::random(number, node, dice));
            }
        }
        let mut cluster = Self {
            policies: PolicySet {
                cluster: domain.clone(),
                policies: Vec::new(),
            },
            domain,
            pods,
            revoked: BTreeSet::new(),
            limited: BTreeSet::new(),
            offers: BTreeMap::new(),
        };
        cluster.rewrite_policies(dice);
        cluster
    }

    /// Whether it revoked `pod`.
    #[must_use]
    pub fn has_revoked(&self, pod: &Pod) -> bool {
        self.revoked.iter().any(|revoked| revoked.hits(pod))
    }

    /// Revokes something of its own, or takes a revocation back.
    pub fn revoke(&mut self, dice: &mut Dice) {
        let revoked = match dice.percent(50) {
            true => Revoked::App(dice.pick::<&str>(&APPS)),
            false => Revoked::Namespace(dice.pick::<&str>(&NAMESPACES)),
        };
        // Most of the time nothing is revoked: traffic should flow.
        match self.revoked.pop_first() {
            Some(_) => {}
            None => drop(self.revoked.insert(revoked)),
        }
    }

    /// What the cluster of number `other` may claim here.
    #[must_use]
    pub fn limits(&self, other: usize) -> ClaimLimits {
        let only = NamePattern::new(NAMESPACES[0]).expect("a name");
        ClaimLimits {
            namespaces: match self.limited.contains(&other) {
                true => vec![only],
                false => Vec::new(),
            },
            ..ClaimLimits::default()
        }
    }

    /// Whether it takes a pod of that namespace from the cluster of number `other`.
    #[must_use]
    pub fn accepts(&self, other: usize, namespace: &str) -> bool {
        !self.limited.contains(&other) || namespace == NAMESPACES[0]
    }

    /// Offers other pods to the cluster of number `other`.
    pub fn offer_otherwise(&mut self, other: usize, dice: &mut Dice) {
        // Half of the time all are offered: traffic should flow.
        let offer = match dice.below(4) {
            0 => Offer::Namespace(dice.pick::<&str>(&NAMESPACES)),
            1 => Offer::App(dice.pick::<&str>(&APPS)),
            _ => {
                self.offers.remove(&other);
                return;
            }
        };
        self.offers.insert(other, offer);
    }

    /// Which pods the cluster of number `other` may meet.
    #[must_use]
    pub fn offer(&self, other: usize) -> ClaimLimits {
        let pattern = |text| vec![NamePattern::new(text).expect("a name")];
        match self.offers.get(&other) {
            None => ClaimLimits::default(),
            Some(Offer::Namespace(namespace)) => ClaimLimits {
                namespaces: pattern(namespace),
                ..ClaimLimits::default()
            },
            Some(Offer::App(app)) => ClaimLimits {
                labels: vec![LabelLimit {
                    key: NamePattern::new("app").expect("a name"),
                    values: pattern(app),
                }],
                ..ClaimLimits::default()
            },
        }
    }

    /// Whether `pod` of its own is offered to the cluster of number `other`.
    #[must_use]
    pub fn offers(&self, other: usize, pod: &Pod) -> bool {
        self.offers.get(&other).is_none_or(|offer| offer.holds(pod))
    }

    /// Its pods, as a source describes them.
    #[must_use]
    pub fn workloads(&self) -> Vec<Workload> {
        let pods = self.pods.iter();
        pods.map(|(address, pod)| pod.workload(&self.domain, *address))
            .collect()
    }

    /// Other policies take the place of these.
    pub fn rewrite_policies(&mut self, dice: &mut Dice) {
        let count = dice.below(5);
        self.policies.policies = (0..count)
            .map(|number| random_policy(number, dice).into())
            .collect();
        // By default nothing goes between clusters: most of the traffic should.
        for (direction, often) in [(Direction::Egress, 80), (Direction::Ingress, 60)] {
            if dice.percent(often) {
                self.policies
                    .policies
                    .push(open_remote(direction, dice).into());
            }
        }
    }
}

/// The pod range of a cluster.
#[must_use]
pub fn prefix(cluster: usize) -> String {
    format!("10.{}.0.0/16", cluster + 1)
}

/// The name of a node.
#[must_use]
pub fn node_name(node: usize) -> String {
    format!("node{node}")
}

/// And back.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn node_number(name: &str) -> usize {
    let number = name.strip_prefix("node").and_then(|n| n.parse().ok());
    number.expect("the name of a node")
}

/// The address of a pod: `10.<cluster>.<node>.<place>`.
#[must_use]
pub fn address(cluster: usize, node: usize, place: usize) -> IpAddr {
    let octet = |n: usize| u8::try_from(n).expect("a small world");
    IpAddr::V4(Ipv4Addr::new(
        10,
        octet(cluster + 1),
        octet(node + 1),
        octet(place + 10),
    ))
}

impl Pod {
    /// A new pod on a node.
    pub fn random(cluster: usize, node: usize, dice: &mut Dice) -> Self {
        Self {
            name: format!("p{cluster}-{node}-{:09}", dice.below(1_000_000_000)),
            namespace: *dice.pick::<&str>(&NAMESPACES),
            app: *dice.pick::<&str>(&APPS),
            node,
            generation: 1,
        }
    }

    /// Another value of the label `app`.
    pub fn relabel(&mut self, dice: &mut Dice) {
        self.app = *dice.pick::<&str>(&APPS);
        self.generation += 1;
    }

    /// What a source says of it.
    #[must_use]
    pub fn workload(&self, domain: &TrustDomain, address: IpAddr) -> Workload {
        let claims = self.claims(domain, [0; 32], UnixMillis(0));
        Workload {
            namespace: self.namespace.into(),
            pod: claims.pod,
            uid: claims.pod_uid,
            service_account: "default".into(),
            labels: claims.labels,
            namespace_labels: claims.namespace_labels,
            zone: None,
            named_ports: Vec::new(),
            node: node_name(self.node),
            address: Some(address),
            interface: None,
            unprotected: false,
        }
    }

    /// What its credential says.
    #[must_use]
    pub fn claims(&self, domain: &TrustDomain, agent_key: [u8; 32], now: UnixMillis) -> Claims {
        let labels = |key: &str, value: &str| {
            Labels::try_from(BTreeMap::from([(key.to_string(), value.to_string())]))
                .expect("a label")
        };
        Claims {
            subject: SpiffeId::workload(domain, self.namespace, "default").expect("an ID"),
            issued_at: now,
            expires_at: now.after(Duration::from_mins(10)),
            id: [1; 16],
            agent_key,
            pod: self.name.clone(),
            pod_uid: self.name.clone(),
            labels: labels("app", self.app),
            namespace_labels: labels("kubernetes.io/metadata.name", self.namespace),
            zone: None,
            named_ports: Vec::new(),
            assurance: Assurance::Agent,
            generation: self.generation,
        }
    }
}

/// Allows, or denies, everything between everybody.
#[must_use]
pub fn everybody(action: Action) -> Policy {
    let scopes = vec![Scope::Local, Scope::Remote];
    let rule = |direction| Rule {
        name: "all".into(),
        direction,
        action,
        reject: false,
        scopes: scopes.clone(),
        peers: vec![PeerMatch::Workload(all(ClusterMatch::Any))],
        ports: Vec::new(),
        not_ports: Vec::new(),
        assurance: Assurance::Agent,
    };
    Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: None,
        name: "everybody".into(),
        tier: Tier::Application,
        order: 1,
        subject: all(ClusterMatch::Own),
        staged: false,
        isolates: Vec::new(),
        rules: vec![rule(Direction::Ingress), rule(Direction::Egress)],
    }
}

fn all(clusters: ClusterMatch) -> WorkloadSelector {
    WorkloadSelector {
        clusters,
        namespaces: NamespaceMatch::Any,
        pods: LabelSelector::default(),
        service_accounts: Vec::new(),
    }
}

/// Allows one direction between clusters, last of all and perhaps not for everybody.
fn open_remote(direction: Direction, dice: &mut Dice) -> Policy {
    let mut peer = all(ClusterMatch::Remote);
    if dice.percent(30) {
        peer.pods = random_labels(dice);
    }
    let rule = Rule {
        name: "open".into(),
        direction,
        action: Action::Allow,
        reject: false,
        scopes: vec![Scope::Remote],
        peers: vec![PeerMatch::Workload(peer)],
        ports: Vec::new(),
        not_ports: Vec::new(),
        assurance: Assurance::Agent,
    };
    Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: None,
        name: format!("open-{direction:?}").to_lowercase(),
        tier: Tier::Application,
        order: 3000,
        subject: all(ClusterMatch::Own),
        staged: false,
        isolates: Vec::new(),
        rules: vec![rule],
    }
}

fn random_policy(number: usize, dice: &mut Dice) -> Policy {
    let federation = dice.percent(60);
    let kind = if federation {
        PolicyKind::FederationPolicy
    } else {
        PolicyKind::NetworkPolicy
    };
    let namespace = *dice.pick::<&str>(&NAMESPACES);
    let direction = if dice.percent(70) {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let scopes = match (federation, dice.below(3)) {
        (false, _) => vec![Scope::Local],
        (true, 0) => vec![Scope::Remote],
        (true, 1) => vec![Scope::Local],
        (true, _) => vec![Scope::Local, Scope::Remote],
    };
    let rules = (0..dice.below(3))
        .map(|rule| Rule {
            not_ports: Vec::new(),
            name: format!("r{rule}"),
            direction,
            action: match (federation, dice.below(5)) {
                (true, 0) => Action::Deny,
                (true, 1) => Action::Pass,
                (true, 2) => Action::Log,
                _ => Action::Allow,
            },
            reject: dice.percent(30),
            scopes: scopes.clone(),
            peers: random_peers(federation, namespace, dice),
            ports: match dice.below(3) {
                0 => {
                    let port = *dice.pick(&PORTS);
                    vec![PortMatch {
                        protocol: 6,
                        port: PortSpec::Range(port, port),
                    }]
                }
                _ => Vec::new(),
            },
            assurance: Assurance::Agent,
        })
        .collect();
    Policy {
        kind,
        namespace: Some(namespace.into()),
        name: format!("policy-{number}"),
        tier: Tier::Application,
        order: if federation {
            100 * dice.below(20) as u32
        } else {
            1000
        },
        subject: WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: NamespaceMatch::Names(vec![namespace.into()]),
            pods: random_labels(dice),
            service_accounts: Vec::new(),
        },
        staged: false,
        isolates: scopes.iter().map(|scope| (direction, *scope)).collect(),
        rules,
    }
}

fn random_peers(federation: bool, namespace: &str, dice: &mut Dice) -> Vec<PeerMatch> {
    (0..dice.below(3))
        .map(|_| {
            PeerMatch::Workload(WorkloadSelector {
                clusters: match (federation, dice.below(3)) {
                    (false, _) => ClusterMatch::Own,
                    (true, 0) => ClusterMatch::Any,
                    (true, 1) => ClusterMatch::Remote,
                    (true, _) => ClusterMatch::Listed(vec![
                        TrustDomain::new(dice.pick::<&str>(&["east", "west", "north"]))
                            .expect("a name"),
                    ]),
                },
                namespaces: match dice.below(3) {
                    0 => NamespaceMatch::Any,
                    1 => NamespaceMatch::Names(vec![namespace.into()]),
                    _ => NamespaceMatch::Labels(LabelSelector(vec![
                        Requirement {
                            key: "kubernetes.io/metadata.name".into(),
                            operator: Operator::In(vec![(*dice.pick::<&str>(&NAMESPACES)).into()]),
                        }
                        .into(),
                    ])),
                },
                pods: random_labels(dice),
                service_accounts: Vec::new(),
            })
        })
        .collect()
}

fn random_labels(dice: &mut Dice) -> LabelSelector {
    let value = (*dice.pick::<&str>(&APPS)).to_string();
    let operator = match dice.below(4) {
        0 => return LabelSelector::default(),
        1 => Operator::NotIn(vec![value]),
        _ => Operator::In(vec![value]),
    };
    LabelSelector(vec![
        Requirement {
            key: "app".into(),
            operator,
        }
        .into(),
    ])
}
