//! The CRDs in `deploy/crds` are those of the Rust types. `UPDATE=1` writes them.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use landbridge_sources::crd;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds")
}

#[test]
fn the_published_definitions_are_those_of_the_code() {
    let update = std::env::var_os("UPDATE").is_some();
    if update {
        fs::create_dir_all(folder()).unwrap();
    }
    let mut published = Vec::new();
    for (name, definition) in crd::definitions() {
        let header = "# Made from federation/sources/src/crd by its test: UPDATE=1 cargo test -p landbridge-sources --test crds\n";
        let text = header.to_owned() + &serde_norway::to_string(&definition).unwrap();
        let path = folder().join(name);
        if update {
            fs::write(&path, &text).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{name} is not up to date: run with UPDATE=1");
        published.push(name.to_owned());
    }
    let mut found: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, published);
}

/// What an API server demands of a structural schema, as far as we use it: every object says its
/// type, and nothing is null.
#[test]
fn schemas_are_structural() {
    for (name, definition) in crd::definitions() {
        let definition = serde_json::to_value(&definition).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert_eq!(schema["type"], "object", "{name}");
        check(name, schema);
    }
}

fn check(place: &str, schema: &serde_json::Value) {
    let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
    assert!(typed, "{place} has no type: {schema}");
    for forbidden in ["$ref", "definitions", "$defs", "oneOf", "const"] {
        assert!(schema.get(forbidden).is_none(), "{place} uses {forbidden}");
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        check(&format!("{place}.{name}"), field);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner) {
            check(&format!("{place}[]"), inner);
        }
    }
}
