//! From the folder of manifests to what the network needs to know of it.

use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net};
use sources::{Problem, World};

use super::plan::{Declared, DeclaredCluster, DeclaredNode, DeclaredPod};
use crate::oracle::Oracle;

/// The example that `demo up` starts from, below the folder of the sources.
const EXAMPLE: &str = "deploy/examples/three-tier";
/// The protocol number of TCP (RFC 9293).
const TCP: u8 = 6;

/// The example: below the current folder, or below one that holds this program.
///
/// # Errors
/// When it is not there.
pub fn default_folder() -> Result<PathBuf> {
    let own = env::current_exe().unwrap_or_default();
    let here = env::current_dir().ok();
    let found = here
        .iter()
        .map(PathBuf::as_path)
        .chain(own.ancestors())
        .map(|dir| dir.join(EXAMPLE))
        .find(|folder| folder.join("federation.yaml").is_file());
    match found {
        Some(folder) => Ok(folder),
        None => bail!("{EXAMPLE} is not here; name a configuration folder with --config"),
    }
}

/// What `folder` declares, and what is wrong with it.
///
/// # Errors
/// When there is no usable Federation, or it asks for what the demo has not.
pub fn declared(folder: &Path) -> Result<(Declared, Vec<Problem>)> {
    let (oracle, problems) = Oracle::in_force(folder)?;
    let worlds: Vec<_> = oracle.worlds().collect();
    let clusters = worlds.iter().map(|world| cluster(world, &worlds));
    let clusters = clusters.collect::<Result<_>>()?;
    Ok((Declared { clusters }, problems))
}

fn cluster(world: &World, all: &[&World]) -> Result<DeclaredCluster> {
    let config = &world.cluster;
    let ranges = config
        .pod_ranges
        .iter()
        .map(|range| v4_net(range.cidr, &config.name))
        .collect::<Result<_>>()?;
    let mut others = all.iter().filter(|other| other.cluster.name != config.name);
    let other = others.find_map(|other| other.federation.cluster(&config.name));
    let seen = other
        .unwrap_or(config)
        .pod_ranges
        .iter()
        .map(|range| v4_net(range.seen(), &config.name))
        .collect::<Result<_>>()?;
    let nodes = config
        .nodes
        .iter()
        .map(|name| {
            let serves = sources::node_prefix(config, name);
            let serves = serves.map(|net| v4_net(net, &config.name)).transpose()?;
            Ok(DeclaredNode {
                name: name.clone(),
                serves,
            })
        })
        .collect::<Result<_>>()?;
    let pods = world
        .pods
        .iter()
        .map(|pod| {
            let who = format!("{}/{}/{}", config.name, pod.namespace, pod.name);
            Ok(DeclaredPod {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                node: pod.node.clone(),
                address: v4(pod.address, &who)?,
                ports: pod
                    .ports
                    .iter()
                    .filter(|port| port.protocol == TCP)
                    .map(|port| port.port)
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect(),
                command: pod.command.clone(),
            })
        })
        .collect::<Result<_>>()?;
    Ok(DeclaredCluster {
        name: config.name.clone(),
        trust_domain: config.trust_domain.to_string(),
        ranges,
        seen,
        nodes,
        pods,
        peers: world.peers.iter().map(|it| it.cluster.clone()).collect(),
    })
}

fn v4_net(net: IpNet, who: &str) -> Result<Ipv4Net> {
    match net {
        IpNet::V4(net) => Ok(net),
        IpNet::V6(net) => bail!("{who} has pod range {net}; the demo builds IPv4 networks only"),
    }
}

fn v4(address: IpAddr, who: &str) -> Result<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => {
            bail!("{who} has address {address}; the demo builds IPv4 networks only")
        }
    }
}
