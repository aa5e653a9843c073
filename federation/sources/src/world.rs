//! What one cluster's part of a federation looks like at one moment: the output of every source.

use std::net::IpAddr;

use identity::{AwayRule, ClaimLimits, TrustDomain, Workload};
use policy::model::PolicySet;
use serde::{Deserialize, Serialize};

use crate::{ClusterConfig, FederationConfig, Problem, crd::BundleEndpointSpec};

/// Everything a gateway, an agent or the command line needs to know of one cluster. It is complete:
/// whoever gets a new one forgets the old one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// All clusters.
    pub federation: FederationConfig,
    /// The cluster that this is the world of.
    pub cluster: ClusterConfig,
    /// Its pods that have, or will have, an identity or live in an unprotected namespace; sorted by
    /// namespace and name. Pods of the host network and pods that ended are not among them.
    pub workloads: Vec<Workload>,
    /// The same pods in the same order, as far as they have an address, with what only the demo needs.
    pub pods: Vec<PodSpec>,
    /// What it enforces.
    pub policies: PolicySet,
    /// The clusters it speaks with, sorted by name.
    pub peers: Vec<FederationPeerConfig>,
    /// Its nodes as far as there are objects of them, sorted by name.
    pub nodes: Vec<NodeSpec>,
    /// Objects that were refused, and what became of them; sorted by file and line.
    pub problems: Vec<Problem>,
}

impl World {
    /// The pod called `CLUSTER/NAMESPACE/POD` among `worlds`, and the world it is in.
    ///
    /// # Errors
    /// When the name has another form, or there is no such cluster or pod: those that there are.
    pub fn find<'a>(worlds: &'a [Self], name: &str) -> Result<(&'a Self, &'a Workload), NoSuchPod> {
        let parts: Vec<_> = name.split('/').collect();
        let [cluster, namespace, pod] = parts[..] else {
            return Err(NoSuchPod::Form(name.to_owned()));
        };
        let Some(world) = worlds.iter().find(|w| w.cluster.name == cluster) else {
            let known = worlds.iter().map(|w| w.cluster.name.clone()).collect();
            let cluster = cluster.to_owned();
            return Err(NoSuchPod::Cluster { cluster, known });
        };
        let workload = world.workload(namespace, pod).ok_or_else(|| {
            let pods = world.workloads.iter();
            NoSuchPod::Pod {
                cluster: cluster.to_owned(),
                pod: format!("{namespace}/{pod}"),
                known: pods.map(|w| format!("{}/{}", w.namespace, w.pod)).collect(),
            }
        })?;
        Ok((world, workload))
    }

    /// `CLUSTER/NAMESPACE/POD` of one of its pods, by which [`World::find`] finds it.
    #[must_use]
    pub fn pod_name(&self, namespace: &str, pod: &str) -> String {
        format!("{}/{namespace}/{pod}", self.cluster.name)
    }

    /// The declared pod `name` of `namespace`.
    #[must_use]
    pub fn workload(&self, namespace: &str, name: &str) -> Option<&Workload> {
        self.workloads
            .iter()
            .find(|w| w.namespace == namespace && w.pod == name)
    }
}

/// A node and where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// As pods name it.
    pub name: String,
    /// Sorted.
    pub addresses: Vec<IpAddr>,
}

/// A name that means no pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSuchPod {
    /// It has another form.
    #[error("{0:?} is not CLUSTER/NAMESPACE/POD")]
    Form(String),
    /// No such cluster.
    #[error("there is no cluster {cluster:?}; there are {}", known.join(", "))]
    Cluster {
        /// The cluster.
        cluster: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No such pod in the cluster.
    #[error("cluster {cluster} has no pod {pod}; it has {}", known.join(", "))]
    Pod {
        /// The cluster.
        cluster: String,
        /// `NAMESPACE/POD`.
        pod: String,
        /// Those that it has.
        known: Vec<String>,
    },
}

/// A pod with its place, its ports and what it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The node it runs on, declared or allotted.
    pub node: String,
    /// Its address, declared or allotted.
    pub address: IpAddr,
    /// The ports that its containers declare, in their order.
    pub ports: Vec<ContainerPort>,
    /// Annotation `landbridge.io/command`: what the demo runs in the pod, for a shell.
    pub command: Option<String>,
}

/// A port that a container declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// The name that policies may use.
    pub name: Option<String>,
    /// The IP protocol number: 6, 17 or 132.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// Another cluster, as a FederationPeer object describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationPeerConfig {
    /// The cluster's name in the Federation.
    pub cluster: String,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Where its gateways listen for QUIC, `address:port`; may be empty when only they dial.
    pub endpoints: Vec<String>,
    /// `sha256:` and 64 hex digits over the DER of its root certificate, believed until its bundle
    /// is stored.
    pub root_pin: Option<String>,
    /// Where the roots of its trust domain are fetched instead.
    pub bundle_endpoint: Option<BundleEndpointSpec>,
    /// What its credentials may claim here.
    pub accept: ClaimLimits,
    /// Which pods of this cluster it may meet.
    pub offer: ClaimLimits,
    /// It may introduce others.
    pub introducer: bool,
    /// What becomes of it when it stays away.
    pub away: Option<AwayRule>,
}
