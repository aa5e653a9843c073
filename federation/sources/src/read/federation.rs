//! Federation -> all clusters with their defaults filled in.

use std::net::SocketAddr;

use identity::{IdentityRange, TrustDomain};
use ipnet::IpNet;

use super::common::cidr;
use super::names::{check_label_name, check_names, check_subdomain};
use crate::{
    ClusterConfig, FederationConfig, GatewayConfig, PodRange,
    crd::{ClusterSpec, FederationSpec, PodRangeSpec},
    fault::{Faults, FieldPath},
};

/// Most clusters of a federation.
const MAX_CLUSTERS: usize = 1000;

/// The federation that `spec` describes; nothing of it counts when `faults` refuse it.
pub(crate) fn federation(
    name: &str,
    spec: &FederationSpec,
    faults: &mut Faults,
) -> FederationConfig {
    let path = FieldPath::of(&["spec", "clusters"]);
    if spec.clusters.is_empty() || spec.clusters.len() > MAX_CLUSTERS {
        let message = format!("lists {} clusters", spec.clusters.len());
        faults.add(path.clone(), message, "1-1000");
    }
    let mut clusters: Vec<ClusterConfig> = Vec::new();
    for (index, spec) in spec.clusters.iter().enumerate().take(MAX_CLUSTERS) {
        let path = path.index(index);
        let Some(cluster) = cluster(spec, index, &path, faults) else {
            continue;
        };
        check_unique(&cluster, spec, &clusters, &path, faults);
        clusters.push(cluster);
    }
    FederationConfig {
        name: name.to_owned(),
        clusters,
    }
}

