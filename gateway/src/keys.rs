//! The keys by which this cluster is believed, on disk and through their lives (`peering::key_ring`):
//! X.509 roots, which sign SVIDs, and issuer keys, which sign credentials and what else is said.
//!
//! ```text
//! <state>/keys.state        the rings: which keys there are, and where each is in its life
//! <state>/root.pem          root number 1, with its key; without, when an external signer keeps that
//! <state>/root.N.pem        root number N
//! <state>/issuer.key        issuer key number 1, a seed of 32 bytes
//! <state>/issuer.N.key      issuer key number N
//! ```
//!
//! A key is stored before the ring names it, and the ring forgets it before its file goes: whenever the
//! process ends, each key that was ever announced is there. A passphrase, when one is configured, protects
//! the private keys (`quic::Passphrase`); those of roots may be with a signer (`SignerCommand`), who may take
//! his time: what waits for him is done by a [`RootMaker`] and by what [`KeyStore::retiring`] gives, on a thread
//! that may wait.

mod copies;
mod files;
mod roots;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwap;
use identity::{IssuerKey, IssuerPublicKey, MAX_LIFETIME, TrustDomain, UnixMillis};
use peering::{
    key_ring::{Generation, KeyRing, Schedule, Step},
    peers::OwnKeys,
};
use quic::{ClusterRoot, Pin};
use rand_core::Rng;
use serde::{Deserialize, Serialize};
use tracing::warn;
use zeroize::Zeroizing;

use crate::{
    signer::SignerCommand,
    state::{SVID_VALIDITY, State},
};
use files::{Files, holds_key};

pub use copies::{Copies, Copy, Standing};
pub use observe::KeyKind;
pub use roots::{ForeignRoots, MadeRoot, Protection, RootMaker};

/// Where the rings are stored.
const RINGS: &str = "keys";
/// Where X.509-SVIDs are somebody else's.
static NO_RING: KeyRing = KeyRing::none();
/// What clocks and half-done requests may add to the life of what a key signed.
const MARGIN: Duration = Duration::from_mins(2);
/// From when a root is published to its first use: a peer that was away for longer, and heard nothing of
/// it, must be given the new pin.
const PUBLISH_ROOT: Duration = Duration::from_hours(24 * 7);

/// When keys are exchanged by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedules {
    /// X.509 roots.
    pub root: Schedule,
    /// Issuer keys.
    pub issuer_key: Schedule,
}

impl Schedules {
    /// Each key lives as long as is said, for ever where nothing is. A bundle is asked for again after
    /// `refresh`: whoever misses that once, and once more, has still heard of an issuer key when it is
    /// used.
    #[must_use]
    pub fn new(root: Option<Duration>, issuer_key: Option<Duration>, refresh: Duration) -> Self {
        Self {
            root: Schedule {
                life: root,
                publish: PUBLISH_ROOT,
                keep: SVID_VALIDITY + MARGIN,
            },
            issuer_key: Schedule {
                life: issuer_key,
                publish: refresh * 3,
                keep: MAX_LIFETIME + MARGIN,
            },
        }
    }

    /// Of one kind.
    #[must_use]
    pub fn of(&self, kind: KeyKind) -> &Schedule {
        match kind {
            KeyKind::Root => &self.root,
            KeyKind::IssuerKey => &self.issuer_key,
        }
    }
}

/// Of an Ed25519 key.
type Seed = Zeroizing<[u8; 32]>;

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rings {
    /// Without any while roots were never made here.
    root: KeyRing,
    issuer_key: KeyRing,
}

impl Rings {
    fn of(&self, kind: KeyKind) -> &KeyRing {
        match kind {
            KeyKind::Root => &self.root,
            KeyKind::IssuerKey => &self.issuer_key,
        }
    }

    fn of_mut(&mut self, kind: KeyKind) -> &mut KeyRing {
        match kind {
            KeyKind::Root => &mut self.root,
            KeyKind::IssuerKey => &mut self.issuer_key,
        }
    }
}

