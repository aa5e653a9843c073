//! `v1` Pod -> what the issuer, the agent and the demo need of it.

use std::net::IpAddr;

use identity::{Labels, NamedPort, TrustDomain};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use sha2::{Digest, Sha256};

use super::{
    common::{number, protocol},
    kind::Name,
    names::{check_port_name, check_subdomain, labels},
    scope::COMMAND_ANNOTATION,
};
use crate::{
    ClusterConfig, ContainerPort,
    decode::one_of,
    fault::{Faults, FieldPath},
};

/// Longest UID in bytes: that of a UUID.
const MAX_UID: usize = 36;
/// The label in which Kubernetes puts the zone of the pod's node.
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A pod as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodObject {
    pub namespace: String,
    pub name: String,
    pub uid: Option<String>,
    pub service_account: String,
    pub labels: Labels,
    pub zone: Option<String>,
    pub node: Option<String>,
    pub address: Option<IpAddr>,
    /// The interface that must lead to it.
    pub interface: Option<String>,
    pub ports: Vec<ContainerPort>,
    pub command: Option<String>,
    /// It speaks with its node's address, or has ended: it has no identity.
    pub without_identity: bool,
}

impl PodObject {
    /// Its named ports, sorted. Of one name and protocol the first container's counts, as for
    /// Kubernetes.
    pub fn named_ports(&self) -> Vec<NamedPort> {
        let mut named: Vec<NamedPort> = Vec::new();
        for port in &self.ports {
            let Some(name) = &port.name else { continue };
            if !named
                .iter()
                .any(|p| p.name == *name && p.protocol == port.protocol)
            {
                named.push(NamedPort {
                    name: name.clone(),
                    protocol: port.protocol,
                    port: port.port,
                });
            }
        }
        named.sort();
        named
    }
}

/// The UID of a pod whose manifest gives none: a UUID (version 8, RFC 9562 section 5.8) made of its
/// cluster and name. A folder has no memory, so a pod that is deleted and made again under the same
/// name is the same pod unless `metadata.uid` says otherwise.
pub(crate) fn default_uid(trust_domain: &TrustDomain, namespace: &str, name: &str) -> String {
    let hash = Sha256::digest(format!("pod {trust_domain}/{namespace}/{name}"));
    let mut bytes = [0_u8; 16];
    bytes.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    let bits = u128::from_be_bytes(bytes);
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x8 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    let parts: Vec<&str> = parts
        .into_iter()
        .filter_map(|range| hex.get(range))
        .collect();
    parts.join("-")
}

/// The pod that `object` describes; nothing of it counts when `faults` refuse it.
pub(super) fn pod(
    object: &Pod,
    name: &Name,
    cluster: &ClusterConfig,
    faults: &mut Faults,
) -> PodObject {
    let metadata = &object.metadata;
    let meta = FieldPath::of(&["metadata"]);
    let missing = PodSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&missing);
    let path = FieldPath::of(&["spec"]);
    let labels = labels(
        &metadata.labels.clone().unwrap_or_default(),
        &meta.key("labels"),
        faults,
    );
    if let Some(uid) = &metadata.uid
        && (uid.is_empty() || uid.len() > MAX_UID || !uid.bytes().all(|b| b.is_ascii_graphic()))
    {
        faults.add(
            meta.key("uid"),
            format!("{uid:?} is no UID"),
            "at most 36 visible characters",
        );
    }
    let zone = labels.value(ZONE_LABEL).map(str::to_owned);
    PodObject {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        uid: metadata.uid.clone(),
        service_account: service_account(spec, &path, faults),
        labels,
        zone,
        node: node(spec, cluster, &path, faults),
        address: address(object, cluster, faults),
        interface: None,
        ports: container_ports(spec, &path, faults),
        command: command(object, faults),
        without_identity: spec.host_network == Some(true) || has_ended(object),
    }
}

