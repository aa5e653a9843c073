//! One small cluster, and verdicts of its policies, from objects.
#![allow(dead_code, reason = "each test file uses some of these")]

use landbridge_sources::{World, worlds_of};
use policy::{Decision, DropReason, KnownKeys, Peer, Query, Table, model::Direction};
use serde_json::{Value, json};

/// Namespaces `shop` and `ops`, pods `web` and `api` in the first, `tool` in the second, all with port 8080.
pub fn cluster() -> Vec<Value> {
    let namespace =
        |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let pod = |namespace: &str, name: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
            "spec": {"containers": [{"name": "main", "image": "x", "ports": [
                {"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]}]},
            "status": {"podIP": ip}})
    };
    vec![
        namespace("shop"),
        namespace("ops"),
        pod("shop", "web", "10.0.0.1"),
        pod("shop", "api", "10.0.0.2"),
        pod("ops", "tool", "10.0.0.3"),
    ]
}

/// A NetworkPolicy that isolates a pod of `shop` in both directions and allows nothing.
pub fn closed_by_network_policy(pod: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": pod}}, "policyTypes": ["Ingress", "Egress"]}})
}

pub fn world(policies: &[Value]) -> (World, Table) {
    let objects = [cluster(), policies.to_vec()].concat();
    let (mut worlds, problems) = worlds_of(&objects);
    assert_eq!((worlds.len(), problems), (1, vec![]));
    let world = worlds.remove(0);
    let table = policy::compile(&world.policies).unwrap();
    (world, table)
}

/// `None` when it is allowed.
pub fn ask(
    policies: &[Value],
    direction: Direction,
    subject: &str,
    peer: &str,
    protocol: u8,
    port: u16,
) -> Option<DropReason> {
    let (world, table) = world(policies);
    assert_eq!(world.problems, []);
    decide(&world, &table, direction, subject, peer, protocol, port)
}

pub fn decide(
    world: &World,
    table: &Table,
    direction: Direction,
    subject: &str,
    peer: &str,
    protocol: u8,
    port: u16,
) -> Option<DropReason> {
    let claims = |name: &str| {
        let pod = world.workloads.iter().find(|w| w.pod == name)?;
        Some((
            pod.claims(&world.cluster.trust_domain).unwrap(),
            pod.address,
        ))
    };
    let (subject, _) = claims(subject).unwrap();
    let known = claims(peer);
    let names = [peer.into()];
    let peer = match (&known, peer.parse()) {
        (Some((claims, address)), _) => Peer::Identity {
            claims,
            address: *address,
        },
        (None, Ok(address)) => Peer::Address(address),
        // What DNS told the pod of an address that nobody knows here.
        (None, Err(_)) => Peer::Named {
            address: None,
            names: &names,
        },
    };
    let query = Query {
        direction,
        subject: &subject,
        peer,
        protocol,
        port,
        known: &KnownKeys::all(),
    };
    match table.decide(&query).decision {
        Decision::Allow => None,
        Decision::Drop { reason, .. } => Some(reason),
    }
}
