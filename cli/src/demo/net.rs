//! Builds the planned network. Every namespace is recorded before it is made; all else lives in a
//! namespace and ends with it.

use std::{io::ErrorKind, net::Ipv4Addr, process::Command};

use anyhow::{Context, Result};

use super::{
    journal::{Entry, Journal},
    netns,
    plan::{Cluster, Node, POD_GATEWAY, POOL, Plan, Pod},
};

/// Queues of each gateway interface. The far end of a veth must not have more transmit queues than
/// this end has receive queues, or no AF_XDP socket can be bound.
const GATEWAY_QUEUES: u8 = 2;
/// Nanoseconds that a node's uplink waits for more segments to merge.
const COALESCE_NS: u32 = 100_000;
/// The node's end of every pod's link.
const NODE_MAC: &str = "02:00:00:00:00:01";
/// The pod's end of its link.
const POD_MAC: &str = "02:00:00:00:00:02";

/// Builds all of `plan`; `cancelled` is asked between the steps.
pub fn build(plan: &Plan, journal: &Journal, cancelled: &dyn Fn() -> Result<()>) -> Result<()> {
    add_netns(journal, &plan.wan)?;
    add_bridge(&plan.wan)?;
    for cluster in &plan.clusters {
        add_netns(journal, &cluster.lan)?;
        add_bridge(&cluster.lan)?;
        add_gateway(plan, cluster, journal)?;
        for node in &cluster.nodes {
            cancelled()?;
            add_node(plan, cluster, node, journal)?;
        }
        for pod in &cluster.pods {
            cancelled()?;
            add_pod(cluster, pod, journal)?;
        }
    }
    Ok(())
}

/// Adds one pod to a network that stands.
pub fn add_pod(cluster: &Cluster, pod: &Pod, journal: &Journal) -> Result<()> {
    let node = cluster
        .node(&pod.node)
        .with_context(|| format!("{} has no node {:?}", cluster.name, pod.node))?;
    add_netns(journal, &pod.netns)?;
    let (veth, address) = (&pod.veth, pod.address);
    netns::ip_batch(
        &node.netns,
        &[
            format!(
                "link add name {veth} address {NODE_MAC} type veth \
                 peer name eth0 address {POD_MAC} netns {}",
                pod.netns
            ),
            format!("link set {veth} up"),
            format!("route add {address}/32 dev {veth}"),
            format!("neigh replace {address} lladdr {POD_MAC} dev {veth} nud permanent"),
        ],
    )?;
    netns::ip_batch(
        &pod.netns,
        &[
            format!("address add {address}/32 dev eth0"),
            "link set eth0 up".into(),
            format!("route add {POD_GATEWAY}/32 dev eth0 scope link"),
            format!("route add default via {POD_GATEWAY} dev eth0"),
            format!("neigh replace {POD_GATEWAY} lladdr {NODE_MAC} dev eth0 nud permanent"),
        ],
    )
}

/// Takes one pod out of a network that goes on. Its processes must have ended.
pub fn remove_pod(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let node = cluster
        .node(&pod.node)
        .with_context(|| format!("{} has no node {:?}", cluster.name, pod.node))?;
    netns::ip_batch(&node.netns, &[format!("link delete {}", pod.veth)])?;
    netns::remove(&pod.netns)
}

fn add_netns(journal: &Journal, name: &str) -> Result<()> {
    journal.record(&Entry::Netns { name: name.into() })?;
    netns::add(name)
}

fn add_bridge(name: &str) -> Result<()> {
    without_ipv6(name)?;
    without_netfilter(name)?;
    netns::ip_batch(
        name,
        &[
            "link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0".into(),
            "link set br0 up".into(),
        ],
    )
}

fn add_gateway(plan: &Plan, cluster: &Cluster, journal: &Journal) -> Result<()> {
    let gateway = &cluster.gateway;
    add_netns(journal, &gateway.netns)?;
    router_sysctls(&gateway.netns)?;
    let wan_port = cluster.wan_port();
    attach(&gateway.netns, "wan0", gateway.wan, &plan.wan, &wan_port)?;
    let lan_port = gateway.lan_port();
    attach(&gateway.netns, "lan0", gateway.lan, &cluster.lan, &lan_port)?;
    // The kernel could route between the clusters in clear, as on a machine whose operator
    // forgot to forbid it. Only the gateway's program keeps it from doing so.
    let others = plan.clusters.iter().filter(|c| c.name != cluster.name);
    let far = others.flat_map(|c| c.seen.iter().map(|r| (*r, c.gateway.wan)));
    let near = cluster
        .nodes
        .iter()
        .flat_map(|n| n.serves.iter().map(|r| (*r, n.address)));
    let routes: Vec<_> = far.chain(near).map(|(r, via)| route(r, via)).collect();
    netns::ip_batch(&gateway.netns, &routes)
}

