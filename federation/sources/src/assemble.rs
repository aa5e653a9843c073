//! Accepted objects -> a world: what only shows when all objects are seen together.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use identity::Workload;
use policy::model::{PeerMatch, Policy, PolicySet};

use crate::{
    ClusterConfig, Effect, FederationConfig, NodeSpec, Place, PodSpec, Problem, Request, World,
    allotment,
    decode::one_of,
    draft::{Lack, Meanings, Named, Open},
    read::{Kind, NamespaceObject, Object, ObjectKey, PodObject, default_deny, default_uid},
    store::{Accepted, Store},
};

/// The node of a cluster that names none.
const DEFAULT_NODE: &str = "node1";

/// What becomes of a pod that declares no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// It gets one, and a node.
    Allotted,
    /// It has none.
    Declared,
}

/// The world of `cluster`; `None` when the federation has no such cluster.
pub(crate) fn world(
    mut federation: FederationConfig,
    cluster: &str,
    store: &mut Store,
    mut problems: Vec<Problem>,
    places: Places,
) -> Option<World> {
    let config = federation.clusters.iter_mut().find(|c| c.name == cluster)?;
    let pods = placed_pods(store, &mut problems);
    fill_nodes(config, &pods);
    let config = config.clone();
    let (workloads, pods) = workloads(&config, &pods, store, &mut problems, places);
    store.addresses = pods
        .iter()
        .map(|p| (p.address, (p.namespace.clone(), p.name.clone())))
        .collect();
    let policies = PolicySet {
        cluster: config.trust_domain.clone(),
        policies: policies(store, &mut problems),
    };
    let peers = peers(store, &mut problems);
    let nodes = nodes(store);
    problems.sort();
    problems.dedup();
    Some(World {
        federation,
        cluster: config,
        workloads,
        pods,
        policies,
        peers,
        nodes,
        problems,
    })
}

/// All policies, with what they name of other objects.
fn policies(store: &Store, problems: &mut Vec<Problem>) -> Vec<Arc<Policy>> {
    let meanings = meanings(store, problems);
    let mut policies = Vec::new();
    for (key, accepted) in store.objects() {
        let draft = match &accepted.object {
            Object::Policy(draft) => draft,
            Object::Team(team) => &team.draft,
            Object::Zones(zones) => {
                policies.extend(zones.policies.iter().cloned());
                continue;
            }
            Object::ClosedPolicy(policy) => {
                policies.push(policy.clone());
                continue;
            }
            Object::Namespace(namespace) if namespace.default_deny => {
                policies.push(default_deny(&key.name).into());
                continue;
            }
            _ => continue,
        };
        policies.extend(draft.resolve(&meanings, |open: &Open, lack| {
            let named = &open.named;
            let (what, expected) = match lack {
                Lack::Definition => (format!("there is no {named}"), known(named, &meanings)),
                Lack::Use => (
                    format!("{named} holds names, which only rules of egress that allow or log can use"),
                    "a set of addresses".to_owned(),
                ),
            };
            let message = format!(
                "{what}, so an allowing rule matches nothing by it, and one that denies or passes denies everything"
            );
            let effect = Effect::Warning;
            problems.push(problem(key, accepted, &open.path, message, &expected, effect));
        }));
    }
    policies
}

/// What objects define for the policies of others.
fn meanings(store: &Store, problems: &mut Vec<Problem>) -> Meanings {
    let mut meanings = Meanings::default();
    for (key, accepted) in store.objects() {
        if let Object::Node(labels, addresses) = &accepted.object {
            meanings.nodes.push((labels.clone(), addresses.clone()));
        }
        for (named, peers) in defined(key, &accepted.object) {
            let message = format!("{named} is defined by another object, too");
            if meanings.named.contains_key(&named) {
                let (expected, effect) = ("each once; the first counts", Effect::Warning);
                problems.push(problem(key, accepted, "spec", message, expected, effect));
                continue;
            }
            meanings.named.insert(named, peers);
        }
    }
    meanings
}