fn has_ended(object: &Pod) -> bool {
    let phase = object.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn service_account(spec: &PodSpec, path: &FieldPath, faults: &mut Faults) -> String {
    let named = |name: &Option<String>| name.clone().filter(|n| !n.is_empty());
    let new = named(&spec.service_account_name);
    let account = new.or_else(|| named(&spec.service_account));
    let account = account.unwrap_or_else(|| "default".into());
    check_subdomain(&account, path.key("serviceAccountName"), faults);
    account
}

fn node(
    spec: &PodSpec,
    cluster: &ClusterConfig,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<String> {
    let node = spec.node_name.as_deref().filter(|n| !n.is_empty())?;
    declared_node(node, cluster, path.key("nodeName"), faults)
}

/// A node of the cluster.
pub(super) fn declared_node(
    node: &str,
    cluster: &ClusterConfig,
    path: FieldPath,
    faults: &mut Faults,
) -> Option<String> {
    check_subdomain(node, path.clone(), faults);
    if !cluster.nodes.is_empty() && !cluster.nodes.iter().any(|n| n == node) {
        let message = format!("cluster {} has no node {node:?}", cluster.name);
        faults.add(path, message, one_of(&cluster.nodes));
    }
    Some(node.to_owned())
}

fn address(object: &Pod, cluster: &ClusterConfig, faults: &mut Faults) -> Option<IpAddr> {
    let path = FieldPath::of(&["status", "podIP"]);
    let on_host = object.spec.as_ref().and_then(|s| s.host_network) == Some(true);
    let text = object
        .status
        .as_ref()?
        .pod_ip
        .clone()
        .filter(|a| !a.is_empty())?;
    match on_host {
        true => parsed_address(&text, path, faults),
        false => own_address(&text, cluster, path, faults),
    }
}

fn parsed_address(text: &str, path: FieldPath, faults: &mut Faults) -> Option<IpAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        let expected = "an IPv4 or IPv6 address";
        faults.add(path, format!("{text:?} is no address"), expected);
    }
    address
}

/// An address of the cluster's ranges.
pub(super) fn own_address(
    text: &str,
    cluster: &ClusterConfig,
    path: FieldPath,
    faults: &mut Faults,
) -> Option<IpAddr> {
    let address = parsed_address(text, path.clone(), faults)?;
    if !cluster.pod_ranges.iter().any(|r| r.cidr.contains(&address)) {
        let ranges: Vec<String> = cluster
            .pod_ranges
            .iter()
            .map(|r| r.cidr.to_string())
            .collect();
        let message = format!("{address} is in no pod range of cluster {}", cluster.name);
        let expected = format!("an address of {}", ranges.join(" or "));
        faults.add(path, message, expected);
    }
    Some(address)
}

/// Ports of containers, and of init containers that go on running.
fn container_ports(spec: &PodSpec, path: &FieldPath, faults: &mut Faults) -> Vec<ContainerPort> {
    if spec.containers.is_empty() {
        faults.add(
            path.key("containers"),
            "there is no container",
            "at least one",
        );
    }
    let mut seen = Vec::new();
    let mut ports = Vec::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.key("containers").index(index);
        ports.extend(ports_of(container, &path, &mut seen, faults));
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = path.key("initContainers").index(index);
        let read = ports_of(container, &path, &mut seen, faults);
        if container.restart_policy.as_deref() == Some("Always") {
            ports.extend(read);
        }
    }
    ports
}

fn ports_of(
    container: &Container,
    path: &FieldPath,
    seen: &mut Vec<String>,
    faults: &mut Faults,
) -> Vec<ContainerPort> {
    let name = &container.name;
    let at = path.key("name");
    if name.is_empty() {
        faults.add(at, "the container has no name", "a DNS label");
    } else {
        super::names::check_label_name(name, at.clone(), faults);
        if seen.contains(name) {
            faults.add(
                at,
                format!("{name:?} names another container too"),
                "each name once",
            );
        }
        seen.push(name.clone());
    }
    let mut ports: Vec<ContainerPort> = Vec::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = path.key("ports").index(index);
        let read = ContainerPort {
            name: port.name.clone().filter(|n| !n.is_empty()),
            protocol: protocol(port.protocol.as_deref(), path.key("protocol"), faults).unwrap_or(0),
            port: number(port.container_port, path.key("containerPort"), faults).unwrap_or(0),
        };
        if let Some(name) = &read.name {
            check_port_name(name, path.key("name"), faults);
            if ports.iter().any(|p| p.name.as_ref() == Some(name)) {
                let message = format!("{name:?} names another port of the container too");
                faults.add(path.key("name"), message, "each name once");
            }
        }
        ports.push(read);
    }
    ports
}

fn command(object: &Pod, faults: &mut Faults) -> Option<String> {
    let annotations = object.metadata.annotations.as_ref()?;
    let command = annotations.get(COMMAND_ANNOTATION)?;
    if command.trim().is_empty() || command.contains('\0') {
        let path = FieldPath::of(&["metadata", "annotations", COMMAND_ANNOTATION]);
        faults.add(path, "is no command", "a command line for a shell");
    }
    Some(command.clone())
}
