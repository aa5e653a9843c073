//! What the demo made, written down before it is made, so that `down`, Ctrl-C in the middle of
//! `up` and the next `up` after a crash find all of it.
//!
//! One JSON object per line. A line that a crash cut short is ignored: what it announced was not
//! made yet.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    path::Path,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;

/// How the roles of processes begin that `demo check` starts and ends.
pub const CAPTURE: &str = "capture-";
/// How the roles of what runs in pods begin.
pub const POD: &str = "pod-";

/// One thing that `down` has to undo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "made", rename_all = "kebab-case")]
pub enum Entry {
    /// The state directory; it is removed only if we made it.
    StateDir {
        /// It did not exist before.
        ours: bool,
    },
    /// A network namespace; its links, addresses, routes and firewall rules go with it.
    Netns {
        /// Its name under /run/netns.
        name: String,
    },
    /// A process is about to be started in a namespace; found by its environment if no
    /// [`Entry::Process`] follows.
    Starting {
        /// What it does.
        role: String,
    },
    /// A process that was started.
    Process {
        /// What it does.
        role: String,
        /// Which one.
        #[serde(flatten)]
        id: ProcessId,
    },
    /// Everything is up.
    Ready {
        /// Gateways and agents run.
        enforcement: bool,
    },
}

/// The open journal of a demo.
pub struct Journal(Mutex<File>);

impl Journal {
    /// Opens `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("cannot open the journal {}", path.display()))?;
        Ok(Self(Mutex::new(file)))
    }

    /// Writes `entry` durably.
    pub fn record(&self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_string(entry)?;
        line.push('\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(line.as_bytes())
            .and_then(|()| file.sync_data())
            .context("cannot write the journal")
    }
}

/// All entries of the journal at `path`; `None` when there is none.
pub fn read(path: &Path) -> Result<Option<Vec<Entry>>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(parse(&text))),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read the journal {}", path.display())),
    }
}

/// Whether the demo came up and its gateways and agents still run: of each role, the process that
/// was started last.
pub fn is_whole(entries: &[Entry]) -> bool {
    let mut last = BTreeMap::new();
    for entry in entries {
        if let Entry::Process { role, id } = entry {
            last.insert(role, *id);
        }
    }
    let ready = entries.iter().any(|e| matches!(e, Entry::Ready { .. }));
    let (pods, others): (Vec<_>, Vec<_>) = last
        .into_iter()
        .filter(|(role, _)| !role.starts_with(CAPTURE))
        .partition(|(role, _)| role.starts_with(POD));
    // What runs in a pod may end by itself, where something else is left to judge by.
    let judged = if others.is_empty() { pods } else { others };
    ready && judged.iter().all(|(_, id)| id.is_alive())
}

fn parse(text: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_recorded_is_read_and_a_torn_line_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        assert_eq!(read(&path).unwrap(), None);
        let entries = [
            Entry::StateDir { ours: true },
            Entry::Netns {
                name: "lb-wan".into(),
            },
            Entry::Process {
                role: "pod".into(),
                id: ProcessId { pid: 7, start: 99 },
            },
            Entry::Ready { enforcement: true },
        ];
        let journal = Journal::open(&path).unwrap();
        for entry in &entries {
            journal.record(entry).unwrap();
        }
        assert_eq!(read(&path).unwrap().unwrap(), entries);
        let whole = std::fs::read_to_string(&path).unwrap();
        assert_eq!(parse(&whole[..whole.len() - 3]), entries[..3]);
    }

    #[test]
    fn a_demo_is_whole_while_the_last_process_of_each_role_runs() {
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let gone = ProcessId {
            start: own.start + 1,
            ..own
        };
        let process = |role: &str, id| Entry::Process {
            role: role.into(),
            id,
        };
        let ready = Entry::Ready { enforcement: true };
        let whole = [
            process("pod-x", gone),
            ready.clone(),
            process("pod", own),
            process("capture-x", gone),
        ];
        assert!(is_whole(&whole));
        assert!(!is_whole(&[process("pod", own)]));
        assert!(!is_whole(&[
            ready,
            process("pod", own),
            process("agent", gone)
        ]));
    }
}
