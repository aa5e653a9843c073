//! Link addresses: which station has which, and frames around packets.

use std::net::{IpAddr, Ipv4Addr};

use wire::ethernet::{self, Mac};

/// Bytes of an Ethernet header without a tag.
pub const HEADER: usize = 14;

fn octet(number: usize) -> u8 {
    u8::try_from(number).expect("a small world")
}

/// A node on its cluster's segment.
#[must_use]
pub fn node_mac(cluster: usize, node: usize) -> Mac {
    Mac([2, 0, 0, 1, octet(cluster), octet(node)])
}

/// A gateway on its cluster's segment.
#[must_use]
pub fn lan_mac(cluster: usize) -> Mac {
    Mac([2, 0, 0, 2, octet(cluster), 0])
}

/// A gateway on the network between clusters.
#[must_use]
pub fn wan_mac(cluster: usize) -> Mac {
    Mac([2, 0, 0, 3, octet(cluster), 0])
}

/// The address of a node on its cluster's segment.
#[must_use]
pub fn node_address(cluster: usize, node: usize) -> IpAddr {
    Ipv4Addr::new(172, 16, octet(cluster + 1), octet(node + 11)).into()
}

/// The address of a gateway on its cluster's segment.
#[must_use]
pub fn lan_address(cluster: usize) -> IpAddr {
    Ipv4Addr::new(172, 16, octet(cluster + 1), 1).into()
}

/// The address of a gateway on the network between clusters.
#[must_use]
pub fn wan_address(cluster: usize) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, octet(cluster + 1)).into()
}

/// The node that a frame on a cluster's segment is for.
#[must_use]
pub fn node_of(frame: &[u8]) -> Option<usize> {
    match frame.get(..6)? {
        [2, 0, 0, 1, _, node] => Some((*node).into()),
        _ => None,
    }
}

/// The cluster whose gateway a frame between clusters is for.
#[must_use]
pub fn cluster_of(frame: &[u8]) -> Option<usize> {
    match frame.get(..6)? {
        [2, 0, 0, 3, cluster, _] => Some((*cluster).into()),
        _ => None,
    }
}

/// An IPv4 packet in a frame.
#[must_use]
pub fn frame(to: Mac, from: Mac, packet: &[u8]) -> Vec<u8> {
    [&ethernet::header(to, from, ethernet::IPV4)[..], packet].concat()
}
