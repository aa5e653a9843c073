//! Input that is too large, too deep or no text, and references to what is missing: it is refused in words and in
//! bounded time, and nothing else is touched. What is said of single mistakes stands in `refused.txt`.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/verdicts.rs"]
mod verdicts;

use std::{
    fs,
    time::{Duration, Instant},
};

use common::ask::{Ends, words};
use landbridge_sources::{self as sources, Effect};
use policy::{DropReason, model::Direction};
use serde_json::{Value, json};

/// Much more than it takes, and much less than what grows with the square of the input.
const BOUND: Duration = Duration::from_secs(20);

/// Good objects of cluster west.
fn good() -> String {
    [
        common::pod("api", "api"),
        common::pod("web", "web"),
        common::pod("batch", "batch"),
        common::network_policy(
            "api",
            "{podSelector: {matchLabels: {app: api}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}",
        ),
    ]
    .join("---\n")
}

/// What a file beside the good objects is told, in one text. Verdicts of the good ones stay as they are.
fn told(file: &str, bytes: &[u8]) -> String {
    let folder = common::folder(&[("west/a-good.yaml", &good())]);
    let verdicts = || {
        let worlds = sources::load_once(folder.path()).unwrap();
        let verdict = |from: &str| {
            let ends = Ends::find(&worlds, from, "west/shop/api");
            let [egress, ingress] = ends.ask(6, 8080).map(|v| v.as_ref().map(words));
            (egress, ingress)
        };
        let verdicts = ["west/shop/web", "west/shop/batch"].map(verdict);
        (verdicts, worlds)
    };
    let (before, worlds) = verdicts();
    assert!(worlds.iter().all(|w| w.problems.is_empty()));
    assert_ne!(before[0], before[1], "the policy tells them apart");
    fs::write(folder.path().join(file), bytes).unwrap();
    let begin = Instant::now();
    let (after, worlds) = verdicts();
    assert!(begin.elapsed() < BOUND, "it took {:?}", begin.elapsed());
    assert_eq!(before, after, "{file}");
    let problems = worlds.iter().flat_map(|w| &w.problems);
    let told: Vec<String> = problems.map(ToString::to_string).collect();
    told.join("\n")
}

#[test]
fn what_is_too_large_or_too_deep_is_refused_in_bounded_time() {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: other}\n";
    let peers = "{podSelector: {}},".repeat(100_000);
    let cases = [
        (
            "10 MB",
            format!("{head}x: {}", "x".repeat(10_000_000)),
            "the file: has 10000094 bytes, at most 4194304 are read",
        ),
        (
            "many values",
            format!("{head}spec: {{podSelector: {{}}, ingress: [{{from: [{peers}]}}]}}"),
            "the document holds more than 200000 values",
        ),
        (
            "unclosed brackets",
            "[".repeat(4_000_000),
            "case.yaml:1: document 1: more than 1000 brackets are open; expected mappings and lists that are nested less deeply",
        ),
        (
            "deep JSON",
            "{\"a\":".repeat(10_000) + "1" + &"}".repeat(10_000),
            "more than 1000 brackets are open",
        ),
        (
            "deep JSON that is not so deep",
            "{\"a\":".repeat(900) + "1" + &"}".repeat(900),
            "recursion limit exceeded",
        ),
        (
            "deep lists",
            "- ".repeat(10_000) + "a",
            "recursion limit exceeded",
        ),
        (
            "deep mappings",
            (0..1_000).map(|i| " ".repeat(i) + "a:\n").collect(),
            "recursion limit exceeded",
        ),
        ("a cycle", "a: &a [*a]".into(), "recursion limit exceeded"),
        (
            "a cycle of mappings",
            "&a a: {b: *a, c: &c {d: *c}}".into(),
            "recursion limit exceeded",
        ),
        (
            "laughs",
            "bcdefghij".chars().zip('a'..).fold(
                "a: &a [x,x,x,x,x,x,x,x,x,x]\n".into(),
                |text, (new, old)| {
                    text + &format!(
                        "{new}: &{new} [{}]\n",
                        vec![format!("*{old}"); 10].join(",")
                    )
                },
            ),
            "repetition limit exceeded",
        ),
    ];
    for (name, text, expected) in cases {
        let told = told("west/case.yaml", text.as_bytes());
        assert!(
            told.contains(expected),
            "{name}: {}",
            told.chars().take(500).collect::<String>()
        );
    }
}

