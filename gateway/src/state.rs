//! What a gateway keeps on disk: keys and sequences, each file written whole or not at all, readable
//! by its owner alone.
//!
//! ```text
//! <state>/root.pem        the cluster's X.509 root
//! <state>/issuer.key      the seed that signs credentials, records and digests (32 bytes)
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
use identity::{IssuerKey, SpiffeId, TrustDomain, UnixMillis};
use quic::{ClusterRoot, Svid, read_secret, write_secret};
use rand_core::Rng;
use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// How long a root is valid.
const ROOT_VALIDITY: Duration = Duration::from_hours(24 * 3650);
/// How long the gateway's own X.509-SVID is valid; it is renewed at half life.
pub const SVID_VALIDITY: Duration = Duration::from_hours(24);
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
    /// When it cannot be made or taken from others.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("state directory {}", path.display());
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(what)?;
        let mut permissions = fs::metadata(path).with_context(what)?.permissions();
        if permissions.mode() & 0o077 != 0 {
            permissions.set_mode(0o700);
            fs::set_permissions(path, permissions).with_context(what)?;
        }
        Ok(Self { path: path.into() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's root, made at the first call.
    ///
    /// # Errors
    /// When the file cannot be used; it is never replaced.
    pub fn root(&self, trust_domain: &TrustDomain, now: UnixMillis) -> anyhow::Result<ClusterRoot> {
        let path = self.path.join("root.pem");
        Ok(ClusterRoot::load_or_generate(
            &path,
            trust_domain,
            now,
            ROOT_VALIDITY,
        )?)
    }

    /// The key that signs credentials, made at the first call.
    ///
    /// # Errors
    /// When the file cannot be used; it is never replaced.
    pub fn issuer_key(&self, rng: &mut impl Rng) -> anyhow::Result<IssuerKey> {
        let path = self.path.join("issuer.key");
        if let Some(stored) = read_secret(&path, 64)? {
            let seed = <&[u8; 32]>::try_from(stored.as_slice())
                .with_context(|| format!("{} does not hold 32 bytes", path.display()))?;
            return Ok(IssuerKey::from_seed(seed));
        }
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        write_secret(&path, &*seed)?;
        Ok(IssuerKey::from_seed(&seed))
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
        // A trust domain may have 255 bytes, which is too long for a file with an ending.
        let name = match name.len() {
            0..=200 => name.to_owned(),
            _ => hex::encode(Sha256::digest(name)),
        };
        self.path.join(format!("{name}.sealed"))
    }

    fn record(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.state"))
    }
}

/// A fresh X.509-SVID for the gateway itself.
///
/// # Errors
/// When there is no randomness.
pub fn own_svid(root: &ClusterRoot, id: &SpiffeId, now: UnixMillis) -> anyhow::Result<Svid> {
    Ok(root.issue(id, now, SVID_VALIDITY)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    use super::*;

    fn state() -> (tempfile::TempDir, State) {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        (directory, state)
    }

    #[test]
    fn keys_are_made_once_and_private() {
        let (_directory, state) = state();
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let first = state.issuer_key(&mut rng).unwrap().public();
        let second = state.issuer_key(&mut rng).unwrap().public();
        assert_eq!(first.as_bytes(), second.as_bytes());
        let domain = TrustDomain::new("east").unwrap();
        let now = UnixMillis(1_700_000_000_000);
        let root = state.root(&domain, now).unwrap();
        assert_eq!(state.root(&domain, now).unwrap().pin(), root.pin());
        for entry in fs::read_dir(state.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert!(
            state.root(&TrustDomain::new("west").unwrap(), now).is_err(),
            "another cluster's directory"
        );
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
