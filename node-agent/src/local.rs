//! Which pods are here, where they are attached, and the rules that follow: a function of values.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use sources::World;

use crate::{
    links::{Attachment, Links},
    rules::{LinkName, PodPort, RateLimits, RuleSet},
};

/// The pods of this node that can be served, and what stands in the way of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalPods {
    /// By address.
    pub served: BTreeMap<IpAddr, Served>,
    /// In words. A pod that is not served is cut off.
    pub problems: Vec<String>,
    /// A pod of this node is on a bridge.
    pub bridged: bool,
}

/// A pod that is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Its UID: another one at the same address is another pod.
    pub uid: String,
    /// Where it is attached.
    pub port: PodPort,
}

impl LocalPods {
    /// The pods that `world` places on `node` and that `links` lead to.
    #[must_use]
    pub fn find(world: &World, node: &str, links: &Links, uplink: &LinkName) -> Self {
        let mut found = Self::default();
        let mut claimed: BTreeMap<IpAddr, u32> = BTreeMap::new();
        let here = || world.workloads.iter().filter(|w| w.node == node);
        for address in here().filter_map(|w| w.address) {
            *claimed.entry(address).or_default() += 1;
        }
        for workload in here() {
            let name = format!("pod {}/{}", workload.namespace, workload.pod);
            let Some(address) = workload.address else {
                found.problems.push(format!("{name} has no address yet"));
                continue;
            };
            if claimed.get(&address) != Some(&1) {
                found.problems.push(format!(
                    "{name}: another pod of this node has {address}, too"
                ));
                continue;
            }
            match links.attachment(address) {
                Attachment::Routed(link) if link == *uplink => found.problems.push(format!(
                    "{name}: {address} is routed to the uplink {uplink}, not to a pod"
                )),
                Attachment::Routed(link)
                    if workload
                        .interface
                        .as_deref()
                        .is_some_and(|i| i != link.as_str()) =>
                {
                    let wanted = workload.interface.as_deref().unwrap_or_default();
                    found.problems.push(format!(
                        "{name}: {address} is routed to {link}, not to {wanted} as declared, so it is cut off"
                    ));
                }
                Attachment::Routed(link) => {
                    let port = PodPort::Routed { link };
                    found.served.insert(
                        address,
                        Served {
                            uid: workload.uid.clone(),
                            port,
                        },
                    );
                }
                Attachment::Bridge(bridge) => {
                    found.bridged = true;
                    found.problems.push(format!(
                        "{name} is on the bridge {bridge}: which port is its own is not known, so \
                         it is cut off. Route {address}/32 to an interface of its own"
                    ));
                }
                Attachment::Unusable(error) => found.problems.push(format!(
                    "{name}: the route to {address} leads to an interface that rules cannot \
                     name, so it is cut off: {error}"
                )),
                Attachment::Nowhere => {
                    found
                        .problems
                        .push(format!("{name}: no route of this node leads to {address}"));
                }
            }
        }
        found
    }

    /// The rules for these pods.
    #[must_use]
    pub fn rules(
        &self,
        world: &World,
        uplink: &LinkName,
        name_servers: &BTreeSet<IpAddr>,
        limits: RateLimits,
        bridge_netfilter: bool,
    ) -> RuleSet {
        let clusters = &world.federation.clusters;
        let ranges = clusters.iter().flat_map(|cluster| &cluster.pod_ranges);
        RuleSet {
            uplinks: [uplink.clone()].into(),
            pods: self
                .served
                .iter()
                .map(|(a, served)| (*a, served.port.clone()))
                .collect(),
            identity: ranges.map(sources::PodRange::seen).collect(),
            name_servers: match world.policies.names_domains() {
                true => name_servers.clone(),
                false => BTreeSet::new(),
            },
            limits,
            bridge_netfilter,
            ..RuleSet::default()
        }
    }

    /// Pods that are here and not in `next`, by address: gone, or another pod, or elsewhere.
    pub fn gone<'a>(&'a self, next: &'a Self) -> impl Iterator<Item = IpAddr> + 'a {
        let same = |address: &IpAddr, served: &Served| {
            next.served
                .get(address)
                .is_some_and(|s| s.uid == served.uid)
        };
        self.served
            .iter()
            .filter(move |(a, s)| !same(a, s))
            .map(|(address, _)| *address)
    }
}
