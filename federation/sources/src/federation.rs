//! Which clusters form the federation, and which addresses are theirs.

use std::net::{IpAddr, SocketAddr};

use identity::{IdentityNetworks, IdentityRange, NetworksError, TrustDomain, same_offset};
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
    /// The prefix, without host bits, as its owner has it.
    pub cidr: IpNet,
    /// Where other clusters see it, when that is elsewhere: of the same family and length. Of the own
    /// cluster it says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map_to: Option<IpNet>,
}

impl PodRange {
    /// Where a cluster that does not own it sees it.
    #[must_use]
    pub fn seen(&self) -> IpNet {
        self.map_to.unwrap_or(self.cidr)
    }
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

    /// Where the cluster that this is the federation of sees the pod of `owner` at `address`.
    #[must_use]
    pub fn seen_at(&self, owner: &TrustDomain, address: IpAddr) -> IpAddr {
        let ranges = self.cluster_of(owner).map(|cluster| &*cluster.pod_ranges);
        let mut ranges = ranges.unwrap_or_default().iter();
        let range = ranges.find(|range| range.cidr.contains(&address));
        range.map_or(address, |range| same_offset(address, range.seen()))
    }

    /// As the cluster called `own` sees it: its own addresses are nowhere else.
    pub(crate) fn seen_from(&mut self, own: &str) {
        let own = self
            .clusters
            .iter_mut()
            .filter(|cluster| cluster.name == own);
        for range in own.flat_map(|cluster| &mut cluster.pod_ranges) {
            range.map_to = None;
        }
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
                let (ours, theirs) = (ours.seen(), theirs.seen());
                if ours.contains(&theirs) || theirs.contains(&ours) {
                    return Err(format!("its pod range {theirs} overlaps {ours} of {name}"));
                }
            }
        }
        self.clusters.push(joined.clone());
        Ok(())
    }

    /// The addresses that must prove an identity: the pod ranges of all clusters, where they are seen.
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

    /// Its pod ranges as identity networks, where they are seen.
    pub fn ranges(&self) -> impl Iterator<Item = IdentityRange> {
        self.pod_ranges.iter().map(|range| IdentityRange {
            prefix: range.seen(),
            trust_domain: self.trust_domain.clone(),
            range_id: range.id,
            real: range.map_to.map(|_| range.cidr),
        })
    }
}
