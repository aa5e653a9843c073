//! From declared clusters to the network of the demo: names and addresses, nothing else. Pure, so
//! that `up`, `check`, `status` and a person who reads the configuration expect the same network.
//!
//! | part | network namespace | interfaces |
//! |---|---|---|
//! | the WAN | `lb-wan` | bridge `br0`, one port per gateway |
//! | LAN of a cluster | `lb-<cluster>-lan` | bridge `br0`, one port per gateway and node |
//! | gateway | `lb-<cluster>-gw1` | `wan0` 192.0.2.`n`/24, `lan0` 172.16.`n`.1/24 |
//! | node `i` | `lb-<cluster>-<node>` | `up0` 172.16.`n`.`10+i`/24, one veth per pod |
//! | pod | `lb-<cluster>-<pod>` | `eth0`, a /32, routed by way of 169.254.1.1 |
//!
//! `n` counts the clusters from 1 in the order of the configuration, `i` the nodes of a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use anyhow::{Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The address that every pod uses as its default gateway; no interface has it.
pub const POD_GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// UDP port of the QUIC sessions between gateways.
pub const QUIC_PORT: u16 = 4433;
/// UDP port of the QUIC sessions between agents and their gateway.
pub const NODE_PORT: u16 = 4434;
/// From where clusters that join by tokens map pod ranges that overlap (RFC 6598).
pub const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
/// UDP port of the encrypted tunnel.
pub const PSP_PORT: u16 = 1000;
/// Where a gateway serves `/readyz` and `/metrics`, inside its namespace.
pub const GATEWAY_METRICS: &str = "127.0.0.1:9464";
/// Where an agent serves `/readyz` and `/metrics`, inside its namespace.
pub const AGENT_METRICS: &str = "127.0.0.1:9465";
/// Longest name of a namespace, so that the file under /run/netns can be made.
const MAX_NAME: usize = 200;

/// What a configuration folder declares, as far as the network needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    /// In the order of the configuration.
    pub clusters: Vec<DeclaredCluster>,
}

/// One cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredCluster {
    /// Its name, which is also its folder.
    pub name: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Where its pods' addresses lie.
    pub ranges: Vec<Ipv4Net>,
    /// Where other clusters see each of these ranges.
    pub seen: Vec<Ipv4Net>,
    /// Its nodes, in order.
    pub nodes: Vec<DeclaredNode>,
    /// Its pods, each with node and address.
    pub pods: Vec<DeclaredPod>,
    /// The clusters that its FederationPeer objects name.
    pub peers: Vec<String>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredNode {
    /// Its name.
    pub name: String,
    /// The addresses of its pods, where they lie together.
    pub serves: Option<Ipv4Net>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredPod {
    /// Its namespace in Kubernetes' sense.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// TCP ports that it declares.
    pub ports: Vec<u16>,
    /// What runs instead of the built-in server (annotation `landbridge.io/command`).
    pub command: Option<String>,
}

/// The network to build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What every namespace's name starts with.
    pub prefix: String,
    /// The namespace of the bridge between the gateways.
    pub wan: String,
    /// Whose DNS answers the agents believe; none for those of this machine.
    pub name_servers: Vec<Ipv4Addr>,
    /// The clusters know nothing of each other, and join by tokens.
    pub by_token: bool,
    /// They join the first one alone, which introduces them to each other.
    #[serde(default)]
    pub introduced: bool,
    /// In the order of the configuration.
    pub clusters: Vec<Cluster>,
}

/// One cluster of the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Where its pods' addresses lie.
    pub ranges: Vec<Ipv4Net>,
    /// Where other clusters see each of these ranges, unless they joined by a token.
    pub seen: Vec<Ipv4Net>,
    /// The namespace of the bridge between gateway and nodes.
    pub lan: String,
    /// Its gateway.
    pub gateway: Gateway,
    /// Its nodes, in order.
    pub nodes: Vec<Node>,
    /// Its pods, sorted by namespace and name.
    pub pods: Vec<Pod>,
    /// The clusters that are its peers only as long as an object says so. All others are, too.
    pub declared_peers: Vec<String>,
}

/// The gateway of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its name in the configuration.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its address on `wan0`, /24.
    pub wan: Ipv4Addr,
    /// Its address on `lan0`, /24.
    pub lan: Ipv4Addr,
}

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name in the configuration.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// Its address on `up0`, /24.
    pub address: Ipv4Addr,
    /// What the other machines of the cluster route to it.
    pub serves: Vec<Ipv4Net>,
}

/// A pod of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Its namespace in Kubernetes' sense.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its network namespace.
    pub netns: String,
    /// The node it runs on.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// The node's end of its link.
    pub veth: String,
    /// TCP ports that it serves.
    pub ports: Vec<u16>,
    /// What runs instead of the built-in server.
    pub command: Option<String>,
}

