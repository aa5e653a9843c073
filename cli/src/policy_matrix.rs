//! Every pair of pods of a folder: `landbridge policy table`, and `policy diff` between two folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::Args;
use policy::model::Direction;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    demo::{self, StateArg},
    oracle::{Brief, End, Oracle},
    say::{Output, say},
    service::{self, Service},
};

/// Arguments of `policy table`.
#[derive(Debug, Args)]
pub struct TableArgs {
    /// The configuration folder
    #[arg(
        value_name = "DIR",
        required_unless_present = "live",
        conflicts_with = "live"
    )]
    folder: Option<PathBuf>,
    /// Instead of a folder: what the agents of a running federation enforce at this moment
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    state: StateArg,
    #[command(flatten)]
    ports: Ports,
    /// For people, or for programs: an object per line
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Arguments of `policy diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The folder as it was
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// The folder as it would be
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    #[command(flatten)]
    ports: Ports,
    /// For people, or for programs: an object per line
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// Which ports are asked about.
#[derive(Debug, Args)]
struct Ports {
    /// A destination port, such as 80/tcp or 53/udp; may be given several times. Without it, those that
    /// the destination declares
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Vec<Service>,
}

/// A connection that is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Question {
    to: Arc<str>,
    port: u16,
    protocol: &'static str,
    from: Arc<str>,
}

/// Both ends' verdicts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Cell {
    allowed: bool,
    egress: Side,
    ingress: Side,
}

/// What one end says; its words are made only when they are told.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Side(Brief);

impl Serialize for Side {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Brief {
            reason,
            rule,
            staged,
        } = &self.0;
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("allowed", &reason.is_none())?;
        if let Some(reason) = reason {
            map.serialize_entry("reason", reason)?;
        }
        if let Some(rule) = rule {
            map.serialize_entry("cluster", &rule.cluster)?;
            map.serialize_entry("tier", &rule.tier)?;
            map.serialize_entry("policy", &rule.policy_words().to_string())?;
            map.serialize_entry("rule", &*rule.words())?;
        }
        if let Some(staged) = staged {
            map.serialize_entry("staged", &Self((**staged).clone()))?;
        }
        map.end()
    }
}

/// A line of `table -o json`.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    question: &'a Question,
    #[serde(flatten)]
    cell: &'a Cell,
}

/// A line of `diff -o json`. Absent where one of the folders has no such pod or port.
#[derive(Serialize)]
struct Change<'a> {
    #[serde(flatten)]
    question: &'a Question,
    before: Option<&'a Cell>,
    after: Option<&'a Cell>,
}

/// Prints the table.
///
/// # Errors
/// When the folder is not usable as it is, or an agent does not answer.
pub fn table(args: &TableArgs) -> Result<()> {
    let oracle = match &args.folder {
        Some(folder) => Oracle::load(folder)?,
        None => Oracle::live(&demo::running(&args.state)?)?,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut last = None;
    let printed = each(&oracle, &args.ports.port, |question, cell| {
        if args.output == Output::Json {
            let (question, cell) = (&question, &cell);
            serde_json::to_writer(&mut out, &Line { question, cell })?;
            return writeln!(out);
        }
        let target = (question.to.clone(), question.port, question.protocol);
        if last.as_ref() != Some(&target) {
            writeln!(out, "{} {}/{}", target.0, target.1, target.2)?;
            last = Some(target);
        }
        writeln!(out, "  {:40} {}", question.from, cell.words())
    });
    done(printed.and_then(|()| out.flush().map_err(Into::into)))
}

/// Prints what changes; whether anything does.
///
/// # Errors
/// When a folder is not usable as it is.
pub fn diff(args: &DiffArgs) -> Result<bool> {
    let load = |folder: &Path| {
        let mut cells = BTreeMap::new();
        each(
            &Oracle::load(folder)?,
            &args.ports.port,
            |question, cell| {
                cells.insert(question, cell);
                Ok(())
            },
        )?;
        anyhow::Ok(cells)
    };
    let (before, after) = (load(&args.before)?, load(&args.after)?);
    let questions: BTreeSet<&Question> = before.keys().chain(after.keys()).collect();
    // A pod that comes or goes changes what was or is allowed.
    let allowed = |cell: Option<&Cell>| cell.is_some_and(|cell| cell.allowed);
    let mut changed = 0;
    for question in questions {
        let (before, after) = (before.get(question), after.get(question));
        if allowed(before) == allowed(after) {
            continue;
        }
        changed += 1;
        if args.output == Output::Json {
            let change = Change {
                question,
                before,
                after,
            };
            say!("{}", serde_json::to_string(&change)?);
            continue;
        }
        let Question {
            from,
            to,
            port,
            protocol,
        } = question;
        let words = |cell: Option<&Cell>| cell.map_or_else(|| "not there".into(), Cell::words);
        let sign = if allowed(after) { '+' } else { '-' };
        say!("{sign} {from} -> {to} {port}/{protocol}");
        say!("    before: {}", words(before));
        say!("    after:  {}", words(after));
    }
    if args.output == Output::Text {
        say!("{changed} connections change");
    }
    Ok(changed > 0)
}

/// Whoever reads has enough.
fn done(result: Result<()>) -> Result<()> {
    match result {
        Err(e)
            if e.downcast_ref::<io::Error>().map(io::Error::kind)
                == Some(io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Every pod to every other, by destination and port.
fn each(
    oracle: &Oracle,
    ports: &[Service],
    mut tell: impl FnMut(Question, Cell) -> io::Result<()>,
) -> Result<()> {
    let declared = declared_ports(oracle);
    let ends = oracle.ends()?.into_iter();
    let ends: Vec<(Arc<str>, End)> = ends.map(|(name, end)| (name.into(), end)).collect();
    for (to_name, to) in &ends {
        let asked: BTreeSet<(u8, u16)> = match ports {
            [] => declared.get(&**to_name).cloned().unwrap_or_default(),
            // A name that this pod gives no port is no question about it.
            given => (given.iter().filter_map(|port| port.at(to).ok()))
                .map(|(protocol, port)| (protocol as u8, port))
                .collect(),
        };
        for (protocol, port) in asked {
            for (from_name, from) in ends.iter().filter(|(name, _)| name != to_name) {
                let side = |direction, subject: &End, peer: &End| {
                    oracle
                        .verdict(direction, subject, peer, protocol, port)
                        .map(Side)
                };
                let egress = side(Direction::Egress, from, to)?;
                let ingress = side(Direction::Ingress, to, from)?;
                let question = Question {
                    to: to_name.clone(),
                    port,
                    protocol: service::word(protocol),
                    from: from_name.clone(),
                };
                let cell = Cell {
                    allowed: egress.0.reason.is_none() && ingress.0.reason.is_none(),
                    egress,
                    ingress,
                };
                tell(question, cell).context("standard output")?;
            }
        }
    }
    Ok(())
}

/// Protocol and number of what containers declare, by pod.
fn declared_ports(oracle: &Oracle) -> BTreeMap<String, BTreeSet<(u8, u16)>> {
    let mut all = BTreeMap::new();
    for world in oracle.worlds() {
        for pod in &world.pods {
            let name = world.pod_name(&pod.namespace, &pod.name);
            let ports = pod.ports.iter().map(|port| (port.protocol, port.port));
            all.insert(name, ports.collect());
        }
    }
    all
}

impl Cell {
    /// The verdict, and what decided at the end that decided.
    fn words(&self) -> String {
        let brief = |word: &str, brief: &Brief| match (&brief.reason, &brief.rule) {
            (Some(reason), Some(rule)) => format!("denied   {word}: {reason} by {rule}"),
            (Some(reason), None) => format!("denied   {word}: {reason}"),
            (None, Some(rule)) => format!("allowed  {rule}"),
            (None, None) => "allowed".into(),
        };
        let (word, decides) = match self.egress.0.reason {
            Some(_) => ("egress", &self.egress.0),
            None => ("ingress", &self.ingress.0),
        };
        let mut words = brief(word, decides);
        for (word, Side(end)) in [("egress", &self.egress), ("ingress", &self.ingress)] {
            if let Some(staged) = &end.staged {
                words += &format!("; staged: {}", brief(word, staged));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/three-tier")
    }

    fn cells(folder: &Path, ports: &[&str]) -> BTreeMap<Question, Cell> {
        let ports: Vec<Service> = ports.iter().map(|p| p.parse().unwrap()).collect();
        let mut cells = BTreeMap::new();
        each(&Oracle::load(folder).unwrap(), &ports, |question, cell| {
            assert!(cells.insert(question, cell).is_none());
            Ok(())
        })
        .unwrap();
        cells
    }

    /// The short way to a verdict and the long one agree on every pair.
    #[test]
    fn the_table_says_of_each_pair_what_check_says() {
        let oracle = Oracle::load(&example()).unwrap();
        let cells = cells(&example(), &["8080/tcp", "53/udp"]);
        let pods = oracle.ends().unwrap().len();
        assert_eq!(cells.len(), 2 * pods * (pods - 1));
        let (mut allowed, mut denied) = (0, 0);
        for (question, cell) in &cells {
            let (from, to) = (
                oracle.end(&question.from).unwrap(),
                oracle.end(&question.to).unwrap(),
            );
            let protocol = if question.protocol == "tcp" { 6 } else { 17 };
            for (direction, subject, peer, side) in [
                (Direction::Egress, &from, &to, &cell.egress),
                (Direction::Ingress, &to, &from, &cell.ingress),
            ] {
                let half = oracle
                    .half(direction, subject, peer, protocol, question.port)
                    .unwrap();
                let whole = crate::end_verdict::EndVerdict::of(half);
                let mut whole = serde_json::to_value(whole).unwrap();
                let fields = whole.as_object_mut().unwrap();
                fields.remove("because");
                if !fields.contains_key("rule") {
                    fields.remove("cluster");
                }
                assert_eq!(serde_json::to_value(side).unwrap(), whole, "{question:?}");
            }
            *(if cell.allowed {
                &mut allowed
            } else {
                &mut denied
            }) += 1;
        }
        assert!(allowed > 5 && denied > 5, "{allowed} {denied}");
    }

    #[test]
    fn without_ports_those_that_pods_declare_are_asked() {
        let cells = cells(&example(), &[]);
        assert!(!cells.is_empty());
        assert!(cells.keys().all(|q| q.protocol == "tcp" && q.port != 53));
    }

    #[test]
    fn a_difference_is_told_and_equal_folders_have_none() {
        let copy = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("cp")
            .args(["-r"])
            .arg(example().join("."))
            .arg(copy.path())
            .status();
        assert!(status.unwrap().success());
        let args = |after: &Path| DiffArgs {
            before: example(),
            after: after.to_owned(),
            ports: Ports {
                port: vec!["80/tcp".parse().unwrap()],
            },
            output: Output::Json,
        };
        assert!(!diff(&args(copy.path())).unwrap());
        let policy = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: quarantine}\n\
             spec:\n  tier: Admin\n  priority: 0\n  subject: {namespaces: {}}\n  egress:\n  - action: Deny\n    to: [{namespaces: {}}]\n";
        fs::write(copy.path().join("east/quarantine.yaml"), policy).unwrap();
        assert!(diff(&args(copy.path())).unwrap());
        let (before, after) = (
            cells(&example(), &["80/tcp"]),
            cells(copy.path(), &["80/tcp"]),
        );
        let inside = |q: &Question| q.from.starts_with("east/") && q.to.starts_with("east/");
        for (question, cell) in after {
            let was = before[&question].allowed;
            // A pod of an unprotected namespace has no identity, and no policy.
            let unprotected = [&question.from, &question.to]
                .iter()
                .any(|n| n.contains("/legacy/"));
            assert_eq!(
                cell.allowed,
                was && (!inside(&question) || unprotected),
                "{question:?}"
            );
        }
    }
}
