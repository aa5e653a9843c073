//! `landbridge policy test`: what policies must say, written down beside them.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use policy::model::Direction;
use serde::Deserialize;

use crate::{
    demo::tap::{self, Verdict},
    end_verdict::EndVerdict,
    oracle::Oracle,
    service::Service,
};

/// Arguments of `policy test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Files with tests (docs/policy-tools.md)
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The configuration folder, in place of the one that a file names
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
}

/// A file of tests.
#[derive(Debug, Deserialize)]
struct File {
    /// The configuration folder, seen from the file; the file's own when it is left out.
    #[serde(default)]
    config: PathBuf,
    tests: Vec<Test>,
}

/// Connections of which the same is expected.
#[derive(Debug, Deserialize)]
struct Test {
    name: Option<String>,
    from: Names,
    to: Names,
    port: String,
    /// `allowed`, `denied`, or the reason for which it must be denied.
    expect: String,
    /// Must stand in the name of the rule that decides, at the end that denies or at either that allows.
    rule: Option<String>,
}

/// One pod or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Many(Vec<String>),
}

impl Names {
    fn list(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

/// Runs all tests; whether all hold.
///
/// # Errors
/// When a file or folder cannot be read. A test that names no pod of its folder does not hold.
pub fn run(args: &TestArgs) -> Result<bool> {
    run_to(args, &mut io::stdout().lock())
}

/// A reader that has enough ends no test.
fn run_to(args: &TestArgs, out: &mut impl Write) -> Result<bool> {
    let mut tell = |text: &str| drop(writeln!(out, "{text}"));
    let files: Vec<(&PathBuf, File)> = (args.files.iter())
        .map(|path| Ok((path, read(path)?)))
        .collect::<Result<_>>()?;
    let connections = |test: &Test| test.from.list().len() * test.to.list().len();
    let total = files
        .iter()
        .flat_map(|(_, file)| &file.tests)
        .map(connections)
        .sum();
    tell(&tap::header(total));
    let (mut number, mut failed) = (0, 0);
    for (path, file) in &files {
        let beside = path.parent().unwrap_or(Path::new("")).join(&file.config);
        let folder = args.config.clone().unwrap_or(beside);
        // An empty path is the folder that one stands in.
        let oracle = Oracle::load(&Path::new(".").join(folder))?;
        for test in &file.tests {
            for (from, to) in pairs(test) {
                let begin = Instant::now();
                number += 1;
                let verdict = match judge(&oracle, test, from, to) {
                    Ok(()) => Verdict::Holds(String::new()),
                    Err(why) => {
                        failed += 1;
                        Verdict::Fails(format!("{why:#}"))
                    }
                };
                let title = title(test, from, to);
                tell(&tap::line(number, &title, &verdict, begin.elapsed()));
            }
        }
    }
    tell(&format!("# {} of {total} hold", total - failed));
    Ok(failed == 0)
}

fn read(path: &Path) -> Result<File> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut unknown = Vec::new();
    let yaml = serde_norway::Deserializer::from_str(&text);
    let file: File = serde_ignored::deserialize(yaml, |field| unknown.push(field.to_string()))
        .with_context(|| path.display().to_string())?;
    if !unknown.is_empty() {
        bail!("{}: unknown field {}", path.display(), unknown.join(", "));
    }
    if file.tests.is_empty() {
        bail!("{}: tests: there are none", path.display());
    }
    Ok(file)
}

fn pairs(test: &Test) -> impl Iterator<Item = (&String, &String)> {
    let to = |from| test.to.list().iter().map(move |to| (from, to));
    test.from.list().iter().flat_map(to)
}

fn title(test: &Test, from: &str, to: &str) -> String {
    let connection = format!("{from} -> {to} {}: {}", test.port, test.expect);
    match &test.name {
        Some(name) => format!("{name} ({connection})"),
        None => connection,
    }
}

/// An error says what is the case instead.
fn judge(oracle: &Oracle, test: &Test, from: &str, to: &str) -> Result<()> {
    let (from, to) = (oracle.end(from)?, oracle.end(to)?);
    let service: Service = (test.port.parse()).map_err(|e| anyhow::anyhow!("port: {e}"))?;
    let (protocol, port) = service.at(&to)?;
    let half = |direction, subject, peer| {
        let half = oracle.half(direction, subject, peer, protocol as u8, port);
        half.map(EndVerdict::of)
    };
    let egress = half(Direction::Egress, &from, &to)?;
    let ingress = half(Direction::Ingress, &to, &from)?;
    let told = format!("egress:  {}\ningress: {}", egress.because, ingress.because);
    let denies: Vec<&EndVerdict> = [&egress, &ingress]
        .into_iter()
        .filter(|e| !e.allowed)
        .collect();
    let reasons: Vec<&str> = denies
        .iter()
        .filter_map(|e| Some(e.reason?.as_str()))
        .collect();
    let as_expected = match test.expect.as_str() {
        "allowed" => denies.is_empty(),
        "denied" => !denies.is_empty(),
        reason
            if policy::DropReason::ALL
                .iter()
                .any(|known| known.as_str() == reason) =>
        {
            reasons.contains(&reason)
        }
        other => bail!(
            "expect: {other:?} is none of allowed, denied, or a reason such as denied-by-rule"
        ),
    };
    if !as_expected {
        let word = if denies.is_empty() {
            "allowed"
        } else {
            "denied"
        };
        bail!("it is {word}\n{told}");
    }
    if let Some(wanted) = &test.rule {
        let ends = if denies.is_empty() {
            vec![&egress, &ingress]
        } else {
            denies
        };
        let decides = |end: &&EndVerdict| {
            end.rule
                .as_ref()
                .is_some_and(|r| r.contains(wanted.as_str()))
        };
        if !ends.iter().any(decides) {
            bail!("no rule {wanted:?} decides it\n{told}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn run_text(text: &str) -> Result<bool> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tests.yaml");
        fs::write(&path, text).unwrap();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/three-tier");
        let args = TestArgs {
            files: vec![path],
            config: Some(example),
        };
        run_to(&args, &mut io::sink())
    }

    fn holds(test: &str) -> bool {
        run_text(&format!("tests: [{{{test}}}]")).unwrap()
    }

    #[test]
    fn what_is_expected_must_be_so() {
        let api = "to: west/shop/api, port: 8080/tcp";
        for (test, expected) in [
            (
                format!("from: east/shop/frontend, {api}, expect: allowed"),
                true,
            ),
            (
                format!("from: east/shop/frontend, {api}, expect: denied"),
                false,
            ),
            (
                format!("from: east/shop/batch, {api}, expect: denied"),
                true,
            ),
            (
                format!(
                    "from: east/shop/batch, {api}, expect: denied-by-rule, rule: shop/no-batch"
                ),
                true,
            ),
            (
                format!("from: east/shop/batch, {api}, expect: denied-by-default"),
                false,
            ),
            (
                format!("from: east/shop/batch, {api}, expect: denied, rule: other"),
                false,
            ),
            (
                format!("from: east/shop/frontend, {api}, expect: allowed, rule: web-tier"),
                true,
            ),
            (
                format!("from: [east/shop/batch, east/shop/visitor], {api}, expect: denied"),
                true,
            ),
            (
                format!("from: [east/shop/batch, east/shop/frontend], {api}, expect: denied"),
                false,
            ),
            (
                format!("from: east/shop/nobody, {api}, expect: denied"),
                false,
            ),
            (
                format!("from: east/shop/batch, {api}, expect: perhaps"),
                false,
            ),
            (
                "from: east/shop/frontend, to: west/shop/api, port: http, expect: allowed".into(),
                true,
            ),
        ] {
            assert_eq!(holds(&test), expected, "{test}");
        }
    }

    #[test]
    fn the_example_s_own_tests_hold() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/three-tier");
        let args = TestArgs {
            files: vec![example.join("tests.yaml")],
            config: None,
        };
        let mut told = Vec::new();
        assert!(run_to(&args, &mut told).unwrap());
        let told = String::from_utf8(told).unwrap();
        assert!(
            told.starts_with("TAP version 14\n1..9\nok 1 - only the front end"),
            "{told}"
        );
        assert!(told.ends_with("# 9 of 9 hold\n"), "{told}");
    }

    #[test]
    fn a_file_that_is_none_is_an_error() {
        for (text, named) in [
            ("tests: []", "there are none"),
            ("test: []", "tests"),
            (
                "tests: [{from: a, to: b, port: 80, expect: denied, expected: 1}]",
                "expected",
            ),
            ("tests: [{from: a, to: b, expect: denied}]", "port"),
        ] {
            let error = format!("{:#}", run_text(text).unwrap_err());
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
