//! Values that a field does not take, in every field of that kind: words, blocks of addresses, ports. What is said of
//! single mistakes stands in `refused.txt`.
#![allow(clippy::unwrap_used)]

#[path = "common/verdicts.rs"]
mod verdicts;

use landbridge_sources::{Effect, Problem, crd, worlds_of};
use policy::model::Direction;
use serde_json::{Map, Value, json};

/// Every field of our kinds that takes only some words names them when it meets another; by their own schemas.
#[test]
fn unknown_words_are_refused_with_those_that_are_known() {
    let federation = json!({"apiVersion": "landbridge.io/v1alpha1", "kind": "Federation", "metadata": {"name": "f"},
        "spec": {"clusters": [{"name": "local"}]}});
    let mut fields = 0;
    for (_, definition) in crd::definitions() {
        let definition = serde_json::to_value(&definition).unwrap();
        let kind = definition["spec"]["names"]["kind"].as_str().unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let mut found = Vec::new();
        with_unknown_word(schema, String::new(), &mut found);
        for (path, known, mut object) in found {
            // What is said of an object is not what it says.
            if path.starts_with("status.") {
                object["apiVersion"] = json!("landbridge.io/v1alpha1");
                object["kind"] = json!(kind);
                object["metadata"] = json!({"name": "x"});
                let (worlds, problems) = worlds_of(&[federation.clone(), object]);
                let problems = worlds.iter().flat_map(|w| &w.problems).chain(&problems);
                let of_status = |p: &&Problem| p.to_string().contains("status");
                assert_eq!(problems.filter(of_status).count(), 0, "{kind}");
                continue;
            }
            // A list that cannot stand there is refused whole.
            if path.contains("ingress[0].to") || path.contains("egress[0].from") {
                continue;
            }
            fields += 1;
            object["apiVersion"] = json!("landbridge.io/v1alpha1");
            object["kind"] = json!(kind);
            object["metadata"] = json!({"name": "x", "namespace": "ops"});
            if definition["spec"]["scope"] == "Cluster" {
                object["metadata"] = json!({"name": "x"});
            }
            let (worlds, problems) = worlds_of(&[federation.clone(), object.clone()]);
            let problems = worlds.iter().flat_map(|w| &w.problems).chain(&problems);
            let problem = problems.clone().find(|p| p.field_path == path);
            let problem = problem
                .unwrap_or_else(|| panic!("{kind} {path}: {:?}", problems.collect::<Vec<_>>()));
            let text = problem.to_string();
            assert!(
                !problem.is_warning() && text.contains("Sometimes"),
                "{kind}: {text}"
            );
            for word in known {
                assert!(text.contains(&word), "{kind}: {text}");
            }
        }
    }
    assert!(fields > 30, "only {fields} fields were found");
}

/// Each field of `schema` with known words: where it is, the words, and an object with another word there.
fn with_unknown_word(schema: &Value, path: String, found: &mut Vec<(String, Vec<String>, Value)>) {
    if let Some(words) = schema["enum"].as_array() {
        let words = words.iter().map(|w| w.as_str().unwrap().to_owned());
        found.push((path, words.collect(), json!("Sometimes")));
        return;
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let below = match path.as_str() {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        let mut inner = Vec::new();
        with_unknown_word(field, below, &mut inner);
        for (path, words, value) in inner {
            let mut object = least(schema);
            object[name] = value;
            found.push((path, words, object));
        }
    }
    if let Some(items) = schema.get("items") {
        let mut inner = Vec::new();
        with_unknown_word(items, format!("{path}[0]"), &mut inner);
        found.extend(
            inner
                .into_iter()
                .map(|(path, words, value)| (path, words, json!([value]))),
        );
    }
}

/// The least that `schema` takes.
fn least(schema: &Value) -> Value {
    if let Some(words) = schema["enum"].as_array() {
        return words[0].clone();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten();
            let names = required.map(|name| name.as_str().unwrap());
            let fields = names.map(|n| (n.to_owned(), least(&schema["properties"][n])));
            Value::Object(fields.collect::<Map<String, Value>>())
        }
        "array" => json!([]),
        "integer" => json!(1),
        "boolean" => json!(false),
        _ => json!("x"),
    }
}

/// The same for the kinds of `policy.networking.k8s.io`, which have no definition of ours.
#[test]
fn unknown_words_of_cluster_network_policies() {
    let peer = json!([{"namespaces": {}}]);
    let cnp = |tier: &str, action: &str| {
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "x"},
            "spec": {"tier": tier, "priority": 1, "subject": {"namespaces": {}}, "ingress": [{"action": action, "from": peer}]}})
    };
    let anp = |kind: &str, action: &str| {
        let mut spec = json!({"priority": 1, "subject": {"namespaces": {}}, "ingress": [{"action": action, "from": peer}]});
        if kind.starts_with("Baseline") {
            spec.as_object_mut().unwrap().remove("priority");
        }
        let name = if kind.starts_with("Baseline") {
            "default"
        } else {
            "x"
        };
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
    };
    for (object, path, known) in [
        (
            cnp("Sometimes", "Deny"),
            "spec.tier",
            &["Admin", "Baseline"][..],
        ),
        (
            cnp("Admin", "Sometimes"),
            "spec.ingress[0].action",
            &["Accept", "Deny", "Pass"],
        ),
        (
            anp("AdminNetworkPolicy", "Sometimes"),
            "spec.ingress[0].action",
            &["Allow", "Deny", "Pass"],
        ),
        (
            anp("BaselineAdminNetworkPolicy", "Sometimes"),
            "spec.ingress[0].action",
            &["Allow", "Deny"],
        ),
    ] {
        let (world, _) = verdicts::world(&[object]);
        let problem = world.problems.iter().find(|p| p.field_path == path);
        let text = problem
            .unwrap_or_else(|| panic!("{:?}", world.problems))
            .to_string();
        assert!(
            text.contains("Sometimes") && known.iter().all(|k| text.contains(k)),
            "{text}"
        );
    }
}

