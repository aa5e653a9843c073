//! What a demo wrote down of its network, as far as tests need it.

use std::net::Ipv4Addr;

use serde::Deserialize;

/// The network.
#[derive(Debug, Deserialize)]
pub struct Plan {
    /// Its clusters.
    pub clusters: Vec<Cluster>,
}

/// A cluster.
#[derive(Debug, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The network namespace with the bridge between gateway and nodes.
    pub lan: String,
    /// Its nodes.
    pub nodes: Vec<Node>,
    /// Its pods.
    pub pods: Vec<Pod>,
}

/// A node.
#[derive(Debug, Deserialize)]
pub struct Node {
    /// Its network namespace.
    pub netns: String,
    /// Its address on the bridge.
    pub address: Ipv4Addr,
    /// The addresses of its pods.
    pub serves: Vec<String>,
}

/// A pod.
#[derive(Debug, Deserialize)]
pub struct Pod {
    /// Its namespace in Kubernetes' sense.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Plan {
    /// Every pod as `CLUSTER/NAMESPACE/POD`.
    pub fn pods(&self) -> impl Iterator<Item = (String, &Cluster, &Pod)> {
        self.clusters.iter().flat_map(|cluster| {
            let name = |pod: &Pod| format!("{}/{}/{}", cluster.name, pod.namespace, pod.name);
            cluster
                .pods
                .iter()
                .map(move |pod| (name(pod), cluster, pod))
        })
    }
}
