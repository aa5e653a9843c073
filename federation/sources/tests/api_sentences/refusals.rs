//! What must be, of both.

use serde_json::{Value, json};

use super::{admin, api, for_subject, takes, verdicts};
use verdicts::world;

/// What must be, is refused where it is not; the API server's words are behind each.
#[test]
fn what_must_be_is_refused_where_it_is_not() {
    let peers = |count: usize| vec![json!({"namespaces": {}}); count];
    let ingress = |rule: Value| admin(json!({"ingress": [rule]}));
    let egress = |rule: Value| admin(json!({"egress": [rule]}));
    let deny = |protocols: Value| {
        ingress(json!({"action": "Deny", "from": [{"namespaces": {}}], "protocols": protocols}))
    };
    let port = |port: Value| deny(json!([{"tcp": {"destinationPort": port}}]));
    let mut wrong_priority = ingress(json!({"action": "Deny", "from": peers(1)}));
    wrong_priority["spec"]["priority"] = json!(1001);
    let one = |spec: Value| api(spec).remove(0);
    let from = |peer: Value| takes(json!({"from": [peer]})).remove(0);
    let ports = |port: Value| takes(json!({"ports": [port]})).remove(0);
    let rows = [
        // NetworkPolicy.
        (
            one(json!({"policyTypes": ["Sideways"]})),
            "spec.policyTypes[0]",
            "Valid options are",
        ),
        (
            ports(json!({"endPort": 90})),
            "spec.ingress[0].ports[0].endPort",
            "cannot be defined if the port field is not defined",
        ),
        (
            ports(json!({"port": "http", "endPort": 90})),
            "spec.ingress[0].ports[0].endPort",
            "or if the port field is defined as a named (string) port",
        ),
        (
            ports(json!({"port": 90, "endPort": 80})),
            "spec.ingress[0].ports[0].endPort",
            "must be equal or greater than port",
        ),
        (
            from(json!({"ipBlock": {}})),
            "spec.ingress[0].from[0].ipBlock.cidr",
            "+required",
        ),
        (
            from(json!({"ipBlock": {"cidr": "192.0.2.0/24", "except": ["198.51.100.0/28"]}})),
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "rejected if they are outside the cidr range",
        ),
        (
            from(json!({"ipBlock": {"cidr": "192.0.2.0/24"}, "podSelector": {}})),
            "spec.ingress[0].from[0].ipBlock",
            "neither of the other fields can be",
        ),
        (
            from(json!({"ipBlock": {"cidr": "192.0.2.0/24"}, "namespaceSelector": {}})),
            "spec.ingress[0].from[0].ipBlock",
            "neither of the other fields can be",
        ),
        // ClusterNetworkPolicy.
        (wrong_priority, "spec.priority", "a value from 0 to 1000"),
        (
            for_subject(json!({})).remove(0),
            "spec.subject",
            "Exactly one field must be set.",
        ),
        (
            for_subject(json!({"namespaces": {}, "pods": {"podSelector": {}}})).remove(0),
            "spec.subject",
            "Exactly one field must be set.",
        ),
        (
            for_subject(json!({"pods": {"namespaceSelector": {}}})).remove(0),
            "spec.subject.pods.podSelector",
            "+required",
        ),
        (
            admin(json!({"ingress": vec![json!({"action": "Deny", "from": peers(1)}); 26]})),
            "spec.ingress",
            "A maximum of 25 rules is allowed in this block.",
        ),
        (
            admin(json!({"egress": vec![json!({"action": "Deny", "to": peers(1)}); 26]})),
            "spec.egress",
            "A maximum of 25 rules is allowed in this block.",
        ),
        (
            ingress(json!({"name": "x".repeat(101), "action": "Deny", "from": peers(1)})),
            "spec.ingress[0].name",
            "no more than 100 characters in length",
        ),
        (
            ingress(json!({"action": "Deny", "from": []})),
            "spec.ingress[0].from",
            "must be defined and contain at least one item",
        ),
        (
            ingress(json!({"action": "Deny"})),
            "spec.ingress[0].from",
            "must be defined and contain at least one item",
        ),
        (
            egress(json!({"action": "Deny"})),
            "spec.egress[0].to",
            "must be defined and contain at least one item",
        ),
        (
            ingress(json!({"action": "Deny", "from": peers(26)})),
            "spec.ingress[0].from",
            "MaxItems=25",
        ),
        (
            egress(json!({"action": "Deny", "to": peers(26)})),
            "spec.egress[0].to",
            "MaxItems=25",
        ),
        (
            ingress(
                json!({"action": "Deny", "from": [{"namespaces": {}, "pods": {"podSelector": {}}}]}),
            ),
            "spec.ingress[0].from[0]",
            "Exactly one of the fields must be set for a given peer",
        ),
        (
            egress(json!({"action": "Deny", "to": [{"networks": []}]})),
            "spec.egress[0].to[0].networks",
            "MinItems=1",
        ),
        (
            egress(json!({"action": "Deny", "to": [{"networks": vec!["192.0.2.0/24"; 26]}]})),
            "spec.egress[0].to[0].networks",
            "Networks can have up to 25 CIDRs specified.",
        ),
        (
            egress(json!({"action": "Deny", "to": [{"networks": ["nowhere"]}]})),
            "spec.egress[0].to[0].networks[0]",
            "Invalid CIDR format provided",
        ),
        (
            egress(json!({"action": "Accept", "to": [{"domainNames": vec!["a.example"; 26]}]})),
            "spec.egress[0].to[0].domainNames",
            "DomainNames can have up to 25 domain names",
        ),
        (
            egress(
                json!({"action": "Deny", "to": [{"networks": ["192.0.2.0/24"]}], "protocols": [{"destinationNamedPort": "http"}]}),
            ),
            "spec.egress[0].protocols",
            "networks/nodes/domainNames peer cannot be set with namedPorts",
        ),
        (deny(json!([])), "spec.ingress[0].protocols", "MinItems=1"),
        (
            deny(json!([{}])),
            "spec.ingress[0].protocols[0]",
            "Exactly one field must be set.",
        ),
        (
            deny(
                json!([{"tcp": {"destinationPort": {"number": 1}}, "destinationNamedPort": "http"}]),
            ),
            "spec.ingress[0].protocols[0]",
            "Exactly one field must be set.",
        ),
        (
            deny(json!([{"tcp": {}}])),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
            "MinProperties=1",
        ),
        (
            port(json!({})),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
            "You must specify either Port or Range.",
        ),
        (
            port(json!({"number": 1, "range": {"start": 1, "end": 2}})),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
            "You must specify either Port or Range.",
        ),
        (
            port(json!({"number": 65536})),
            "spec.ingress[0].protocols[0].tcp.destinationPort.number",
            "Maximum=65535",
        ),
        (
            port(json!({"range": {"start": 2, "end": 2}})),
            "spec.ingress[0].protocols[0].tcp.destinationPort.range.end",
            "the Start value must be less than End",
        ),
    ];
    for (object, path, says) in rows {
        let (world, _) = world(&[object]);
        let refused = world
            .problems
            .iter()
            .find(|p| p.field_path == path && !p.is_warning());
        assert!(refused.is_some(), "{path}: {says}: {:?}", world.problems);
    }
}
