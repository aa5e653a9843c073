//! ClusterNetworkPolicy, AdminNetworkPolicy and BaselineAdminNetworkPolicy, from objects to verdicts. The words in
//! quotes are those of the API's own documents.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/verdicts.rs"]
mod verdicts;

use landbridge_sources::Problem;
use policy::{DropReason, model::Direction};
use serde_json::{Value, json};
use verdicts::{ask, closed_by_network_policy, decide, world};

fn namespaces(name: &str) -> Value {
    json!({"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": name}}})
}

fn pods(name: &str) -> Value {
    json!({"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": name}}}})
}

fn cnp(tier: &str, priority: i32, name: &str, subject: Value, rules: Value) -> Value {
    let mut spec = json!({"tier": tier, "priority": priority, "subject": subject});
    for (field, list) in rules.as_object().unwrap() {
        spec[field] = list.clone();
    }
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name}, "spec": spec})
}

fn into_api(policies: &[Value], from: &str) -> Option<DropReason> {
    ask(policies, Direction::Ingress, "api", from, 6, 8080)
}

const BY_RULE: Option<DropReason> = Some(DropReason::DeniedByRule);
const BY_DEFAULT: Option<DropReason> = Some(DropReason::DeniedByDefault);

/// "a rule that appears at the top of the ingress rules would take the highest precedence", whatever it does.
#[test]
fn the_first_rule_of_an_object_that_matches_decides() {
    let accept = json!({"action": "Accept", "from": [pods("web")]});
    let deny = json!({"action": "Deny", "from": [namespaces("shop")]});
    let ordered = |rules: Value| vec![cnp("Admin", 5, "p", pods("api"), json!({"ingress": rules}))];
    let accepting = ordered(json!([accept, deny]));
    assert_eq!(
        (into_api(&accepting, "web"), into_api(&accepting, "tool")),
        (None, None)
    );
    assert_eq!(into_api(&ordered(json!([deny, accept])), "web"), BY_RULE);
    let pass = json!({"action": "Pass", "from": [pods("web")]});
    assert_eq!(into_api(&ordered(json!([pass, deny])), "web"), None);
}

/// "Policies with lower priority values have higher precedence".
#[test]
fn lower_priorities_go_first() {
    let policy = |priority, name: &str, action: &str| {
        cnp(
            "Admin",
            priority,
            name,
            namespaces("shop"),
            json!({"ingress": [{"action": action, "from": [namespaces("shop")]}]}),
        )
    };
    let policies = [policy(10, "a", "Deny"), policy(9, "b", "Accept")];
    assert_eq!(into_api(&policies, "web"), None);
    let policies = [policy(10, "a", "Accept"), policy(9, "b", "Deny")];
    assert_eq!(into_api(&policies, "web"), BY_RULE);
}

/// "v1.NetworkPolicy always makes a final decision for selected pods. Further evaluation only happens for Pods not
/// selected by a v1.NetworkPolicy."
#[test]
fn tiers_stand_around_network_policies() {
    let rule =
        |action: &str| json!({"ingress": [{"action": action, "from": [namespaces("shop")]}]});
    let admin = |action: &str| cnp("Admin", 0, "admin", namespaces("shop"), rule(action));
    let baseline = |action: &str| cnp("Baseline", 0, "base", namespaces("shop"), rule(action));
    let closed = closed_by_network_policy("api");
    assert_eq!(into_api(&[admin("Accept"), closed.clone()], "web"), None);
    assert_eq!(
        into_api(&[admin("Pass"), closed.clone()], "web"),
        BY_DEFAULT
    );
    assert_eq!(
        into_api(&[baseline("Accept"), closed.clone()], "web"),
        BY_DEFAULT
    );
    assert_eq!(into_api(&[baseline("Deny")], "web"), BY_RULE);
    assert_eq!(into_api(&[admin("Pass"), baseline("Deny")], "web"), BY_RULE);
    // "If a given connection wasn't allowed or denied by any of the tiers": pods may communicate.
    assert_eq!(into_api(&[admin("Pass"), baseline("Pass")], "web"), None);
    assert_eq!(into_api(&[baseline("Deny")], "tool"), None);
}

/// "CNPs with no ingress rules do not affect ingress traffic."
#[test]
fn a_policy_isolates_nobody() {
    let egress = json!({"egress": [{"action": "Deny", "to": [pods("web")]}]});
    let policies = [cnp("Admin", 0, "p", pods("api"), egress)];
    assert_eq!(into_api(&policies, "web"), None);
    assert_eq!(
        ask(&policies, Direction::Egress, "api", "web", 6, 80),
        BY_RULE
    );
    assert_eq!(
        ask(&policies, Direction::Egress, "api", "tool", 6, 80),
        None
    );
}

