//! The shipped examples: no problem in any, and what they promise is what the policy says.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, path::PathBuf};

use landbridge_sources::{World, load_once};

mod common;
use common::ask::{Ends, words};

fn example(name: &str) -> Vec<World> {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    load_once(&examples.join(name)).unwrap()
}

#[test]
fn every_example_loads_without_a_word() {
    let examples = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(examples).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.is_dir() {
            continue;
        }
        for world in load_once(&dir).unwrap() {
            assert_eq!(world.problems, [], "{}", dir.display());
            policy::compile(&world.policies).unwrap();
            world.federation.networks().unwrap();
        }
        seen += 1;
    }
    assert!(seen >= 2);
}

/// What each end says of TCP to `port`.
fn verdicts(worlds: &[World], from: &str, to: &str, port: u16) -> [String; 2] {
    let ends = Ends::find(worlds, from, to);
    ends.ask(6, port).map(|v| words(&v.unwrap()))
}

#[test]
fn minimal_allows_one_connection() {
    let worlds = example("minimal");
    let (client, server) = ("east/default/client", "west/default/server");
    let out = "allow by east: FederationPolicy default/to-server rule egress[0]";
    assert_eq!(
        verdicts(&worlds, client, server, 8080),
        [
            out,
            "allow by west: FederationPolicy default/from-client rule ingress[0]"
        ]
    );
    assert_eq!(
        verdicts(&worlds, client, server, 8081),
        [out, "denied-by-default by default"]
    );
    assert_eq!(
        verdicts(&worlds, server, client, 8080),
        ["denied-by-default by default"; 2]
    );
}

#[test]
fn three_tier_keeps_what_its_readme_promises() {
    let worlds = example("three-tier");
    let to_west = "allow by east.example: FederationPolicy shop/to-west rule shop-api";
    let no_batch = "denied-by-rule by west.example: FederationPolicy shop/no-batch rule not-batch";
    let nothing = "denied-by-default by default";
    let by_default = "allow by default";
    let db = "allow by west.example: NetworkPolicy shop/db rule ingress[0]";
    for (from, to, port, said) in [
        (
            "east/shop/frontend",
            "west/shop/api",
            8080,
            [
                to_west,
                "allow by west.example: FederationPolicy shop/api rule web-tier",
            ],
        ),
        (
            "east/shop/batch",
            "west/shop/api",
            8080,
            [to_west, no_batch],
        ),
        (
            "east/shop/visitor",
            "west/shop/api",
            8080,
            [to_west, nothing],
        ),
        (
            "east/shop/frontend",
            "west/shop/api",
            8081,
            [to_west, nothing],
        ),
        (
            "east/shop/frontend",
            "west/shop/db",
            5432,
            [nothing, nothing],
        ),
        ("west/shop/api", "west/shop/db", 5432, [by_default, db]),
        (
            "west/shop/report",
            "west/shop/db",
            5432,
            [by_default, nothing],
        ),
        ("west/shop/backup", "west/shop/db", 5432, [by_default, db]),
        (
            "west/shop/backup",
            "west/shop/db",
            5433,
            [by_default, nothing],
        ),
        (
            "west/shop/report",
            "west/shop/api",
            8080,
            [by_default, nothing],
        ),
        (
            "west/shop/api",
            "west/shop/report",
            8080,
            [by_default, nothing],
        ),
        (
            "east/shop/visitor",
            "east/shop/frontend",
            8080,
            [by_default, nothing],
        ),
    ] {
        assert_eq!(
            verdicts(&worlds, from, to, port),
            said,
            "{from} -> {to}:{port}"
        );
    }
}

#[test]
fn three_tier_relabelling_changes_the_verdict() {
    let mut worlds = example("three-tier");
    let frontend = worlds[0]
        .workloads
        .iter_mut()
        .find(|w| w.pod == "frontend")
        .unwrap();
    let labels = [("app", "batch"), ("tier", "web")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    frontend.labels = std::collections::BTreeMap::from(labels).try_into().unwrap();
    let [_, ingress] = verdicts(&worlds, "east/shop/frontend", "west/shop/api", 8080);
    assert_eq!(
        ingress,
        "denied-by-rule by west.example: FederationPolicy shop/no-batch rule not-batch"
    );
}

#[test]
fn three_tier_has_the_places_that_its_readme_shows() {
    let worlds = example("three-tier");
    let places: BTreeSet<String> = worlds
        .iter()
        .flat_map(|w| w.pods.iter().map(move |p| (w, p)))
        .map(|(w, p)| {
            format!(
                "{} {} {}/{} {}",
                w.cluster.name, p.node, p.namespace, p.name, p.address
            )
        })
        .collect();
    let expected = [
        "east node1 legacy/plain 10.1.1.11",
        "east node1 shop/frontend 10.1.1.10",
        "east node2 shop/batch 10.1.2.10",
        "east node2 shop/visitor 10.1.2.11",
        "west node1 shop/api 10.2.1.10",
        "west node1 shop/report 10.2.1.11",
        "west node2 shop/backup 10.2.2.11",
        "west node2 shop/db 10.2.2.10",
    ];
    assert_eq!(places, expected.into_iter().map(str::to_owned).collect());
    let plain = worlds[0].workload("legacy", "plain").unwrap();
    assert!(plain.unprotected);
    let protected = worlds
        .iter()
        .flat_map(|w| &w.workloads)
        .filter(|w| !w.unprotected)
        .count();
    assert_eq!(protected, 7);
}

/// Each cluster sees its own pods where they are, and the other's where they are mapped to.
#[test]
fn overlapping_is_seen_from_both_sides() {
    let worlds = example("overlapping");
    let domain = |name: &str| identity::TrustDomain::new(name).unwrap();
    for (world, own, other, seen) in [
        (&worlds[0], "east.example", "west.example", "100.102"),
        (&worlds[1], "west.example", "east.example", "100.101"),
    ] {
        let networks = world.federation.networks().unwrap();
        let at = |text: &str| {
            let address = text.parse().unwrap();
            let found = networks.lookup(address)?;
            Some((
                found.trust_domain.clone(),
                u128::from_be_bytes(found.offset),
            ))
        };
        assert_eq!(at("10.1.1.10"), Some((domain(own), 0x010a)));
        assert_eq!(at(&format!("{seen}.1.10")), Some((domain(other), 0x010a)));
        let address = "10.1.1.10".parse().unwrap();
        let federation = &world.federation;
        assert_eq!(federation.seen_at(&domain(own), address), address);
        let there = federation.seen_at(&domain(other), address).to_string();
        assert_eq!(there, format!("{seen}.1.10"));
    }
    for [from, to] in [["east", "west"], ["west", "east"]] {
        let to = format!("{to}/default/server");
        let client = verdicts(&worlds, &format!("{from}/default/client"), &to, 8080);
        assert!(
            client.iter().all(|said| said.starts_with("allow")),
            "{client:?}"
        );
        let visitor = verdicts(&worlds, &format!("{from}/default/visitor"), &to, 8080);
        assert_eq!(visitor[1], "denied-by-default by default");
    }
}