/// What one object defines.
fn defined(key: &ObjectKey, object: &Object) -> Vec<(Named, Vec<PeerMatch>)> {
    let ObjectKey {
        kind,
        namespace,
        name,
    } = key;
    match object {
        Object::NetworkSet(peers) if *kind == Kind::ClusterNetworkSet => {
            vec![(Named::ClusterNetworkSet(name.clone()), peers.clone())]
        }
        Object::NetworkSet(peers) => {
            let named = Named::NetworkSet {
                namespace: namespace.clone(),
                name: name.clone(),
            };
            vec![(named, peers.clone())]
        }
        Object::Zones(zones) => {
            let zones = zones.zones.iter();
            zones
                .map(|(zone, members)| (Named::Zone(zone.clone()), members.clone()))
                .collect()
        }
        Object::Team(team) => {
            let services = team.services.iter();
            let named = services.map(|(service, workloads)| {
                let named = Named::Service {
                    team: name.clone(),
                    service: service.clone(),
                };
                (named, vec![PeerMatch::Workload(workloads.clone())])
            });
            named.collect()
        }
        _ => Vec::new(),
    }
}

/// What of the same kind there is, for a message.
fn known(wanted: &Named, meanings: &Meanings) -> String {
    let is_alike = |named: &&Named| mem::discriminant(*named) == mem::discriminant(wanted);
    let known: Vec<String> = meanings
        .named
        .keys()
        .filter(is_alike)
        .map(ToString::to_string)
        .collect();
    match known.as_slice() {
        [] => format!("an object that defines {wanted}"),
        known => one_of(&known.iter().map(String::as_str).collect::<Vec<_>>()),
    }
}

type PlacedPod = (ObjectKey, PodObject, Accepted);

