//! What people and programs are told.
#![allow(clippy::unwrap_used)]

#[allow(unused)]
mod common;

use common::*;
use identity::Claims;
use landbridge_policy::{Explanation, KnownKeys, Peer, Query, compile, model::*};

fn explain(policies: Vec<Policy>, peer: Peer<'_>) -> Explanation {
    let mut known = KnownKeys::all();
    known.narrow(td("north"), ["app".to_owned()]);
    let subject = with_port(pod("west/shop/api", "app=api"), "http", TCP, 80);
    let query = Query {
        direction: Direction::Ingress,
        subject: &subject,
        peer,
        protocol: TCP,
        port: 8080,
        known: &known,
    };
    let table = compile(&set("west", policies)).unwrap();
    let explanation = table.explain(&query);
    assert_eq!(explanation.verdict, table.decide(&query));
    explanation
}

fn identity(claims: &Claims) -> Peer<'_> {
    Peer::Identity {
        claims,
        address: None,
    }
}

fn policies() -> Vec<Policy> {
    let ingress = |name: &str, action| Rule {
        scopes: vec![Scope::Local, Scope::Remote],
        ..rule(name, Direction::Ingress, action)
    };
    let mut admin = federation_policy("shop", "guard", 10, vec![ingress("no-tests", Action::Deny)]);
    admin.kind = PolicyKind::ClusterFederationPolicy;
    admin.namespace = None;
    admin.tier = Tier::Admin;
    admin.rules[0].peers = vec![PeerMatch::Workload(WorkloadSelector {
        pods: selector("env=test,dev"),
        ..any_workload()
    })];
    let mut api = federation_policy("shop", "api-allow", 1000, vec![]);
    api.kind = PolicyKind::NetworkPolicy;
    api.subject.pods = selector("app=api");
    api.isolates = vec![
        (Direction::Ingress, Scope::Local),
        (Direction::Ingress, Scope::Remote),
    ];
    let named = PortMatch {
        protocol: TCP,
        port: PortSpec::Named("http".to_owned()),
    };
    api.rules = vec![
        Rule {
            peers: vec![
                PeerMatch::Workload(own("shop", "app=web")),
                PeerMatch::Net {
                    cidr: "192.0.2.0/24".parse().unwrap(),
                    except: vec!["192.0.2.128/25".parse().unwrap()],
                },
            ],
            ..ingress("ingress[0]", Action::Allow)
        },
        Rule {
            ports: vec![named, tcp(443)],
            ..ingress("ingress[1]", Action::Allow)
        },
    ];
    let mut db = federation_policy("shop", "db", 1000, vec![ingress("all", Action::Allow)]);
    db.subject.pods = selector("app=db");
    vec![db, api, admin]
}

/// The lines for people, without the first one's indent.
fn lines(explanation: &Explanation) -> Vec<String> {
    let text = explanation.to_string();
    text.lines().map(|l| l.trim_start().to_owned()).collect()
}

#[test]
fn a_refusal_names_every_rule_and_what_it_wanted() {
    let web = pod("east/shop/web", "app=web env=prod");
    let expected = [
        "east/shop/web -> west/shop/api tcp/8080, ingress of west/shop/api, remote scope: dropped \
         (denied-by-default) because no rule allows it and NetworkPolicy shop/api-allow isolates \
         the pod",
        "admin 10 west: ClusterFederationPolicy guard rule no-tests (deny): no match: pod label \
         \"env\" is \"prod\", wanted one of \"dev\", \"test\"",
        "application 1000 west: NetworkPolicy shop/api-allow rule ingress[0] (allow): no match: \
         peer 0: cluster is east, wanted the own cluster; peer 1: the peer's address is not known \
         here",
        "application 1000 west: NetworkPolicy shop/api-allow rule ingress[1] (allow): no match: \
         port is tcp/8080, wanted tcp/443 or tcp port \"http\" (here 80)",
        "application 1000 west: FederationPolicy shop/db rule all (allow): no match: does not \
         select west/shop/api: pod label \"app\" is \"api\", wanted \"db\"",
        "application 1000 west: NetworkPolicy shop/api-allow isolation: matched: selects \
         west/shop/api",
    ];
    assert_eq!(lines(&explain(policies(), identity(&web))), expected);
}

