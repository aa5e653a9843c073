//! Undoes everything that the journal names, in the reverse order of dependence: processes, mounts,
//! namespaces, files. Each part is tried even when another failed, and what stays is reported.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};

use super::{
    journal::{self, Entry},
    netns,
    process::{self, ProcessId},
    state::State,
};

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// What is to stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// The logs, for whoever wants to know why `up` failed; the next `up` or `down` removes them.
    Logs,
}

/// What was undone, and what was found on the way.
#[derive(Debug, Default)]
pub struct Undone {
    /// Processes that were still alive.
    pub processes: usize,
    /// Namespaces that existed.
    pub namespaces: usize,
    /// What people should know.
    pub remarks: Vec<String>,
}

/// Undoes the demo in `state`; `None` when there is none.
///
/// # Errors
/// When something could not be undone: all of it, one per line.
pub fn down(state: &State, keep: Keep) -> Result<Option<Undone>> {
    let Some(entries) = journal::read(&state.journal())? else {
        return Ok(None);
    };
    let mut undone = Undone::default();
    let mut problems = Vec::new();
    end_processes(state, &entries, &mut undone);
    unmount_below(state.dir(), &mut problems);
    remove_namespaces(&entries, &mut undone, &mut problems);
    // Only now: were the journal gone first, a failure above could not be tried again.
    if problems.is_empty() {
        let ours = entries.contains(&Entry::StateDir { ours: true });
        if let Err(e) = remove_files(state, ours, keep) {
            problems.push(format!("{e:#}"));
        }
    }
    if problems.is_empty() {
        return Ok(Some(undone));
    }
    bail!(
        "not everything could be removed:\n  - {}",
        problems.join("\n  - ")
    )
}

fn end_processes(state: &State, entries: &[Entry], undone: &mut Undone) {
    let mut recorded: Vec<(&str, ProcessId)> = Vec::new();
    for entry in entries {
        if let Entry::Process { role, id } = entry {
            recorded.push((role, *id));
        }
    }
    // What was started between two lines of the journal, and what pods' commands started.
    let strays = process::marked(state.dir())
        .into_iter()
        .filter(|stray| recorded.iter().all(|(_, id)| id != stray))
        .map(|id| ("a process of a pod", id))
        .collect::<Vec<_>>();
    let own = i32::try_from(std::process::id()).ok();
    let alive: Vec<_> = recorded
        .into_iter()
        .chain(strays)
        .filter(|(_, id)| id.is_alive() && Some(id.pid) != own)
        .collect();
    undone.processes = alive.len();
    let ids: Vec<_> = alive.iter().map(|(_, id)| *id).collect();
    for id in process::end(&ids, GRACE) {
        let role = alive
            .iter()
            .find(|(_, other)| *other == id)
            .map_or("", |(role, _)| role);
        undone.remarks.push(format!(
            "{role} (pid {}) did not end within {} s and was killed",
            id.pid,
            GRACE.as_secs()
        ));
    }
}

/// bpffs mounts of the gateways; the pinned programs go with them.
fn unmount_below(dir: &Path, problems: &mut Vec<String>) {
    let mut mounts = mounts_below(dir);
    // A mount inside another goes first.
    mounts.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for mount in mounts {
        if let Err(e) = umount2(&mount, MntFlags::MNT_DETACH) {
            problems.push(format!("cannot unmount {}: {e}", mount.display()));
        }
    }
}

/// Mount points below `dir`.
pub fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(unescape(path)))
        .filter(|path| path.starts_with(dir))
        .collect()
}

/// mountinfo writes space, tab, newline and backslash as three octal digits (proc(5)).
fn unescape(path: &str) -> String {
    [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ]
    .iter()
    .fold(path.into(), |path: String, (code, sign)| {
        path.replace(code, sign)
    })
}

fn remove_namespaces(entries: &[Entry], undone: &mut Undone, problems: &mut Vec<String>) {
    let existing = netns::names();
    for entry in entries {
        let Entry::Netns { name } = entry else {
            continue;
        };
        if !existing.contains(name) {
            continue;
        }
        match netns::remove(name) {
            Ok(()) => undone.namespaces += 1,
            Err(e) => problems.push(format!("{e:#}")),
        }
    }
}

fn remove_files(state: &State, ours: bool, keep: Keep) -> Result<()> {
    let dir = state.dir();
    if keep == Keep::Logs {
        for folder in ["config", "views", "captures", "gateways", "agents"] {
            remove_tree(&dir.join(folder))?;
        }
        remove_file(&dir.join("plan.json"))?;
        // The journal is what makes the directory ours at the next start.
        return fs::write(
            state.journal(),
            format!("{}\n", serde_json::to_string(&Entry::StateDir { ours })?),
        )
        .context("cannot write the journal");
    }
    for folder in ["config", "views", "captures", "gateways", "agents", "logs"] {
        remove_tree(&dir.join(folder))?;
    }
    for file in ["plan.json", "journal"] {
        remove_file(&dir.join(file))?;
    }
    if ours {
        fs::remove_dir(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn mount_points_with_spaces_are_found() {
        assert_eq!(unescape("/run/a\\040b\\134c"), "/run/a b\\c");
        assert!(mounts_below(Path::new("/proc")).contains(&PathBuf::from("/proc")));
        assert!(mounts_below(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn a_foreign_directory_keeps_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::new(dir.path()).unwrap();
        state.claim().unwrap();
        state.make_folders().unwrap();
        fs::write(state.log("pod"), "said").unwrap();
        assert!(down(&state, Keep::Logs).unwrap().is_some());
        assert_eq!(fs::read_to_string(state.log("pod")).unwrap(), "said");
        assert!(down(&state, Keep::Nothing).unwrap().is_some());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(down(&state, Keep::Nothing).unwrap().is_none());
    }
}
