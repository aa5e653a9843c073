//! What other engines got wrong, each on its own: NetworkPolicy by the words of its API
//! (`k8s.io/api/networking/v1`).
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/verdicts.rs"]
mod verdicts;

use policy::{DropReason, model::Direction};
use serde_json::{Value, json};
use verdicts::{ask, closed_by_network_policy};

const DENIED: Option<DropReason> = Some(DropReason::DeniedByDefault);

/// A policy of namespace `shop` for pod `api`.
fn policy(spec: Value) -> Value {
    let mut policy = closed_by_network_policy("api");
    let pods = policy["spec"]["podSelector"].clone();
    policy["spec"] = spec;
    policy["spec"]["podSelector"] = pods;
    policy
}

fn from(spec: Value, peer: &str) -> Option<DropReason> {
    ask(&[policy(spec)], Direction::Ingress, "api", peer, 6, 8080)
}

fn to(spec: Value, peer: &str, protocol: u8, port: u16) -> Option<DropReason> {
    ask(
        &[policy(spec)],
        Direction::Egress,
        "api",
        peer,
        protocol,
        port,
    )
}

fn ports(ports: Value, protocol: u8, port: u16) -> Option<DropReason> {
    let spec = json!({"ingress": [{"ports": ports}]});
    ask(
        &[policy(spec)],
        Direction::Ingress,
        "api",
        "web",
        protocol,
        port,
    )
}

/// The annotation of Kubernetes before 1.7 still isolates, and says what to write instead.
#[test]
fn the_old_annotation_of_a_namespace_isolates_and_is_reported() {
    for (text, words) in [
        (
            "{\"ingress\": {\"isolation\": \"DefaultDeny\"}}",
            "is deprecated: it isolates",
        ),
        ("{\"ingress\": {", "is deprecated and not understood"),
    ] {
        let mut objects = verdicts::cluster();
        objects[0]["metadata"]["annotations"] =
            json!({"net.beta.kubernetes.io/network-policy": text});
        let (worlds, _) = landbridge_sources::worlds_of(&objects);
        let world = &worlds[0];
        let table = policy::compile(&world.policies).unwrap();
        let into =
            |subject| verdicts::decide(world, &table, Direction::Ingress, subject, "web", 6, 80);
        assert_eq!((into("api"), into("tool")), (DENIED, None));
        let [problem] = &world.problems[..] else {
            panic!("{:?}", world.problems)
        };
        assert!(
            problem.is_warning() && problem.message.contains(words),
            "{problem}"
        );
        assert!(
            problem.expected.contains("policyTypes [Ingress]"),
            "{problem}"
        );
    }
}

#[test]
fn not_in_and_does_not_exist_match_what_lacks_the_key() {
    for expression in [
        json!({"key": "team", "operator": "NotIn", "values": ["x"]}),
        json!({"key": "team", "operator": "DoesNotExist"}),
    ] {
        let pods = json!({"podSelector": {"matchExpressions": [expression]}});
        assert_eq!(from(json!({"ingress": [{"from": [pods]}]}), "web"), None);
    }
}

/// "If this field is empty then this NetworkPolicy does not allow any traffic", and so if it is absent.
#[test]
fn no_rules_deny_and_an_empty_rule_allows_everyone() {
    for spec in [
        json!({}),
        json!({"ingress": []}),
        json!({"ingress": null}),
        json!({"policyTypes": ["Ingress"]}),
    ] {
        assert_eq!(from(spec.clone(), "web"), DENIED, "{spec}");
    }
    // "If this field is empty or missing, this rule matches all sources".
    for rule in [
        json!({}),
        json!({"from": []}),
        json!({"from": null}),
        json!({"ports": []}),
    ] {
        let spec = json!({"ingress": [rule]});
        for peer in ["web", "tool", "192.0.2.1"] {
            assert_eq!(from(spec.clone(), peer), None, "{rule} {peer}");
        }
    }
}

/// "If not specified, this field defaults to TCP."
#[test]
fn an_absent_protocol_is_tcp() {
    for port in [
        json!([{"port": 53}]),
        json!([{"port": 53, "protocol": null}]),
    ] {
        assert_eq!(ports(port.clone(), 6, 53), None);
        assert_eq!(ports(port, 17, 53), DENIED);
    }
    // And a protocol alone is all of its ports.
    assert_eq!(ports(json!([{"protocol": "UDP"}]), 17, 9999), None);
    assert_eq!(ports(json!([{}]), 6, 9999), None);
    assert_eq!(ports(json!([{}]), 17, 9999), DENIED);
}

