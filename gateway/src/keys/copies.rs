//! Copies of all keys, as they are kept outside of the state directory (`secret`).
//!
//! A copy has the files of the keys and `keys.state`, as they are on disk: what a passphrase protects there, it
//! protects in a copy. A signer's keys are in none.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use identity::{TrustDomain, UnixMillis};
use peering::peers::mark_restored;
use quic::{read_secret, write_secret};
use sources::secret::SecretFiles;

use super::{
    KeyKind, Protection, RINGS, Rings,
    files::{Files, key_of},
    public,
};
use crate::state::State;

/// Where a copy is unpacked to be looked at.
const UNPACKED: &str = "keys.unpacked";
/// The file with the rings.
const RINGS_FILE: &str = "keys.state";
/// The largest file of a copy in bytes, and the most of them: each ring has three keys at most.
const LARGEST: u64 = 64 << 10;
const MOST: usize = 16;
/// Of the cluster itself, as `peering` stores it.
const OWN: &str = "own";

/// The files by their names.
#[derive(Clone, PartialEq, Eq)]
pub struct Copy(SecretFiles);

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Copy {
    /// Takes the files of a copy, from wherever it was kept.
    ///
    /// # Errors
    /// When one is none of a copy's, or they are more or larger than any copy's.
    pub fn new(files: SecretFiles) -> anyhow::Result<Self> {
        ensure!(files.len() <= MOST, "more files than there are keys");
        for (name, bytes) in &files {
            let is_known = name == RINGS_FILE || key_of(name).is_some();
            ensure!(is_known, "{name:?} is no file of a key");
            ensure!(bytes.len() as u64 <= LARGEST, "{name} is too large");
        }
        ensure!(files.contains_key(RINGS_FILE), "{RINGS_FILE} is missing");
        Ok(Self(files))
    }

    /// The files by their names.
    #[must_use]
    pub fn files(&self) -> &SecretFiles {
        &self.0
    }
}

/// How a copy stands to the keys in the state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The directory has none.
    Alone,
    /// It is older.
    Behind,
    /// As many steps were taken with both.
    Same,
    /// It is newer.
    Ahead,
}

/// Makes copies of the keys in a state directory, and takes them back.
#[derive(Clone)]
pub struct Copies(Files);

/// What two copies are compared by: how many steps the keys went, and who they are.
struct Summary {
    steps: u64,
    names: BTreeMap<(KeyKind, u32), String>,
}

impl Copies {
    /// Of the keys of `domain` in `state`.
    #[must_use]
    pub fn new(state: &State, domain: &TrustDomain, protection: Protection) -> Self {
        Self(Files {
            state: state.clone(),
            domain: domain.clone(),
            protection,
        })
    }

    pub(super) fn of(files: Files) -> Self {
        Self(files)
    }

