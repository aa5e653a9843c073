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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::PodRange;

    fn cluster(range: &str, nodes: usize) -> ClusterConfig {
        ClusterConfig {
            name: "east".into(),
            trust_domain: "east".parse().unwrap(),
            pod_ranges: vec![PodRange {
                id: 1,
                cidr: range.parse().unwrap(),
                map_to: None,
            }],
            nodes: (1..=nodes).map(|n| format!("node{n}")).collect(),
            gateways: Vec::new(),
        }
    }

    #[test]
    fn nodes_have_subnets_by_their_number() {
        for (range, node, prefix) in [
            ("10.1.0.0/16", "node1", Some("10.1.1.0/24")),
            ("10.1.0.0/16", "node2", Some("10.1.2.0/24")),
            ("10.0.0.0/8", "node2", Some("10.0.2.0/24")),
            ("10.1.16.0/20", "node3", Some("10.1.16.48/28")),
            ("10.1.1.0/24", "node1", Some("10.1.1.1/32")),
            ("10.1.1.0/25", "node1", None),
            ("fd00::/48", "node2", Some("fd00:0:0:2::/64")),
            ("fd00::/64", "node2", Some("fd00::200:0:0:0/72")),
            ("10.1.0.0/16", "node4", None),
        ] {
            let found = node_prefix(&cluster(range, 3), node).map(|p| p.to_string());
            assert_eq!(found.as_deref(), prefix, "{range} {node}");
        }
        let many = cluster("10.1.0.0/16", 300);
        assert_eq!(
            node_prefix(&many, "node255").unwrap().to_string(),
            "10.1.255.0/24"
        );
        assert_eq!(node_prefix(&many, "node256"), None);
    }

    #[test]
    fn pods_begin_at_ten_and_leave_declared_addresses_alone() {
        let request = |name, address: Option<&str>| Request {
            namespace: "shop",
            name,
            node: Some("node2"),
            address: address.map(|a| a.parse().unwrap()),
        };
        let requests = [
            request("b", None),
            request("a", None),
            request("z", Some("10.1.2.11")),
        ];
        let places = allotment(&cluster("10.1.0.0/16", 2), &requests);
        let addresses: Vec<String> = places
            .iter()
            .map(|p| p.address.unwrap().to_string())
            .collect();
        assert_eq!(addresses, ["10.1.2.12", "10.1.2.10", "10.1.2.11"]);
        // A subnet of 16 addresses has room from 10 to 14.
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let requests = names.map(|n| request(n, None));
        let places = allotment(&cluster("10.1.16.0/20", 2), &requests);
        let served = places.iter().filter(|p| p.address.is_some()).count();
        assert_eq!(served, 5);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_no_address_is_given_twice(
            names in prop::collection::btree_set("[a-z]{1,4}", 0..40),
            declared in prop::collection::vec(prop::option::of(0..60_u8), 40),
            seed in any::<prop::sample::Index>(),
        ) {
            let cluster = cluster("10.1.0.0/16", 2);
            let mut used = BTreeSet::new();
            let requests: Vec<Request<'_>> = names.iter().zip(&declared).map(|(name, at)| Request {
                namespace: "shop",
                name,
                node: None,
                address: at.filter(|a| used.insert(*a)).map(|a| IpAddr::from([10, 1, 1, a])),
            }).collect();
            let places = allotment(&cluster, &requests);
            let addresses: BTreeSet<IpAddr> = places.iter().filter_map(|p| p.address).collect();
            prop_assert_eq!(addresses.len(), requests.len());
            for (request, place) in requests.iter().zip(&places) {
                prop_assert!(request.address.is_none_or(|a| place.address == Some(a)));
                let prefix = node_prefix(&cluster, &place.node).unwrap();
                prop_assert!(prefix.contains(&place.address.unwrap()));
            }
            let mut turned = requests.clone();
            let by = if requests.is_empty() { 0 } else { seed.index(requests.len()) };
            turned.rotate_left(by);
            let again = allotment(&cluster, &turned);
            for (request, place) in turned.iter().zip(again) {
                let before = requests.iter().position(|r| r == request).unwrap();
                prop_assert_eq!(&places[before], &place);
            }
        }
    }
}