/// Bits behind a prefix count for nothing, and are told: in every field that holds a block of addresses.
#[test]
fn host_bits_are_warned_of() {
    let np = |spec: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x", "namespace": "shop"},
            "spec": spec})
    };
    let fp = |peer: Value| {
        json!({"apiVersion": "landbridge.io/v1alpha1", "kind": "FederationPolicy", "metadata": {"name": "x", "namespace": "shop"},
            "spec": {"ingress": [{"action": "Allow", "from": [peer]}]}})
    };
    let block = |cidr: &str, except: &[&str]| json!({"cidr": cidr, "except": except});
    for (object, path, expected) in [
        (
            np(
                json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block("192.0.2.5/24", &[])}]}]}),
            ),
            "spec.ingress[0].from[0].ipBlock.cidr",
            "192.0.2.0/24",
        ),
        (
            np(
                json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": block("192.0.2.0/24", &["192.0.2.9/28"])}]}]}),
            ),
            "spec.ingress[0].from[0].ipBlock.except[0]",
            "192.0.2.0/28",
        ),
        (
            fp(json!({"ipBlock": block("192.0.2.5/24", &[])})),
            "spec.ingress[0].from[0].ipBlock.cidr",
            "192.0.2.0/24",
        ),
        (
            fp(json!({"notNets": ["fd00::1/8"]})),
            "spec.ingress[0].from[0].notNets[0]",
            "fd00::/8",
        ),
        (
            json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "x"},
                "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                    "egress": [{"action": "Accept", "to": [{"networks": ["192.0.2.5/24"]}]}]}}),
            "spec.egress[0].to[0].networks[0]",
            "192.0.2.0/24",
        ),
        (
            json!({"apiVersion": "landbridge.io/v1alpha1", "kind": "NetworkSet", "metadata": {"name": "x", "namespace": "shop"},
                "spec": {"nets": ["192.0.2.5/24"]}}),
            "spec.nets[0]",
            "192.0.2.0/24",
        ),
    ] {
        let (world, _) = verdicts::world(&[object]);
        let [problem] = world.problems.as_slice() else {
            panic!("{:?}", world.problems)
        };
        assert_eq!(
            (problem.field_path.as_str(), problem.effect),
            (path, Effect::Warning)
        );
        assert!(
            problem.message.contains("has bits set after its prefix"),
            "{problem}"
        );
        assert_eq!(problem.expected, expected);
    }
    let web = np(
        json!({"podSelector": {"matchLabels": {"app": "api"}}, "ingress": [{"from": [{"ipBlock": block("10.0.0.77/24", &[])}]}]}),
    );
    let (world, table) = verdicts::world(&[web]);
    let verdict = verdicts::decide(&world, &table, Direction::Ingress, "api", "web", 6, 8080);
    assert_eq!(verdict, None, "10.0.0.1 is in 10.0.0.0/24");
}

/// Port 0 is no port anywhere, and ranges that overlap are their union.
#[test]
fn ports_at_the_edges() {
    let np = |ports: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "api"}}, "ingress": [{"ports": ports}]}})
    };
    let fp = |ports: Value| {
        json!({"apiVersion": "landbridge.io/v1alpha1", "kind": "FederationPolicy", "metadata": {"name": "x", "namespace": "shop"},
            "spec": {"ingress": [{"action": "Allow", "ports": ports}]}})
    };
    let cnp = |protocol: Value| {
        json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": {"name": "x"},
            "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                "ingress": [{"action": "Accept", "from": [{"namespaces": {}}], "protocols": [protocol]}]}})
    };
    for (object, path) in [
        (np(json!([{"port": 0}])), "spec.ingress[0].ports[0].port"),
        (
            np(json!([{"port": 1, "endPort": 0}])),
            "spec.ingress[0].ports[0].endPort",
        ),
        (fp(json!([{"port": 0}])), "spec.ingress[0].ports[0].port"),
        (
            fp(json!([{"port": 65536}])),
            "spec.ingress[0].ports[0].port",
        ),
        (
            cnp(json!({"tcp": {"destinationPort": {"number": 0}}})),
            "spec.ingress[0].protocols[0].tcp.destinationPort.number",
        ),
        (
            cnp(json!({"udp": {"destinationPort": {"range": {"start": 0, "end": 9}}}})),
            "spec.ingress[0].protocols[0].udp.destinationPort.range.start",
        ),
        (
            cnp(json!({"tcp": {"destinationPort": {"range": {"start": 9, "end": 9}}}})),
            "spec.ingress[0].protocols[0].tcp.destinationPort.range.end",
        ),
    ] {
        let (world, _) = verdicts::world(&[object]);
        let problem = world.problems.iter().find(|p| p.field_path == path);
        let problem = problem.unwrap_or_else(|| panic!("{path}: {:?}", world.problems));
        assert!(
            !problem.is_warning() && problem.expected.contains("65535"),
            "{problem}"
        );
    }
    let overlapping =
        np(json!([{"port": 80, "endPort": 90}, {"port": 85, "endPort": 95}, {"port": 90}]));
    for (port, allowed) in [(79, false), (80, true), (90, true), (95, true), (96, false)] {
        let verdict = verdicts::ask(
            std::slice::from_ref(&overlapping),
            Direction::Ingress,
            "api",
            "web",
            6,
            port,
        );
        assert_eq!(verdict.is_none(), allowed, "{port}");
    }
}
