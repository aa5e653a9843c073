//! `v1` Node -> its labels and addresses, for policies that speak of nodes.

use std::net::IpAddr;

use identity::Labels;
use k8s_openapi::api::core::v1::Node;

use super::names::labels;
use crate::fault::{Faults, FieldPath};

/// The node that `object` describes: "the IPs present in the node.Status.Addresses field".
pub(super) fn node(object: &Node, faults: &mut Faults) -> (Labels, Vec<IpAddr>) {
    let map = object.metadata.labels.clone().unwrap_or_default();
    let labels = labels(&map, &FieldPath::of(&["metadata", "labels"]), faults);
    let listed = object
        .status
        .iter()
        .flat_map(|s| s.addresses.iter().flatten());
    // Names of hosts stand among them.
    let mut addresses: Vec<IpAddr> = listed.filter_map(|a| a.address.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    (labels, addresses)
}