/// The pods that have an identity or could have one, by namespace and name.
fn placed_pods(store: &Store, problems: &mut Vec<Problem>) -> Vec<PlacedPod> {
    let objects = store.objects();
    let key = |kind, namespace: &str, name: &str| ObjectKey {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let mut pods = Vec::new();
    let mut holders = BTreeMap::new();
    for (pod_key, accepted) in objects {
        let Object::Pod(pod) = &accepted.object else {
            continue;
        };
        let namespace = objects.get(&key(Kind::Namespace, "", &pod.namespace));
        if pod_key.kind == Kind::Workload
            && objects.contains_key(&key(Kind::Pod, &pod.namespace, &pod.name))
        {
            let message = format!("Pod {}/{} has the name already", pod.namespace, pod.name);
            let (expected, effect) = ("a name of its own", Effect::NotInForce);
            problems.push(problem(
                pod_key,
                accepted,
                "metadata.name",
                message,
                expected,
                effect,
            ));
            continue;
        }
        if pod.without_identity || namespace.is_some_and(|n| n.object == Object::ClosedNamespace) {
            continue;
        }
        let account = key(Kind::ServiceAccount, &pod.namespace, &pod.service_account);
        if pod.service_account != "default" && !objects.contains_key(&account) {
            let message = format!(
                "namespace {} has no ServiceAccount {:?}",
                pod.namespace, pod.service_account
            );
            let expected = "an account that is declared, or none for \"default\"";
            problems.push(problem(
                pod_key,
                accepted,
                match pod_key.kind {
                    Kind::Workload => "spec.serviceAccount",
                    _ => "spec.serviceAccountName",
                },
                message,
                expected,
                Effect::Warning,
            ));
        }
        if let Some(address) = pod.address {
            // Whoever had the address keeps it; else the first by name.
            let holder = store.addresses.get(&address);
            let incumbent =
                holder.is_some_and(|(ns, name)| *ns == pod.namespace && *name == pod.name);
            let holder = holders.entry(address).or_insert_with(|| pod_key.clone());
            if incumbent {
                *holder = pod_key.clone();
            }
        }
        pods.push((pod_key.clone(), pod.as_ref().clone(), accepted.clone()));
    }
    pods.retain(|(pod_key, pod, accepted)| {
        let holder = pod.address.and_then(|a| holders.get(&a));
        let Some(holder) = holder.filter(|h| *h != pod_key) else {
            return true;
        };
        let message = format!("{holder} has the address already");
        problems.push(problem(
            pod_key,
            accepted,
            "status.podIP",
            message,
            "an address of its own",
            Effect::NotInForce,
        ));
        false
    });
    pods
}

/// Nodes that a Federation does not list are those that pods name.
fn fill_nodes(config: &mut ClusterConfig, pods: &[PlacedPod]) {
    if !config.nodes.is_empty() {
        return;
    }
    let named: BTreeSet<String> = pods.iter().filter_map(|(_, p, _)| p.node.clone()).collect();
    config.nodes = named.into_iter().collect();
    if config.nodes.is_empty() {
        config.nodes.push(DEFAULT_NODE.into());
    }
}

fn workloads(
    config: &ClusterConfig,
    pods: &[PlacedPod],
    store: &Store,
    problems: &mut Vec<Problem>,
    how: Places,
) -> (Vec<Workload>, Vec<PodSpec>) {
    let requests: Vec<Request<'_>> = pods
        .iter()
        .map(|(_, pod, _)| Request {
            namespace: &pod.namespace,
            name: &pod.name,
            node: pod.node.as_deref(),
            address: pod.address,
        })
        .collect();
    let places = match how {
        Places::Allotted => allotment(config, &requests),
        Places::Declared => requests.iter().map(declared).collect(),
    };
    let mut workloads = Vec::new();
    let mut specs = Vec::new();
    for ((key, pod, accepted), place) in pods.iter().zip(places) {
        if place.address.is_none() && how == Places::Allotted {
            let message = format!(
                "node {} has no free address in {}",
                place.node,
                ranges(config)
            );
            problems.push(problem(
                key,
                accepted,
                "status.podIP",
                message,
                "an address",
                Effect::NotInForce,
            ));
            continue;
        }
        let namespace = namespace(store, &pod.namespace);
        let uid = || default_uid(&config.trust_domain, &pod.namespace, &pod.name);
        workloads.push(Workload {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            uid: pod.uid.clone().unwrap_or_else(uid),
            service_account: pod.service_account.clone(),
            labels: pod.labels.clone(),
            namespace_labels: namespace.labels,
            zone: pod.zone.clone(),
            named_ports: pod.named_ports(),
            node: place.node.clone(),
            address: place.address,
            interface: pod.interface.clone(),
            unprotected: namespace.unprotected,
        });
        specs.extend(place.address.map(|address| PodSpec {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            node: place.node,
            address,
            ports: pod.ports.clone(),
            command: pod.command.clone(),
        }));
    }
    (workloads, specs)
}

/// Where a pod says that it is.
fn declared(request: &Request<'_>) -> Place {
    Place {
        node: request.node.unwrap_or(DEFAULT_NODE).to_owned(),
        address: request.address,
    }
}

fn namespace(store: &Store, name: &str) -> NamespaceObject {
    let key = ObjectKey {
        kind: Kind::Namespace,
        namespace: String::new(),
        name: name.to_owned(),
    };
    match store.objects().get(&key).map(|a| &a.object) {
        Some(Object::Namespace(namespace)) => namespace.clone(),
        _ => NamespaceObject::implied(name),
    }
}

/// One peer per cluster: the first by the object's name.
fn peers(store: &Store, problems: &mut Vec<Problem>) -> Vec<crate::FederationPeerConfig> {
    let mut peers = BTreeMap::new();
    for (key, accepted) in store.objects() {
        let Object::Peer(peer) = &accepted.object else {
            continue;
        };
        let (first, _) = peers
            .entry(peer.cluster.clone())
            .or_insert_with(|| (key.clone(), peer.clone()));
        if first != key {
            let message = format!("{first} describes cluster {} already", peer.cluster);
            problems.push(problem(
                key,
                accepted,
                "spec.cluster",
                message,
                "each cluster once",
                Effect::NotInForce,
            ));
        }
    }
    peers.into_values().map(|(_, peer)| *peer).collect()
}

fn nodes(store: &Store) -> Vec<NodeSpec> {
    let objects = store.objects().iter();
    let nodes = objects.filter_map(|(key, accepted)| match &accepted.object {
        Object::Node(_, addresses) => Some(NodeSpec {
            name: key.name.clone(),
            addresses: addresses.clone(),
        }),
        _ => None,
    });
    nodes.collect()
}

fn ranges(config: &ClusterConfig) -> String {
    let ranges: Vec<String> = config
        .pod_ranges
        .iter()
        .map(|r| r.cidr.to_string())
        .collect();
    ranges.join(", ")
}

fn problem(
    key: &ObjectKey,
    accepted: &Accepted,
    field_path: &str,
    message: String,
    expected: &str,
    effect: Effect,
) -> Problem {
    Problem {
        file: accepted.file.clone(),
        line: (accepted.line > 0).then_some(accepted.line),
        object: key.to_string(),
        field_path: field_path.to_owned(),
        message,
        expected: expected.to_owned(),
        effect,
    }
}
