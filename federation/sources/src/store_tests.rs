//! Whatever stands in a file: no panic, and nothing else is touched.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::Value;

use crate::{
    Effect, World,
    fault::FieldPath,
    files::{FEDERATION_FILE, Files},
    store::{NoWorld, Store},
    yaml,
};

const FEDERATION: &str = include_str!("../../../deploy/examples/three-tier/federation.yaml");
const MANIFESTS: [&str; 4] = [
    include_str!("../../../deploy/examples/three-tier/west/namespaces.yaml"),
    include_str!("../../../deploy/examples/three-tier/west/pods.yaml"),
    include_str!("../../../deploy/examples/three-tier/west/policies.yaml"),
    include_str!("../../../deploy/examples/three-tier/west/peers.yaml"),
];

fn files(federation: &str, extra: &str) -> Files {
    let example = MANIFESTS.join("---\n");
    let manifests = [
        ("west/a.yaml", example.as_str()),
        ("west/extra.yaml", extra),
    ];
    let manifests = manifests.map(|(name, text)| (name.to_owned(), Ok(text.to_owned())));
    Files {
        federation: Some(Ok(federation.to_owned())),
        manifests: Ok(manifests.into_iter().collect()),
    }
}

fn load(extra: &str) -> World {
    Store::new("west").load(&files(FEDERATION, extra)).unwrap()
}

/// The example with one part of its text replaced by another text.
fn damaged() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[-:{}\\[\\]&*!|>'\"%@` \n\ta-z0-9]{0,12}",
        Just(String::new()),
        Just("---\n".to_owned()),
    ];
    let whole = MANIFESTS.concat();
    (any::<prop::sample::Index>(), 0..40_usize, piece).prop_map(move |(at, len, piece)| {
        let chars: Vec<char> = whole.chars().collect();
        let at = at.index(chars.len());
        let (before, rest) = chars.split_at(at);
        let after = rest.iter().skip(len);
        before
            .iter()
            .chain(&piece.chars().collect::<Vec<_>>())
            .chain(after)
            .collect()
    })
}

