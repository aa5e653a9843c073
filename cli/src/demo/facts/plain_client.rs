//! A host that speaks from an address of an identity network without proving anything.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Demo, Enforcer,
    pairs::{self, Distance, Pair},
};
use crate::demo::{
    http::{self, Connected},
    journal::Entry,
    netns,
    plan::{Cluster, Plan},
    pods,
    tap::Verdict,
    wait,
};

/// How long the refused connection is watched: two SYNs.
const WATCHED: Duration = Duration::from_millis(1500);
/// The host's own place on the LAN, above any node.
const LAN_HOST: u8 = 250;

/// Puts such a host on the LAN of a cluster, with routes both ways, and lets it call a pod of that
/// cluster and one of another.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let pairs = pairs::all(demo)?;
    let allowed = |wanted: &[Distance]| {
        pairs
            .iter()
            .find(|p| wanted.contains(&p.distance()) && p.answer.is_allowed())
            .cloned()
    };
    let Some(across) = allowed(&[Distance::Across]) else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let cluster = demo.place(&across.from)?.0.clone();
    let domain = across.from.claims.trust_domain().clone();
    let inside = pairs
        .iter()
        .find(|p| p.distance() != Distance::Across && p.to.claims.trust_domain() == &domain)
        .cloned();
    let host = PlainHost::add(demo, &cluster)?;
    let mut notes = Vec::new();
    if let Some(pair) = inside {
        let agent = demo.agent_of(&pair.to)?;
        notes.push(refused(demo, &host, &pair, &agent)?);
    }
    let gateway = demo.gateway(&cluster);
    notes.push(refused(demo, &host, &across, &gateway)?);
    host.take_away()?;
    for (cluster, pod) in demo.plan.pods() {
        let end = demo.oracle.end(&pods::full_name(cluster, pod))?;
        let near = end.claims.trust_domain() == across.to.claims.trust_domain();
        if !end.workload.unprotected || near {
            continue;
        }
        let address = across.address(demo)?;
        let connected = netns::inside(&pod.netns, || Ok(http::connect(address, WATCHED)))?;
        if let Connected::Yes(_) = connected {
            bail!(
                "{address} accepted a connection from unprotected {}",
                pod.name
            );
        }
        notes.push(format!("unprotected {} to {address}: refused", pod.name));
    }
    Ok(Verdict::Holds(notes.join("; ")))
}

fn refused(demo: &Demo, host: &PlainHost, pair: &Pair, by: &Enforcer) -> Result<String> {
    let address: SocketAddr = pair.address(demo)?;
    let counted = || by.counter("dropped.no-identity");
    let before = counted()?;
    let connected = netns::inside(&host.netns, || Ok(http::connect(address, WATCHED)))?;
    if let Connected::Yes(_) = connected {
        bail!(
            "{address} accepted a connection from {} without identity",
            host.address
        );
    }
    if !wait::until(Duration::from_secs(1), || {
        counted().is_ok_and(|now| now > before)
    }) {
        bail!(
            "{address} did not answer {}, but {} counts no packet as no-identity: {}",
            host.address,
            by.role,
            by.ask("counters")?
        );
    }
    Ok(format!(
        "{} to {address}: no-identity at {}",
        host.address, by.role
    ))
}

/// A namespace on the LAN with an address that belongs to no pod.
pub struct PlainHost {
    /// The namespace.
    pub netns: String,
    /// The address.
    pub address: Ipv4Addr,
    cluster: Cluster,
}

impl PlainHost {
    /// Adds it to the LAN of `cluster`.
    pub fn add(demo: &Demo, cluster: &Cluster) -> Result<Self> {
        let address = free_address(&demo.plan, cluster)
            .with_context(|| format!("the pod ranges of {} have no free address", cluster.name))?;
        let host = Self {
            netns: format!("{}-{}-demo-check", demo.plan.prefix, cluster.name),
            address,
            cluster: cluster.clone(),
        };
        demo.journal.record(&Entry::Netns {
            name: host.netns.clone(),
        })?;
        netns::add(&host.netns)?;
        let lan = host.lan();
        let mut commands = vec![
            format!(
                "link add name eth0 type veth peer name demo-check netns {}",
                cluster.lan
            ),
            format!("address add {lan}/24 dev eth0"),
            format!("address add {address}/32 dev eth0"),
            "link set eth0 up".into(),
        ];
        for node in &cluster.nodes {
            for net in &node.serves {
                commands.push(format!(
                    "route add {net} via {} src {address}",
                    node.address
                ));
            }
        }
        for other in demo.plan.clusters.iter().filter(|c| c.name != cluster.name) {
            for range in &other.ranges {
                let via = cluster.gateway.lan;
                commands.push(format!("route add {range} via {via} src {address}"));
            }
        }
        netns::ip_batch(&host.netns, &commands)?;
        let port = ["link set demo-check master br0", "link set demo-check up"];
        netns::ip_batch(&cluster.lan, &port.map(String::from))?;
        // The way back: were the host accepted, it would get its answer.
        host.on_routers(&format!("route replace {address}/32 via {lan}"))?;
        Ok(host)
    }

    fn lan(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.cluster.gateway.lan.octets();
        Ipv4Addr::new(a, b, c, LAN_HOST)
    }

    fn on_routers(&self, command: &str) -> Result<()> {
        let nodes = self.cluster.nodes.iter().map(|n| &n.netns);
        for router in nodes.chain([&self.cluster.gateway.netns]) {
            netns::ip_batch(router, &[command.into()])?;
        }
        Ok(())
    }

    /// Removes it.
    pub fn take_away(&self) -> Result<()> {
        netns::remove(&self.netns)?;
        self.on_routers(&format!("route flush {}/32", self.address))
    }
}

impl Drop for PlainHost {
    fn drop(&mut self) {
        // A fact that failed reports its own error, not this one.
        let _ = self.take_away();
    }
}

/// An address in the cluster's ranges, outside of what its nodes serve.
fn free_address(plan: &Plan, cluster: &Cluster) -> Option<Ipv4Addr> {
    let served = |address: &Ipv4Addr| {
        cluster
            .nodes
            .iter()
            .flat_map(|n| &n.serves)
            .any(|net| net.contains(address))
            || plan.pods().any(|(_, pod)| pod.address == *address)
    };
    cluster.ranges.iter().find_map(|range| {
        let last = range.broadcast().to_bits();
        (1..=1024)
            .map(|back| Ipv4Addr::from_bits(last.saturating_sub(back)))
            .find(|address| range.contains(address) && !served(address))
    })
}
