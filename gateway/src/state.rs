//! What a gateway keeps on disk: sequences and what else it must remember, each file written whole or not
//! at all, readable by its owner alone. Keys lie beside it (`keys`).
//!
//! ```text
//! <state>/version.state   the version of all this
//! <state>/NAME.state      a checked record: SHA-256 (32 bytes), then JSON
//! <state>/NAME.sealed     an object of `peering`, which checks it itself
//! ```

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use identity::{SpiffeId, UnixMillis};
use observe::AuditLog;
use quic::{ClusterRoot, Svid, read_secret, write_secret};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use sha2::{Digest, Sha256};

/// How long the gateway's own X.509-SVID is valid; it is renewed at half life.
pub const SVID_VALIDITY: Duration = Duration::from_hours(24);
/// What the files of a state directory mean. Who changes that raises it, and reads what was before it.
const VERSION: u32 = 1;
/// Where it is written down.
const VERSION_RECORD: &str = "version";
/// A restore is under way, or was stopped in between (`cli/src/backup/directory.rs`).
const UNFINISHED: &str = "restore.unfinished";
/// The largest state file in bytes.
const MAX_STATE: u64 = 256 << 20;

/// The state directory.
#[derive(Clone, Debug)]
pub struct State {
    path: PathBuf,
}

impl State {
    /// Uses `path`, which is made (mode 0700) when missing.
    ///
    /// # Errors
    /// When it cannot be made or taken from others, or a later version of the gateway wrote it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("state directory {}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(what)?;
        if path.join(UNFINISHED).exists() {
            bail!(
                "a restore of {} is not finished: run `landbridge restore` again",
                path.display()
            );
        }
        let mut permissions = fs::metadata(path).with_context(what)?.permissions();
        if permissions.mode() & 0o077 != 0 {
            permissions.set_mode(0o700);
            fs::set_permissions(path, permissions).with_context(what)?;
        }
        let state = Self { path: path.into() };
        match state.load(VERSION_RECORD)? {
            Some(VERSION) => {}
            Some(later) if later > VERSION => bail!(
                "{} is of version {later}, and this gateway reads version {VERSION}: run the one that wrote it, \
                 or restore a backup from before it",
                path.display()
            ),
            // A new directory, or one from before there were versions.
            _ => state.store(VERSION_RECORD, &Some(VERSION))?,
        }
        Ok(state)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A record, or its default when it was never stored.
    ///
    /// # Errors
    /// When the file is damaged: what it remembered must not be forgotten without anybody knowing.
    pub fn load<T: DeserializeOwned + Default>(&self, name: &str) -> anyhow::Result<T> {
        let path = self.record(name);
        let Some(bytes) = read_secret(&path, MAX_STATE)? else {
            return Ok(T::default());
        };
        let damaged = || {
            let path = path.display();
            format!("{path} is damaged. Restore it from a backup, or remove it to begin anew")
        };
        let Some((sum, body)) = bytes.split_first_chunk::<32>() else {
            bail!(damaged());
        };
        if Sha256::digest(body).as_slice() != sum {
            bail!(damaged());
        }
        serde_json::from_slice(body).with_context(damaged)
    }

    /// Stores a record; when this returns, it survives a crash of the machine.
    ///
    /// # Errors
    /// When the disk does not take it; the old content is still there.
    pub fn store<T: Serialize>(&self, name: &str, value: &T) -> anyhow::Result<()> {
        let body = serde_json::to_vec(value)?;
        let mut bytes = Sha256::digest(&body).to_vec();
        bytes.extend(body);
        Ok(write_secret(&self.record(name), &bytes)?)
    }

    /// Stores bytes that carry a checksum of their own.
    ///
    /// # Errors
    /// As [`State::store`].
    pub fn store_sealed(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(write_secret(&self.sealed(name), bytes)?)
    }

    /// Everything that [`State::store_sealed`] ever stored, with the files' names.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn load_sealed(&self, limit: u64) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        let entries = fs::read_dir(&self.path).with_context(|| self.path.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "sealed")
                && let Some(bytes) = read_secret(&path, limit)?
            {
                all.push((path.display().to_string(), bytes.to_vec()));
            }
        }
        Ok(all)
    }

    fn sealed(&self, name: &str) -> PathBuf {
        self.path.join(format!("{}.sealed", short(name)))
    }

    fn record(&self, name: &str) -> PathBuf {
        self.path.join(format!("{}.state", short(name)))
    }
}

/// A trust domain may have 255 bytes, which is too long for a file with an ending.
fn short(name: &str) -> String {
    match name.len() {
        0..=200 => name.to_owned(),
        _ => hex::encode(Sha256::digest(name)),
    }
}

/// A fresh X.509-SVID for the gateway itself. It stands in the audit log before it is used. Waits for the
/// signer of the root, if there is one.
///
/// # Errors
/// When there is no randomness, no signature or no audit log.
pub fn own_svid(
    root: &ClusterRoot,
    id: &SpiffeId,
    audit: &AuditLog,
    now: UnixMillis,
) -> anyhow::Result<Svid> {
    let svid = root.issue(id, now, SVID_VALIDITY)?;
    let (root, expires) = (root.pin().to_string(), svid.expires_at().to_string());
    let about = json!({"what": "svid", "id": id, "root": root, "expires": expires});
    audit.write("signed", &about)?;
    Ok(svid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state() -> (tempfile::TempDir, State) {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        (directory, state)
    }

    #[test]
    fn what_a_later_version_wrote_is_left_alone() {
        let (_directory, state) = state();
        let again = || State::open(state.path()).map_err(|e| e.to_string());
        let read = || state.load::<Option<u32>>(VERSION_RECORD).unwrap();
        assert_eq!(read(), Some(VERSION));
        assert!(again().is_ok());
        state.store(VERSION_RECORD, &Some(VERSION + 1)).unwrap();
        let error = again().unwrap_err();
        assert!(
            error.contains("is of version 2, and this gateway"),
            "{error}"
        );
        assert_eq!(read(), Some(VERSION + 1));
        fs::remove_file(state.record(VERSION_RECORD)).unwrap();
        assert!(again().is_ok(), "from before there were versions");
    }

    #[test]
    fn a_restore_that_is_not_finished_is_no_state() {
        let (_directory, state) = state();
        fs::write(state.path().join(UNFINISHED), "").unwrap();
        let error = State::open(state.path()).unwrap_err().to_string();
        assert!(error.contains("`landbridge restore` again"), "{error}");
    }

    #[test]
    fn records_survive_and_damage_is_said() {
        let (_directory, state) = state();
        assert_eq!(state.load::<Vec<u64>>("marks").unwrap(), Vec::<u64>::new());
        state.store("marks", &vec![1u64, 2]).unwrap();
        assert_eq!(state.load::<Vec<u64>>("marks").unwrap(), [1, 2]);
        let long = "w".repeat(255);
        state.store_sealed(&long, b"one").unwrap();
        state.store_sealed("own", b"two").unwrap();
        state.store_sealed("own", b"three").unwrap();
        let mut sealed: Vec<_> = state
            .load_sealed(100)
            .unwrap()
            .into_iter()
            .map(|s| s.1)
            .collect();
        sealed.sort();
        assert_eq!(sealed, [b"one".to_vec(), b"three".to_vec()]);
        let path = state.path().join("marks.state");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        write_secret(&path, &bytes).unwrap();
        let error = state.load::<Vec<u64>>("marks").unwrap_err().to_string();
        assert!(error.contains("is damaged"), "{error}");
    }
}
