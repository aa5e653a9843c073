//! Believing a credential: once by its signature, then by its hash, within a budget.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use identity::{
    BundleStore, Claims, CredentialHash, KeyId, Labels, Now, TrustDomain, VerifyError,
    claimed_issuer, claimed_key,
    fault::{self, Fault},
    verify_credential,
};
use policy::DropReason;

use crate::{budget::SignatureBudget, hash::Seed, recent::Recent};

/// A credential whose signature held.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The credential as it came, where the cache keeps it.
    pub bytes: Option<Arc<[u8]>>,
    /// What it says.
    pub claims: Arc<Claims>,
    /// The key that signed it: it is believed for as long as its domain's bundle has that key.
    pub key: KeyId,
}

/// Credentials by hash. The gateway shares one between its threads.
pub trait CredentialCache: fmt::Debug + Send + Sync {
    /// The credential of that hash, if it was verified before.
    fn lookup(&self, hash: &CredentialHash) -> Option<Verified>;
    /// Remembers a verified credential; may forget another.
    fn remember(&self, hash: CredentialHash, verified: Verified);
    /// The same `labels`, in memory that those of other credentials may share.
    fn shared(&self, labels: Labels) -> Labels {
        labels
    }
}

/// A bounded [`CredentialCache`] for one thread: at the limit the oldest goes.
#[derive(Debug)]
pub struct SmallCache {
    entries: Mutex<Recent<32, Verified>>,
    capacity: usize,
}

impl SmallCache {
    /// An empty cache for `capacity` credentials (about 1.5 KiB each).
    #[must_use]
    pub fn new(capacity: usize, seed: &Seed) -> Self {
        Self {
            entries: Mutex::new(Recent::new(seed)),
            capacity,
        }
    }

    fn entries(&self) -> MutexGuard<'_, Recent<32, Verified>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CredentialCache for SmallCache {
    fn lookup(&self, hash: &CredentialHash) -> Option<Verified> {
        self.entries().get(&hash.0).cloned()
    }

    fn remember(&self, hash: CredentialHash, verified: Verified) {
        let mut entries = self.entries();
        // Signed by a key that its bundle no longer has, and now by another.
        if let Some(known) = entries.find(&hash.0)
            && let Some(known) = entries.at_mut(known)
        {
            *known = verified;
            return;
        }
        let is_full = entries.len() >= self.capacity;
        entries.pop_if(|_| is_full);
        entries.push(hash.0, verified);
    }
}

/// What became of a pod since its credential was issued: from the signed records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// Its carried labels changed: these claims replace older ones.
    Relabelled(Arc<Claims>),
    /// It was deleted.
    Gone,
}

impl PodState {
    /// Whether this says more of a pod than `other`: labels of a lower generation were there before. A
    /// pod whose UID is made of its name (a folder) can come back after its end; records are taken in
    /// the order of their sequence.
    fn follows(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gone, _) | (Self::Relabelled(_), Self::Gone) => true,
            (Self::Relabelled(new), Self::Relabelled(old)) => new.generation > old.generation,
        }
    }
}

/// The latest record of each pod that has one, by trust domain and pod UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodStates(BTreeMap<TrustDomain, BTreeMap<String, PodState>>);

impl PodStates {
    /// Takes a record whose signature the caller checked. One that came too late, behind a newer
    /// one, changes nothing.
    pub fn insert(&mut self, trust_domain: TrustDomain, pod_uid: String, change: PodState) {
        let pods = self.0.entry(trust_domain).or_default();
        match pods.get_mut(&pod_uid) {
            Some(known) if change.follows(known) => *known = change,
            Some(_) => {}
            None => drop(pods.insert(pod_uid, change)),
        }
    }

    /// How many pods have a record.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Whether no pod has a record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest claims of the pod that `claims` speak of; `None` when it is gone.
    #[must_use]
    pub fn newest(&self, claims: &Arc<Claims>) -> Option<Arc<Claims>> {
        if fault::is(Fault::RecordsIgnored) {
            return Some(claims.clone());
        }
        let pods = self.0.get(claims.trust_domain());
        match pods.and_then(|pods| pods.get(&claims.pod_uid)) {
            Some(PodState::Gone) => None,
            Some(PodState::Relabelled(newer)) if newer.generation > claims.generation => {
                Some(newer.clone())
            }
            _ => Some(claims.clone()),
        }
    }
}

/// Checks credentials, cheapest step first.
#[derive(Debug)]
pub struct Verifier {
    cache: Arc<dyn CredentialCache>,
    /// What each upstream has left: the own cluster, and each peer's gateway.
    budget: Arc<SignatureBudget>,
    /// Signature checks made so far.
    checks: u64,
}

