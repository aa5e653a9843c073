//! `landbridge policy test`: what policies must say, written down beside them.

mod netassert;
mod own;
mod workloads;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use policy::DropReason;
use sources::strict::Text;

use crate::{
    demo::tap::{self, Verdict},
    end_verdict::EndVerdict,
    oracle::Oracle,
    party::Party,
    service::Service,
};

/// Arguments of `policy test`.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Files with tests (docs/policy-tools.md), or files of netassert
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The configuration folder, in place of the one that a file names
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// The cluster that files of netassert speak of; needed where the folder has several
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Tests that only packets can tell are skipped, and do not count as failed
    #[arg(long)]
    allow_skip: bool,
}

/// What the tests of a file are.
enum Tests {
    Own(own::File),
    Netassert(netassert::Assertions),
}

/// One test.
struct Case {
    title: String,
    what: What,
}

/// What is asked.
enum What {
    /// Both ends.
    Connection {
        from: String,
        to: String,
        port: Service,
        expected: Expected,
        /// Must stand in the name of the rule that decides.
        rule: Option<String>,
    },
    /// Nothing that policy could tell.
    Skipped(String),
    /// It makes no sense.
    Fails(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Allowed,
    Denied,
    For(DropReason),
}

impl Expected {
    fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::For(reason) => reason.as_str(),
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
    let mut files: Vec<(Oracle, Vec<Case>)> = Vec::new();
    for path in &args.files {
        let tests = read(path)?;
        let config = match &tests {
            Tests::Own(file) => file.config.as_path(),
            Tests::Netassert(_) => Path::new(""),
        };
        let beside = path.parent().unwrap_or(Path::new("")).join(config);
        let folder = args.config.clone().unwrap_or(beside);
        // An empty path is the folder that one stands in.
        let oracle = Oracle::load(&Path::new(".").join(folder))?;
        let cases = match &tests {
            Tests::Own(file) => file.cases(),
            Tests::Netassert(assertions) => assertions
                .cases(&oracle, args.cluster.as_deref())
                .with_context(|| path.display().to_string())?,
        };
        files.push((oracle, cases));
    }
    let total = files.iter().map(|(_, cases)| cases.len()).sum();
    tell(&tap::header(total));
    let (mut number, mut failed, mut skipped) = (0, 0, 0);
    for (oracle, cases) in &files {
        for case in cases {
            let begin = Instant::now();
            number += 1;
            let verdict = match &case.what {
                What::Skipped(why) if args.allow_skip => Verdict::Skipped(why.clone()),
                what => match judge(oracle, what) {
                    Ok(()) => Verdict::Holds(String::new()),
                    Err(why) => Verdict::Fails(format!("{why:#}")),
                },
            };
            match &verdict {
                Verdict::Holds(_) => {}
                Verdict::Skipped(_) => skipped += 1,
                Verdict::Fails(_) => failed += 1,
            }
            tell(&tap::line(number, &case.title, &verdict, begin.elapsed()));
        }
    }
    let hold = total - failed - skipped;
    match skipped {
        0 => tell(&format!("# {hold} of {total} hold")),
        _ => tell(&format!("# {hold} of {total} hold, {skipped} skipped")),
    }
    Ok(failed == 0)
}

fn read(path: &Path) -> Result<Tests> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| shown.to_string())?;
    let of_file = |told: String| {
        let lines: Vec<String> = told.lines().map(|l| format!("{shown}:{l}")).collect();
        anyhow!("{}", lines.join("\n"))
    };
    let strict = Text::read(&text).map_err(|mistake| of_file(mistake.to_string()))?;
    match netassert::read(&strict) {
        Some(Ok(assertions)) => Ok(Tests::Netassert(assertions)),
        Some(Err(told)) => Err(of_file(told)),
        None => own::read(&text)
            .map(Tests::Own)
            .with_context(|| shown.to_string()),
    }
}

/// An error says what is the case instead.
fn judge(oracle: &Oracle, what: &What) -> Result<()> {
    match what {
        What::Connection {
            from,
            to,
            port,
            expected,
            rule,
        } => {
            let (from, to) = (Party::find(oracle, from)?, Party::find(oracle, to)?);
            let (protocol, port) = port.at_party(&to)?;
            let halves = from.to(oracle, &to, protocol as u8, port)?;
            let [egress, ingress] = halves.map(EndVerdict::of);
            compare(
                &[("egress:  ", &egress), ("ingress: ", &ingress)],
                *expected,
                rule.as_deref(),
            )
        }
        What::Skipped(why) => bail!("{why}; --allow-skip lets it pass"),
        What::Fails(why) => bail!("{why}"),
    }
}

/// Whether the ends say what is expected.
fn compare(ends: &[(&str, &EndVerdict)], expected: Expected, rule: Option<&str>) -> Result<()> {
    let told: Vec<String> = ends
        .iter()
        .map(|(e, v)| format!("{e}{}", v.because))
        .collect();
    let told = told.join("\n");
    let verdicts = || ends.iter().map(|(_, verdict)| *verdict);
    let denies: Vec<&EndVerdict> = verdicts().filter(|e| !e.allowed).collect();
    let as_expected = match expected {
        Expected::Allowed => denies.is_empty(),
        Expected::Denied => !denies.is_empty(),
        Expected::For(reason) => denies.iter().any(|e| e.reason == Some(reason)),
    };
    if !as_expected {
        let word = match denies.is_empty() {
            true => "allowed",
            false => "denied",
        };
        bail!("it is {word}\n{told}");
    }
    let Some(wanted) = rule else { return Ok(()) };
    let deciding = match denies.is_empty() {
        true => verdicts().collect(),
        false => denies,
    };
    let decides = |end: &&EndVerdict| end.rule.as_ref().is_some_and(|r| r.contains(wanted));
    if !deciding.iter().any(decides) {
        bail!("no rule {wanted:?} decides it\n{told}");
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
            cluster: None,
            allow_skip: false,
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
            cluster: None,
            allow_skip: false,
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
