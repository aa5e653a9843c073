//! The processes of the demo: started inside a namespace, found again by pid and start time, ended
//! one by one.

use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{
    journal::{Entry, Journal},
    netns, wait,
};

/// Every process of a demo carries this variable; its value is the state directory.
pub const MARK: &str = "LANDBRIDGE_DEMO_STATE";

/// One process and no other: pids are used again, a pid with a start time is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat, proc(5)).
    pub start: u64,
}

/// What to start.
pub struct Spec<'a> {
    /// What it does: names it in the journal and in messages.
    pub role: String,
    /// Where it runs.
    pub netns: &'a str,
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub args: Vec<String>,
    /// Gets what it writes.
    pub log: PathBuf,
}

impl ProcessId {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let (_, start) = stat(pid)?;
        Some(Self { pid, start })
    }

    /// It runs: it was not replaced by another and is no zombie. While one of its threads has not
    /// ended, its files and sockets are open.
    pub fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(_, start)| start == self.start)
            && self.threads().any(|state| state != 'Z')
    }

    /// All its threads stand still (SIGSTOP).
    pub fn is_stopped(self) -> bool {
        self.is_alive() && self.threads().all(|state| state == 'T')
    }

    /// The states of its threads.
    fn threads(self) -> impl Iterator<Item = char> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
        let stats = threads.into_iter().flatten().flatten();
        stats.filter_map(|thread| Some(read_stat(&thread.path().join("stat"))?.0))
    }

    /// Sends `signal`, unless it is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may end between the two calls; then there is nothing left to signal.
            let _: Result<(), Errno> = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

/// Starts `spec`, detached from the terminal's process group, and records it.
pub fn start(journal: &Journal, state: &Path, spec: &Spec<'_>) -> Result<ProcessId> {
    journal.record(&Entry::Starting {
        role: spec.role.clone(),
    })?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("cannot open {}", spec.log.display()))?;
    let mut command = Command::new(spec.program);
    command
        .args(&spec.args)
        .env(MARK, state)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let child = netns::inside(spec.netns, || {
        command
            .spawn()
            .with_context(|| format!("cannot start {} ({})", spec.role, spec.program.display()))
    })?;
    let pid = i32::try_from(child.id())?;
    // Until it is waited for, its pid names it or its zombie: nothing else can have the pid yet.
    let id = ProcessId::of(pid).with_context(|| format!("{} vanished at its start", spec.role))?;
    journal.record(&Entry::Process {
        role: spec.role.clone(),
        id,
    })?;
    Ok(id)
}

/// Asks all of `ids` to end, and after `grace` ends those that did not.
pub fn end(ids: &[ProcessId], grace: Duration) -> Vec<ProcessId> {
    for id in ids {
        id.signal(Signal::SIGTERM);
        // A stopped process hears SIGTERM only when it goes on.
        id.signal(Signal::SIGCONT);
    }
    let all_gone = || ids.iter().all(|id| !id.is_alive());
    if wait::until(grace, all_gone) {
        return Vec::new();
    }
    let stubborn: Vec<_> = ids.iter().copied().filter(|id| id.is_alive()).collect();
    for id in &stubborn {
        id.signal(Signal::SIGKILL);
    }
    wait::until(Duration::from_secs(5), all_gone);
    stubborn
}

/// Every process that carries the mark of the demo in `state`.
pub fn marked(state: &Path) -> BTreeSet<ProcessId> {
    let mut mark = MARK.as_bytes().to_vec();
    mark.push(b'=');
    mark.extend_from_slice(state.as_os_str().as_encoded_bytes());
    let ours = |pid: &i32| {
        fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|environ| environ.split(|&b| b == 0).any(|var| var == mark))
    };
    pids().filter(ours).filter_map(ProcessId::of).collect()
}

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    const ENOUGH: u64 = 64 * 1024;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(length.saturating_sub(ENOUGH)))?;
        let mut bytes = Vec::new();
        file.take(ENOUGH).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<_> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(e) => format!("({} cannot be read: {e})", log.display()),
    }
}

/// State and start time of a process: fields 3 and 22 of /proc/PID/stat. The name in field 2 may
/// hold spaces and parentheses, so fields are counted after its last parenthesis.
fn stat(pid: i32) -> Option<(char, u64)> {
    read_stat(Path::new(&format!("/proc/{pid}/stat")))
}

fn read_stat(path: &Path) -> Option<(char, u64)> {
    let text = fs::read_to_string(path).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_process_is_found_by_its_mark_and_ended() {
        let state = format!("/nowhere/{}", std::process::id());
        let mut child = Command::new("sleep")
            .arg("1000")
            .env(MARK, &state)
            .spawn()
            .unwrap();
        let id = ProcessId::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(id.is_alive());
        assert!(wait::until(Duration::from_secs(5), || {
            marked(Path::new(&state)).contains(&id)
        }));
        assert_eq!(end(&[id], Duration::from_secs(5)), []);
        assert!(!id.is_alive());
        child.wait().unwrap();
        assert!(!id.is_alive());
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_signalled() {
        let own = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.is_alive());
        let other = ProcessId {
            start: own.start + 1,
            ..own
        };
        assert!(!other.is_alive());
        other.signal(Signal::SIGKILL);
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&log, 2), "two\nthree");
        assert_eq!(tail(&log, 9), "one\ntwo\nthree");
        assert!(tail(&dir.path().join("none"), 2).contains("cannot be read"));
    }
}
