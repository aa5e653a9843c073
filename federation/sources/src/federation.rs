//! Which clusters form the federation, and which addresses are theirs.

use std::net::SocketAddr;

use identity::{IdentityNetworks, IdentityRange, NetworksError, TrustDomain};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A Federation object with every default filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FederationConfig {
    /// The object's name.
    pub name: String,
    /// In the order of the object; names and trust domains are unique, ranges are disjoint.
    pub clusters: Vec<ClusterConfig>,
}

/// One cluster of the federation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// A DNS label. In a folder, also the name of the cluster's folder.
    pub name: String,
    /// By default the name.
    pub trust_domain: TrustDomain,
    /// Where its pods' addresses lie; at least one.
    pub pod_ranges: Vec<PodRange>,
    /// In the order of the object; at least one. By default those that its pods name, sorted, else
    /// `node1`.
    pub nodes: Vec<String>,
    /// Its gateways, as far as the object lists them.
    pub gateways: Vec<GatewayConfig>,
}

/// A range of pod addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRange {
    /// The cluster's own number for it, never used again for another range.
    pub id: u16,
    /// The prefix, without host bits.
    pub cidr: IpNet,
}

/// A gateway of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayConfig {
    /// A DNS label, unique in the cluster.
    pub name: String,
    /// Where it listens for QUIC sessions of other gateways.
    pub endpoint: Option<SocketAddr>,
}

impl FederationConfig {
    /// The cluster called `name`.
    #[must_use]
    pub fn cluster(&self, name: &str) -> Option<&ClusterConfig> {
        self.clusters.iter().find(|c| c.name == name)
    }

    /// The cluster that has `trust_domain`.
    #[must_use]
    pub fn cluster_of(&self, trust_domain: &TrustDomain) -> Option<&ClusterConfig> {
        self.clusters
            .iter()
            .find(|c| c.trust_domain == *trust_domain)
    }

    /// Adds a cluster that was joined. One that is listed already stays as it is listed.
    ///
    /// # Errors
    /// What it shares with another cluster, in words.
    pub(crate) fn join(&mut self, joined: &ClusterConfig) -> Result<(), String> {
        for cluster in &self.clusters {
            let (name, domain) = (&cluster.name, &cluster.trust_domain);
            match (joined.name == *name, joined.trust_domain == *domain) {
                (true, true) => return Ok(()),
                (true, false) => return Err(format!("the cluster {name} here is of {domain}")),
                (false, true) => return Err(format!("{domain} is called {name} here")),
                (false, false) => {}
            }
            for (ours, theirs) in cluster
                .pod_ranges
                .iter()
                .flat_map(|ours| joined.pod_ranges.iter().map(move |theirs| (ours, theirs)))
            {
                if ours.cidr.contains(&theirs.cidr) || theirs.cidr.contains(&ours.cidr) {
                    return Err(format!(
                        "its pod range {} overlaps {} of {name}",
                        theirs.cidr, ours.cidr
                    ));
                }
            }
        }
        self.clusters.push(joined.clone());
        Ok(())
    }

    /// The addresses that must prove an identity: the pod ranges of all clusters.
    ///
    /// # Errors
    /// The first two ranges that overlap; never for a configuration that a source accepted.
    pub fn networks(&self) -> Result<IdentityNetworks, NetworksError> {
        let ranges = self.clusters.iter().flat_map(ClusterConfig::ranges);
        IdentityNetworks::new(ranges.collect())
    }
}

impl ClusterConfig {
    /// A cluster of which this one knows no more than it was told when it joined it.
    #[must_use]
    pub fn joined(name: &str, trust_domain: TrustDomain, pod_ranges: Vec<PodRange>) -> Self {
        Self {
            name: name.to_owned(),
            trust_domain,
            pod_ranges,
            nodes: Vec::new(),
            gateways: Vec::new(),
        }
    }

    /// Its pod ranges as identity networks.
    pub fn ranges(&self) -> impl Iterator<Item = IdentityRange> {
        self.pod_ranges.iter().map(|range| IdentityRange {
            prefix: range.cidr,
            trust_domain: self.trust_domain.clone(),
            range_id: range.id,
        })
    }
}
