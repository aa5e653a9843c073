//! Objects in memory, as an API server gives them, as a source: for questions about policy, not for
//! enforcement.

use std::collections::BTreeMap;

use identity::TrustDomain;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::Value;

use crate::{
    ClusterConfig, Effect, FederationConfig, PodRange, Problem, World,
    documents::{self, Parsed},
    read::{CLUSTER_ANNOTATION, Object},
    store::Store,
};

/// The cluster of an object that names none.
pub const DEFAULT_CLUSTER: &str = "local";

/// The worlds of all clusters that `objects` name by the annotation `landbridge.io/cluster`, those of a
/// Federation among them included, sorted by name; and what is wrong with objects of no cluster. A cluster
/// that no Federation describes has its name as trust domain, and may have any address.
///
/// A pod that declares no address has none.
#[must_use]
pub fn worlds_of(objects: &[Value]) -> (Vec<World>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut federation = None;
    let mut by_cluster: BTreeMap<String, Vec<(String, &Value)>> = BTreeMap::new();
    for (tree, number) in objects.iter().zip(0..) {
        let place = format!("objects[{number}]");
        if tree.get("kind").and_then(Value::as_str) == Some("Federation") {
            let parsed = documents::object(tree, None, "");
            problems.extend(parsed.problems(&place, Effect::NotInForce));
            match (parsed.object, &federation) {
                (Some(Object::Federation(read)), None) => federation = Some(read),
                (Some(_), _) => problems.push(problem(&place, tree, "there is another Federation")),
                (None, _) => {}
            }
            continue;
        }
        let annotations = tree.get("metadata").and_then(|m| m.get("annotations"));
        let cluster = annotations.and_then(|a| a.get(CLUSTER_ANNOTATION)?.as_str());
        let cluster = cluster.unwrap_or(DEFAULT_CLUSTER);
        if TrustDomain::new(cluster).is_err() {
            let message = format!("{cluster:?} is no name of a cluster");
            problems.push(problem(&place, tree, &message));
            continue;
        }
        let of_cluster = by_cluster.entry(cluster.to_owned()).or_default();
        of_cluster.push((place, tree));
    }
    let federation = complete(federation, by_cluster.keys());
    let mut names: Vec<&str> = federation
        .clusters
        .iter()
        .map(|c| c.name.as_str())
        .collect();
    names.sort_unstable();
    let worlds = names.into_iter().filter_map(|name| {
        let objects = by_cluster.get(name).map_or(&[][..], Vec::as_slice);
        let read = |(place, tree): &(String, &Value)| {
            let parsed = documents::object(tree, Some(&federation), name);
            (place.clone(), parsed)
        };
        let documents: Vec<(String, Parsed)> = objects.iter().map(read).collect();
        Store::of_objects(federation.clone(), name, &documents)
    });
    (worlds.collect(), problems)
}

/// With every cluster that an object names.
fn complete<'a>(
    federation: Option<FederationConfig>,
    named: impl Iterator<Item = &'a String>,
) -> FederationConfig {
    let mut federation = federation.unwrap_or_else(|| FederationConfig {
        name: "objects".into(),
        clusters: Vec::new(),
    });
    let everywhere = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    for name in named {
        let Ok(trust_domain) = TrustDomain::new(name) else {
            continue;
        };
        if federation.cluster(name).is_some() {
            continue;
        }
        let ranges = everywhere.into_iter().zip(0..);
        federation.clusters.push(ClusterConfig {
            name: name.clone(),
            trust_domain,
            pod_ranges: ranges
                .map(|(cidr, id)| PodRange {
                    id,
                    cidr,
                    map_to: None,
                })
                .collect(),
            nodes: Vec::new(),
            gateways: Vec::new(),
        });
    }
    federation
}

fn problem(place: &str, tree: &Value, message: &str) -> Problem {
    let word = |field: &str| tree.get(field).and_then(Value::as_str).unwrap_or("object");
    Problem {
        file: place.to_owned(),
        line: None,
        object: word("kind").to_owned(),
        field_path: String::new(),
        message: message.to_owned(),
        expected: String::new(),
        effect: Effect::NotInForce,
    }
}
