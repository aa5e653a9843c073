//! The internal model: what every kind of policy object is translated into.
//!
//! The types serialise, because a digest carries a part of them between clusters.

use std::{fmt, sync::Arc};

use identity::{Assurance, TrustDomain};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything a cluster enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySet {
    /// The cluster that enforces it.
    pub cluster: TrustDomain,
    /// In any order: `compile` sorts. Shared, so that a set that differs in one policy differs in one
    /// pointer.
    pub policies: Vec<Arc<Policy>>,
}

impl PolicySet {
    /// Whether a rule speaks of names of the DNS, so that answers of name servers have to be read.
    #[must_use]
    pub fn names_domains(&self) -> bool {
        let rules = self.policies.iter().flat_map(|policy| &policy.rules);
        rules
            .flat_map(|rule| &rule.peers)
            .any(|peer| matches!(peer, PeerMatch::Domain(_)))
    }
}

/// Which object a policy came from. Its words are what people see in `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `landbridge.io/v1alpha1` FederationPolicy (namespaced).
    FederationPolicy,
    /// `landbridge.io/v1alpha1` ClusterFederationPolicy (cluster-wide).
    ClusterFederationPolicy,
    /// `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1` AdminNetworkPolicy.
    AdminNetworkPolicy,
    /// `policy.networking.k8s.io/v1alpha1` BaselineAdminNetworkPolicy.
    BaselineAdminNetworkPolicy,
    /// `landbridge.io/v1alpha1` Zones.
    Zones,
    /// `landbridge.io/v1alpha1` Team.
    Team,
    /// `landbridge.io/v1alpha1` PlatformAllowList.
    PlatformAllowList,
}

impl PolicyKind {
    /// Whether the first rule of the object that matches decides, whatever it does. The rules of other kinds
    /// are asked by their action, those of all objects of one order together.
    #[must_use]
    pub fn in_order(self) -> bool {
        match self {
            Self::NetworkPolicy
            | Self::FederationPolicy
            | Self::ClusterFederationPolicy
            | Self::Team
            | Self::PlatformAllowList => false,
            Self::ClusterNetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy
            | Self::Zones => true,
        }
    }
}

/// When a policy is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Before all others; what it passes or does not match goes on.
    Admin,
    /// NetworkPolicy and FederationPolicy.
    Application,
    /// Only for pods that no application policy selects.
    Baseline,
}

/// Seen from the selected pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the selected pod.
    Ingress,
    /// From the selected pod.
    Egress,
}

/// Whether the other end belongs to this cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The peer's trust domain is this cluster's, or the peer is an address without identity.
    Local,
    /// The peer proved an identity of another cluster.
    Remote,
}

/// One policy object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Policy {
    /// Where it came from.
    pub kind: PolicyKind,
    /// `None` for a cluster-wide object.
    pub namespace: Option<String>,
    /// The object's name.
    pub name: String,
    /// When it is looked at.
    pub tier: Tier,
    /// Lower goes first within the tier; NetworkPolicy counts as 1000.
    pub order: u32,
    /// The pods of this cluster whose traffic it governs.
    pub subject: WorkloadSelector,
    /// It decides nothing yet: what it would decide is told beside the verdict.
    #[serde(default, skip_serializing_if = "is_false")]
    pub staged: bool,
    /// Directions and scopes in which a selected pod is isolated even where no rule matches.
    pub isolates: Vec<(Direction, Scope)>,
    /// In the order of the object: the first that matches decides, among those of equal action unless
    /// [`PolicyKind::in_order`].
    pub rules: Vec<Rule>,
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Allowed, and no later rule is asked.
    Allow,
    /// Dropped, and no later rule is asked.
    Deny,
    /// The rest of this tier is skipped.
    Pass,
    /// Reported; the next rule is asked.
    Log,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rule {
    /// What people see: the rule's own name, or `ingress[0]` by its place in the object.
    pub name: String,
    /// The direction it governs.
    pub direction: Direction,
    /// What it does.
    pub action: Action,
    /// A denied connection is answered by RST or ICMP instead of silence.
    pub reject: bool,
    /// The scopes it may match in.
    pub scopes: Vec<Scope>,
    /// Any of these; empty matches every peer within the scopes.
    pub peers: Vec<PeerMatch>,
    /// Any of these; empty matches every protocol and port.
    pub ports: Vec<PortMatch>,
    /// None of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_ports: Vec<PortMatch>,
    /// The weakest assurance of a remote peer that an Allow accepts.
    pub assurance: Assurance,
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PeerMatch {
    /// A workload by its proven identity.
    Workload(WorkloadSelector),
    /// An address, with holes.
    Net {
        /// The prefix that matches.
        cidr: IpNet,
        /// Prefixes inside that do not.
        except: Vec<IpNet>,
    },
    /// An address that the selected pod was told by DNS for a name that fits; only for egress.
    Domain(DomainPattern),
}

/// Workloads by cluster, namespace, labels and service account; all parts must hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadSelector {
    /// The clusters it looks at.
    pub clusters: ClusterMatch,
    /// The namespaces it looks at.
    pub namespaces: NamespaceMatch,
    /// The pods' labels.
    pub pods: LabelSelector,
    /// Any of these service accounts; empty matches all.
    pub service_accounts: Vec<String>,
}

