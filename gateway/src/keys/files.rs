//! The files of the keys.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use identity::{TrustDomain, UnixMillis};
use peering::key_ring::KeyRing;
use quic::{ClusterRoot, read_secret, read_seed, write_secret, write_seed};
use rand_core::Rng;

use super::{KeyKind, Protection, RINGS, Rings, Seed};
use crate::state::State;

/// How long a root is valid.
const ROOT_VALIDITY: Duration = Duration::from_hours(24 * 3650);
/// The longest file of an issuer key in bytes.
const MAX_SEED: u64 = 4096;

/// Where they are, whose, what protects them, and who keeps those of roots that are not there.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) state: State,
    pub(super) domain: TrustDomain,
    pub(super) protection: Protection,
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
        let root = match self.protection.no_roots {
            true => KeyRing::none(),
            false => {
                self.begin_roots(now)?;
                KeyRing::new(now)
            }
        };
        self.make_seed(1, rng)?;
        let rings = Rings {
            root,
            issuer_key: KeyRing::new(now),
        };
        self.state.store(RINGS, &Some(&rings))?;
        Ok(rings)
    }

    /// The first root. Peers may believe one that is there, wherever the next one's key is to be.
    pub(super) fn begin_roots(&self, now: UnixMillis) -> anyhow::Result<()> {
        if self.find_root(1)?.is_none() {
            self.make_root(1, now)?;
        }
        Ok(())
    }

    /// Waits for the signer, if there is one. A root that was made and never announced takes its place,
    /// unless its key is not where the next one's is to be.
    pub(super) fn make_root(&self, number: u32, now: UnixMillis) -> anyhow::Result<ClusterRoot> {
        let path = self.file(KeyKind::Root, number);
        let Protection {
            signer, on_disk, ..
        } = &self.protection;
        let signer = signer.as_ref().filter(|_| !on_disk);
        if let Some(root) = self.find_root(number)?
            && root.is_held() == signer.is_none()
        {
            return Ok(root);
        }
        let domain = &self.domain;
        let root = match signer {
            Some(signer) => {
                let public = signer.new_key(number)?;
                ClusterRoot::certify(domain, &public, signer.of(number), now, ROOT_VALIDITY)
            }
            None => ClusterRoot::generate(domain, now, ROOT_VALIDITY),
        }?;
        root.store(&path, self.protection.passphrase.as_ref())?;
        Ok(root)
    }

    pub(super) fn load_root(&self, number: u32) -> anyhow::Result<ClusterRoot> {
        let path = self.file(KeyKind::Root, number);
        self.find_root(number)?.with_context(|| missing(&path))
    }

    pub(super) fn find_root(&self, number: u32) -> anyhow::Result<Option<ClusterRoot>> {
        let Protection {
            passphrase, signer, ..
        } = &self.protection;
        let path = self.file(KeyKind::Root, number);
        let signer = signer.as_ref().map(|signer| signer.of(number));
        let passphrase = passphrase.as_ref();
        Ok(ClusterRoot::load(&path, &self.domain, passphrase, signer)?)
    }

    /// Removes a root that is believed no more and whose private key is with the signer; waits for it.
    pub(super) fn retire_root(&self, number: u32) -> anyhow::Result<()> {
        let path = self.file(KeyKind::Root, number);
        let alone = || {
            let path = path.display();
            format!("no signer is configured that could retire the key of {path}: remove that file")
        };
        self.protection
            .signer
            .as_ref()
            .with_context(alone)?
            .retire(number)?;
        fs::remove_file(&path).with_context(|| path.display().to_string())
    }

    pub(super) fn make_seed(&self, number: u32, rng: &mut impl Rng) -> anyhow::Result<Seed> {
        let path = self.file(KeyKind::IssuerKey, number);
        if read_secret(&path, MAX_SEED)?.is_none() {
            let mut seed = Seed::default();
            rng.fill_bytes(&mut *seed);
            write_secret(
                &path,
                &write_seed(&seed, self.protection.passphrase.as_ref())?,
            )?;
        }
        self.load_seed(number)
    }

    pub(super) fn load_seed(&self, number: u32) -> anyhow::Result<Seed> {
        let path = self.file(KeyKind::IssuerKey, number);
        let passphrase = self.protection.passphrase.as_ref();
        let stored = read_secret(&path, MAX_SEED)?.with_context(|| missing(&path))?;
        let seed = read_seed(&path, &stored, passphrase)?;
        if passphrase.is_some() && stored.as_slice() == seed.as_slice() {
            write_secret(&path, &write_seed(&seed, passphrase)?)?;
        }
        Ok(seed)
    }

    pub(super) fn file(&self, kind: KeyKind, number: u32) -> PathBuf {
        let (before, ending) = name(kind);
        self.state.path().join(match number {
            1 => format!("{before}.{ending}"),
            _ => format!("{before}.{number}.{ending}"),
        })
    }

    /// The numbers of the keys that have files.
    pub(super) fn stored(&self, kind: KeyKind) -> anyhow::Result<Vec<(u32, PathBuf)>> {
        let path = self.state.path();
        let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
        let paths = entries.map(|entry| Ok(entry?.path()));
        let paths = paths.collect::<io::Result<Vec<_>>>()?;
        let named = paths.into_iter().filter_map(|path| {
            let (of, number) = key_of(path.file_name()?.to_str()?)?;
            (of == kind).then_some((number, path))
        });
        Ok(named.collect())
    }
}

/// Whether a private key is in the file, in PEM or as a seed; else it is with the signer.
pub(super) fn holds_key(kind: KeyKind, path: &Path) -> anyhow::Result<bool> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    let label = b"PRIVATE KEY-----";
    Ok(kind == KeyKind::IssuerKey || text.windows(label.len()).any(|part| part == label))
}

fn missing(path: &Path) -> String {
    format!(
        "{} is missing, and keys.state names it: restore it from a backup",
        path.display()
    )
}

/// Which key is in the file of that name.
pub(super) fn key_of(file: &str) -> Option<(KeyKind, u32)> {
    KeyKind::ALL.into_iter().find_map(|kind| {
        let (before, ending) = name(kind);
        let number = match file.strip_prefix(before)?.strip_suffix(ending)? {
            "." => 1,
            middle => middle.strip_prefix('.')?.strip_suffix('.')?.parse().ok()?,
        };
        Some((kind, number))
    })
}

/// The name of a key's file is `BEFORE.ENDING` for the first and `BEFORE.N.ENDING` for the Nth.
fn name(kind: KeyKind) -> (&'static str, &'static str) {
    match kind {
        KeyKind::Root => ("root", "pem"),
        KeyKind::IssuerKey => ("issuer", "key"),
    }
}
