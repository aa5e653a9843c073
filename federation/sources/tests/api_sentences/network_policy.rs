//! Of NetworkPolicy.

use policy::{
    Decision, KnownKeys, Peer, Query,
    model::Direction::{Egress, Ingress},
};
use serde_json::json;

use super::{ICMP, Row, TCP, UDP, api, check, np, pods, sends, takes, verdicts};
use verdicts::{closed_by_network_policy, world};

#[test]
fn network_policy() {
    let no_spec = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p", "namespace": "shop"}});
    let net = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    check(vec![
        Row {
            field: "spec",
            says: "+optional",
            policies: vec![no_spec],
            asks: vec![
                (Ingress, "api", "web", TCP, 80, false),
                (Egress, "api", "web", TCP, 80, true),
                (Ingress, "tool", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.podSelector",
            says: "An empty selector matches all pods in the policy's namespace.",
            policies: vec![np("p", json!({"podSelector": {}}))],
            asks: vec![
                (Ingress, "api", "tool", TCP, 80, false),
                (Ingress, "web", "tool", TCP, 80, false),
                (Ingress, "tool", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.podSelector",
            says: "If it is not specified, it defaults to an empty selector.",
            policies: vec![np("p", json!({"ingress": []}))],
            asks: vec![
                (Ingress, "api", "tool", TCP, 80, false),
                (Ingress, "tool", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.podSelector",
            says: "selects the pods to which this NetworkPolicy object applies",
            policies: api(json!({})),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, false),
                (Ingress, "web", "api", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.ingress",
            says: "Traffic is allowed to a pod if there are no NetworkPolicies selecting the pod",
            policies: vec![],
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Ingress, "api", "192.0.2.1", UDP, 53, true),
            ],
        },
        Row {
            field: "spec.ingress",
            says: "OR if the traffic matches at least one ingress rule across all of the NetworkPolicy objects",
            policies: [
                takes(json!({"from": [pods("tool")]})),
                vec![closed_by_network_policy("api")],
            ]
            .concat(),
            asks: vec![
                (Ingress, "api", "tool", TCP, 80, true),
                (Ingress, "api", "web", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.egress",
            says: "Outgoing traffic is allowed if there are no NetworkPolicies selecting the pod",
            policies: vec![closed_by_network_policy("api")],
            asks: vec![
                (Egress, "web", "api", TCP, 80, true),
                (Egress, "api", "web", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.egress",
            says: "OR if the traffic matches at least one egress rule across all of the NetworkPolicy objects",
            policies: [
                sends(json!({"to": [net("192.0.2.0/24")]})),
                vec![closed_by_network_policy("api")],
            ]
            .concat(),
            asks: vec![
                (Egress, "api", "192.0.2.1", TCP, 80, true),
                (Egress, "api", "198.51.100.1", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.egress",
            says: "If this field is empty then this NetworkPolicy limits all outgoing traffic",
            policies: api(json!({"egress": [], "policyTypes": ["Egress"]})),
            asks: vec![
                (Egress, "api", "web", TCP, 80, false),
                (Egress, "api", "192.0.2.1", UDP, 53, false),
                (Ingress, "api", "web", TCP, 80, true),
            ],
        },
        Row {
            field: "spec.policyTypes",
            says: "a list of rule types that the NetworkPolicy relates to",
            policies: api(json!({"ingress": [{}], "policyTypes": ["Ingress", "Egress"]})),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Egress, "api", "web", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.ingress[]",
            says: "The traffic must match both ports and from.",
            policies: takes(json!({"from": [pods("web")], "ports": [{"port": 80}]})),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Ingress, "api", "web", TCP, 81, false),
                (Ingress, "api", "tool", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.ingress[].ports",
            says: "Each item in this list is combined using a logical OR.",
            policies: takes(json!({"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]})),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Ingress, "api", "web", UDP, 53, true),
                (Ingress, "api", "web", UDP, 80, false),
                (Ingress, "api", "web", TCP, 53, false),
            ],
        },
        Row {
            field: "spec.ingress[].ports",
            says: "If this field is empty or missing, this rule matches all ports (empty)",
            policies: takes(json!({"from": [pods("web")], "ports": []})),
            asks: vec![
                (Ingress, "api", "web", TCP, 9, true),
                (Ingress, "api", "web", UDP, 9, true),
                (Ingress, "api", "web", 132, 9, true),
                (Ingress, "api", "web", ICMP, 0, true),
            ],
        },
        Row {
            field: "spec.ingress[].ports",
            says: "If this field is empty or missing, this rule matches all ports (missing)",
            policies: takes(json!({"from": [pods("web")]})),
            asks: vec![
                (Ingress, "api", "web", TCP, 9, true),
                (Ingress, "api", "web", UDP, 9, true),
                (Ingress, "api", "tool", TCP, 9, false),
            ],
        },
        Row {
            field: "spec.ingress[].ports",
            says: "then this rule allows traffic only if the traffic matches at least one port in the list",
            policies: takes(json!({"ports": [{"port": 80}]})),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Ingress, "api", "web", TCP, 443, false),
                (Ingress, "api", "web", ICMP, 0, false),
            ],
        },
        Row {
            field: "spec.ingress[].from",
            says: "Items in this list are combined using a logical OR operation.",
            policies: takes(json!({"from": [pods("tool"), net("192.0.2.0/24")]})),
            asks: vec![
                (Ingress, "api", "tool", TCP, 80, true),
                (Ingress, "api", "192.0.2.1", TCP, 80, true),
                (Ingress, "api", "web", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.egress[]",
            says: "The traffic must match both ports and to.",
            policies: sends(json!({"to": [pods("web")], "ports": [{"port": 80}]})),
            asks: vec![
                (Egress, "api", "web", TCP, 80, true),
                (Egress, "api", "web", TCP, 81, false),
                (Egress, "api", "tool", TCP, 80, false),
            ],
        },
        Row {
            field: "spec.egress[].ports",
            says: "combined using a logical OR; only if the traffic matches at least one port",
            policies: sends(json!({"ports": [{"port": 80}, {"port": 443}]})),
            asks: vec![
                (Egress, "api", "web", TCP, 80, true),
                (Egress, "api", "192.0.2.1", TCP, 443, true),
                (Egress, "api", "web", TCP, 81, false),
            ],
        },
        Row {
            field: "spec.egress[].ports, .to",
            says: "If this field is empty or missing, this rule matches all ports, all destinations (empty)",
            policies: sends(json!({"ports": [], "to": []})),
            asks: vec![
                (Egress, "api", "tool", TCP, 9, true),
                (Egress, "api", "2001:db8::1", UDP, 9, true),
            ],
        },
        Row {
            field: "spec.egress[].ports, .to",
            says: "If this field is empty or missing, this rule matches all ports, all destinations (missing)",
            policies: sends(json!({})),
            asks: vec![
                (Egress, "api", "tool", TCP, 9, true),
                (Egress, "api", "192.0.2.1", UDP, 9, true),
            ],
        },
        Row {
            field: "spec.egress[].to",
            says: "Items in this list are combined using a logical OR; at least one item in the to list",
            policies: sends(json!({"to": [pods("tool"), net("192.0.2.0/24")]})),
            asks: vec![
                (Egress, "api", "tool", TCP, 80, true),
                (Egress, "api", "192.0.2.1", TCP, 80, true),
                (Egress, "api", "web", TCP, 80, false),
            ],
        },
        Row {
            field: "ports[].protocol",
            says: "the protocol (TCP, UDP, or SCTP) which traffic must match",
            policies: takes(json!({"ports": [{"port": 53, "protocol": "SCTP"}]})),
            asks: vec![
                (Ingress, "api", "web", 132, 53, true),
                (Ingress, "api", "web", TCP, 53, false),
                (Ingress, "api", "web", UDP, 53, false),
            ],
        },
        Row {
            field: "ports[].port",
            says: "If this field is not provided, this matches all port names and numbers.",
            policies: takes(json!({"ports": [{"protocol": "UDP"}]})),
            asks: vec![
                (Ingress, "api", "web", UDP, 1, true),
                (Ingress, "api", "web", UDP, 53, true),
                (Ingress, "api", "web", UDP, 65535, true),
                (Ingress, "api", "web", TCP, 53, false),
            ],
        },
        Row {
            field: "ports[].port",
            says: "If present, only traffic on the specified protocol AND port will be matched.",
            policies: takes(json!({"ports": [{"protocol": "UDP", "port": 53}]})),
            asks: vec![
                (Ingress, "api", "web", UDP, 53, true),
                (Ingress, "api", "web", UDP, 54, false),
                (Ingress, "api", "web", TCP, 53, false),
            ],
        },
        Row {
            field: "ports[].endPort",
            says: "The endPort must be equal or greater than port. (equal)",
            policies: takes(json!({"ports": [{"port": 80, "endPort": 80}]})),
            asks: vec![
                (Ingress, "api", "web", TCP, 80, true),
                (Ingress, "api", "web", TCP, 81, false),
            ],
        },
        Row {
            field: "ipBlock.cidr",
            says: "Valid examples are \"192.168.1.0/24\" or \"2001:db8::/64\"",
            policies: takes(json!({"from": [net("192.168.1.0/24"), net("2001:db8::/64")]})),
            asks: vec![
                (Ingress, "api", "192.168.1.255", TCP, 80, true),
                (Ingress, "api", "192.168.2.0", TCP, 80, false),
                (Ingress, "api", "2001:db8::ffff", TCP, 80, true),
                (Ingress, "api", "2001:db8:0:1::", TCP, 80, false),
            ],
        },
        Row {
            field: "peer.namespaceSelector",
            says: "Otherwise it selects all pods in the namespaces selected by namespaceSelector.",
            policies: takes(json!({"from": [
                {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}}]})),
            asks: vec![
                (Ingress, "api", "tool", TCP, 80, true),
                (Ingress, "api", "web", TCP, 80, false),
                (Ingress, "api", "192.0.2.1", TCP, 80, false),
            ],
        },
    ]);
}

/// "OR if the traffic source is the pod's local node": whatever policies say.
#[test]
fn the_local_node_is_always_let_in() {
    let (world, table) = world(&[closed_by_network_policy("api")]);
    let pod = world.workloads.iter().find(|w| w.pod == "api").unwrap();
    let subject = pod.claims(&world.cluster.trust_domain).unwrap();
    let verdict = table.decide(&Query {
        direction: Ingress,
        subject: &subject,
        peer: Peer::Node,
        protocol: TCP,
        port: 80,
        known: &KnownKeys::all(),
    });
    assert_eq!(verdict.decision, Decision::Allow);
}
