//! The state directory on disk: read as it is at one moment, and put back as a whole.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use zeroize::Zeroizing;

use super::archive::{Files, MAX_ARCHIVE, is_audit, is_state};

/// While a restore is under way: a gateway does not start on it (`gateway/src/state.rs` names it too).
const UNFINISHED: &str = "restore.unfinished";
/// The lock of a running gateway (`gateway/xdp/src/bpffs.rs`).
const LOCK: &str = "xdp.lock";
/// Where files lie before they are put into place.
const NEW: &str = ".restored";
/// How often a directory is read that changes meanwhile.
const ATTEMPTS: usize = 50;

/// What tells two versions of a file apart: each is a file of its own, renamed into place.
type Version = (String, u64, i64, i64, u64);

/// A directory that no gateway uses as long as this is held.
#[derive(Debug)]
pub struct Locked {
    _lock: Flock<File>,
}

impl Locked {
    /// Takes `state`, which is made when missing; `None` when a gateway uses it.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn take(state: &Path) -> Result<Option<Self>> {
        let what = || format!("state directory {}", state.display());
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(state)
            .with_context(what)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state.join(LOCK))
            .with_context(what)?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock);
        Ok(locked.ok().map(|lock| Self { _lock: lock }))
    }
}

/// The files of `state`, all of one moment, whether a gateway runs on it or not.
///
/// # Errors
/// When it cannot be read, or changes all the time.
pub fn read(state: &Path, with_audit: bool) -> Result<Files> {
    if state.join(UNFINISHED).exists() {
        bail!(
            "a restore of {} is not finished: there is nothing to back up",
            state.display()
        );
    }
    for _ in 0..ATTEMPTS {
        let before = list(state)?;
        let mut files = Files::new();
        let mut left = MAX_ARCHIVE;
        for (name, ..) in before
            .iter()
            .filter(|(name, ..)| with_audit || !is_audit(name))
        {
            let path = state.join(name);
            let Ok(bytes) = fs::read(&path).map(Zeroizing::new) else {
                // Gone, or not to be read: the next listing tells which.
                continue;
            };
            let fits = left.checked_sub(bytes.len() as u64);
            left = fits.with_context(|| format!("{} is too large", state.display()))?;
            files.insert(name.clone(), bytes);
        }
        let whole = before
            .iter()
            .all(|(name, ..)| files.contains_key(name) || is_audit(name));
        if list(state)? == before {
            if whole {
                return Ok(files);
            }
            bail!(
                "not every file in {} can be read: run it as root",
                state.display()
            );
        }
    }
    bail!("{} changes all the time: try again", state.display())
}

fn list(state: &Path) -> Result<Vec<Version>> {
    let what = || format!("cannot read {}", state.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(state).with_context(what)? {
        let entry = entry.with_context(what)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // It is renamed into place before it is listed again: then the directory changed.
        let Ok(about) = entry.metadata() else {
            continue;
        };
        if about.is_file() && is_state(&name) {
            let (seconds, nanos) = (about.mtime(), about.mtime_nsec());
            // The audit log grows with every signature, and is whole at every moment.
            all.push(match is_audit(&name) {
                true => (name, 0, 0, 0, 0),
                false => (name, about.ino(), seconds, nanos, about.len()),
            });
        }
    }
    all.sort();
    Ok(all)
}

/// Puts `files` into `state`, whose own are set aside if they may be, in the directory that is returned.
/// Whatever stops it, either nothing changed, or no gateway starts before it was done again.
///
/// # Errors
/// When there are files and they may not be replaced, or the disk does not take the new ones.
pub fn write(
    _: &Locked,
    state: &Path,
    files: &Files,
    replace: bool,
    at: u64,
) -> Result<Option<PathBuf>> {
    let unfinished = state.join(UNFINISHED);
    let old: Vec<String> = list(state)?
        .into_iter()
        .map(|(name, ..)| name)
        .filter(|name| !is_audit(name))
        .collect();
    if !old.is_empty() && !replace && !unfinished.exists() {
        bail!(
            "{} holds a state already: --replace sets it aside",
            state.display()
        );
    }
    let new = state.join(NEW);
    let prepared = prepare(&new, files);
    if prepared.is_err() {
        // Best effort: what could not be written may not be removable either.
        let _ = fs::remove_dir_all(&new);
    }
    prepared.with_context(|| format!("nothing changed: cannot write to {}", new.display()))?;
    // From here on no gateway starts until all is in place.
    secret(&unfinished, b"run landbridge restore again\n")?;
    sync(state)?;
    let aside = state.join(format!("replaced-{at}"));
    let put = || -> Result<()> {
        fs::set_permissions(state, fs::Permissions::from_mode(0o700))?;
        if !old.is_empty() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&aside)?;
        }
        for name in &old {
            fs::rename(state.join(name), aside.join(name))?;
        }
        for name in files.keys() {
            fs::rename(new.join(name), state.join(name))?;
        }
        fs::remove_dir(&new)?;
        sync(state)?;
        fs::remove_file(&unfinished)?;
        sync(state)
    };
    put().with_context(|| format!("{} is not restored: do it again", state.display()))?;
    Ok((!old.is_empty()).then_some(aside))
}

