//! What a FederationPolicy can say beyond Kubernetes' own policies: text selectors, what is left out, protocols,
//! ICMP, names of the DNS, sets, staging; and what it refuses.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "common/verdicts.rs"]
mod verdicts;

use landbridge_sources::Effect;
use policy::{
    DropReason,
    model::{Direction, icmp},
};
use serde_json::{Value, json};
use verdicts::{ask, decide, world};

const DENIED: Option<DropReason> = Some(DropReason::DeniedByDefault);
const BY_RULE: Option<DropReason> = Some(DropReason::DeniedByRule);

/// A policy of namespace `shop` for pod `api`.
fn policy(spec: Value) -> Value {
    let mut policy = json!({"apiVersion": "landbridge.io/v1alpha1", "kind": "FederationPolicy",
        "metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
    if policy["spec"].get("subject").is_none() {
        policy["spec"]["subject"] = json!({"podSelector": {"matchLabels": {"app": "api"}}});
    }
    policy
}

fn from(peer: Value, who: &str) -> Option<DropReason> {
    let spec = json!({"ingress": [{"action": "Allow", "from": [peer]}]});
    ask(&[policy(spec)], Direction::Ingress, "api", who, 6, 8080)
}

fn to(peer: Value, whom: &str) -> Option<DropReason> {
    let spec = json!({"egress": [{"action": "Allow", "to": [peer]}]});
    ask(&[policy(spec)], Direction::Egress, "api", whom, 6, 8080)
}

/// A rule without peers that allows.
fn rule(mut rule: Value, protocol: u8, port: u16) -> Option<DropReason> {
    rule["action"] = json!("Allow");
    let spec = json!({"ingress": [rule]});
    ask(
        &[policy(spec)],
        Direction::Ingress,
        "api",
        "web",
        protocol,
        port,
    )
}

/// What is said of a policy that is refused.
fn refused(spec: Value) -> String {
    let (world, table) = world(&[policy(spec)]);
    let problems = &world.problems;
    assert!(
        problems.iter().any(|p| p.effect == Effect::Closed),
        "{problems:?}"
    );
    // Nobody knows what it forbids.
    let verdict = decide(&world, &table, Direction::Ingress, "api", "web", 6, 8080);
    assert_eq!(verdict, BY_RULE);
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

#[test]
fn selectors_as_text() {
    let web = json!({"selector": "app in {\"web\", \"x\"}"});
    assert_eq!(from(web.clone(), "web"), None);
    assert_eq!(from(web, "tool"), DENIED);
    assert_eq!(from(json!({"notSelector": "app == 'web'"}), "web"), DENIED);
    let other = json!({"notSelector": "app == 'web'", "namespaces": ["ops"]});
    assert_eq!(from(other.clone(), "tool"), None);
    assert_eq!(from(other, "web"), DENIED);
    let both = json!({"podSelector": {"matchLabels": {"app": "web"}}, "notSelector": "has(app)"});
    assert_eq!(from(both, "web"), DENIED);
    let ops = json!({"namespaceExpression": "kubernetes.io/metadata.name ends with 'ps'"});
    assert_eq!(from(ops.clone(), "tool"), None);
    assert_eq!(from(ops, "web"), DENIED);
    // A subject of the same kind.
    for (text, expected) in [("app != 'api'", None), ("app starts with 'ap'", DENIED)] {
        let spec = json!({"subject": {"selector": text}, "ingress": [{"action": "Allow", "from": [{"podSelector": {"matchLabels": {"app": "x"}}}]}]});
        assert_eq!(
            ask(&[policy(spec)], Direction::Ingress, "api", "web", 6, 80),
            expected,
            "{text}"
        );
    }
}

#[test]
fn a_wrong_selector_names_the_column() {
    let spec = json!({"ingress": [{"action": "Allow", "from": [{"selector": "app = 'web'"}]}]});
    let text = refused(spec);
    assert!(
        text.contains("spec.ingress[0].from[0].selector: column 5: found `=`"),
        "{text}"
    );
    let spec = json!({"ingress": [{"action": "Allow", "from": [{"namespaceExpression": "all()", "namespaces": ["a"]}]}]});
    let text = refused(spec);
    assert!(
        text.contains("namespaceExpression: stands together with namespaces"),
        "{text}"
    );
}

#[test]
fn what_is_left_out() {
    let rest =
        json!({"notPorts": [{"port": 8080, "endPort": 8090}, {"protocol": "UDP", "port": "dns"}]});
    assert_eq!(rule(rest.clone(), 6, 8085), DENIED);
    assert_eq!(rule(rest.clone(), 6, 80), None);
    assert_eq!(rule(rest.clone(), 17, 53), DENIED);
    assert_eq!(rule(rest.clone(), 17, 54), None);
    assert_eq!(rule(rest, 132, 8085), None);
    let within = json!({"ports": [{"port": 8000, "endPort": 8100}], "notPorts": [{"port": 8080}]});
    assert_eq!(rule(within.clone(), 6, 8080), DENIED);
    assert_eq!(rule(within.clone(), 6, 8081), None);
    assert_eq!(rule(within, 6, 80), DENIED);
    let protocols = json!({"notProtocols": ["TCP", 47]});
    assert_eq!(rule(protocols.clone(), 6, 80), DENIED);
    assert_eq!(rule(protocols.clone(), 47, 0), DENIED);
    assert_eq!(rule(protocols, 17, 80), None);
    let nets = json!({"notNets": ["192.0.2.0/24", "2001:db8::/32"]});
    assert_eq!(to(nets.clone(), "192.0.2.1"), DENIED);
    assert_eq!(to(nets.clone(), "198.51.100.1"), None);
    assert_eq!(to(nets.clone(), "2001:db8::1"), DENIED);
    assert_eq!(to(nets, "2001:db9::1"), None);
}

#[test]
fn protocols_by_name_or_number_and_icmp() {
    assert_eq!(rule(json!({"ports": [{"protocol": 50}]}), 50, 0), None);
    assert_eq!(rule(json!({"ports": [{"protocol": 50}]}), 51, 0), DENIED);
    assert_eq!(
        rule(
            json!({"ports": [{"protocol": "SCTP", "port": 80}]}),
            132,
            80
        ),
        None
    );
    assert_eq!(
        rule(json!({"ports": [{"protocol": 6, "port": "http"}]}), 6, 8080),
        None
    );
    let echo = json!({"ports": [{"protocol": "ICMP", "icmpType": 8, "icmpCode": 0}]});
    assert_eq!(rule(echo.clone(), 1, icmp(8, 0)), None);
    assert_eq!(rule(echo.clone(), 1, icmp(8, 1)), DENIED);
    assert_eq!(rule(echo.clone(), 58, icmp(8, 0)), DENIED);
    assert_eq!(rule(echo, 6, 8080), DENIED);
    let unreachable = json!({"ports": [{"protocol": "ICMP", "icmpType": 3}]});
    assert_eq!(rule(unreachable.clone(), 1, icmp(3, 13)), None);
    assert_eq!(rule(unreachable, 1, icmp(4, 0)), DENIED);
    assert_eq!(
        rule(json!({"ports": [{"protocol": "ICMPv6"}]}), 58, icmp(128, 0)),
        None
    );
    for (port, expected) in [
        (
            json!({"protocol": "HTTP"}),
            "protocol: \"HTTP\" is no protocol; expected TCP, UDP, SCTP, ICMP",
        ),
        (json!({"protocol": 256}), "protocol: 256 is no protocol"),
        (
            json!({"protocol": "ICMP", "icmpType": 256}),
            "icmpType: 256 is no icmpType; expected a number from 0 to 255",
        ),
        (
            json!({"protocol": "ICMP", "port": 8}),
            "port: stands in a port of ICMP",
        ),
        (
            json!({"protocol": "TCP", "icmpType": 8}),
            "icmpType: stands with another protocol",
        ),
        (
            json!({"protocol": "ICMP", "icmpCode": 8}),
            "icmpCode: stands without icmpType",
        ),
        (
            json!({"port": 0}),
            "port: 0 is no port; expected a number from 1 to 65535",
        ),
        (
            json!({"port": 9, "endPort": 8}),
            "endPort: 8 is below port 9",
        ),
        (
            json!({"protocol": 50, "port": 8}),
            "protocol 50 has no ports",
        ),
    ] {
        for field in ["ports", "notPorts"] {
            let text = refused(json!({"ingress": [{"action": "Allow", field: [port]}]}));
            assert!(text.contains(expected), "{port}: {text}");
        }
    }
}

#[test]
fn names_of_the_dns() {
    let names = json!({"domains": ["*.Example.com.", "api.example.org"]});
    assert_eq!(to(names.clone(), "www.example.com"), None);
    assert_eq!(to(names.clone(), "a.b.example.com"), None);
    assert_eq!(to(names.clone(), "example.com"), DENIED);
    assert_eq!(to(names.clone(), "badexample.com"), DENIED);
    assert_eq!(to(names.clone(), "api.example.org"), None);
    assert_eq!(to(names.clone(), "www.api.example.org"), DENIED);
    // An address that DNS told the pod nothing of.
    assert_eq!(to(names.clone(), "192.0.2.1"), DENIED);
    assert_eq!(to(names, "web"), DENIED);
    let egress = |action: &str| json!({"egress": [{"action": action, "to": [{"domains": ["example.com"]}]}]});
    for spec in [
        egress("Deny"),
        egress("Pass"),
        json!({"ingress": [{"action": "Allow", "from": [{"domains": ["example.com"]}]}]}),
    ] {
        let text = refused(spec);
        assert!(
            text.contains("domains: names are learned from what pods ask for"),
            "{text}"
        );
    }
    for name in [
        "com",
        "*",
        "*.com",
        "a..b",
        "exa mple.com",
        "a.*.com",
        "-a.com",
        "",
    ] {
        let spec = json!({"egress": [{"action": "Allow", "to": [{"domains": [name]}]}]});
        let text = refused(spec);
        assert!(
            text.contains("domains[0]: ") && text.contains("is no name of the DNS"),
            "{name}: {text}"
        );
    }
}

fn set(kind: &str, spec: Value) -> Value {
    let metadata = match kind {
        "NetworkSet" => json!({"name": "s", "namespace": "shop"}),
        _ => json!({"name": "s"}),
    };
    json!({"apiVersion": "landbridge.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
}

#[test]
fn sets_of_addresses_and_names() {
    for (kind, field) in [
        ("NetworkSet", "networkSets"),
        ("ClusterNetworkSet", "clusterNetworkSets"),
    ] {
        let spec = json!({"nets": ["192.0.2.0/24", "2001:db8::/32"], "domains": ["example.com"]});
        let policy = policy(json!({"egress": [{"action": "Allow", "to": [{field: ["s"]}]}]}));
        let objects = [set(kind, spec), policy];
        let to = |whom: &str| ask(&objects, Direction::Egress, "api", whom, 6, 443);
        assert_eq!(to("192.0.2.9"), None);
        assert_eq!(to("2001:db8::9"), None);
        assert_eq!(to("example.com"), None);
        assert_eq!(to("198.51.100.1"), DENIED);
        assert_eq!(to("web"), DENIED);
    }
}

/// An empty set is nobody, never everybody.
#[test]
fn an_empty_set_is_nobody() {
    let policy = policy(json!({"egress": [{"action": "Allow", "to": [{"networkSets": ["s"]}]}]}));
    let objects = [set("NetworkSet", json!({})), policy];
    assert_eq!(
        ask(&objects, Direction::Egress, "api", "192.0.2.9", 6, 443),
        DENIED
    );
}

/// What nobody defines closes the rule that names it, and is told with what there is.
#[test]
fn a_missing_set_closes_its_rule() {
    let egress = |action: &str| {
        policy(
            json!({"egress": [{"action": action, "to": [{"networkSets": ["t"]}]}], "isolates": "None"}),
        )
    };
    for (action, expected) in [
        ("Allow", None),
        ("Log", None),
        ("Deny", BY_RULE),
        ("Pass", BY_RULE),
    ] {
        let (world, table) = world(&[
            egress(action),
            set("NetworkSet", json!({"nets": ["10.0.0.0/8"]})),
        ]);
        let [problem] = world.problems.as_slice() else {
            panic!("{:?}", world.problems)
        };
        assert_eq!(problem.field_path, "spec.egress[0].to[0].networkSets[0]");
        assert!(
            problem
                .message
                .starts_with("there is no NetworkSet shop/t,"),
            "{problem}"
        );
        assert!(problem.expected.contains("NetworkSet shop/s"), "{problem}");
        let verdict = decide(&world, &table, Direction::Egress, "api", "192.0.2.1", 6, 80);
        assert_eq!(verdict, expected, "{action}");
    }
}

/// Names in a set that a denial uses would let other addresses of the same name pass.
#[test]
fn a_denial_cannot_use_the_names_of_a_set() {
    let set = set(
        "NetworkSet",
        json!({"nets": ["192.0.2.0/24"], "domains": ["example.com"]}),
    );
    let denial = policy(
        json!({"egress": [{"action": "Deny", "to": [{"networkSets": ["s"]}]}], "isolates": "None"}),
    );
    let (world, table) = world(&[set, denial]);
    assert!(
        world.problems[0].message.contains("holds names"),
        "{:?}",
        world.problems
    );
    let verdict = decide(
        &world,
        &table,
        Direction::Egress,
        "api",
        "198.51.100.1",
        6,
        80,
    );
    assert_eq!(verdict, BY_RULE);
}

#[test]
fn a_staged_policy_decides_nothing_and_is_told() {
    let by_field = policy(json!({"staged": true, "ingress": [{"action": "Deny"}]}));
    let mut by_annotation = policy(json!({"ingress": [{"action": "Deny"}]}));
    by_annotation["metadata"]["annotations"] = json!({"landbridge.io/staged": "true"});
    let mut of_kubernetes = verdicts::closed_by_network_policy("api");
    of_kubernetes["metadata"]["annotations"] = json!({"landbridge.io/staged": "true"});
    for (object, reason) in [
        (by_field, BY_RULE),
        (by_annotation, BY_RULE),
        (of_kubernetes, DENIED),
    ] {
        let (world, table) = world(&[object]);
        assert_eq!(world.problems, []);
        assert_eq!(
            decide(&world, &table, Direction::Ingress, "api", "web", 6, 80),
            None
        );
        let claims = |name: &str| {
            let pod = world.workloads.iter().find(|w| w.pod == name).unwrap();
            pod.claims(&world.cluster.trust_domain).unwrap()
        };
        let (api, web) = (claims("api"), claims("web"));
        let explanation = table.explain(&policy::Query {
            direction: Direction::Ingress,
            subject: &api,
            peer: policy::Peer::Identity {
                claims: &web,
                address: None,
            },
            protocol: 6,
            port: 80,
            known: &policy::KnownKeys::all(),
        });
        let staged = explanation.verdict.staged.as_ref().unwrap();
        let policy::Decision::Drop { reason: found, .. } = staged.decision else {
            panic!("{staged:?}")
        };
        assert_eq!(Some(found), reason);
        assert!(
            explanation.to_string().contains("with staged policies: "),
            "{explanation}"
        );
        // It is no part of what others are told.
        assert_eq!(table.digest_part().policies, []);
    }
    let mut wrong = policy(json!({"ingress": []}));
    wrong["metadata"]["annotations"] = json!({"landbridge.io/staged": "yes"});
    let (world, _) = world(&[wrong]);
    assert!(
        world
            .problems
            .iter()
            .any(|p| p.message.contains("\"yes\" does not say")),
        "{:?}",
        world.problems
    );
}

#[test]
fn what_is_not_here_says_why() {
    for (field, expected) in [
        ("http", "http looks into requests, which nothing here does"),
        ("doNotTrack", "doNotTrack leaves out the connection table"),
        (
            "preDNAT",
            "preDNAT is about destinations before translation",
        ),
        (
            "applyOnForward",
            "applyOnForward is about traffic that a host forwards",
        ),
    ] {
        let text = refused(json!({"ingress": [{"action": "Allow", field: {}}]}));
        assert!(text.contains(expected), "{text}");
    }
}