impl Plan {
    /// Names and addresses for everything that is declared.
    ///
    /// # Errors
    /// When the demo's small networks cannot hold it: too many clusters or nodes, a pod on an
    /// unknown node or outside of its cluster's ranges, an address used twice, a name too long.
    pub fn new(prefix: &str, declared: &Declared) -> Result<Self> {
        if declared.clusters.is_empty() {
            bail!("the configuration declares no cluster");
        }
        if declared.clusters.len() > 200 {
            bail!(
                "{} clusters are declared; the demo's WAN has room for 200",
                declared.clusters.len()
            );
        }
        let mut names = Names::default();
        let wan = names.take(format!("{prefix}-wan"))?;
        let clusters = (1u8..)
            .zip(&declared.clusters)
            .map(|(n, cluster)| plan_cluster(prefix, n, cluster, &mut names))
            .collect::<Result<_>>()?;
        let plan = Self {
            prefix: prefix.into(),
            wan,
            name_servers: Vec::new(),
            by_token: false,
            introduced: false,
            clusters,
        };
        plan.check_addresses()?;
        Ok(plan)
    }

    /// Every pod with its cluster.
    pub fn pods(&self) -> impl Iterator<Item = (&Cluster, &Pod)> {
        self.clusters
            .iter()
            .flat_map(|c| c.pods.iter().map(move |p| (c, p)))
    }

