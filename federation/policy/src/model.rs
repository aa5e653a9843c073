//! The internal model: what every kind of policy object is translated into.
//!
//! The types serialise, because a digest carries a part of them between clusters.

use identity::{Assurance, TrustDomain};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Everything a cluster enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicySet {
    /// The cluster that enforces it.
    pub cluster: TrustDomain,
    /// In any order: `compile` sorts.
    pub policies: Vec<Policy>,
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
}

impl PolicyKind {
    /// Whether the first rule of the object that matches decides, whatever it does. The rules of other kinds
    /// are asked by their action, those of all objects of one order together.
    #[must_use]
    pub fn in_order(self) -> bool {
        match self {
            Self::NetworkPolicy | Self::FederationPolicy | Self::ClusterFederationPolicy => false,
            Self::ClusterNetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy => true,
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

/// Requirements that must all hold; none matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LabelSelector(pub Vec<Requirement>);

/// One requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold of it.
    pub operator: Operator,
}

/// `metav1.LabelSelectorRequirement`, with `matchLabels` written as `In` of one value.
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
}

/// A protocol and its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMatch {
    /// The IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// The ports.
    pub port: PortSpec,
}

/// Ports, as the destination pod gets them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortSpec {
    /// Every port.
    Any,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// A port by the name that the destination pod gives it.
    Named(String),
}