fn prepare(new: &Path, files: &Files) -> Result<()> {
    if new.exists() {
        fs::remove_dir_all(new)?;
    }
    DirBuilder::new().mode(0o700).create(new)?;
    for (name, bytes) in files {
        secret(&new.join(name), bytes)?;
    }
    sync(new)
}

/// Writes a file that is its owner's alone, and that was not there, unless it is the mark.
fn secret(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    Ok(file.sync_all()?)
}

fn sync(directory: &Path) -> Result<()> {
    Ok(File::open(directory)?.sync_all()?)
}

/// Writes a backup, whole or not at all, where nothing was.
///
/// # Errors
/// When there is something, or it cannot be written.
pub fn write_backup(path: &Path, bytes: &[u8]) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let name = path.file_name().with_context(what)?.to_string_lossy();
    let hidden = format!(".{name}.{}", std::process::id());
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let temporary = directory.join(hidden);
    // A link is refused where a file is; renaming would replace it.
    let written = secret(&temporary, bytes)
        .and_then(|()| Ok(fs::hard_link(&temporary, path)?))
        .and_then(|()| sync(directory));
    let _ = fs::remove_file(&temporary);
    written.with_context(what)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::{super::archive::tests::files, *};

    fn lock(state: &Path) -> Locked {
        Locked::take(state).unwrap().unwrap()
    }

    fn put(state: &Path, replace: bool) -> Result<Option<PathBuf>> {
        write(&lock(state), state, &files(), replace, 5)
    }

    #[test]
    fn what_is_put_back_is_what_was_read_and_is_the_owners_alone() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("state");
        assert_eq!(put(&state, false).unwrap(), None);
        assert_eq!(read(&state, false).unwrap(), files());
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        for name in files().keys() {
            let mode = fs::metadata(state.join(name)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        // What is no state is not read: the log only when it is asked for.
        fs::write(state.join("audit.log"), "{}\n").unwrap();
        fs::write(state.join(".issuer.key.1.2"), "half of it").unwrap();
        fs::create_dir(state.join("bpf")).unwrap();
        assert_eq!(read(&state, false).unwrap(), files());
        assert_eq!(read(&state, true).unwrap().len(), files().len() + 1);
    }

    #[test]
    fn a_state_that_is_there_is_set_aside_only_when_that_is_said() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path();
        fs::write(state.join("issuer.key"), "another").unwrap();
        fs::write(state.join("peer.west.sealed"), "old").unwrap();
        fs::write(state.join("audit.log"), "{}\n").unwrap();
        let error = put(state, false).unwrap_err().to_string();
        assert!(error.contains("holds a state already"), "{error}");
        let aside = put(state, true).unwrap().unwrap();
        assert_eq!(fs::read(aside.join("issuer.key")).unwrap(), b"another");
        assert!(!state.join("peer.west.sealed").exists(), "of the old one");
        assert!(state.join("audit.log").exists(), "the log goes on");
        assert_eq!(read(state, false).unwrap(), files());
    }

    #[test]
    fn a_gateway_that_runs_keeps_its_directory() {
        let place = tempfile::tempdir().unwrap();
        let _held = lock(place.path());
        assert!(Locked::take(place.path()).unwrap().is_none());
    }

    /// A crash in between: the mark is there, and the next attempt needs no word.
    #[test]
    fn an_unfinished_restore_is_done_again() {
        let place = tempfile::tempdir().unwrap();
        let state = place.path();
        secret(&state.join(UNFINISHED), b"").unwrap();
        fs::write(state.join("issuer.key"), "of the archive").unwrap();
        let error = read(state, false).unwrap_err().to_string();
        assert!(error.contains("is not finished"), "{error}");
        put(state, false).unwrap();
        assert!(!state.join(UNFINISHED).exists());
        assert_eq!(read(state, false).unwrap(), files());
    }

    #[test]
    fn a_full_disk_changes_nothing() {
        if !nix::unistd::geteuid().is_root() {
            // Only root can make a small disk.
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let state = place.path();
        let size = Some("size=16k,mode=0700");
        mount(Some("tmpfs"), state, Some("tmpfs"), MsFlags::empty(), size).unwrap();
        fs::write(state.join("issuer.key"), "another").unwrap();
        fs::write(state.join("filler"), vec![0; 8000]).unwrap();
        let error = put(state, true).unwrap_err();
        let left: Vec<String> = list(state).unwrap().into_iter().map(|f| f.0).collect();
        let kept = fs::read(state.join("issuer.key"));
        let backup = write_backup(&state.join("backup"), &[0; 16_000]);
        let half = state.join("backup").exists();
        umount2(state, MntFlags::MNT_DETACH).unwrap();
        assert!(error.to_string().contains("nothing changed"), "{error:#}");
        assert_eq!(left, ["filler", "issuer.key"]);
        assert_eq!(kept.unwrap(), b"another");
        assert!(backup.is_err() && !half);
    }

    #[test]
    fn a_backup_replaces_no_file() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("backup");
        write_backup(&path, b"first").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = format!("{:#}", write_backup(&path, b"second").unwrap_err());
        assert!(error.contains("File exists"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
    }
}
