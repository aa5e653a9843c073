//! `landbridge policy`: what the files of a configuration folder say, without a running gateway.
//! `check` asks both ends about one connection, `lint` tells what is wrong with the files, `eval` is for
//! scripts and takes objects instead of files.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde::Serialize;
use sources::{LoadError, Problem};

use crate::{
    end_verdict::EndVerdict,
    oracle::Oracle,
    party::Party,
    policy_eval,
    policy_matrix::{self, DiffArgs, TableArgs},
    policy_test::{self, TestArgs},
    say::{Output, complain, say},
    service::{Protocol, Service},
};

/// The connection is allowed; the files are in order.
const YES: u8 = 0;
/// The connection is denied; objects are refused.
const NO: u8 = 1;
/// It cannot be said.
const ERROR: u8 = 2;

/// Subcommands of `policy`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Whether a connection is allowed, and by which rule at each end. Exit status: 0 allowed, 1
    /// denied, 2 it cannot be said
    Check(CheckArgs),
    /// What is wrong with the manifests of a folder, and what is probably not meant: rules that can never
    /// decide, selectors that match nothing, names that nobody defines. Exit status: 0 nothing, or warnings
    /// only, 1 an object is refused, 2 the folder cannot be read
    Lint(LintArgs),
    /// Whether what is expected of policies is so, as TAP. Exit status: 0 all of it, 1 not all, 2 it cannot
    /// be said
    Test(TestArgs),
    /// Every pair of pods: who may reach whom, and by which rule
    Table(TableArgs),
    /// Which connections change between two folders. Exit status: 0 none, 1 some, 2 it cannot be said
    Diff(DiffArgs),
    /// Answers lines of JSON: {"objects":[...],"queries":[{"from","to","protocol","port"}]} in,
    /// {"verdicts":[{"allowed","ingress","egress"}]} out
    Eval,
}

/// Arguments of `policy check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Who connects: CLUSTER/NAMESPACE/POD, an address, or a name of the DNS
    #[arg(long, value_name = "POD|ADDRESS|NAME")]
    from: String,
    /// To whom, named in the same way
    #[arg(long, value_name = "POD|ADDRESS|NAME")]
    to: String,
    /// The destination port as the pod gets it, by number or name, such as 80/tcp, 53/udp or http
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Service,
    /// The configuration folder
    #[arg(long, value_name = "DIR", default_value = ".")]
    config: PathBuf,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Arguments of `policy lint`.