/// A gateway interface: a veth with several queues, whose far end is a port of a bridge. The port
/// computes checksums itself, because its peer runs XDP, which knows no unfinished checksum.
fn attach(netns: &str, interface: &str, address: Ipv4Addr, bridge: &str, port: &str) -> Result<()> {
    let queues = format!("numtxqueues {GATEWAY_QUEUES} numrxqueues {GATEWAY_QUEUES}");
    netns::ip_batch(
        netns,
        &[
            format!(
                "link add name {interface} {queues} type veth \
                 peer name {port} {queues} netns {bridge}"
            ),
            format!("address add {address}/24 dev {interface}"),
            format!("link set {interface} up"),
        ],
    )?;
    netns::ip_batch(
        bridge,
        &[
            format!("link set {port} master br0"),
            format!("link set {port} up"),
        ],
    )?;
    checksums_in_software(bridge, port)
}

fn add_node(plan: &Plan, cluster: &Cluster, node: &Node, journal: &Journal) -> Result<()> {
    add_netns(journal, &node.netns)?;
    router_sysctls(&node.netns)?;
    let port = node.lan_port();
    netns::ip_batch(
        &node.netns,
        &[
            format!(
                "link add name up0 type veth peer name {port} netns {}",
                cluster.lan
            ),
            format!("address add {}/24 dev up0", node.address),
            "link set up0 up".into(),
        ],
    )?;
    netns::ip_batch(
        &cluster.lan,
        &[
            format!("link set {port} master br0"),
            format!("link set {port} up"),
        ],
    )?;
    merge_as_a_nic_does(&node.netns, "up0", &cluster.lan, &port)?;
    let siblings = cluster.nodes.iter().filter(|n| n.name != node.name);
    let near = siblings.flat_map(|n| n.serves.iter().map(|r| (*r, n.address)));
    let others = plan.clusters.iter().filter(|c| c.name != cluster.name);
    let far = others.flat_map(|c| c.seen.iter().map(|r| (*r, cluster.gateway.lan)));
    let pool = plan.by_token.then_some((POOL, cluster.gateway.lan));
    let routes: Vec<_> = near
        .chain(far)
        .chain(pool)
        .map(|(r, via)| route(r, via))
        .collect();
    netns::ip_batch(&node.netns, &routes)
}

fn route(range: ipnet::Ipv4Net, via: Ipv4Addr) -> String {
    format!("route add {range} via {via}")
}

fn checksums_in_software(netns: &str, interface: &str) -> Result<()> {
    netns::inside(netns, || {
        netns::run(Command::new("ethtool").args(["-K", interface, "tx", "off"]))
    })
}

/// Lets `interface` take packets as a NIC does: segments of one flow that come close together reach the
/// node's stack and its rules as one. Without it these work once per segment, and a transfer through
/// the demo measures little else. `port` is the far end of its link, in the namespace `far`.
fn merge_as_a_nic_does(netns: &str, interface: &str, far: &str, port: &str) -> Result<()> {
    // A veth merges nothing while its far end may send what is not cut into segments yet.
    netns::inside(far, || {
        netns::run(Command::new("ethtool").args(["-K", port, "tso", "off"]))
    })?;
    netns::inside(netns, || {
        netns::run(Command::new("ethtool").args(["-K", interface, "gro", "on"]))
    })?;
    let attributes = format!(
        "cd /sys/class/net/{interface} && echo 1 > napi_defer_hard_irqs \
         && echo {COALESCE_NS} > gro_flush_timeout"
    );
    // Attributes of this namespace's interfaces show in a /sys of its own only.
    netns::run(Command::new("ip").args(["netns", "exec", netns, "sh", "-c", &attributes]))
}

/// Forwards, and takes packets whose way back differs from their way in.
fn router_sysctls(netns: &str) -> Result<()> {
    without_ipv6(netns)?;
    netns::inside(netns, || {
        for (key, value) in [
            ("ip_forward", "1"),
            ("conf/all/rp_filter", "0"),
            ("conf/default/rp_filter", "0"),
            ("conf/all/send_redirects", "0"),
            ("conf/default/send_redirects", "0"),
        ] {
            let path = format!("/proc/sys/net/ipv4/{key}");
            std::fs::write(&path, value).with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    })
}

/// A switch has no rules. With the module br_netfilter loaded, as agents need it, every namespace's
/// bridges ask them unless told otherwise.
fn without_netfilter(netns: &str) -> Result<()> {
    netns::inside(netns, || {
        for family in ["ip", "ip6"] {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            match std::fs::write(&path, "0") {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot write {path}"));
                }
                _ => {}
            }
        }
        Ok(())
    })
}

/// The demo is IPv4; a kernel that greets its IPv6 neighbours would blur what a capture shows.
/// Before any link is made, because the first greeting goes out with the link.
fn without_ipv6(netns: &str) -> Result<()> {
    netns::inside(netns, || {
        for which in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
            match std::fs::write(&path, "1") {
                // A kernel without IPv6 greets nobody.
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(e).with_context(|| format!("cannot write {path}"));
                }
                _ => {}
            }
        }
        Ok(())
    })
}
