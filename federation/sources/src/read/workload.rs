//! Workload -> the same as a pod, for everything that follows.

use super::{
    common::{number, protocol},
    kind::Name,
    names::{check_port_name, check_subdomain, labels},
    pod::{PodObject, ZONE_LABEL, declared_node, own_address},
};
use crate::{
    ClusterConfig, ContainerPort,
    crd::{Workload, WorkloadSpec},
    fault::{Faults, FieldPath},
};

/// The workload that `object` describes; nothing of it counts when `faults` refuse it.
pub(super) fn workload(
    object: &Workload,
    name: &Name,
    cluster: &ClusterConfig,
    faults: &mut Faults,
) -> PodObject {
    let spec = &object.spec;
    let path = FieldPath::of(&["spec"]);
    let map = object.metadata.labels.clone().unwrap_or_default();
    let labels = labels(&map, &FieldPath::of(&["metadata", "labels"]), faults);
    let account = spec.service_account.clone();
    let account = account.unwrap_or_else(|| "default".into());
    check_subdomain(&account, path.key("serviceAccount"), faults);
    if let Some(interface) = &spec.interface
        && !is_interface(interface)
    {
        let message = format!("{interface:?} is no name of an interface");
        let expected = "1-15 of letters, digits, \".\", \"_\", \"-\" and \"@\"";
        faults.add(path.key("interface"), message, expected);
    }
    PodObject {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        uid: object.metadata.uid.clone(),
        service_account: account,
        zone: labels.value(ZONE_LABEL).map(str::to_owned),
        labels,
        node: declared_node(&spec.node, cluster, path.key("node"), faults),
        address: own_address(&spec.address, cluster, path.key("address"), faults),
        interface: spec.interface.clone(),
        ports: ports(spec, &path.key("ports"), faults),
        command: None,
        without_identity: false,
    }
}

fn ports(spec: &WorkloadSpec, path: &FieldPath, faults: &mut Faults) -> Vec<ContainerPort> {
    let ports = spec.ports.iter().enumerate();
    let read = ports.filter_map(|(index, port)| {
        let path = path.index(index);
        check_port_name(&port.name, path.key("name"), faults);
        let protocol = protocol(port.protocol.as_deref(), path.key("protocol"), faults);
        let number = number(port.port, path.key("port"), faults);
        Some(ContainerPort {
            name: Some(port.name.clone()),
            protocol: protocol?,
            port: number?,
        })
    });
    read.collect()
}

fn is_interface(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
    (1..=15).contains(&name.len()) && name.bytes().all(fits)
}