#[derive(Debug, Args)]
pub struct LintArgs {
    /// The configuration folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Warnings too give exit status 1
    #[arg(long)]
    strict: bool,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Runs it. Errors are printed; the exit status is the answer.
pub fn run(command: &PolicyCommand) -> ExitCode {
    let answer = match command {
        PolicyCommand::Check(args) => check(args),
        PolicyCommand::Lint(args) => lint(args),
        PolicyCommand::Test(args) => policy_test::run(args).map(|hold| if hold { YES } else { NO }),
        PolicyCommand::Table(args) => policy_matrix::table(args).map(|()| YES),
        PolicyCommand::Diff(args) => {
            policy_matrix::diff(args).map(|changes| if changes { NO } else { YES })
        }
        PolicyCommand::Eval => policy_eval::run().map(|()| YES),
    };
    let status = answer.unwrap_or_else(|error| {
        complain!("{error:#}");
        ERROR
    });
    ExitCode::from(status)
}

fn check(args: &CheckArgs) -> Result<u8> {
    let oracle = Oracle::load(&args.config)?;
    let party = |name: &str| Party::find(&oracle, name);
    let (from, to) = (party(&args.from)?, party(&args.to)?);
    let (protocol, port) = args.port.at_party(&to)?;
    let report = Report::new(&oracle, args, [&from, &to], protocol, port)?;
    match args.output {
        Output::Json => say!("{}", serde_json::to_string_pretty(&report)?),
        Output::Text => {
            let word = if report.allowed { "allowed" } else { "denied" };
            let service = format!("{port}/{}", protocol.word());
            say!("{} -> {} {service}: {word}", args.from, args.to);
            say!("  egress   {}", report.egress.because);
            say!("  ingress  {}", report.ingress.because);
        }
    }
    Ok(if report.allowed { YES } else { NO })
}

/// Both ends' answers, for programs.
#[derive(Debug, Serialize)]
struct Report {
    from: String,
    to: String,
    protocol: &'static str,
    port: u16,
    allowed: bool,
    egress: EndVerdict,
    ingress: EndVerdict,
}

impl Report {
    fn new(
        oracle: &Oracle,
        args: &CheckArgs,
        [from, to]: [&Party; 2],
        protocol: Protocol,
        port: u16,
    ) -> Result<Self> {
        let halves = from.to(oracle, to, protocol as u8, port)?;
        let [egress, ingress] = halves.map(EndVerdict::of);
        Ok(Self {
            from: args.from.clone(),
            to: args.to.clone(),
            protocol: protocol.word(),
            port,
            allowed: egress.allowed && ingress.allowed,
            egress,
            ingress,
        })
    }
}

fn lint(args: &LintArgs) -> Result<u8> {
    let problems = match sources::lint(&args.folder) {
        Ok(problems) => problems,
        Err(LoadError::Refused(problems)) if args.folder.is_dir() => problems,
        Err(error) => {
            return Err(error).with_context(|| args.folder.display().to_string());
        }
    };
    let refused = problems.iter().filter(|p| !p.is_warning()).count();
    match args.output {
        Output::Json => say!("{}", serde_json::to_string_pretty(&problems)?),
        Output::Text => tell(&problems, refused),
    }
    let is_wrong = refused > 0 || args.strict && !problems.is_empty();
    Ok(if is_wrong { NO } else { YES })
}

fn tell(problems: &[Problem], refused: usize) {
    for problem in problems {
        say!("{problem}");
    }
    let warnings = problems.len() - refused;
    say!("{refused} problems, {warnings} warnings");
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, path::Path};

