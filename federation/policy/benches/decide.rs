//! How long one decision takes with 10, 1,000 and 10,000 rules, beside the least that a search
//! among as many could do. docs/benchmarks.md says what each figure means.
//!
//! `services`: five rules for each service, as clusters have them; the index finds the few that
//! concern the pod. `hub`: one service that names every client. `networks`: one service that names
//! address blocks. `negations`: rules on labels that must not be, which no index helps; each is asked.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{collections::BTreeMap, hint::black_box, net::IpAddr};

use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::IpNet;
use landbridge_policy::{KnownKeys, Peer, Query, compile, model::*};

#[path = "../tests/common/mod.rs"]
mod common;

use common::*;

const SIZES: [u16; 3] = [10, 1_000, 10_000];

/// Makes a number of rules.
type Shape = fn(u16) -> Vec<Policy>;

fn decide(c: &mut Criterion) {
    let shapes: [(&str, Shape); 4] = [
        ("services", services),
        ("hub", hub),
        ("networks", networks),
        ("negations", negations),
    ];
    let mut group = c.benchmark_group("policy");
    for (shape, policies) in shapes {
        for rules in SIZES {
            let set = set("west", policies(rules));
            let table = compile(&set).unwrap();
            assert_eq!(table.rule_count(), usize::from(rules));
            let known = KnownKeys::all();
            let service = rules / 10;
            let subject = pod(
                &format!("west/ns{}/pod", service % 50),
                &format!("app=s{service}"),
            );
            let client = pod(
                "east/shop/client",
                &format!("app=c{service} tier=front env=prod"),
            );
            let query = Query {
                direction: Direction::Ingress,
                subject: &subject,
                peer: Peer::Identity {
                    claims: &client,
                    address: Some("10.9.9.9".parse().unwrap()),
                },
                protocol: TCP,
                port: 8080,
                known: &known,
            };
            group.bench_function(format!("decide {shape}, {rules} rules"), |b| {
                b.iter(|| table.decide(black_box(&query)));
            });
            if shape == "services" {
                group.bench_function(format!("may admit, {rules} rules"), |b| {
                    b.iter(|| table.may_admit(black_box(&client), TCP, 8080));
                });
                group.bench_function(format!("compile, {rules} rules"), |b| {
                    b.iter(|| compile(black_box(&set)).unwrap());
                });
                group.bench_function(format!("raw clone, {rules} rules"), |b| {
                    b.iter(|| deep_copy(black_box(&set)));
                });
            }
        }
    }
}

fn deep_copy(set: &PolicySet) -> Vec<Policy> {
    set.policies.iter().map(|p| Policy::clone(p)).collect()
}

/// What anybody would have to do to answer the same question.
fn raw(c: &mut Criterion) {
    let mut group = c.benchmark_group("policy");
    let client = pod("east/shop/client", "app=c1 tier=front env=prod");
    let address: IpAddr = "10.9.9.9".parse().unwrap();
    for rules in SIZES {
        let entry = |n: u16| (format!("west/ns{}/app=s{n}", n % 50), n);
        let map: BTreeMap<String, u16> = (0..rules).map(entry).collect();
        let wanted = entry(rules / 2).0;
        group.bench_function(format!("raw search, {rules} entries"), |b| {
            b.iter(|| map.get(black_box(wanted.as_str())));
        });
        let blocks: Vec<IpNet> = (0..rules)
            .map(|n| format!("172.{}.{}.0/24", n / 256, n % 256).parse().unwrap())
            .collect();
        group.bench_function(format!("raw containment, {rules} blocks"), |b| {
            b.iter(|| {
                let address = black_box(address);
                black_box(&blocks)
                    .iter()
                    .filter(|net| net.contains(&address))
                    .count()
            });
        });
        group.bench_function(format!("raw label, {rules} times"), |b| {
            b.iter(|| {
                let has = |_: &u16| black_box(&client).labels.value("env") == Some("prod");
                (0..rules).filter(has).count()
            });
        });
    }
}

/// Services in 50 namespaces; each allows five kinds of clients.
fn services(rules: u16) -> Vec<Policy> {
    let service = |number: u16| {
        let allow = |client: u16| Rule {
            peers: vec![PeerMatch::Workload(remote(
                "east",
                "shop",
                &format!("app=c{} tier=front", number + client),
            ))],
            scopes: vec![Scope::Remote],
            ports: vec![tcp(8080)],
            ..rule(
                &format!("ingress[{client}]"),
                Direction::Ingress,
                Action::Allow,
            )
        };
        let namespace = format!("ns{}", number % 50);
        Policy {
            subject: own(&namespace, &format!("app=s{number}")),
            isolates: vec![(Direction::Ingress, Scope::Remote)],
            ..federation_policy(
                &namespace,
                &format!("p{number}"),
                1000,
                (0..5).map(allow).collect(),
            )
        }
    };
    (0..rules / 5).map(service).collect()
}

/// Every pod of one namespace, one rule for each of many clients.
fn hub(rules: u16) -> Vec<Policy> {
    let allow = |client: u16| Rule {
        peers: vec![PeerMatch::Workload(remote(
            "east",
            "shop",
            &format!("app=c{client}"),
        ))],
        scopes: vec![Scope::Remote],
        ..rule(
            &format!("ingress[{client}]"),
            Direction::Ingress,
            Action::Allow,
        )
    };
    let namespace = format!("ns{}", rules / 10 % 50);
    vec![federation_policy(
        &namespace,
        "hub",
        1000,
        (0..rules).map(allow).collect(),
    )]
}

/// Address blocks that do not hold the client's address.
fn networks(rules: u16) -> Vec<Policy> {
    let allow = |number: u16| Rule {
        peers: vec![PeerMatch::Net {
            cidr: format!("172.{}.{}.0/24", number / 256, number % 256)
                .parse()
                .unwrap(),
            except: Vec::new(),
        }],
        scopes: vec![Scope::Remote],
        ..rule(
            &format!("ingress[{number}]"),
            Direction::Ingress,
            Action::Allow,
        )
    };
    let namespace = format!("ns{}", rules / 10 % 50);
    vec![federation_policy(
        &namespace,
        "blocks",
        1000,
        (0..rules).map(allow).collect(),
    )]
}

/// Rules on labels that the client has, so that none matches.
fn negations(rules: u16) -> Vec<Policy> {
    let allow = |number: u16| Rule {
        peers: vec![PeerMatch::Workload(WorkloadSelector {
            pods: selector(&format!("x{number}!=a env!=prod")),
            ..any_workload()
        })],
        scopes: vec![Scope::Remote],
        ..rule(
            &format!("ingress[{number}]"),
            Direction::Ingress,
            Action::Allow,
        )
    };
    let namespace = format!("ns{}", rules / 10 % 50);
    vec![federation_policy(
        &namespace,
        "negations",
        1000,
        (0..rules).map(allow).collect(),
    )]
}

criterion_group!(benches, decide, raw);
criterion_main!(benches);
