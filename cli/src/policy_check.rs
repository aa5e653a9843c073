//! `landbridge policy`: what the files of a configuration folder say, without a running gateway.
//! `check` asks both ends about one connection, `lint` tells what is wrong with the files.

use std::{path::PathBuf, process::ExitCode, str::FromStr};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use policy::{Decision, DropReason, Explanation, Peer, model::Direction};
use serde::Serialize;
use sources::{LoadError, Problem};

use crate::{
    oracle::{End, Oracle},
    say::{complain, say},
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
    /// What is wrong with the manifests of a folder. Exit status: 0 nothing, or warnings only, 1 an
    /// object is refused, 2 the folder cannot be read
    Lint(LintArgs),
}

/// Arguments of `policy check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Who connects, as CLUSTER/NAMESPACE/POD
    #[arg(long, value_name = "CLUSTER/NAMESPACE/POD")]
    from: String,
    /// To whom, as CLUSTER/NAMESPACE/POD
    #[arg(long, value_name = "CLUSTER/NAMESPACE/POD")]
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
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// A form of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Runs it. Errors are printed; the exit status is the answer.
pub fn run(command: &PolicyCommand) -> ExitCode {
    let answer = match command {
        PolicyCommand::Check(args) => check(args),
        PolicyCommand::Lint(args) => lint(args),
    };
    let status = answer.unwrap_or_else(|error| {
        complain!("{error:#}");
        ERROR
    });
    ExitCode::from(status)
}

fn check(args: &CheckArgs) -> Result<u8> {
    let oracle = Oracle::load(&args.config)?;
    let (from, to) = (oracle.end(&args.from)?, oracle.end(&args.to)?);
    let (protocol, port) = args.port.at(&to)?;
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
    egress: EndReport,
    ingress: EndReport,
}

/// What one end says.
#[derive(Debug, Serialize)]
struct EndReport {
    allowed: bool,
    /// Why it is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<DropReason>,
    /// The rule that decided; absent when isolation, the default or no policy did.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    because: String,
}

impl Report {
    fn new(
        oracle: &Oracle,
        args: &CheckArgs,
        [from, to]: [&End; 2],
        protocol: Protocol,
        port: u16,
    ) -> Result<Self> {
        let judge = |direction, subject: &End, peer: &End| {
            EndReport::new(oracle, direction, subject, peer, protocol, port)
        };
        let egress = judge(Direction::Egress, from, to)?;
        let ingress = judge(Direction::Ingress, to, from)?;
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

impl EndReport {
    /// What is enforced beside `subject`. A pod of an unprotected namespace enforces nothing, counts
    /// as its address within its cluster, and cannot prove itself to another.
    fn new(
        oracle: &Oracle,
        direction: Direction,
        subject: &End,
        peer: &End,
        protocol: Protocol,
        port: u16,
    ) -> Result<Self> {
        let is_remote = subject.claims.trust_domain() != peer.claims.trust_domain();
        if is_remote && (subject.workload.unprotected || peer.workload.unprotected) {
            let who = match peer.workload.unprotected {
                true => peer,
                false => subject,
            };
            let reason = DropReason::NoIdentity;
            let because = format!(
                "dropped ({reason}) because {} is in an unprotected namespace and proves no identity, and across clusters both ends must",
                who.claims.display_name()
            );
            return Ok(Self {
                allowed: false,
                reason: Some(reason),
                rule: None,
                because,
            });
        }
        if subject.workload.unprotected {
            let namespace = subject.claims.namespace();
            return Ok(Self {
                allowed: true,
                reason: None,
                rule: None,
                because: format!("allowed because namespace {namespace} is unprotected"),
            });
        }
        let address = peer.workload.address;
        let peer = match (peer.workload.unprotected, address) {
            (false, _) => Peer::Identity {
                claims: &peer.claims,
                address,
            },
            (true, Some(address)) => Peer::Address(address),
            (true, None) => bail!("{} has no address", peer.claims.display_name()),
        };
        Ok(Self::of(&oracle.explain(
            direction,
            subject,
            peer,
            protocol as u8,
            port,
        )))
    }

    fn of(explanation: &Explanation) -> Self {
        let verdict = &explanation.verdict;
        Self {
            allowed: verdict.is_allowed(),
            reason: match verdict.decision {
                Decision::Allow => None,
                Decision::Drop { reason, .. } => Some(reason),
            },
            rule: verdict.rule.as_ref().map(ToString::to_string),
            because: explanation.because.clone(),
        }
    }
}

/// A port of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Service {
    port: Port,
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Number(u16),
    Name(String),
}

/// Protocols with ports, under their IP protocol numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("{other:?} is none of tcp, udp, sctp")),
        };
        let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port.parse() {
            Ok(0) | Err(_) if is_number => return Err(format!("{port} is not from 1 to 65535")),
            Ok(number) => Port::Number(number),
            Err(_) if port.is_empty() => return Err("there is no port".into()),
            Err(_) => Port::Name(port.to_owned()),
        };
        Ok(Self { port, protocol })
    }
}

