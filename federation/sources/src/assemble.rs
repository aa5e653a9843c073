//! Accepted objects -> a world: what only shows when all objects are seen together.

use std::{collections::BTreeMap, mem, sync::Arc};

use policy::model::{PeerMatch, Policy, PolicySet};

use crate::{
    Effect, FederationConfig, NodeSpec, Problem, World,
    decode::one_of,
    draft::{Lack, Meanings, Named, Open},
    placed::{Placed, Places},
    read::{Kind, Object, ObjectKey, default_deny},
    store::{Accepted, Store},
};

/// The world of `cluster`; `None` when the federation has no such cluster.
pub(crate) fn world(
    mut federation: FederationConfig,
    cluster: &str,
    store: &mut Store,
    mut problems: Vec<Problem>,
    places: Places,
) -> Option<World> {
    let config = federation.clusters.iter_mut().find(|c| c.name == cluster)?;
    let placed = Placed::new(store, places, &mut problems);
    placed.fill_nodes(config);
    let config = config.clone();
    let (workloads, pods, addresses) = placed.settle(&config, &mut problems);
    store.addresses = addresses;
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
    for (key, accepted) in store.but_pods() {
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
    for (key, accepted) in store.but_pods() {
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

/// One peer per cluster: the first by the object's name.
fn peers(store: &Store, problems: &mut Vec<Problem>) -> Vec<crate::FederationPeerConfig> {
    let mut peers = BTreeMap::new();
    for (key, accepted) in store.but_pods() {
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
    let nodes = store.of([Kind::Node]);
    let nodes = nodes.filter_map(|(key, accepted)| match &accepted.object {
        Object::Node(_, addresses) => Some(NodeSpec {
            name: key.name.clone(),
            addresses: addresses.clone(),
        }),
        _ => None,
    });
    nodes.collect()
}

pub(crate) fn problem(
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