/// Clusters by trust domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ClusterMatch {
    /// The cluster that owns the policy.
    Own,
    /// Every cluster, the own one too.
    Any,
    /// Every cluster but the own one.
    Remote,
    /// One of these.
    Listed(Vec<TrustDomain>),
}

/// Namespaces by name or by proven labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NamespaceMatch {
    /// Every namespace.
    Any,
    /// Any of these names.
    Names(Vec<String>),
    /// By the namespace's labels.
    Labels(LabelSelector),
}

/// Terms that must all hold; none matches everything. The text form is in [`crate::expression`].
///
/// Negations stand at the labels, never before a choice: `!(a && b)` is `!a || !b`, which is the same even where
/// a label is unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabelSelector(pub Vec<Term>);

/// A part of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Term {
    /// One label.
    Label(Requirement),
    /// At least one of these must hold; none matches nothing.
    AnyOf(Vec<LabelSelector>),
}

impl From<Requirement> for Term {
    fn from(requirement: Requirement) -> Self {
        Self::Label(requirement)
    }
}

impl FromIterator<Requirement> for LabelSelector {
    fn from_iter<T: IntoIterator<Item = Requirement>>(requirements: T) -> Self {
        Self(requirements.into_iter().map(Term::Label).collect())
    }
}

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold of it.
    pub operator: Operator,
}

/// `metav1.LabelSelectorRequirement`, with `matchLabels` written as `In` of one value, and tests of a part of the
/// value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operator {
    /// The label exists with one of these values.
    In(Vec<String>),
    /// The label is absent, or has another value.
    NotIn(Vec<String>),
    /// The label exists.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label exists, and its value is so.
    Like(Part),
    /// The label is absent, or its value is not so.
    NotLike(Part),
}

/// What a value holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Part {
    /// This text anywhere.
    Contains(String),
    /// This text at its beginning.
    StartsWith(String),
    /// This text at its end.
    EndsWith(String),
}

/// A protocol and its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMatch {
    /// The IP protocol number.
    pub protocol: u8,
    /// The ports.
    pub port: PortSpec,
}

/// Ports, as the destination pod gets them; of ICMP and ICMPv6 the type and code as one number, [`icmp`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortSpec {
    /// Every port.
    Any,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// A port by the name that the destination pod gives it.
    Named(String),
}

/// The number that stands for an ICMP or ICMPv6 type and code where other protocols have a port.
#[must_use]
pub fn icmp(kind: u8, code: u8) -> u16 {
    u16::from_be_bytes([kind, code])
}

/// A name of the DNS or everything below one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DomainPattern {
    /// Every name with at least one label before `name`, and not `name` itself.
    pub below: bool,
    /// In lower case, without the dot at the end.
    pub name: String,
}

impl DomainPattern {
    /// Whether `name`, in lower case and without the dot at its end, fits.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        match self.below {
            false => name == self.name,
            true => name
                .strip_suffix(self.name.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|rest| !rest.is_empty()),
        }
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

fn is_false(value: &bool) -> bool {
    !value
}
