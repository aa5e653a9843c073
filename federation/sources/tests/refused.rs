//! Broken manifests and exactly what is said of them. The table is `refused.txt`; `UPDATE=1` writes
//! what is said now into it, for somebody to read and judge.
#![allow(clippy::unwrap_used)]

use landbridge_sources as sources;

mod common;

use std::{fmt::Write, fs, path::PathBuf};

/// One broken manifest.
struct Case {
    name: String,
    /// Which file it is.
    file: &'static str,
    text: String,
    told: Vec<String>,
}

#[test]
fn each_broken_manifest_gets_its_words() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/refused.txt");
    let table = fs::read_to_string(&path).unwrap();
    let mut cases = parse(&table);
    assert!(cases.len() > 60, "the table was not read");
    let mut wrong = String::new();
    for case in &mut cases {
        let told = told(case);
        assert!(!told.is_empty(), "{}: nothing is wrong with it", case.name);
        if told != case.told {
            let (now, then) = (told.join("\n  "), case.told.join("\n  "));
            writeln!(wrong, "{}\n  {now}\ninstead of\n  {then}", case.name).unwrap();
        }
        case.told = told;
    }
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, print(&cases)).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "UPDATE=1 accepts this:\n{wrong}");
}

/// What is said of the case, line by line.
fn told(case: &Case) -> Vec<String> {
    let dir = common::folder(&[(case.file, &case.text)]);
    match sources::load_once(dir.path()) {
        Ok(worlds) => worlds
            .iter()
            .flat_map(|w| &w.problems)
            .map(ToString::to_string)
            .collect(),
        Err(error) => error
            .to_string()
            .lines()
            .skip(1)
            .map(str::to_owned)
            .collect(),
    }
}

fn parse(table: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in table.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            let file = match name.starts_with("federation: ") {
                true => "federation.yaml",
                false => "west/case.yaml",
            };
            cases.push(Case {
                name: name.to_owned(),
                file,
                text: String::new(),
                told: Vec::new(),
            });
        } else if let Some(case) = cases.last_mut() {
            match line.strip_prefix("=> ") {
                Some(told) => case.told.push(told.to_owned()),
                None => case.text += &format!("{line}\n"),
            }
        }
    }
    cases
}

fn print(cases: &[Case]) -> String {
    let mut out = String::from(
        "Broken manifests and what is said of them; see refused.rs. Lines count from the one after \"===\".\n",
    );
    for case in cases {
        write!(out, "=== {}\n{}", case.name, case.text).unwrap();
        for told in &case.told {
            writeln!(out, "=> {told}").unwrap();
        }
    }
    out
}