/// Trees that look like policies from afar.
fn tree() -> impl Strategy<Value = Value> {
    let key = prop::sample::select(vec![
        "ingress",
        "egress",
        "from",
        "to",
        "ports",
        "port",
        "endPort",
        "protocol",
        "podSelector",
        "namespaceSelector",
        "matchLabels",
        "matchExpressions",
        "key",
        "operator",
        "values",
        "ipBlock",
        "cidr",
        "except",
        "policyTypes",
        "action",
        "clusters",
        "scope",
        "namespaces",
        "subject",
        "order",
        "isolates",
        "name",
        "reject",
        "serviceAccounts",
        "app",
        "tier",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        (0..70_000_i32).prop_map(Value::from),
        prop::sample::select(vec![
            "TCP",
            "UDP",
            "http",
            "10.0.0.0/8",
            "fd00::/8",
            "In",
            "Exists",
            "Allow",
            "Deny",
            "Log",
            "All",
            "Remote",
            "east",
            "west",
            "shop",
            "Ingress",
            "Egress",
            "Admin",
        ])
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..4).prop_map(|m| {
                Value::Object(m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_leaves_the_rest_alone(extra in any::<String>()) {
        let clean = load("");
        let world = load(&extra);
        prop_assert!(world.policies.policies.len() >= clean.policies.policies.len());
        prop_assert_eq!(world.workloads, clean.workloads);
    }

    #[test]
    fn any_federation_is_refused_or_read(text in any::<String>()) {
        let loaded = Store::new("west").load(&files(&text, ""));
        prop_assert!(matches!(loaded, Err(NoWorld::Refused(problems)) if !problems.is_empty()));
    }

    #[test]
    fn damage_is_survived_with_memory(extra in damaged()) {
        let mut store = Store::new("west");
        let manifests = |text: &str| Files {
            federation: Some(Ok(FEDERATION.to_owned())),
            manifests: Ok([("west/a.yaml".to_owned(), Ok(text.to_owned()))].into()),
        };
        let clean = store.load(&manifests(&MANIFESTS.join("---\n"))).unwrap();
        let world = store.load(&manifests(&extra)).unwrap();
        let table = policy::compile(&world.policies);
        prop_assert!(table.is_ok(), "{:?}", table.err());
        // Damage at one place touches few objects; what nobody could read is still there.
        let kept = world.problems.iter().filter(|p| p.effect == Effect::KeptPrevious).count();
        let lost = clean.policies.policies.len().saturating_sub(world.policies.policies.len());
        prop_assert!(lost <= 2, "lost {lost}, kept {kept}: {:#?}", world.problems);
    }

    #[test]
    fn whatever_is_accepted_compiles(
        spec in tree(),
        kind in prop::sample::select(vec![
            ("networking.k8s.io/v1", "NetworkPolicy"),
            ("landbridge.io/v1alpha1", "FederationPolicy"),
            ("landbridge.io/v1alpha1", "ClusterFederationPolicy"),
        ]),
    ) {
        let (version, kind) = kind;
        let text = format!("{{apiVersion: {version}, kind: {kind}, metadata: {{name: x}}, spec: {spec}}}");
        let world = load(&text);
        let table = policy::compile(&world.policies);
        prop_assert!(table.is_ok(), "{:?}", table.err());
        let is_in = world.policies.policies.iter().any(|p| p.name == "x");
        prop_assert!(is_in || !world.problems.is_empty());
    }

    #[test]
    fn a_tree_is_read_as_it_was_written(tree in tree()) {
        let text = tree.to_string();
        let document = yaml::Document { text: &text, line: 0 };
        prop_assert_eq!(yaml::tree(document).unwrap(), tree);
    }
}

#[test]
fn documents_are_told_apart_by_markers_at_line_start() {
    let text = "# a\n%YAML 1.2\n---\na: 1\n--- # second\nb: |\n  ---\n  x\n\n---\n# nothing\n---\n--- {c: 3}\n----\n";
    let found = yaml::documents(text);
    let found: Vec<(u32, u32)> = found
        .iter()
        .map(|d| (d.line, yaml::first_line(*d)))
        .collect();
    assert_eq!(found, [(0, 4), (4, 6), (9, 13)]);
}

#[test]
fn fields_are_found_at_their_lines() {
    let text = "# c\na:\n  b:\n  - x: 1\n  - {y: 2,\n     z: 3}\n  d.e: 4\n";
    let document = yaml::Document { text, line: 10 };
    let root = FieldPath::default();
    let list = root.key("a").key("b");
    for (path, in_key, line) in [
        (root.clone(), false, 12),
        (root.key("a"), true, 12),
        (root.key("a"), false, 13),
        (list.clone(), true, 13),
        (list.index(0).key("x"), false, 14),
        (list.index(1).key("z"), false, 16),
        (list.index(1).key("z"), true, 16),
        (root.key("a").key("d.e"), false, 17),
        // What is not there is where it should be.
        (list.index(1).key("w"), false, 15),
        (list.index(7), false, 14),
        (root.key("nothing").key("below"), false, 12),
    ] {
        assert_eq!(yaml::line(document, &path, in_key), Some(line), "{path}");
    }
}

#[test]
fn a_field_path_reads_like_code() {
    let path = FieldPath::of(&["spec", "ingress"])
        .index(0)
        .key("ports")
        .index(12);
    assert_eq!(path.to_string(), "spec.ingress[0].ports[12]");
    let path = FieldPath::of(&["metadata", "labels", "a.b/c"]);
    assert_eq!(path.to_string(), "metadata.labels[\"a.b/c\"]");
}

/// A process that starts does not know what a broken policy was to forbid.
#[test]
fn a_policy_that_is_broken_at_start_closes_its_pods() {
    let policy = |namespace: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: x\n  namespace: {namespace}\nspec: {{podSelectro: {{}}}}\n"
        )
    };
    let world = load(&policy("shop"));
    let closed = world
        .policies
        .policies
        .iter()
        .find(|p| p.name == "x")
        .unwrap();
    assert_eq!(closed.rules.len(), 2);
    assert!(world.problems.iter().all(|p| p.effect == Effect::Closed));
    // Mended or deleted, it is gone.
    let mut store = Store::new("west");
    store.load(&files(FEDERATION, &policy("shop"))).unwrap();
    let still = store
        .load(&files(FEDERATION, &(policy("shop") + "# saved again\n")))
        .unwrap();
    assert_eq!(still.policies, world.policies);
    let gone = store.load(&files(FEDERATION, "")).unwrap();
    assert_eq!(gone, load(""));
    // Text that is no YAML, of which only kind and name can be guessed.
    let world = load(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata:\n  name: x\n  namespace: shop\nspec: {[\n",
    );
    assert!(world.policies.policies.iter().any(|p| p.name == "x"));
}

#[test]
fn a_namespace_that_is_broken_at_start_holds_its_pods_back() {
    let world = load(
        "{apiVersion: v1, kind: Namespace, metadata: {name: extra, labels: {a: 1}}}\n---\n{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: extra}, spec: {containers: [{name: c}]}}\n",
    );
    assert!(world.workload("extra", "p").is_none());
    assert_eq!(world.problems.len(), 1);
    assert_eq!(world.problems[0].effect, Effect::Closed);
}

#[test]
fn a_federation_is_not_looked_for_elsewhere() {
    let mut store = Store::new("west");
    let files = Files {
        federation: None,
        ..files(FEDERATION, "")
    };
    let Err(NoWorld::Refused(problems)) = store.load(&files) else {
        panic!("a world without a federation");
    };
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].file, FEDERATION_FILE);
}
