//! The files of the keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use identity::{TrustDomain, UnixMillis};
use peering::key_ring::KeyRing;
use quic::{ClusterRoot, Passphrase, read_secret, read_seed, write_secret, write_seed};
use rand_core::Rng;

use super::{KeyKind, RINGS, Rings, Seed};
use crate::state::State;

/// How long a root is valid.
const ROOT_VALIDITY: Duration = Duration::from_hours(24 * 3650);
/// The longest file of an issuer key in bytes.
const MAX_SEED: u64 = 4096;

/// Where they are, whose, and what protects them.
pub(super) struct Files {
    pub(super) state: State,
    pub(super) domain: TrustDomain,
    pub(super) passphrase: Option<Passphrase>,
}

impl Files {
    /// Before there are rings: a new directory, or one from before keys were exchanged.
    pub(super) fn begin(&self, rng: &mut impl Rng, now: UnixMillis) -> anyhow::Result<Rings> {
        for kind in KeyKind::ALL {
            if let Some((_, path)) = self.stored(kind)?.iter().find(|(number, _)| *number > 1) {
                bail!(
                    "{} is there, and keys.state, which says what it is good for, is not: restore it \
                     from a backup",
                    path.display()
                );
            }
        }
        self.make_root(1, now)?;
        self.make_seed(1, rng)?;
        let rings = Rings {
            root: KeyRing::new(now),
            issuer_key: KeyRing::new(now),
        };
        self.state.store(RINGS, &Some(&rings))?;
        Ok(rings)
    }

    pub(super) fn make_root(&self, number: u32, now: UnixMillis) -> anyhow::Result<ClusterRoot> {
        let path = self.file(KeyKind::Root, number);
        let passphrase = self.passphrase.as_ref();
        Ok(ClusterRoot::load_or_generate(
            &path,
            &self.domain,
            passphrase,
            now,
            ROOT_VALIDITY,
        )?)
    }

    pub(super) fn load_root(&self, number: u32) -> anyhow::Result<ClusterRoot> {
        let path = self.file(KeyKind::Root, number);
        let root = ClusterRoot::load(&path, &self.domain, self.passphrase.as_ref())?;
        root.with_context(|| missing(&path))
    }

    pub(super) fn make_seed(&self, number: u32, rng: &mut impl Rng) -> anyhow::Result<Seed> {
        let path = self.file(KeyKind::IssuerKey, number);
        if read_secret(&path, MAX_SEED)?.is_none() {
            let mut seed = Seed::default();
            rng.fill_bytes(&mut *seed);
            write_secret(&path, &write_seed(&seed, self.passphrase.as_ref())?)?;
        }
        self.load_seed(number)
    }

    pub(super) fn load_seed(&self, number: u32) -> anyhow::Result<Seed> {
        let path = self.file(KeyKind::IssuerKey, number);
        let passphrase = self.passphrase.as_ref();
        let stored = read_secret(&path, MAX_SEED)?.with_context(|| missing(&path))?;
        let seed = read_seed(&path, &stored, passphrase)?;
        if passphrase.is_some() && stored.as_slice() == seed.as_slice() {
            write_secret(&path, &write_seed(&seed, passphrase)?)?;
        }
        Ok(seed)
    }

    fn file(&self, kind: KeyKind, number: u32) -> PathBuf {
        let (before, ending) = name(kind);
        self.state.path().join(match number {
            1 => format!("{before}.{ending}"),
            _ => format!("{before}.{number}.{ending}"),
        })
    }

    /// The numbers of the keys that have files.
    pub(super) fn stored(&self, kind: KeyKind) -> anyhow::Result<Vec<(u32, PathBuf)>> {
        let (before, ending) = name(kind);
        let number = |file: &str| match file.strip_prefix(before)?.strip_suffix(ending)? {
            "." => Some(1),
            middle => middle.strip_prefix('.')?.strip_suffix('.')?.parse().ok(),
        };
        let path = self.state.path();
        let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
        let paths = entries.map(|entry| Ok(entry?.path()));
        let paths = paths.collect::<io::Result<Vec<_>>>()?;
        let named = paths.into_iter().filter_map(|path| {
            let number = number(path.file_name()?.to_str()?)?;
            Some((number, path))
        });
        Ok(named.collect())
    }
}

fn missing(path: &Path) -> String {
    format!(
        "{} is missing, and keys.state names it: restore it from a backup",
        path.display()
    )
}

/// The name of a key's file is `BEFORE.ENDING` for the first and `BEFORE.N.ENDING` for the Nth.
fn name(kind: KeyKind) -> (&'static str, &'static str) {
    match kind {
        KeyKind::Root => ("root", "pem"),
        KeyKind::IssuerKey => ("issuer", "key"),
    }
}
