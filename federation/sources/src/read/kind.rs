//! Which kinds there are, and what tells an object from all others.

use std::fmt;

use policy::model::PolicyKind;

use crate::crd::API_VERSION;

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Namespace,
    ServiceAccount,
    Pod,
    Node,
    NetworkPolicy,
    FederationPolicy,
    ClusterFederationPolicy,
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
    NetworkSet,
    ClusterNetworkSet,
    Zones,
    Team,
    PlatformAllowList,
    Workload,
    FederationPeer,
    Federation,
}

impl Kind {
    pub const ALL: [Self; 18] = [
        Self::Namespace,
        Self::ServiceAccount,
        Self::Pod,
        Self::Node,
        Self::NetworkPolicy,
        Self::FederationPolicy,
        Self::ClusterFederationPolicy,
        Self::ClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
        Self::NetworkSet,
        Self::ClusterNetworkSet,
        Self::Zones,
        Self::Team,
        Self::PlatformAllowList,
        Self::Workload,
        Self::FederationPeer,
        Self::Federation,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::FederationPolicy => "FederationPolicy",
            Self::ClusterFederationPolicy => "ClusterFederationPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::NetworkSet => "NetworkSet",
            Self::ClusterNetworkSet => "ClusterNetworkSet",
            Self::Zones => "Zones",
            Self::Team => "Team",
            Self::PlatformAllowList => "PlatformAllowList",
            Self::Workload => "Workload",
            Self::FederationPeer => "FederationPeer",
            Self::Federation => "Federation",
        }
    }

    pub fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::ServiceAccount | Self::Pod | Self::Node => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::ClusterNetworkPolicy => "policy.networking.k8s.io/v1alpha2",
            Self::AdminNetworkPolicy | Self::BaselineAdminNetworkPolicy => {
                "policy.networking.k8s.io/v1alpha1"
            }
            Self::FederationPolicy
            | Self::ClusterFederationPolicy
            | Self::NetworkSet
            | Self::ClusterNetworkSet
            | Self::Zones
            | Self::Team
            | Self::PlatformAllowList
            | Self::Workload
            | Self::FederationPeer
            | Self::Federation => API_VERSION,
        }
    }

    pub fn is_namespaced(self) -> bool {
        match self {
            Self::ServiceAccount
            | Self::Pod
            | Self::NetworkPolicy
            | Self::FederationPolicy
            | Self::NetworkSet
            | Self::Workload => true,
            Self::Namespace
            | Self::Node
            | Self::ClusterFederationPolicy
            | Self::ClusterNetworkPolicy
            | Self::AdminNetworkPolicy
            | Self::BaselineAdminNetworkPolicy
            | Self::ClusterNetworkSet
            | Self::Zones
            | Self::Team
            | Self::PlatformAllowList
            | Self::FederationPeer
            | Self::Federation => false,
        }
    }

    /// As what a policy appears in verdicts.
    pub fn policy(self) -> Option<PolicyKind> {
        match self {
            Self::NetworkPolicy => Some(PolicyKind::NetworkPolicy),
            Self::FederationPolicy => Some(PolicyKind::FederationPolicy),
            Self::ClusterFederationPolicy => Some(PolicyKind::ClusterFederationPolicy),
            Self::ClusterNetworkPolicy => Some(PolicyKind::ClusterNetworkPolicy),
            Self::AdminNetworkPolicy => Some(PolicyKind::AdminNetworkPolicy),
            Self::BaselineAdminNetworkPolicy => Some(PolicyKind::BaselineAdminNetworkPolicy),
            Self::Zones => Some(PolicyKind::Zones),
            Self::Team => Some(PolicyKind::Team),
            Self::PlatformAllowList => Some(PolicyKind::PlatformAllowList),
            Self::Namespace
            | Self::ServiceAccount
            | Self::Pod
            | Self::Node
            | Self::NetworkSet
            | Self::ClusterNetworkSet
            | Self::Workload
            | Self::FederationPeer
            | Self::Federation => None,
        }
    }
}

/// What an object is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// Empty for an object of the whole cluster.
    pub namespace: String,
    pub name: String,
}

/// What tells an object from all others of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectKey {
    pub kind: Kind,
    /// Empty for an object of the whole cluster.
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind.word())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}