/// See the module.
pub struct KeyStore {
    files: Files,
    schedules: Schedules,
    rings: Rings,
    roots: BTreeMap<u32, Arc<ClusterRoot>>,
    issuer_keys: BTreeMap<u32, Seed>,
    /// `None` where X.509-SVIDs are somebody else's.
    signing: Option<Arc<ArcSwap<ClusterRoot>>>,
    signing_seed: Seed,
    retiring: BTreeSet<u32>,
    foreign: Option<ForeignRoots>,
}

impl fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyStore")
            .field("root", &self.rings.root)
            .field("issuer_key", &self.rings.issuer_key)
            .finish_non_exhaustive()
    }
}

impl KeyStore {
    /// Loads what is stored; in a new state directory one key of each kind is made. What a passphrase
    /// does not protect yet, it does from now on, if there is one.
    ///
    /// # Errors
    /// When a file is missing, damaged, of another cluster or of another passphrase, or a new root's signer
    /// does not sign. No key is ever replaced by another.
    pub fn open(
        state: &State,
        domain: &TrustDomain,
        protection: Protection,
        schedules: Schedules,
        rng: &mut impl Rng,
        now: UnixMillis,
    ) -> anyhow::Result<Self> {
        let files = Files {
            state: state.clone(),
            domain: domain.clone(),
            protection,
        };
        let no_roots = files.protection.no_roots;
        let mut rings = match state.load::<Option<Rings>>(RINGS)? {
            Some(rings) => {
                let roots = rings.root.is_sound() || rings.root == KeyRing::none();
                let sound = roots && rings.issuer_key.is_sound();
                anyhow::ensure!(sound, "keys.state holds what no gateway writes");
                rings
            }
            None => files.begin(rng, now)?,
        };
        if !no_roots && rings.root == KeyRing::none() {
            files.begin_roots(now)?;
            rings.root = KeyRing::new(now);
            state.store(RINGS, &Some(&rings))?;
        }
        let mut roots = BTreeMap::new();
        let used = rings.root.generations().iter().filter(|_| !no_roots);
        for generation in used {
            let root = files.load_root(generation.number)?;
            roots.insert(generation.number, Arc::new(root));
        }
        let mut issuer_keys = BTreeMap::new();
        for generation in rings.issuer_key.generations() {
            let seed = files.load_seed(generation.number)?;
            issuer_keys.insert(generation.number, seed);
        }
        let signs = "keys.state names no key that signs";
        let signing = match no_roots {
            true => None,
            false => Some(roots.get(&rings.root.current()).context(signs)?),
        };
        let signing = signing.map(|root| Arc::new(ArcSwap::new(Arc::clone(root))));
        let current = rings.issuer_key.current();
        let signing_seed = issuer_keys.get(&current).context(signs)?.clone();
        let mut store = Self {
            files,
            schedules,
            signing,
            signing_seed,
            rings,
            roots,
            issuer_keys,
            retiring: BTreeSet::new(),
            foreign: None,
        };
        for kind in KeyKind::ALL {
            store.remove_retired(kind)?;
        }
        Ok(store)
    }

    /// What copies them, to where they are kept too.
    #[must_use]
    pub fn copies(&self) -> Copies {
        Copies::of(self.files.clone())
    }

