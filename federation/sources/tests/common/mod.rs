//! Folders of manifests for tests.
#![allow(dead_code)] // not every test uses all of it

pub mod ask;

use std::{fs, path::Path};

use tempfile::TempDir;

/// Two clusters with one range and two nodes each.
pub const FEDERATION: &str = "\
apiVersion: landbridge.io/v1alpha1
kind: Federation
metadata: {name: test}
spec:
  clusters:
  - {name: east, trustDomain: east.example, nodes: [node1, node2]}
  - {name: west, trustDomain: west.example, nodes: [node1, node2]}
";

/// A folder with `files`, and the Federation above unless they bring one.
pub fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for cluster in ["east", "west"] {
        fs::create_dir(dir.path().join(cluster)).unwrap();
    }
    write(dir.path(), "federation.yaml", FEDERATION);
    for (name, text) in files {
        write(dir.path(), name, text);
    }
    dir
}

pub fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

/// A pod of namespace shop with one label.
pub fn pod(name: &str, app: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}\n\
         spec: {{containers: [{{name: main, ports: [{{name: http, containerPort: 8080}}]}}]}}\n"
    )
}

/// A NetworkPolicy of namespace shop.
pub fn network_policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}