/// A script, a pattern or a text in another language may hold brackets that never close.
#[test]
fn some_open_brackets_are_nothing() {
    let script = "case $1 in\n[a-z]*) echo '[[[[{{{{' ;; esac # [ [ [ {\n".repeat(40);
    let script = script.replace('\n', "\n    ");
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n   note: |\n    {script}\nspec: {{containers: [{{name: a}}]}}\n"
    );
    assert_eq!(told("west/case.yaml", pod.as_bytes()), "");
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    for (bytes, expected) in [
        (
            &b"kind: Pod\nmetadata: {name: a\0b}\n"[..],
            "control characters are not allowed",
        ),
        (
            &b"kind: Pod\nmetadata: {name: a\xff}\n"[..],
            "is not UTF-8 in line 2",
        ),
        (&b"\xff\xfek\0i\0n\0d\0"[..], "is not UTF-8 in line 1"),
        (
            &b"kind: Pod\nkind: Pod\n"[..],
            "kind: the key appears twice",
        ),
    ] {
        let told = told("west/case.yaml", bytes);
        assert!(told.contains(expected), "{told}");
    }
}

/// Objects that come without a file have the bounds of a file.
#[test]
fn an_object_that_is_too_large_is_refused_alone() {
    let policy = |spec: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "large", "namespace": "ops"}, "spec": spec})
    };
    let peer = json!({"ipBlock": {"cidr": "192.0.2.0/24"}});
    for spec in [
        json!({"podSelector": {"matchLabels": {"a": "x".repeat(10_000_000)}}}),
        json!({"podSelector": {}, "ingress": [{"from": vec![peer; 100_000]}]}),
        json!({"podSelector": {"matchLabels": {"k".repeat(10_000_000): "x"}}}),
    ] {
        let begin = Instant::now();
        let (world, table) =
            verdicts::world(&[policy(spec), verdicts::closed_by_network_policy("api")]);
        assert!(begin.elapsed() < BOUND);
        let [problem] = world.problems.as_slice() else {
            panic!("{} problems", world.problems.len())
        };
        assert_eq!(
            problem.message,
            "the object holds more than 200000 values or 4194304 bytes of text"
        );
        assert_eq!(problem.object, "NetworkPolicy ops/large");
        assert_eq!(
            problem.effect,
            Effect::Closed,
            "it may have been what forbids"
        );
        let ask = |subject: &str, peer: &str| {
            verdicts::decide(&world, &table, Direction::Ingress, subject, peer, 6, 8080)
        };
        assert_eq!(
            ask("tool", "web"),
            Some(DropReason::DeniedByRule),
            "its own pods are closed"
        );
        assert_eq!(ask("web", "tool"), None);
        assert_eq!(
            ask("api", "web"),
            Some(DropReason::DeniedByDefault),
            "by the other policy"
        );
    }
}

/// What a reference names may be missing; what depends on it says so, and the rest goes on.
#[test]
fn missing_references_have_a_word_each() {
    let cases = [
        (
            "a cluster",
            "apiVersion: landbridge.io/v1alpha1\nkind: FederationPolicy\nmetadata: {name: p, namespace: other}\n\
             spec: {ingress: [{action: Allow, from: [{clusters: [eats], namespaces: [shop]}]}]}\n",
            "federation test has no cluster \"eats\", did you mean east?",
        ),
        (
            "a peer",
            "apiVersion: landbridge.io/v1alpha1\nkind: FederationPeer\nmetadata: {name: p}\nspec: {cluster: eats}\n",
            "federation test has no cluster \"eats\"",
        ),
        (
            "a service account",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: other}\nspec: {serviceAccountName: robot, containers: [{name: a}]}\n",
            "namespace other has no ServiceAccount \"robot\"",
        ),
        (
            "a set",
            "apiVersion: landbridge.io/v1alpha1\nkind: FederationPolicy\nmetadata: {name: p, namespace: other}\n\
             spec: {egress: [{action: Allow, to: [{networkSets: [office]}]}]}\n",
            "there is no NetworkSet other/office",
        ),
        (
            "a node",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: other}\nspec: {nodeName: node9, containers: [{name: a}]}\n",
            "cluster west has no node \"node9\"",
        ),
    ];
    for (name, text, expected) in cases {
        let told = told("west/case.yaml", text.as_bytes());
        assert!(told.contains(expected), "{name}: {told}");
    }
    // A namespace needs no object: that it may be a slip is told by lint.
    let folder = common::folder(&[
        ("west/a-good.yaml", &good()),
        (
            "west/case.yaml",
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: sohp}\nspec: {podSelector: {}}\n",
        ),
    ]);
    let told = sources::lint(folder.path()).unwrap();
    assert!(
        told.iter()
            .any(|p| p.message.contains("\"sohp\", did you mean shop?")),
        "{told:?}"
    );
}
