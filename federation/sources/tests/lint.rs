//! What is probably not meant in a folder whose objects can all be read, in the words that are told. The table
//! is `lint.txt`; `UPDATE=1` writes what is said now into it, for somebody to read and judge.
#![allow(clippy::unwrap_used)]

use landbridge_sources as sources;

mod common;

use std::{fmt::Write, fs, path::PathBuf};

/// What all cases share: pods of both clusters.
const CLUSTERS: [(&str, &str); 2] = [
    (
        "west/pods.yaml",
        "\
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: shop}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api, env: prod}}
spec: {serviceAccountName: robot, containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: main, ports: [{name: sql, containerPort: 5432}]}]}
",
    ),
    (
        "east/pods.yaml",
        "\
apiVersion: v1
kind: Pod
metadata: {name: frontend, namespace: web, labels: {app: frontend}}
spec: {containers: [{name: main, ports: [{name: http, containerPort: 8080}]}]}
",
    ),
];

#[test]
fn each_doubt_gets_its_words() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/lint.txt");
    let table = fs::read_to_string(&path).unwrap();
    let mut printed = String::from(
        "Policies and what policy lint says of them; see lint.rs. Lines count from the one after \"===\".\n",
    );
    let (mut cases, mut wrong) = (0, String::new());
    for case in table.split("=== ").skip(1) {
        cases += 1;
        let (name, rest) = case.split_once('\n').unwrap();
        let is_told = |line: &&str| line.starts_with("=> ");
        let text: Vec<&str> = rest.lines().filter(|l| !is_told(l)).collect();
        let expected: Vec<&str> = rest.lines().filter(is_told).collect();
        let text = text.join("\n") + "\n";
        let folder = common::folder(&[CLUSTERS[0], CLUSTERS[1], ("west/case.yaml", &text)]);
        let told = sources::lint(folder.path()).unwrap();
        assert!(
            told.iter().all(sources::Problem::is_warning),
            "{name}: {told:?}"
        );
        let told: Vec<String> = told.iter().map(|p| format!("=> {p}")).collect();
        let fine = name.starts_with("fine: ");
        assert_eq!(told.is_empty(), fine, "{name}: {told:?}");
        if told != expected {
            writeln!(wrong, "{name}\n  {}", told.join("\n  ")).unwrap();
        }
        write!(printed, "=== {name}\n{text}").unwrap();
        told.iter()
            .for_each(|line| writeln!(printed, "{line}").unwrap());
    }
    assert!(cases > 25, "the table was not read");
    if std::env::var_os("UPDATE").is_some() {
        return fs::write(&path, printed).unwrap();
    }
    assert!(wrong.is_empty(), "UPDATE=1 accepts this:\n{wrong}");
}

/// Pods that are not declared here may be anywhere: nothing is said of what selects them.
#[test]
fn a_cluster_without_pods_is_not_asked_about_them() {
    let policy = common::network_policy("p", "{podSelector: {matchLabels: {app: any}}}");
    let folder = common::folder(&[("west/case.yaml", &policy)]);
    assert_eq!(sources::lint(folder.path()).unwrap(), []);
}

/// What stands for a policy that cannot be read denies everything, but shadows nothing.
#[test]
fn a_refused_policy_makes_no_doubt_of_others() {
    let fine = common::network_policy("p", "{podSelector: {}, ingress: [{}]}");
    let broken = common::network_policy("q", "{podSelector: 1}");
    let folder = common::folder(&[("west/a.yaml", &fine), ("west/b.yaml", &broken)]);
    let told = sources::lint(folder.path()).unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(!told[0].is_warning());
}

/// A List is read item by item, and a warning says which.
#[test]
fn items_of_a_list_have_their_place() {
    let item = "    apiVersion: networking.k8s.io/v1\n    kind: NetworkPolicy\n    metadata: {name: NAME}\n    spec:\n      podSelector: {}\n      ingress: [{}, {}]\n";
    let item = |name: &str| format!("  -\n{}", item.replace("NAME", name));
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}", item("a"));
    let folder = common::folder(&[("west/list.yaml", &list)]);
    let told = sources::lint(folder.path()).unwrap();
    let [told] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert_eq!(told.field_path, "items[0].spec.ingress[1]");
    assert_eq!(told.line, Some(10));
}