    /// How many steps the keys went. What is kept elsewhere with as many has all of them.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.rings.steps()
    }

    /// The trust domain that the keys speak for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.files.domain
    }

    /// All keys that are to be believed.
    #[must_use]
    pub fn own_keys(&self) -> OwnKeys {
        OwnKeys {
            x509_roots: self.x509_roots(),
            issuer_keys: self.issuer_keys.values().map(public).collect(),
            carried_labels: None,
        }
    }

    /// Whether X.509-SVIDs are somebody else's.
    #[must_use]
    pub fn no_roots(&self) -> bool {
        self.files.protection.no_roots
    }

    /// The roots of whoever issues X.509-SVIDs, as he said last.
    #[must_use]
    pub fn foreign(&self) -> Option<&ForeignRoots> {
        self.foreign.as_ref()
    }

    /// Takes what he says now. Without effect where roots are made here.
    pub fn set_foreign(&mut self, roots: ForeignRoots) {
        if self.no_roots() {
            self.foreign = Some(roots);
        }
    }

    /// All roots that are to be believed, in DER.
    #[must_use]
    pub fn x509_roots(&self) -> Vec<Vec<u8>> {
        if let Some(foreign) = &self.foreign {
            return foreign.roots.clone();
        }
        let roots = self.roots.values();
        roots.map(|root| root.certificate_der().to_vec()).collect()
    }

    /// The root that signs, now and whenever it is asked for; `None` where X.509-SVIDs are somebody else's.
    #[must_use]
    pub fn signing_root(&self) -> Option<Arc<ArcSwap<ClusterRoot>>> {
        self.signing.clone()
    }

    /// The pin of the root that signs; `None` while whoever issues X.509-SVIDs has not said it.
    #[must_use]
    pub fn root_pin(&self) -> Option<Pin> {
        match &self.signing {
            Some(root) => Some(root.load().pin()),
            None => self.foreign.as_ref().map(|foreign| foreign.shown),
        }
    }

    /// The key that signs credentials.
    #[must_use]
    pub fn issuer_key(&self) -> IssuerKey {
        IssuerKey::from_seed(&self.signing_seed)
    }

    /// When keys of `kind` are exchanged.
    #[must_use]
    pub fn schedule(&self, kind: KeyKind) -> &Schedule {
        self.schedules.of(kind)
    }

    /// The life of the keys of `kind`.
    #[must_use]
    pub fn ring(&self, kind: KeyKind) -> &KeyRing {
        match kind {
            // Those that are here wait.
            KeyKind::Root if self.no_roots() => &NO_RING,
            _ => self.rings.of(kind),
        }
    }

    /// All keys of `kind` with what names each to people: a root's pin, an issuer key's bytes in hex.
    pub fn list(&self, kind: KeyKind) -> impl Iterator<Item = (Generation, String)> + '_ {
        let all = self.ring(kind).generations().iter();
        all.map(move |generation| {
            let number = &generation.number;
            let name = match kind {
                KeyKind::Root => self.roots.get(number).map(|root| root.pin().to_string()),
                KeyKind::IssuerKey => {
                    let seed = self.issuer_keys.get(number);
                    seed.map(|seed| hex::encode(public(seed).as_bytes()))
                }
            };
            (*generation, name.unwrap_or_default())
        })
    }

    /// What is to be done now with keys of `kind`; to be asked again after each.
    #[must_use]
    pub fn due(&self, kind: KeyKind, now: UnixMillis) -> Option<Step> {
        self.ring(kind).due(self.schedules.of(kind), now)
    }

    /// The number of the next key.
    #[must_use]
    pub fn next_number(&self, kind: KeyKind) -> u32 {
        let last = self.rings.of(kind).generations().last();
        last.map_or(1, |last| last.number + 1)
    }

    /// What makes the next root.
    #[must_use]
    pub fn root_maker(&self) -> RootMaker {
        RootMaker::new(self.files.clone(), self.next_number(KeyKind::Root))
    }

    /// Announces a root that is used `publish` from now; the one before it is kept for `keep` after that.
    ///
    /// # Errors
    /// When one waits already, or the disk does not take it; nothing changed then.
    pub fn publish_root(
        &mut self,
        made: MadeRoot,
        (publish, keep): (Duration, Duration),
        now: UnixMillis,
    ) -> anyhow::Result<()> {
        let mut rings = self.rings.clone();
        let number = rings.root.publish(publish, keep, now)?;
        anyhow::ensure!(number == made.number, "another root was made meanwhile");
        self.store(rings)?;
        self.roots.insert(number, made.root);
        Ok(())
    }

    /// Makes an issuer key and announces it, as [`Self::publish_root`] does.
    ///
    /// # Errors
    /// As there.
    pub fn publish_issuer_key(
        &mut self,
        (publish, keep): (Duration, Duration),
        rng: &mut impl Rng,
        now: UnixMillis,
    ) -> anyhow::Result<()> {
        let mut rings = self.rings.clone();
        let number = rings.issuer_key.publish(publish, keep, now)?;
        let seed = self.files.make_seed(number, rng)?;
        self.store(rings)?;
        self.issuer_keys.insert(number, seed);
        Ok(())
    }

    /// A root that is believed no more, and what has its signer retire its key; waits for that.
    pub fn retiring(&self) -> Option<(u32, impl FnOnce() -> anyhow::Result<()> + Send + use<>)> {
        let number = *self.retiring.first()?;
        let files = self.files.clone();
        Some((number, move || files.retire_root(number)))
    }

    /// The signer has retired it.
    pub fn retired(&mut self, number: u32) {
        self.retiring.remove(&number);
    }

    /// Who keeps the keys of roots that are not on disk.
    #[must_use]
    pub fn signer(&self) -> Option<&SignerCommand> {
        self.files.protection.signer.as_ref()
    }

    /// Whether the key of the root `number` is on disk.
    #[must_use]
    pub fn is_held(&self, number: u32) -> bool {
        self.roots.get(&number).is_none_or(|root| root.is_held())
    }

    /// Does a step that is due, but for the first: [`Self::publish_root`], [`Self::publish_issuer_key`].
    ///
    /// # Errors
    /// When the disk does not take it; nothing changed then.
    pub fn take(&mut self, kind: KeyKind, step: Step, now: UnixMillis) -> anyhow::Result<()> {
        let mut rings = self.rings.clone();
        rings.of_mut(kind).take(step, now);
        self.store(rings)?;
        let left = self.rings.of(kind).generations();
        let left: Vec<_> = left.iter().map(|generation| generation.number).collect();
        match kind {
            KeyKind::Root => {
                self.roots.retain(|number, _| left.contains(number));
                let current = self.roots.get(&self.rings.root.current());
                if let (Some(root), Some(signing)) = (current, &self.signing) {
                    signing.store(Arc::clone(root));
                }
            }
            KeyKind::IssuerKey => {
                self.issuer_keys.retain(|number, _| left.contains(number));
                if let Some(seed) = self.issuer_keys.get(&self.rings.issuer_key.current()) {
                    self.signing_seed = seed.clone();
                }
            }
        }
        if let Err(e) = self.remove_retired(kind) {
            // Nobody believes it any more; the next start tries again.
            warn!("a retired key stays on the disk: {e:#}");
        }
        Ok(())
    }

    fn store(&mut self, rings: Rings) -> anyhow::Result<()> {
        self.files.state.store(RINGS, &Some(&rings))?;
        self.rings = rings;
        Ok(())
    }

    /// Removes the files of keys that the ring has forgotten; those that are with a signer are retired there
    /// first. One with a number above all is left: it was made and never announced, and the next key takes its
    /// place.
    fn remove_retired(&mut self, kind: KeyKind) -> anyhow::Result<()> {
        if kind == KeyKind::Root && self.no_roots() {
            return Ok(());
        }
        let kept = self.rings.of(kind).generations();
        let highest = kept.last().map_or(0, |last| last.number);
        for (number, path) in self.files.stored(kind)? {
            if number >= highest || kept.iter().any(|generation| generation.number == number) {
                continue;
            }
            match holds_key(kind, &path)? {
                true => fs::remove_file(&path).with_context(|| path.display().to_string())?,
                false => drop(self.retiring.insert(number)),
            }
        }
        Ok(())
    }
}

fn public(seed: &Seed) -> IssuerPublicKey {
    IssuerKey::from_seed(seed).public()
}

#[cfg(test)]
mod tests;