    fn check_addresses(&self) -> Result<()> {
        let mut seen = BTreeMap::new();
        for (cluster, pod) in self.pods() {
            let who = format!("{}/{}/{}", cluster.name, pod.namespace, pod.name);
            if let Some(other) = seen.insert((&cluster.name, pod.address), who.clone()) {
                bail!("{other} and {who} have the same address {}", pod.address);
            }
        }
        for (i, one) in self.clusters.iter().enumerate() {
            for other in self.clusters.iter().skip(i + 1) {
                if one.name == other.name {
                    bail!("two clusters have the same name {:?}", one.name);
                }
                if one.trust_domain == other.trust_domain {
                    bail!(
                        "clusters {:?} and {:?} have the same trust domain {:?}",
                        one.name,
                        other.name,
                        one.trust_domain
                    );
                }
                let both = [(&one.ranges, &other.seen), (&one.seen, &other.ranges)];
                for (a, b) in both
                    .into_iter()
                    .flat_map(|(one, other)| one.iter().map(move |a| (a, other)))
                    .flat_map(|(a, other)| other.iter().map(move |b| (a, b)))
                {
                    if a.contains(b) || b.contains(a) {
                        bail!(
                            "pod range {a} of {} overlaps {b} of {}",
                            one.name,
                            other.name
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

impl Cluster {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// Where other clusters see its pod at `address`.
    pub fn seen_at(&self, address: Ipv4Addr) -> Ipv4Addr {
        let mut ranges = self.ranges.iter().zip(&self.seen);
        let range = ranges.find(|(range, _)| range.contains(&address));
        range.map_or(address, |(range, seen)| {
            let host = address.to_bits() & range.hostmask().to_bits();
            Ipv4Addr::from_bits(seen.network().to_bits() | host)
        })
    }

    /// `<cluster>-<gateway>`: names its log, its state and its part in `status`.
    pub fn gateway_role(&self) -> String {
        format!("{}-{}", self.name, self.gateway.name)
    }

    /// `<cluster>-<node>`: names the agent's log, its state and its part in `status`.
    pub fn agent_role(&self, node: &Node) -> String {
        format!("{}-{}", self.name, node.name)
    }

    /// The port of the WAN's bridge that the gateway is behind.
    pub fn wan_port(&self) -> String {
        port_name(&self.gateway_role(), self.gateway.wan)
    }
}

impl Gateway {
    /// The port of the LAN's bridge that it is behind.
    pub fn lan_port(&self) -> String {
        port_name(&self.name, self.lan)
    }
}

impl Node {
    /// The port of the LAN's bridge that it is behind.
    pub fn lan_port(&self) -> String {
        port_name(&self.name, self.address)
    }
}

/// Names of bridge ports are for people who read a capture. A name of more than 15 bytes
/// (IFNAMSIZ), or one that the namespace has already, gives way to the address's last byte.
fn port_name(name: &str, address: Ipv4Addr) -> String {
    if name.len() <= 15 && !matches!(name, "br0" | "lo") {
        name.into()
    } else {
        format!("port{}", address.octets()[3])
    }
}

fn plan_cluster(
    prefix: &str,
    n: u8,
    declared: &DeclaredCluster,
    names: &mut Names,
) -> Result<Cluster> {
    let name = &declared.name;
    if declared.nodes.len() > 200 {
        bail!(
            "cluster {name} declares {} nodes; the demo's LAN has room for 200",
            declared.nodes.len()
        );
    }
    // Infrastructure takes its names first, so that no pod can move them.
    let lan = names.take(format!("{prefix}-{name}-lan"))?;
    let gateway = Gateway {
        name: "gw1".into(),
        netns: names.take(format!("{prefix}-{name}-gw1"))?,
        wan: Ipv4Addr::new(192, 0, 2, n),
        lan: Ipv4Addr::new(172, 16, n, 1),
    };
    let mut nodes = (1u8..)
        .zip(&declared.nodes)
        .map(|(i, node)| {
            Ok(Node {
                name: node.name.clone(),
                netns: names.take(format!("{prefix}-{name}-{}", node.name))?,
                address: Ipv4Addr::new(172, 16, n, 10 + i),
                serves: node.serves.into_iter().collect(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let pods = plan_pods(prefix, declared, &mut nodes, names)?;
    Ok(Cluster {
        name: name.clone(),
        trust_domain: declared.trust_domain.clone(),
        ranges: declared.ranges.clone(),
        seen: declared.seen.clone(),
        lan,
        gateway,
        nodes,
        pods,
        declared_peers: declared.peers.clone(),
    })
}

fn plan_pods(
    prefix: &str,
    declared: &DeclaredCluster,
    nodes: &mut [Node],
    names: &mut Names,
) -> Result<Vec<Pod>> {
    let cluster = &declared.name;
    let mut sorted: Vec<_> = declared.pods.iter().collect();
    sorted.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut count: BTreeMap<&str, u32> = BTreeMap::new();
    for pod in &sorted {
        *count.entry(&pod.name).or_default() += 1;
    }
    let mut veths = BTreeSet::new();
    sorted
        .iter()
        .map(|pod| {
            let who = format!("{cluster}/{}/{}", pod.namespace, pod.name);
            let Some(node) = nodes.iter_mut().find(|n| n.name == pod.node) else {
                bail!(
                    "{who} runs on node {:?}, which the cluster does not have",
                    pod.node
                );
            };
            if !declared.ranges.iter().any(|r| r.contains(&pod.address)) {
                bail!(
                    "{who} has address {}, outside of the cluster's pod ranges",
                    pod.address
                );
            }
            if !node.serves.iter().any(|net| net.contains(&pod.address)) {
                node.serves.push(Ipv4Net::from(pod.address));
            }
            let short = format!("{prefix}-{cluster}-{}", pod.name);
            let long = format!("{prefix}-{cluster}-{}-{}", pod.namespace, pod.name);
            let only_one = count.get(pod.name.as_str()) == Some(&1);
            let netns = if only_one && names.is_free(&short) {
                names.take(short)?
            } else {
                names.take_or_number(long)?
            };
            Ok(Pod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                netns,
                node: pod.node.clone(),
                address: pod.address,
                veth: veth_name(&pod.name, &mut veths),
                ports: pod.ports.clone(),
                command: pod.command.clone(),
            })
        })
        .collect()
}

/// `p-` and the start of the pod's name: at most 15 bytes (IFNAMSIZ), unique in its cluster.
fn veth_name(pod: &str, used: &mut BTreeSet<String>) -> String {
    let start = |len: usize| pod.chars().take(len).collect::<String>();
    let mut name = format!("p-{}", start(13));
    for number in 2.. {
        if used.insert(name.clone()) {
            break;
        }
        let suffix = format!("-{number}");
        name = format!("p-{}{suffix}", start(13 - suffix.len()));
    }
    name
}

/// The names of namespaces given so far.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn is_free(&self, name: &str) -> bool {
        !self.0.contains(name)
    }

    fn take(&mut self, name: String) -> Result<String> {
        if name.len() > MAX_NAME {
            bail!("network namespace {name:?} would be named with more than {MAX_NAME} bytes");
        }
        if name.contains('/') || name.contains(char::is_whitespace) {
            bail!("{name:?} cannot be the name of a network namespace");
        }
        if !self.0.insert(name.clone()) {
            bail!("two parts of the demo would be named {name:?}: rename a cluster or a node");
        }
        Ok(name)
    }

    /// Two namespaces and names may run together: `a-b` + `c` and `a` + `b-c`.
    fn take_or_number(&mut self, name: String) -> Result<String> {
        let free = (2..)
            .map(|number| format!("{name}-{number}"))
            .find(|numbered| self.is_free(numbered));
        match free {
            Some(numbered) if !self.is_free(&name) => self.take(numbered),
            _ => self.take(name),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