impl Verifier {
    /// With `cache` and `budget`, which may be shared.
    #[must_use]
    pub fn new(cache: Arc<dyn CredentialCache>, budget: Arc<SignatureBudget>) -> Self {
        Self {
            cache,
            budget,
            checks: 0,
        }
    }

    /// Signature checks made so far.
    #[must_use]
    pub fn signature_checks(&self) -> u64 {
        self.checks
    }

    /// Processor time that they took, also those of who shares the budget.
    #[must_use]
    pub fn signature_time(&self) -> Duration {
        self.budget.spent()
    }

    /// What the credential of that hash says, if it was believed once: it may have expired since.
    pub(crate) fn remembered(&self, hash: &CredentialHash) -> Option<Arc<Claims>> {
        Some(self.cache.lookup(hash)?.claims)
    }

    /// The credential `bytes`, which its message names by `hash`, issued by `issuer`
    /// (the owner of the address that sent it) and sent here by `upstream`.
    ///
    /// # Errors
    /// The reason to drop what carried it.
    pub fn verify(
        &mut self,
        bytes: &[u8],
        hash: &CredentialHash,
        issuer: &TrustDomain,
        upstream: &TrustDomain,
        bundles: &BundleStore,
        now: Now,
    ) -> Result<Verified, DropReason> {
        let is_its_hash = || CredentialHash::of(bytes) == *hash;
        self.check(bytes, (hash, is_its_hash), (issuer, upstream), bundles, now)
    }

    /// The same for a credential whose `hash` was computed here.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub(crate) fn verify_hashed(
        &mut self,
        bytes: &[u8],
        hash: &CredentialHash,
        issuer: &TrustDomain,
        upstream: &TrustDomain,
        bundles: &BundleStore,
        now: Now,
    ) -> Result<Verified, DropReason> {
        self.check(bytes, (hash, || true), (issuer, upstream), bundles, now)
    }

    fn check(
        &mut self,
        bytes: &[u8],
        (hash, is_its_hash): (&CredentialHash, impl Fn() -> bool),
        (issuer, upstream): (&TrustDomain, &TrustDomain),
        bundles: &BundleStore,
        now: Now,
    ) -> Result<Verified, DropReason> {
        let bundle = bundles.bundle(issuer).ok_or(DropReason::UnknownIssuer)?;
        if bundle.expires_at <= now.unix {
            return Err(DropReason::BundleExpired);
        }
        if let Some(known) = self.cache.lookup(hash)
            && bundle.issuer_key(known.key).is_some()
            && known.claims.trust_domain() == issuer
        {
            let is_it = match &known.bytes {
                // The hash was computed over the remembered bytes, so equal bytes have that hash.
                Some(known) => **known == *bytes,
                None => is_its_hash(),
            };
            return match (is_it, known.claims.expires_at > now.unix) {
                (false, _) => Err(DropReason::TranscriptMismatch),
                (true, false) => Err(DropReason::CredentialExpired),
                (true, true) => Ok(known),
            };
        }
        let check = || {
            if !is_its_hash() {
                return Err(DropReason::TranscriptMismatch);
            }
            self.checks += 1;
            verify_credential(bytes, bundle, now.unix).map_err(|error| {
                match claimed_issuer(bytes) {
                    Ok(claimed) if claimed != *issuer => DropReason::WrongTrustDomain,
                    _ => reason(&error),
                }
            })
        };
        let checked = self.budget.pay(upstream, now.mono, check);
        let mut claims = checked.ok_or(DropReason::VerifyBudget)??;
        claims.labels = self.cache.shared(claims.labels);
        claims.namespace_labels = self.cache.shared(claims.namespace_labels);
        let verified = Verified {
            bytes: Some(bytes.into()),
            claims: Arc::new(claims),
            key: claimed_key(bytes).ok_or(DropReason::BadCredential)?,
        };
        self.cache.remember(*hash, verified.clone());
        Ok(verified)
    }
}

/// The word for a credential that is not believed.
fn reason(error: &VerifyError) -> DropReason {
    match error {
        VerifyError::UnknownKey(_) => DropReason::UnknownIssuer,
        VerifyError::Expired { .. } => DropReason::CredentialExpired,
        VerifyError::BundleExpired(_) | VerifyError::BundleEmpty(_) => DropReason::BundleExpired,
        VerifyError::WrongTrustDomain(_) => DropReason::WrongTrustDomain,
        VerifyError::Malformed(_) | VerifyError::Signature(_) | VerifyError::NotYetValid { .. } => {
            DropReason::BadCredential
        }
    }
}
