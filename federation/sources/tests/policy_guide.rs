//! `docs/policy.md` is true: its manifests load without a word, and its `connections` blocks say what
//! becomes of each connection when an example is added to the clusters of the page.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use landbridge_sources::load_once;
use policy::Decision;

mod common;
use common::ask::Ends;

/// The page's clusters, or one example.
#[derive(Default)]
struct Section {
    title: String,
    files: BTreeMap<String, String>,
    connections: Vec<String>,
}

#[test]
fn the_policy_guide_is_true() {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let sections = sections(&fs::read_to_string(page).unwrap());
    let (base, examples) = sections.split_first().unwrap();
    let mut checked = check(base, &base.files);
    for example in examples {
        let mut files = base.files.clone();
        for (name, text) in &example.files {
            let file = files.entry(name.clone()).or_default();
            *file = format!("{file}---\n{text}");
        }
        checked += check(example, &files);
    }
    assert!(checked >= 30, "only {checked} connections were found");
}

/// How many connections it checked.
fn check(section: &Section, files: &BTreeMap<String, String>) -> usize {
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(n, t)| (n.as_str(), t.as_str()))
        .collect();
    let dir = common::folder(&files);
    let worlds = load_once(dir.path()).unwrap();
    for world in &worlds {
        assert_eq!(world.problems, [], "{}", section.title);
    }
    for line in &section.connections {
        let (connection, said) = line.rsplit_once(": ").unwrap();
        let parts: Vec<&str> = connection.split(' ').collect();
        let [from, "->", to, service] = parts[..] else {
            panic!("{line}");
        };
        let (protocol, port) = service.split_once('/').unwrap();
        let protocol = match protocol {
            "tcp" => 6,
            "udp" => 17,
            other => panic!("{other}"),
        };
        let verdicts = Ends::find(&worlds, from, to).ask(protocol, port.parse().unwrap());
        let mut dropped = verdicts.iter().flatten().filter_map(|v| match v.decision {
            Decision::Allow => None,
            Decision::Drop { reason, .. } => Some(reason.as_str()),
        });
        let found = dropped.next().unwrap_or("allowed");
        assert_eq!(
            found, said,
            "{}: {connection}: {verdicts:#?}",
            section.title
        );
    }
    section.connections.len()
}

/// The section of the clusters first, then those that add to it.
fn sections(page: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut block: Option<(String, String)> = None;
    for line in page.lines() {
        match (&mut block, line.strip_prefix("```")) {
            (None, None) if line.starts_with("## ") || line.starts_with("### ") => {
                sections.push(Section {
                    title: line.trim_start_matches('#').trim().to_owned(),
                    ..Section::default()
                });
            }
            (None, Some(language)) => block = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => {
                let (language, text) = block.take().unwrap();
                let section = sections.last_mut().unwrap();
                if language == "connections" {
                    section.connections.extend(text.lines().map(str::to_owned));
                } else if language == "yaml" {
                    let name = text.lines().next().unwrap().strip_prefix("# ").unwrap();
                    section.files.insert(name.to_owned(), text.clone());
                }
            }
            (Some((_, text)), None) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    sections.retain(|s| !s.files.is_empty());
    sections
}