impl Service {
    /// The protocol and number, as the pod `to` means a name.
    fn at(&self, to: &End) -> Result<(Protocol, u16)> {
        let protocol = self.protocol;
        let number = match &self.port {
            Port::Number(number) => *number,
            Port::Name(name) => {
                let ports = &to.claims.named_ports;
                let mut ports = ports.iter().filter(|p| p.protocol == protocol as u8);
                let port = ports.find(|p| p.name == *name);
                let port = port.with_context(|| {
                    let pod = to.claims.display_name();
                    format!("{pod} names no {} port {name:?}", protocol.word())
                })?;
                port.port
            }
        };
        Ok((protocol, number))
    }
}

fn lint(args: &LintArgs) -> Result<u8> {
    let mut problems = match sources::load_once(&args.folder) {
        Ok(worlds) => worlds.into_iter().flat_map(|w| w.problems).collect(),
        Err(LoadError::Refused(problems)) if args.folder.is_dir() => problems,
        Err(error) => {
            return Err(error).with_context(|| args.folder.display().to_string());
        }
    };
    problems.sort();
    problems.dedup();
    let refused = problems.iter().filter(|p| !p.is_warning()).count();
    match args.output {
        Output::Json => say!("{}", serde_json::to_string_pretty(&problems)?),
        Output::Text => tell(&problems, refused),
    }
    Ok(if refused == 0 { YES } else { NO })
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

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: PolicyCommand,
    }

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/three-tier")
    }

    fn report(from: &str, to: &str, port: &str) -> Report {
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
        let oracle = Oracle::load(&args.config).unwrap();
        let (from, to) = (
            oracle.end(&args.from).unwrap(),
            oracle.end(&args.to).unwrap(),
        );
        let (protocol, port) = args.port.at(&to).unwrap();
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
    }

    #[test]
    fn ports_are_read_strictly() {
        for wrong in ["", "/tcp", "0", "65536/tcp", "80/tls", "99999999999"] {
            assert!(wrong.parse::<Service>().is_err(), "{wrong:?}");
        }
        let dns = Service {
            port: Port::Number(53),
            protocol: Protocol::Udp,
        };
        assert_eq!("53/udp".parse(), Ok(dns));
    }

    #[test]
    fn the_exit_status_is_the_answer() {
        let status = |line: &[&str]| {
            let command = Line::parse_from(line).command;
            match command {
                PolicyCommand::Check(args) => check(&args).unwrap_or(ERROR),
                PolicyCommand::Lint(args) => lint(&args).unwrap_or(ERROR),
            }
        };
        let folder = example();
        let folder = folder.to_str().unwrap();
        assert_eq!(status(&["policy", "lint", folder]), YES);
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
        let broken = tempfile::tempdir().unwrap();
        fs::write(broken.path().join("federation.yaml"), "kind: [").unwrap();
        assert_eq!(
            status(&["policy", "lint", broken.path().to_str().unwrap()]),
            NO
        );
    }
}