    use clap::Parser;
    use policy::DropReason;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: PolicyCommand,
    }

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/three-tier")
    }

    fn args(from: &str, to: &str, port: &str) -> CheckArgs {
        let folder = example();
        let line = [
            "policy", "check", "--from", from, "--to", to, "--port", port, "--config",
        ];
        let line = line
            .into_iter()
            .map(Into::into)
            .chain([folder.into_os_string()]);
        let PolicyCommand::Check(args) = Line::parse_from(line).command else {
            panic!("another command");
        };
        args
    }

    fn report(from: &str, to: &str, port: &str) -> Report {
        let args = args(from, to, port);
        let oracle = Oracle::load(&args.config).unwrap();
        let (from, to) = (
            Party::find(&oracle, &args.from).unwrap(),
            Party::find(&oracle, &args.to).unwrap(),
        );
        let (protocol, port) = args.port.at_party(&to).unwrap();
        let report = Report::new(&oracle, &args, [&from, &to], protocol, port).unwrap();
        assert_eq!(check(&args).unwrap(), if report.allowed { YES } else { NO });
        report
    }

    #[test]
    fn both_ends_name_their_rule() {
        let report = report("east/shop/frontend", "west/shop/api", "http");
        assert!(report.allowed && report.port == 8080);
        let rules = [&report.egress, &report.ingress].map(|e| e.rule.as_deref().unwrap());
        let expected = [
            "east.example: FederationPolicy shop/to-west rule shop-api",
            "west.example: FederationPolicy shop/api rule web-tier",
        ];
        assert_eq!(rules, expected);
    }

    /// An address that a pod has means the pod; of others, and of names, only the pod's end speaks.
    #[test]
    fn the_other_end_may_be_an_address_or_a_name() {
        let oracle = Oracle::load(&example()).unwrap();
        let api = oracle.end("west/shop/api").unwrap();
        let address = api.workload.address.unwrap().to_string();
        let (by_name, by_address) = (
            report("east/shop/frontend", "west/shop/api", "8080"),
            report("east/shop/frontend", &address, "8080"),
        );
        assert_eq!(by_name.ingress.rule, by_address.ingress.rule);
        assert!(by_address.allowed);
        for outside in ["203.0.113.9", "2001:db8::9", "www.example.com"] {
            let to = report("west/shop/api", outside, "443");
            assert!(to.ingress.rule.is_none() && to.ingress.because.contains("speaks for it"));
            assert_eq!(to.egress.cluster.as_deref(), Some("west.example"));
            let from = report(outside, "west/shop/api", "8080");
            assert!(!from.allowed && from.egress.allowed, "{from:?}");
        }
        // Nobody else may speak from there.
        let stray = report("west/shop/api", "10.1.200.200", "443");
        assert_eq!(stray.egress.reason, Some(DropReason::NoIdentity));
        let args = args("west/shop/api", "203.0.113.9", "http");
        let error = check(&args).unwrap_err().to_string();
        assert_eq!(error, "only pods give names to ports, and \"http\" is one");
    }

    #[test]
    fn denials_say_why() {
        for (from, to, port, reason) in [
            (
                "east/shop/batch",
                "west/shop/api",
                "8080/tcp",
                DropReason::DeniedByRule,
            ),
            (
                "east/shop/visitor",
                "west/shop/api",
                "8080",
                DropReason::DeniedByDefault,
            ),
            (
                "east/shop/frontend",
                "west/shop/api",
                "8080/udp",
                DropReason::DeniedByDefault,
            ),
            (
                "east/legacy/plain",
                "west/shop/api",
                "8080/TCP",
                DropReason::NoIdentity,
            ),
            (
                "east/legacy/plain",
                "east/shop/frontend",
                "8080",
                DropReason::DeniedByDefault,
            ),
        ] {
            let report = report(from, to, port);
            assert!(!report.allowed, "{from}");
            assert_eq!(report.ingress.reason, Some(reason), "{from}");
        }
        assert!(report("east/legacy/plain", "east/shop/batch", "80").allowed);
        assert!(report("east/shop/batch", "east/legacy/plain", "80").allowed);
        let own = report("east/shop/frontend", "east/shop/frontend", "8080");
        assert!(own.allowed, "a policy isolates it, but never from itself");
    }

    #[test]
    fn the_exit_status_is_the_answer() {
        let status = |line: &[&str]| {
            let command = Line::parse_from(line).command;
            match command {
                PolicyCommand::Check(args) => check(&args).unwrap_or(ERROR),
                PolicyCommand::Lint(args) => lint(&args).unwrap_or(ERROR),
                _ => panic!("another command"),
            }
        };
        let folder = example();
        let folder = folder.to_str().unwrap();
        assert_eq!(status(&["policy", "lint", folder]), YES);
        assert_eq!(status(&["policy", "lint", folder, "--strict"]), YES);
        let nobody = [
            "policy",
            "check",
            "--config",
            folder,
            "--from",
            "east/shop/nobody",
        ];
        let nobody = [&nobody[..], &["--to", "west/shop/api", "--port", "80"]].concat();
        assert_eq!(status(&nobody), ERROR);
        assert_eq!(
            status(&["policy", "lint", "/nonexistent", "-o", "json"]),
            ERROR
        );
        let doubtful = tempfile::tempdir().unwrap();
        fs::copy(
            Path::new(folder).join("federation.yaml"),
            doubtful.path().join("federation.yaml"),
        )
        .unwrap();
        fs::create_dir(doubtful.path().join("west")).unwrap();
        fs::create_dir(doubtful.path().join("east")).unwrap();
        let twice = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: open}\n\
                     spec: {podSelector: {}, ingress: [{}, {}]}\n";
        fs::write(doubtful.path().join("west/open.yaml"), twice).unwrap();
        let doubtful = doubtful.path().to_str().unwrap();
        assert_eq!(status(&["policy", "lint", doubtful]), YES);
        assert_eq!(status(&["policy", "lint", doubtful, "--strict"]), NO);
        let broken = tempfile::tempdir().unwrap();
        fs::write(broken.path().join("federation.yaml"), "kind: [").unwrap();
        assert_eq!(
            status(&["policy", "lint", broken.path().to_str().unwrap()]),
            NO
        );
    }
}