/// "if you Accept or Deny traffic to 0.0.0.0/0, that will allow or deny all IPv4 pod-to-pod traffic as well."
#[test]
fn networks_match_pods_too() {
    let rules = json!([
        {"action": "Accept", "to": [{"networks": ["192.0.2.0/24", "10.0.0.1/32"]}]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
    ]);
    let policies = [cnp("Admin", 0, "p", pods("api"), json!({"egress": rules}))];
    let to = |peer| ask(&policies, Direction::Egress, "api", peer, 6, 80);
    assert_eq!([to("192.0.2.1"), to("web")], [None, None]);
    assert_eq!([to("198.51.100.1"), to("tool")], [BY_RULE, BY_RULE]);
    assert_eq!(to("2001:db8::1"), None);
}

#[test]
fn protocols_narrow_a_rule() {
    let rules = |protocols: Value| json!({"ingress": [{"action": "Deny", "from": [namespaces("shop")], "protocols": protocols}]});
    let denied = |protocols: Value, protocol, port| {
        let policies = [cnp("Admin", 0, "p", pods("api"), rules(protocols))];
        ask(&policies, Direction::Ingress, "api", "web", protocol, port).is_some()
    };
    let tcp = |port: Value| json!([{"tcp": {"destinationPort": port}}]);
    assert!(denied(tcp(json!({"number": 80})), 6, 80));
    assert!(!denied(tcp(json!({"number": 80})), 6, 81));
    assert!(!denied(tcp(json!({"number": 80})), 17, 80));
    for (port, expected) in [(79, false), (80, true), (90, true), (91, false)] {
        assert_eq!(
            denied(tcp(json!({"range": {"start": 80, "end": 90}})), 6, port),
            expected
        );
    }
    // A name means the pod's port of that name, with the protocol that the pod gives it.
    let named = |name: &str| json!([{"destinationNamedPort": name}]);
    assert!(denied(named("http"), 6, 8080) && !denied(named("http"), 17, 8080));
    assert!(denied(named("dns"), 17, 53) && !denied(named("dns"), 6, 53));
    let two = json!([{"udp": {"destinationPort": {"number": 53}}}, {"sctp": {"destinationPort": {"number": 9}}}]);
    assert!(denied(two.clone(), 17, 53) && denied(two.clone(), 132, 9) && !denied(two, 6, 53));
}

/// "For Accept rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass rules [...]: treat the
/// rule as a Deny all rule."
#[test]
fn what_is_not_enforced_fails_closed_by_itself() {
    // Without any Node object nobody knows which addresses are meant.
    for peer in [json!({}), json!({"nodes": {}})] {
        for (action, allowed) in [("Accept", true), ("Deny", false), ("Pass", false)] {
            let rules = json!({"egress": [{"action": action, "to": [peer], "protocols": [{"tcp": {"destinationPort": {"number": 1}}}]}]});
            let (world, table) = world(&[cnp("Admin", 0, "p", pods("api"), rules)]);
            assert!(
                matches!(&world.problems[..], [problem] if problem.is_warning()),
                "{:?}",
                world.problems
            );
            let web = decide(&world, &table, Direction::Egress, "api", "web", 6, 80);
            assert_eq!(web.is_none(), allowed, "{action} {peer}");
        }
    }
    // Beside a peer that is enforced, an Accept still takes that one.
    let rules = json!({"egress": [
        {"action": "Accept", "to": [{"nodes": {}}, pods("web")]},
        {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
    ]});
    let (world, table) = world(&[cnp("Admin", 0, "p", pods("api"), rules)]);
    let to = |peer| decide(&world, &table, Direction::Egress, "api", peer, 6, 80);
    assert_eq!([to("web"), to("tool")], [None, BY_RULE]);
}

/// "This field follows standard label selector semantics; if present but empty, it selects all Nodes." "matching on
/// the IPs present in the node.Status.Addresses field".
#[test]
fn nodes_are_matched_by_their_addresses() {
    let node = |name: &str, role: &str, addresses: &[&str]| {
        let addresses: Vec<Value> = addresses
            .iter()
            .map(|a| json!({"type": "InternalIP", "address": a}))
            .collect();
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"role": role}}, "status": {"addresses": addresses}})
    };
    let to = |nodes: Value, whom: &str| {
        let rules = json!({"egress": [{"action": "Deny", "to": [{"nodes": nodes}]}]});
        let objects = [
            node("n1", "worker", &["192.0.2.1", "2001:db8::1", "n1.example"]),
            node("n2", "control", &["192.0.2.2"]),
            cnp("Admin", 0, "p", pods("api"), rules),
        ];
        ask(&objects, Direction::Egress, "api", whom, 6, 443)
    };
    let worker = json!({"matchLabels": {"role": "worker"}});
    assert_eq!(to(worker.clone(), "192.0.2.1"), BY_RULE);
    assert_eq!(to(worker.clone(), "2001:db8::1"), BY_RULE);
    assert_eq!(
        [to(worker.clone(), "192.0.2.2"), to(worker, "192.0.2.3")],
        [None, None]
    );
    assert_eq!(
        [to(json!({}), "192.0.2.2"), to(json!({}), "192.0.2.3")],
        [BY_RULE, None]
    );
    let nothing = json!({"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]});
    assert_eq!(to(nothing, "192.0.2.1"), None);
}

/// "*.kubernetes.io matches [...] latest.blog.kubernetes.io, but not kubernetes.io"; "domainNames may only be used
/// with an Accept action".
#[test]
fn domain_names_are_accepted() {
    let rules = |action: &str| {
        json!({"egress": [
            {"action": action, "to": [{"domainNames": ["*.kubernetes.io", "example.com."]}]},
            {"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]},
        ]})
    };
    let (world, table) = world(&[cnp("Admin", 0, "p", pods("api"), rules("Accept"))]);
    assert_eq!(world.problems, []);
    let mut closed = closed_by_network_policy("api");
    closed["spec"]["policyTypes"] = json!(["Egress"]);
    let policies = [cnp("Admin", 0, "p", pods("api"), rules("Accept")), closed];
    let to = |peer| ask(&policies, Direction::Egress, "api", peer, 6, 443);
    assert_eq!(to("latest.blog.kubernetes.io"), None);
    assert_eq!(
        [to("kubernetes.io"), to("www.example.com")],
        [BY_DEFAULT; 2]
    );
    assert_eq!(to("example.com"), None);
    assert_eq!(to("192.0.2.1"), BY_RULE);
    assert_eq!(
        decide(
            &world,
            &table,
            Direction::Egress,
            "api",
            "192.0.2.1",
            6,
            443
        ),
        BY_RULE
    );
    let (world, _) = verdicts::world(&[cnp("Admin", 0, "p", pods("api"), rules("Deny"))]);
    let problem = &world.problems[0];
    assert_eq!(problem.field_path, "spec.egress[0].to[0].domainNames");
    assert!(!problem.is_warning(), "{problem}");
}

fn admin(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

#[test]
fn the_predecessors_mean_the_same() {
    let spec = json!({"priority": 50, "subject": pods("api"), "ingress": [
        {"name": "web", "action": "Allow", "from": [pods("web")], "ports": [
            {"portNumber": {"protocol": "TCP", "port": 8080}}, {"portRange": {"protocol": "UDP", "start": 50, "end": 60}}, {"namedPort": "dns"}]},
        {"action": "Deny", "from": [namespaces("shop")]},
    ]});
    let policies = [admin("AdminNetworkPolicy", "p", spec)];
    assert_eq!(
        [into_api(&policies, "web"), into_api(&policies, "tool")],
        [None, None]
    );
    let from_web =
        |protocol, port| ask(&policies, Direction::Ingress, "api", "web", protocol, port);
    assert_eq!(
        [
            from_web(6, 80),
            from_web(17, 60),
            from_web(17, 61),
            from_web(17, 53)
        ],
        [BY_RULE, None, BY_RULE, None]
    );

    let spec = json!({"subject": namespaces("shop"), "egress": [{"action": "Deny", "to": [{"networks": ["192.0.2.0/24"]}]}]});
    let base = admin("BaselineAdminNetworkPolicy", "default", spec);
    let to = |policies: &[Value]| ask(policies, Direction::Egress, "api", "192.0.2.1", 6, 443);
    assert_eq!(to(std::slice::from_ref(&base)), BY_RULE);
    let mut open = closed_by_network_policy("api");
    open["spec"]["egress"] = json!([{}]);
    assert_eq!(to(&[base, open]), None);
}

/// Field, value and what is allowed; and what cannot be read cuts off what it may concern.
#[test]
fn what_the_api_server_refuses_is_refused() {
    let rule = |rule: Value| json!({"ingress": [rule]});
    let peers = |from: Value| rule(json!({"action": "Deny", "from": from}));
    let egress = |to: Value, protocols: Value| json!({"egress": [{"action": "Deny", "to": to, "protocols": protocols}]});
    let protocols = |protocols: Value| {
        rule(json!({"action": "Deny", "from": [pods("web")], "protocols": protocols}))
    };
    let tcp = |port: Value| protocols(json!([{"tcp": {"destinationPort": port}}]));
    let many = |n: usize| Value::from(vec![json!({"action": "Deny", "from": [pods("web")]}); n]);
    let of = |rules: Value| cnp("Admin", 1, "p", pods("api"), rules);
    let base = |name: &str, rules: Value| {
        let mut spec = json!({"subject": pods("api")});
        spec["ingress"] = rules;
        admin("BaselineAdminNetworkPolicy", name, spec)
    };
    for (object, field) in [
        (cnp("Middle", 1, "p", pods("api"), json!({})), "spec.tier"),
        (
            cnp("Admin", -1, "p", pods("api"), json!({})),
            "spec.priority",
        ),
        (
            cnp("Admin", 1001, "p", pods("api"), json!({})),
            "spec.priority",
        ),
        (cnp("Admin", 1, "p", json!({}), json!({})), "spec.subject"),
        (
            cnp(
                "Admin",
                1,
                "p",
                json!({"namespaces": {}, "pods": {"podSelector": {}}}),
                json!({}),
            ),
            "spec.subject",
        ),
        (
            cnp("Admin", 1, "p", json!({"pods": {}}), json!({})),
            "spec.subject.pods.podSelector",
        ),
        (of(json!({"ingress": many(26)})), "spec.ingress"),
        (
            of(rule(json!({"action": "Allow", "from": [pods("web")]}))),
            "spec.ingress[0].action",
        ),
        (
            of(rule(
                json!({"action": "Deny", "from": [pods("web")], "ports": []}),
            )),
            "spec.ingress[0].ports",
        ),
        (
            of(rule(
                json!({"action": "Deny", "name": "x".repeat(101), "from": [pods("web")]}),
            )),
            "spec.ingress[0].name",
        ),
        (of(peers(json!([]))), "spec.ingress[0].from"),
        (
            of(peers(json!([{"networks": ["10.0.0.0/8"]}]))),
            "spec.ingress[0].from[0].networks",
        ),
        (
            of(peers(
                json!([{"namespaces": {}, "pods": {"podSelector": {}}}]),
            )),
            "spec.ingress[0].from[0]",
        ),
        (
            of(egress(json!([{"networks": ["10.0.0.0/33"]}]), json!(null))),
            "spec.egress[0].to[0].networks[0]",
        ),
        (
            of(egress(json!([{"networks": []}]), json!(null))),
            "spec.egress[0].to[0].networks",
        ),
        (
            of(egress(
                json!([{"networks": ["10.0.0.0/8"]}]),
                json!([{"destinationNamedPort": "http"}]),
            )),
            "spec.egress[0].protocols",
        ),
        (of(protocols(json!([]))), "spec.ingress[0].protocols"),
        (of(protocols(json!([{}]))), "spec.ingress[0].protocols[0]"),
        (
            of(protocols(json!([{"tcp": {}}]))),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
        ),
        (
            of(protocols(json!([{"icmp": {}}]))),
            "spec.ingress[0].protocols[0].icmp",
        ),
        (
            of(tcp(json!({"number": 0}))),
            "spec.ingress[0].protocols[0].tcp.destinationPort.number",
        ),
        (
            of(tcp(json!({"number": 1, "range": {"start": 1, "end": 2}}))),
            "spec.ingress[0].protocols[0].tcp.destinationPort",
        ),
        (
            of(tcp(json!({"range": {"start": 2, "end": 2}}))),
            "spec.ingress[0].protocols[0].tcp.destinationPort.range.end",
        ),
        (
            admin("AdminNetworkPolicy", "p", json!({"subject": pods("api")})),
            "spec.priority",
        ),
        (base("other", json!([])), "metadata.name"),
        (
            base(
                "default",
                json!([{"action": "Pass", "from": [pods("web")]}]),
            ),
            "spec.ingress[0].action",
        ),
    ] {
        let (world, table) = world(std::slice::from_ref(&object));
        let told = |problem: &Problem| problem.field_path == field && !problem.is_warning();
        assert!(
            world.problems.iter().any(told),
            "{field}: {:?}",
            world.problems
        );
        assert_eq!(
            decide(&world, &table, Direction::Ingress, "api", "tool", 6, 1),
            BY_RULE,
            "{field}"
        );
    }
}
