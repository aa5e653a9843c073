//! A demo on this machine, as far as its state directory tells: pods, and whom to ask for counters.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The network of a demo: the part of its `plan.json` that is needed here.
#[derive(Debug, Deserialize)]
pub struct Demo {
    /// Its state directory.
    #[serde(skip)]
    dir: PathBuf,
    clusters: Vec<Cluster>,
}

#[derive(Debug, Deserialize)]
struct Cluster {
    name: String,
    gateway: Named,
    nodes: Vec<Named>,
    pods: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

/// A pod.
#[derive(Debug, Deserialize)]
pub struct Pod {
    namespace: String,
    name: String,
    /// Its network namespace on this machine.
    pub netns: String,
    /// Its address.
    pub address: Ipv4Addr,
}

impl Demo {
    /// The demo whose state is in `dir`.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("plan.json");
        let text = fs::read(&path).with_context(|| {
            format!(
                "no demo is up in {}: start one with `landbridge demo up --state {0}`, or name \
                 another with --demo=DIR (cannot read {})",
                dir.display(),
                path.display()
            )
        })?;
        let mut demo: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is no plan of a demo", path.display()))?;
        demo.dir = dir.into();
        Ok(demo)
    }

    /// Name and admin socket of every gateway and agent.
    pub fn enforcers(&self) -> Vec<(String, PathBuf)> {
        let mut all = Vec::new();
        for cluster in &self.clusters {
            let mut add = |folder: &str, part: &Named| {
                let role = format!("{}-{}", cluster.name, part.name);
                let socket = self.dir.join(folder).join(&role).join("admin.sock");
                all.push((role, socket));
            };
            add("gateways", &cluster.gateway);
            for node in &cluster.nodes {
                add("agents", node);
            }
        }
        all
    }

    /// The pod `cluster/namespace/pod`.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let pods = self
            .clusters
            .iter()
            .flat_map(|c| c.pods.iter().map(move |p| (c.name.as_str(), p)));
        let full = |cluster: &str, pod: &Pod| format!("{cluster}/{}/{}", pod.namespace, pod.name);
        let mut names = Vec::new();
        for (cluster, pod) in pods {
            let full = full(cluster, pod);
            if full == name {
                return Ok(pod);
            }
            names.push(full);
        }
        bail!("the demo has no pod {name:?}; it has {}", names.join(", "));
    }

    /// The address of `cluster/namespace/pod:port`.
    pub fn target(&self, name: &str) -> Result<SocketAddr> {
        let Some((pod, port)) = name.rsplit_once(':') else {
            bail!("{name:?} has no port; a pod is named CLUSTER/NAMESPACE/POD:PORT");
        };
        let port = port
            .parse()
            .with_context(|| format!("{port:?} is no port (1 to 65535)"))?;
        Ok((self.pod(pod)?.address, port).into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PLAN: &str = r#"{"prefix": "lb", "wan": "lb-wan", "clusters": [{
        "name": "east", "trust_domain": "east.example", "ranges": ["10.1.0.0/16"], "lan": "lb-east-lan",
        "gateway": {"name": "gw1", "netns": "lb-east-gw1", "wan": "192.0.2.1", "lan": "172.16.1.1"},
        "nodes": [{"name": "node1", "netns": "lb-east-node1", "address": "172.16.1.11", "serves": []}],
        "pods": [{"namespace": "shop", "name": "web", "netns": "lb-east-web", "node": "node1",
                  "address": "10.1.1.10", "veth": "p-web", "ports": [8080], "command": null}]}]}"#;

    #[test]
    fn pods_and_enforcers_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("plan.json"), PLAN).unwrap();
        let demo = Demo::open(dir.path()).unwrap();
        assert_eq!(demo.pod("east/shop/web").unwrap().netns, "lb-east-web");
        let target = demo.target("east/shop/web:8080").unwrap();
        assert_eq!(target, "10.1.1.10:8080".parse().unwrap());
        let unknown = demo.pod("east/shop/wbe").unwrap_err().to_string();
        assert!(unknown.contains("it has east/shop/web"), "{unknown}");
        assert!(demo.target("east/shop/web").is_err());
        let enforcers = demo.enforcers();
        let roles: Vec<_> = enforcers.iter().map(|(role, _)| role.as_str()).collect();
        assert_eq!(roles, ["east-gw1", "east-node1"]);
        let socket = dir.path().join("agents/east-node1/admin.sock");
        assert_eq!(enforcers[1].1, socket);
    }

    #[test]
    fn where_no_demo_is_the_remedy_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let error = Demo::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("landbridge demo up"), "{error}");
    }
}
