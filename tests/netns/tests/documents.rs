//! What docs/security.md names as proof exists.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Where the tests of a crate are, by what the document calls it.
const CRATES: [(&str, &str); 15] = [
    ("identity", "federation/identity"),
    ("wire", "federation/wire"),
    ("policy", "federation/policy"),
    ("sources", "federation/sources"),
    ("handshake", "federation/handshake"),
    ("peering", "federation/peering"),
    ("quic", "federation/quic"),
    ("gateway-core", "gateway/core"),
    ("gateway", "gateway"),
    ("agent", "node-agent"),
    ("bundle-endpoint", "federation/bundle-endpoint"),
    ("workload-api", "federation/workload-api"),
    ("cli", "cli/src"),
    ("observe", "observe"),
    ("netns", "tests/netns"),
];

#[test]
fn every_test_and_fact_that_the_threat_model_names_exists() -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let document = fs::read_to_string(root.join("docs/security.md"))?;
    let facts = fs::read_to_string(root.join("cli/src/demo/facts/mod.rs"))?;
    let mut sources = BTreeMap::new();
    for (name, dir) in CRATES {
        let mut all = Vec::new();
        read(&root.join(dir), &mut all)?;
        sources.insert(name, all);
    }
    let mut named = 0;
    let rows = document
        .lines()
        .filter(|line| line.starts_with("| ") && line.contains(": "));
    for row in rows {
        let last = row
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .unwrap_or_default();
        for proof in last.split("; ") {
            let Some((of, what)) = proof.split_once(": ") else {
                continue;
            };
            if proof.contains("**open**") {
                continue;
            }
            named += 1;
            if of == "demo" {
                let fact = format!("name: \"{what}\"");
                ensure!(
                    facts.contains(&fact),
                    "no fact of the demo is called {what}"
                );
                continue;
            }
            let tests = sources
                .get(of)
                .with_context(|| format!("{proof}: no crate {of}"))?;
            let function = format!("fn {what}(");
            let found = tests.iter().any(|(path, text)| {
                text.contains(&function) || path.file_stem().is_some_and(|stem| stem == what)
            });
            ensure!(found, "{of} has no test {what}");
        }
    }
    // A document that is read otherwise than it is written would prove nothing.
    ensure!(named > 50, "only {named} tests were found in the document");
    Ok(())
}

fn read(dir: &Path, into: &mut Vec<(PathBuf, String)>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, into)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push((path.clone(), fs::read_to_string(&path)?));
        }
    }
    Ok(())
}
