//! The objects of `landbridge.io/v1alpha1`, as people write them. Their comments are the
//! descriptions of the published CRDs; translation into the internal model is elsewhere.

mod federation;
mod network_set;
mod peer;
mod policy;
mod schema;
mod status;
mod team;
mod workload;
mod zones;

pub use federation::{ClusterSpec, Federation, FederationSpec, GatewaySpec, PodRangeSpec};
pub use network_set::{ClusterNetworkSet, ClusterNetworkSetSpec, NetworkSet, NetworkSetSpec};
pub use peer::{
    AcceptLabelSpec, AcceptSpec, AwaySpec, AwayWord, BundleEndpointSpec, BundleProfileWord,
    FederationPeer, FederationPeerSpec,
};
pub use policy::{
    ClusterFederationPolicy, ClusterFederationPolicySpec, ClusterSubject, FederationPolicy,
    FederationPolicySpec, PolicyPeer, PolicyPort, PolicyRule, RequiredAssurance, RuleAction,
    ScopeWord, Subject, TierWord,
};
pub use status::ObjectStatus;
pub use team::{
    IngressMode, IngressPrivate, PlatformAllowList, PlatformAllowListSpec, PublicDestination, Team,
    TeamService, TeamSpec,
};
pub use workload::{Workload, WorkloadPort, WorkloadSpec};
pub use zones::{Zone, ZoneDefault, ZoneMember, ZoneRow, Zones, ZonesSpec};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group and version of all of them.
pub const API_VERSION: &str = "landbridge.io/v1alpha1";

/// The definitions to install in a cluster, by the file name that they are published under.
#[must_use]
pub fn definitions() -> Vec<(&'static str, CustomResourceDefinition)> {
    vec![
        (
            "clusterfederationpolicies.yaml",
            ClusterFederationPolicy::crd(),
        ),
        ("clusternetworksets.yaml", ClusterNetworkSet::crd()),
        ("federationpeers.yaml", FederationPeer::crd()),
        ("federationpolicies.yaml", FederationPolicy::crd()),
        ("federations.yaml", Federation::crd()),
        ("networksets.yaml", NetworkSet::crd()),
        ("platformallowlists.yaml", PlatformAllowList::crd()),
        ("teams.yaml", Team::crd()),
        ("workloads.yaml", Workload::crd()),
        ("zones.yaml", Zones::crd()),
    ]
}