    /// The keys as they are on disk, with how many steps they went; `None` while there are none.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn make(&self) -> anyhow::Result<Option<(Copy, u64)>> {
        // A key whose time is over may go while this reads.
        self.try_make().or_else(|_| self.try_make())
    }

    fn try_make(&self) -> anyhow::Result<Option<(Copy, u64)>> {
        let Some(rings) = self.0.rings()? else {
            return Ok(None);
        };
        let mut files = BTreeMap::new();
        let keys = KeyKind::ALL.into_iter().flat_map(|kind| {
            let all = rings.of(kind).generations().iter();
            all.map(move |generation| self.0.file(kind, generation.number))
        });
        for path in keys.chain([self.rings_path()]) {
            let bytes = read_secret(&path, LARGEST)?;
            let bytes = bytes.with_context(|| format!("{} is missing", path.display()))?;
            let name = path.file_name().and_then(|name| name.to_str());
            files.insert(name.unwrap_or_default().to_owned(), bytes);
        }
        // What was read belongs together if nothing happened meanwhile.
        let steps = self.0.rings()?.map(|rings| rings.steps());
        ensure!(steps == Some(rings.steps()), "the keys changed meanwhile");
        Ok(Some((Copy::new(files)?, rings.steps())))
    }

    /// How `copy` stands to the keys on disk.
    ///
    /// # Errors
    /// When it is damaged, of another cluster or of another passphrase, or has another key where they have one.
    pub fn judge(&self, copy: &Copy) -> anyhow::Result<Standing> {
        let theirs = self.summary(copy)?;
        if self.0.rings()?.is_none() {
            return Ok(Standing::Alone);
        }
        let ours = Summary::of(&self.0)?;
        for ((kind, number), name) in &ours.names {
            let other = theirs.names.get(&(*kind, *number));
            if other.is_some_and(|other| other != name) {
                bail!(
                    "{} {number} in it is another than that in {}: it is of another gateway, or of this one \
                     before its state directory was removed",
                    kind.as_str(),
                    self.0.state.path().display()
                );
            }
        }
        Ok(match theirs.steps.cmp(&ours.steps) {
            Ordering::Less => Standing::Behind,
            Ordering::Equal => Standing::Same,
            Ordering::Greater => Standing::Ahead,
        })
    }

    /// Puts `copy`, which was judged, in the place of what is on disk. A directory without any keys remembers
    /// nothing else either: it is marked, so that peers are asked first what they have seen of this cluster.
    ///
    /// # Errors
    /// When the disk does not take it; begun anew, this goes on where it was.
    pub fn take(&self, copy: &Copy, now: UnixMillis) -> anyhow::Result<()> {
        let state = &self.0.state;
        if self.0.rings()?.is_none() {
            let own = state.path().join(format!("{OWN}.sealed"));
            let own = read_secret(&own, peering::peers::MAX_STATE as u64)?;
            let marked = mark_restored(own.as_deref().map(Vec::as_slice), now)?;
            state.store_sealed(OWN, &marked.context("own.sealed is of a peer")?)?;
        }
        write(copy, state.path())
    }

    fn rings_path(&self) -> PathBuf {
        self.0.state.path().join(RINGS_FILE)
    }

    /// Unpacks it beside the keys, for as long as that takes.
    fn summary(&self, copy: &Copy) -> anyhow::Result<Summary> {
        let path = self.0.state.path().join(UNPACKED);
        let clear = || match path.exists() {
            true => fs::remove_dir_all(&path).with_context(|| path.display().to_string()),
            false => Ok(()),
        };
        clear()?;
        let files = Files {
            state: State::open(&path)?,
            ..self.0.clone()
        };
        let seen = write(copy, &path).and_then(|()| Summary::of(&files));
        clear()?;
        seen
    }
}

impl Summary {
    fn of(files: &Files) -> anyhow::Result<Self> {
        let rings = files.rings()?.context("keys.state is missing")?;
        let mut names = BTreeMap::new();
        for generation in rings.root.generations() {
            let number = generation.number;
            let pin = files.load_root(number)?.pin();
            names.insert((KeyKind::Root, number), pin.to_string());
        }
        for generation in rings.issuer_key.generations() {
            let number = generation.number;
            let key = public(&files.load_seed(number)?);
            names.insert((KeyKind::IssuerKey, number), hex::encode(key.as_bytes()));
        }
        let steps = rings.steps();
        Ok(Self { steps, names })
    }
}

/// What names the others comes last.
fn write(copy: &Copy, to: &Path) -> anyhow::Result<()> {
    let (rings, keys): (Vec<_>, Vec<_>) = copy.0.iter().partition(|(name, _)| *name == RINGS_FILE);
    for (name, bytes) in keys.into_iter().chain(rings) {
        write_secret(&to.join(name), bytes)?;
    }
    Ok(())
}

impl Rings {
    /// How many steps the keys went: each step of a key's life is one more.
    pub(super) fn steps(&self) -> u64 {
        let of = |kind| {
            let ring = self.of(kind);
            let numbers = ring.generations().iter().map(|g| u64::from(g.number));
            let (first, last) = (numbers.clone().min(), numbers.max());
            first.unwrap_or(0) + u64::from(ring.current()) + last.unwrap_or(0)
        };
        KeyKind::ALL.into_iter().map(of).sum()
    }
}

impl Files {
    fn rings(&self) -> anyhow::Result<Option<Rings>> {
        self.state.load(RINGS)
    }
}

#[cfg(test)]
mod tests;