fn cluster(
    spec: &ClusterSpec,
    index: usize,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<ClusterConfig> {
    check_label_name(&spec.name, path.key("name"), faults);
    check_names(&spec.nodes, &path.key("nodes"), check_subdomain, faults);
    Some(ClusterConfig {
        name: spec.name.clone(),
        trust_domain: trust_domain(spec, path, faults)?,
        pod_ranges: pod_ranges(spec, index, path, faults),
        nodes: spec.nodes.clone(),
        gateways: gateways(spec, path, faults),
    })
}

fn trust_domain(spec: &ClusterSpec, path: &FieldPath, faults: &mut Faults) -> Option<TrustDomain> {
    let (name, at) = match &spec.trust_domain {
        Some(name) => (name, "trustDomain"),
        None => (&spec.name, "name"),
    };
    match TrustDomain::new(name) {
        Ok(trust_domain) => Some(trust_domain),
        Err(error) => {
            faults.add(path.key(at), error.to_string(), "");
            None
        }
    }
}

fn pod_ranges(
    spec: &ClusterSpec,
    index: usize,
    path: &FieldPath,
    faults: &mut Faults,
) -> Vec<PodRange> {
    let path = path.key("podRanges");
    if spec.pod_ranges.is_empty() {
        let cidr = format!("10.{}.0.0/16", index + 1).parse();
        return match cidr {
            Ok(cidr) => vec![PodRange {
                id: 1,
                cidr,
                map_to: None,
            }],
            Err(_) => {
                let message = "there is no default range after the 255th cluster";
                faults.add(path, message, "at least one range");
                Vec::new()
            }
        };
    }
    let mut ranges: Vec<PodRange> = Vec::new();
    for (index, range) in spec.pod_ranges.iter().enumerate() {
        let path = path.index(index);
        if ranges.iter().any(|r| r.id == range.id) {
            let message = format!("{} numbers another range of the cluster too", range.id);
            faults.add(path.key("id"), message, "each number once");
        }
        let Some(cidr) = cidr(&range.cidr, path.key("cidr"), faults) else {
            continue;
        };
        if cidr != cidr.trunc() {
            let message = format!("{cidr} has bits set after its prefix");
            faults.add(path.key("cidr"), message, cidr.trunc().to_string());
        }
        check_range(cidr, &path.key("cidr"), faults);
        ranges.push(PodRange {
            id: range.id,
            cidr,
            map_to: map_to(range, cidr, &path.key("mapTo"), faults),
        });
    }
    ranges
}

/// Where others see the range `real`.
fn map_to(
    range: &PodRangeSpec,
    real: IpNet,
    path: &FieldPath,
    faults: &mut Faults,
) -> Option<IpNet> {
    let to = cidr(range.map_to.as_ref()?, path.clone(), faults)?;
    if to != to.trunc() {
        let message = format!("{to} has bits set after its prefix");
        faults.add(path.clone(), message, to.trunc().to_string());
    }
    if !IdentityRange::can_map(real, to) {
        let message = format!("{to} has not the family and the length of {real}");
        let expected = format!("a prefix with /{}", real.prefix_len());
        faults.add(path.clone(), message, expected);
    }
    check_range(to, path, faults);
    Some(to)
}

/// A range of everything, of loopback or of multicast addresses would make the host unreachable.
fn check_range(cidr: IpNet, path: &FieldPath, faults: &mut Faults) {
    let network = cidr.network();
    let unfit = cidr.prefix_len() < 4
        || network.is_loopback()
        || network.is_multicast()
        || network.is_unspecified();
    if unfit {
        let expected = "a prefix of unicast addresses, /4 or longer";
        faults.add(path.clone(), format!("{cidr} cannot hold pods"), expected);
    }
}

fn gateways(spec: &ClusterSpec, path: &FieldPath, faults: &mut Faults) -> Vec<GatewayConfig> {
    let path = path.key("gateways");
    let mut gateways: Vec<GatewayConfig> = Vec::new();
    for (index, gateway) in spec.gateways.iter().enumerate() {
        let path = path.index(index);
        check_label_name(&gateway.name, path.key("name"), faults);
        if gateways.iter().any(|g| g.name == gateway.name) {
            let message = format!("{:?} names another gateway too", gateway.name);
            faults.add(path.key("name"), message, "each name once");
        }
        let endpoint = gateway.endpoint.as_ref().and_then(|text| {
            let parsed = text.parse::<SocketAddr>().ok().filter(|a| a.port() != 0);
            if parsed.is_none() {
                let expected = "address:port, such as 192.0.2.1:4433";
                faults.add(
                    path.key("endpoint"),
                    format!("{text:?} is no endpoint"),
                    expected,
                );
            }
            parsed
        });
        gateways.push(GatewayConfig {
            name: gateway.name.clone(),
            endpoint,
        });
    }
    gateways
}

/// What must be one cluster's alone: name, trust domain and addresses.
fn check_unique(
    cluster: &ClusterConfig,
    spec: &ClusterSpec,
    before: &[ClusterConfig],
    path: &FieldPath,
    faults: &mut Faults,
) {
    for other in before {
        if other.name == cluster.name {
            let message = format!("{:?} names another cluster too", cluster.name);
            faults.add(path.key("name"), message, "each name once");
        }
        if other.trust_domain == cluster.trust_domain {
            let at = if spec.trust_domain.is_some() {
                "trustDomain"
            } else {
                "name"
            };
            let message = format!(
                "cluster {} has the trust domain {} too",
                other.name, cluster.trust_domain
            );
            faults.add(path.key(at), message, "a trust domain of its own");
        }
    }
    for (index, range) in cluster.pod_ranges.iter().enumerate() {
        let others = before.iter().flat_map(|other| {
            let ranges = other.pod_ranges.iter();
            ranges.flat_map(move |theirs| clashes(range, theirs).map(|net| (&other.name, net)))
        });
        let own = cluster.pod_ranges.iter().take(index);
        let own = own.flat_map(|other| {
            let (real, seen) = ((range.cidr, other.cidr), (range.seen(), other.seen()));
            [real, seen].map(|pair| (&cluster.name, pair))
        });
        let mut all = others.chain(own);
        let found = all.find(|(_, (a, b))| a.contains(b) || b.contains(a));
        if let Some((owner, (ours, theirs))) = found {
            let path = path.key("podRanges");
            let (at, expected) = match spec.pod_ranges.get(index) {
                None => (path, RANGES),
                Some(_) if Some(ours) == range.map_to => (path.index(index).key("mapTo"), RANGES),
                Some(_) if owner == &cluster.name => (path.index(index).key("cidr"), RANGES),
                Some(_) => (path.index(index).key("cidr"), MAPPED),
            };
            let message = format!("{ours} overlaps {theirs} of cluster {owner}");
            faults.add(at, message, expected);
        }
    }
}

/// What must be apart, of ranges of two clusters: as each of both sees the other's, and as others see both.
fn clashes(ours: &PodRange, theirs: &PodRange) -> [(IpNet, IpNet); 3] {
    [
        (ours.cidr, theirs.seen()),
        (ours.seen(), theirs.cidr),
        (ours.seen(), theirs.seen()),
    ]
}

const RANGES: &str = "ranges that do not overlap";
const MAPPED: &str = "ranges that do not overlap, or mapTo on both";
