//! Nodes and addresses for pods that declare none. A pure function of what is declared, so that
//! gateways, agents and the command line agree without asking each other.
//!
//! Node `i` (counted from 1) of a cluster serves the `i`-th subnet of the cluster's first pod
//! range: of 10.1.0.0/16 node 2 has 10.1.2.0/24. Pods get its addresses from offset 10 on.
//!
//! An allotted address depends on the pods before it: a pod that is added can move others. Whoever
//! needs addresses that stay declares `status.podIP`.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ClusterConfig;

/// The first offset in a node's subnet that a pod gets; those below are for routers and services.
pub const FIRST_POD: u32 = 10;

/// What a pod declares of its place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request<'a> {
    /// The pod's namespace.
    pub namespace: &'a str,
    /// The pod's name.
    pub name: &'a str,
    /// `spec.nodeName`.
    pub node: Option<&'a str>,
    /// `status.podIP`.
    pub address: Option<IpAddr>,
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The node it runs on.
    pub node: String,
    /// Its address; `None` when its node has no free one, or is no node of the cluster and so has no
    /// subnet.
    pub address: Option<IpAddr>,
}

/// The place of each request, in their order. The order of the requests does not matter otherwise:
/// they are served by namespace and name, those that declare an address first.
#[must_use]
pub fn allotment(cluster: &ClusterConfig, requests: &[Request<'_>]) -> Vec<Place> {
    let mut taken: BTreeSet<IpAddr> = requests.iter().filter_map(|r| r.address).collect();
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|i| requests.get(*i));
    let mut places: Vec<(usize, Place)> = Vec::with_capacity(requests.len());
    for index in order {
        let Some(request) = requests.get(index) else {
            continue;
        };
        let node = node(cluster, request);
        let address = request.address.or_else(|| free(cluster, &node, &taken));
        taken.extend(address);
        places.push((index, Place { node, address }));
    }
    places.sort_by_key(|(index, _)| *index);
    places.into_iter().map(|(_, place)| place).collect()
}

/// The addresses that `node` serves: at least a /24 (IPv6: /64) and at least 8 bits longer than the
/// range. `None` when the cluster has no such node or its range is too small for it.
#[must_use]
pub fn node_prefix(cluster: &ClusterConfig, node: &str) -> Option<IpNet> {
    let number = cluster.nodes.iter().position(|n| n == node)?;
    let number = u32::try_from(number).ok()?.checked_add(1)?;
    let range = cluster.pod_ranges.first()?.cidr.trunc();
    let longest = match range {
        IpNet::V4(_) => 24,
        IpNet::V6(_) => 64,
    };
    let length = range.prefix_len().checked_add(8)?.max(longest);
    if length > range.max_prefix_len() {
        return None;
    }
    let shift = u32::from(range.max_prefix_len() - length);
    let subnet = match range {
        IpNet::V4(net) => {
            let base = number.checked_shl(shift).filter(|n| n >> shift == number)?;
            let network = net.network().to_bits().checked_add(base)?;
            IpNet::V4(Ipv4Net::new(Ipv4Addr::from_bits(network), length).ok()?)
        }
        IpNet::V6(net) => {
            let number = u128::from(number);
            let base = number.checked_shl(shift).filter(|n| n >> shift == number)?;
            let network = net.network().to_bits().checked_add(base)?;
            IpNet::V6(Ipv6Net::new(Ipv6Addr::from_bits(network), length).ok()?)
        }
    };
    range.contains(&subnet).then_some(subnet)
}

/// The declared node; else the one that serves the declared address; else one that the pod's name
/// alone determines, so that other pods do not move it.
fn node(cluster: &ClusterConfig, request: &Request<'_>) -> String {
    if let Some(node) = request.node {
        return node.to_owned();
    }
    let serves = |node: &&String| {
        let prefix = node_prefix(cluster, node);
        prefix.is_some_and(|p| request.address.is_some_and(|a| p.contains(&a)))
    };
    let by_name = || {
        let count = u32::try_from(cluster.nodes.len()).unwrap_or(u32::MAX);
        let index = fnv1a(request).checked_rem(count)?;
        cluster.nodes.get(index as usize)
    };
    let found = cluster.nodes.iter().find(serves).or_else(by_name);
    found.cloned().unwrap_or_default()
}

/// FNV-1a of `namespace/name`.
fn fnv1a(request: &Request<'_>) -> u32 {
    let bytes = [request.namespace, "/", request.name];
    let bytes = bytes.iter().flat_map(|part| part.bytes());
    bytes.fold(0x811c_9dc5, |hash: u32, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// The lowest free address of the node. The last address of an IPv4 subnet is its broadcast.
fn free(cluster: &ClusterConfig, node: &str, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let prefix = node_prefix(cluster, node)?;
    let last = match prefix {
        IpNet::V4(net) => u32::MAX
            .checked_shr(net.prefix_len().into())
            .unwrap_or(0)
            .saturating_sub(1),
        IpNet::V6(net) => {
            u32::try_from(u128::MAX.checked_shr(net.prefix_len().into()).unwrap_or(0))
                .unwrap_or(u32::MAX)
        }
    };
    let address = |offset: u32| match prefix {
        IpNet::V4(net) => {
            let bits = net.network().to_bits().checked_add(offset)?;
            Some(IpAddr::V4(Ipv4Addr::from_bits(bits)))
        }
        IpNet::V6(net) => {
            let bits = net.network().to_bits().checked_add(offset.into())?;
            Some(IpAddr::V6(Ipv6Addr::from_bits(bits)))
        }
    };
    (FIRST_POD..=last)
        .filter_map(address)
        .find(|a| !taken.contains(a))
}