/// "If this field is not specified, it will default based on the existence of ingress or egress rules; policies
/// that contain an egress section are assumed to affect egress, and all policies [...] affect ingress."
#[test]
fn absent_policy_types_are_ingress_and_egress_only_with_egress_rules() {
    let egress = |spec: Value| to(spec, "192.0.2.1", 6, 443);
    assert_eq!(egress(json!({})), None);
    assert_eq!(egress(json!({"egress": []})), None);
    let rule = json!([{"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}]);
    assert_eq!(egress(json!({"egress": rule})), DENIED);
    assert_eq!(from(json!({"egress": rule}), "web"), DENIED);
    assert_eq!(
        egress(json!({"egress": [], "policyTypes": ["Egress"]})),
        DENIED
    );
    assert_eq!(from(json!({"policyTypes": ["Egress"]}), "web"), None);
}

#[test]
fn an_ip_block_matches_pods_too() {
    let spec = |cidr: &str, except: Value| json!({"ingress": [{"from": [{"ipBlock": {"cidr": cidr, "except": except}}]}]});
    assert_eq!(from(spec("10.0.0.0/24", json!([])), "web"), None);
    assert_eq!(
        from(spec("10.0.0.0/24", json!(["10.0.0.1/32"])), "web"),
        DENIED
    );
    assert_eq!(
        from(spec("10.0.0.0/24", json!(["10.0.0.1/32"])), "tool"),
        None
    );
    assert_eq!(from(spec("192.0.2.0/24", json!([])), "192.0.2.9"), None);
    // Exceptions that overlap are each an exception.
    let overlapping = json!(["10.0.0.0/30", "10.0.0.0/31", "10.0.0.2/31"]);
    assert_eq!(
        from(spec("10.0.0.0/24", overlapping.clone()), "web"),
        DENIED
    );
    assert_eq!(from(spec("10.0.0.0/24", overlapping), "10.0.0.9"), None);
}

#[test]
fn a_named_port_is_the_destination_s_and_of_its_own_protocol() {
    let named = |name: &str, protocol: &str| json!([{"port": name, "protocol": protocol}]);
    assert_eq!(ports(named("http", "TCP"), 6, 8080), None);
    assert_eq!(ports(named("http", "TCP"), 6, 80), DENIED);
    assert_eq!(ports(named("http", "UDP"), 17, 8080), DENIED);
    assert_eq!(ports(named("dns", "UDP"), 17, 53), None);
    assert_eq!(ports(named("nobody", "TCP"), 6, 8080), DENIED);
    // On egress it is the peer that names it, and an address names nothing.
    let spec = json!({"egress": [{"ports": [{"port": "http"}]}]});
    assert_eq!(to(spec.clone(), "web", 6, 8080), None);
    assert_eq!(to(spec.clone(), "web", 6, 80), DENIED);
    assert_eq!(to(spec, "192.0.2.1", 6, 8080), DENIED);
}

#[test]
fn a_rule_for_another_protocol_opens_no_tcp_and_isolates() {
    for protocol in ["UDP", "SCTP"] {
        let rule = json!([{"protocol": protocol, "port": 8080}]);
        assert_eq!(ports(rule, 6, 8080), DENIED);
    }
    assert_eq!(
        ports(json!([{"protocol": "SCTP", "port": 8080}]), 132, 8080),
        None
    );
}

/// "If this field is set then the NetworkPolicyPeer selects [...]; otherwise it selects the pods matching
/// podSelector in the policy's own namespace."
#[test]
fn a_pod_selector_alone_looks_into_its_own_namespace() {
    let tool = json!({"podSelector": {"matchLabels": {"app": "tool"}}});
    assert_eq!(from(json!({"ingress": [{"from": [tool]}]}), "tool"), DENIED);
    let both = json!({"podSelector": {"matchLabels": {"app": "tool"}}, "namespaceSelector": {}});
    assert_eq!(from(json!({"ingress": [{"from": [both]}]}), "tool"), None);
    // One peer with both is narrower than two with one each.
    let other = json!({"podSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ops"}}});
    assert_eq!(from(json!({"ingress": [{"from": [other]}]}), "web"), DENIED);
    // An empty selector is everything there.
    assert_eq!(
        from(json!({"ingress": [{"from": [{"podSelector": {}}]}]}), "web"),
        None
    );
    assert_eq!(
        from(
            json!({"ingress": [{"from": [{"podSelector": {}}]}]}),
            "tool"
        ),
        DENIED
    );
    assert_eq!(
        from(
            json!({"ingress": [{"from": [{"namespaceSelector": {}}]}]}),
            "tool"
        ),
        None
    );
}

/// Policies only ever add: what one allows, another does not take away.
#[test]
fn policies_are_added_up() {
    let open = policy(json!({"ingress": [{"from": [{"podSelector": {}}]}]}));
    let mut closed = closed_by_network_policy("api");
    closed["metadata"]["name"] = "another".into();
    assert_eq!(
        ask(&[open, closed], Direction::Ingress, "api", "web", 6, 80),
        None
    );
}

#[test]
fn end_ports_are_included() {
    let range = json!([{"port": 80, "endPort": 90}]);
    for (port, expected) in [(79, DENIED), (80, None), (90, None), (91, DENIED)] {
        assert_eq!(ports(range.clone(), 6, port), expected, "{port}");
    }
}

/// Whatever an object looks like: it is refused in words, it does not end the process.
#[test]
fn odd_objects_do_not_panic() {
    for spec in [
        json!({"ingress": [{"from": [{}]}]}),
        json!({"ingress": [{"from": [null]}]}),
        json!({"ingress": [null]}),
        json!({"ingress": [{"ports": [{"protocol": ""}]}]}),
        json!({"ingress": [{"ports": [{"port": 0}]}]}),
        json!({"ingress": [{"ports": [{"port": -1, "endPort": 5}]}]}),
        json!({"ingress": [{"from": [{"ipBlock": {"cidr": ""}}]}]}),
        json!({"ingress": [{"from": [{"ipBlock": {}}]}]}),
        json!({"ingress": [{"from": [{"podSelector": {"matchExpressions": [{}]}}]}]}),
        json!({"policyTypes": ["Ingress", "Ingress", "Egress", "Other"]}),
        json!("nonsense"),
        json!(null),
    ] {
        let mut object = closed_by_network_policy("api");
        object["spec"] = spec;
        let (world, table) = verdicts::world(&[object.clone()]);
        assert!(
            !world.problems.is_empty() || object["spec"].is_null(),
            "{object}"
        );
        // And the pods that it may concern are closed.
        let refused = world.problems.iter().any(|problem| !problem.is_warning());
        let verdict = verdicts::decide(&world, &table, Direction::Ingress, "api", "web", 6, 80);
        assert!(!refused || verdict.is_some(), "{object}");
    }
}