#[test]
fn an_address_is_told_the_exception() {
    let explanation = explain(policies(), Peer::Address("192.0.2.200".parse().unwrap()));
    let expected = [
        "peer 0: peer has no identity, wanted a workload",
        "peer 1: 192.0.2.200 is inside the exception 192.0.2.128/25",
    ];
    assert_eq!(explanation.steps[1].why, expected);
}

#[test]
fn a_label_that_is_not_carried_is_told_so() {
    let web = pod("north/shop/web", "app=web");
    let explanation = explain(policies(), identity(&web));
    assert_eq!(
        explanation.because,
        "dropped (label-not-carried) by west: ClusterFederationPolicy guard rule no-tests"
    );
    let why = "north does not carry pod label \"env\", so its value is unknown";
    assert_eq!(explanation.steps[0].why, [why]);
}

#[test]
fn every_failed_requirement_of_a_rule_is_told() {
    let mut policy = federation_policy("shop", "p", 10, vec![]);
    policy.rules = vec![Rule {
        scopes: vec![Scope::Remote],
        peers: vec![PeerMatch::Workload(remote("east", "db", ""))],
        ports: vec![tcp(443)],
        ..rule("r", Direction::Ingress, Action::Allow)
    }];
    let web = with_assurance(pod("east/shop/web", ""), identity::Assurance::Gateway);
    let expected = [
        "port is tcp/8080, wanted tcp/443",
        "namespace is \"shop\", wanted \"db\"",
    ];
    assert_eq!(
        explain(vec![policy.clone()], identity(&web)).steps[0].why,
        expected
    );
    policy.rules[0].peers.clear();
    policy.rules[0].ports.clear();
    let explanation = explain(vec![policy], identity(&web));
    assert_eq!(
        explanation.steps[0].why,
        ["assurance is gateway, wanted agent"]
    );
    let because =
        "dropped (assurance-too-low) by default across clusters, because no rule allows it";
    assert_eq!(explanation.because, because);
}

#[test]
fn defaults_are_told_in_words() {
    let (near, far) = (pod("west/shop/web", ""), pod("east/shop/web", ""));
    let because = |peer| explain(vec![], peer).because;
    assert_eq!(
        because(Peer::Node),
        "allowed because a pod and its own node always may"
    );
    assert_eq!(
        because(identity(&near)),
        "allowed by default inside a cluster, because no policy isolates the pod"
    );
    assert_eq!(
        because(identity(&far)),
        "dropped (denied-by-default) by default across clusters, because no rule allows it"
    );
}

#[test]
fn many_policies_of_other_pods_are_counted_not_listed() {
    let other = |number| {
        let rule = rule("r", Direction::Ingress, Action::Allow);
        Policy {
            subject: own("elsewhere", ""),
            ..federation_policy("elsewhere", &format!("p{number:02}"), 10, vec![rule])
        }
    };
    let peer = pod("west/shop/web", "");
    let explanation = explain((0..30).map(other).collect(), identity(&peer));
    assert_eq!(explanation.steps.len(), 30);
    let lines = lines(&explanation);
    assert_eq!(lines.len(), 22);
    assert_eq!(
        lines[21],
        "and 10 more of policies that do not select the pod"
    );
}

#[test]
fn programs_get_the_same_by_serde() {
    let web = pod("west/shop/web", "app=web");
    let mut explanation = explain(policies(), identity(&web));
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["direction"], "ingress");
    assert_eq!(json["steps"][0]["outcome"], "not-matched");
    assert_eq!(json["verdict"]["decision"], "allow");
    assert_eq!(json["verdict"]["rule"]["policy"], "api-allow");
    assert_eq!(
        serde_json::from_value::<Explanation>(json).unwrap(),
        explanation
    );
    let far = pod("east/shop/web", "app=web env=test");
    explanation = explain(policies(), identity(&far));
    let json = serde_json::to_value(&explanation).unwrap();
    let drop = serde_json::json!({"drop": {"reason": "denied-by-rule", "reject": false}});
    assert_eq!(json["verdict"]["decision"], drop);
}
