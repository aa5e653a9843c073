//! The bundles that are held, one per trust domain, and the memory that refuses older ones.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    TrustBundle, TrustDomain, UnixMillis,
    fault::{self, Fault},
};

/// Most trust domains that are remembered.
pub const MAX_DOMAINS: usize = 2048;

/// The newest bundle seen of a trust domain: what has to survive a restart, and a peer's leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleMark {
    /// Its sequence.
    pub sequence: u64,
    /// Its hash ([`TrustBundle::hash`]).
    pub hash: [u8; 32],
}

/// What a bundle changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleChange {
    /// It is in force now.
    Taken,
    /// The same one was in force already.
    Unchanged,
}

/// Why a bundle is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// A newer one was seen.
    #[error("bundle {offered} of {domain} is older than {held}, which was seen before")]
    Older {
        /// Whose.
        domain: TrustDomain,
        /// The sequence that was offered.
        offered: u64,
        /// The newest that was seen.
        held: u64,
    },
    /// Two different bundles under one number: somebody rolled the domain back, or speaks for it
    /// who should not. Worth an alarm.
    #[error("two different bundles of {domain} have the sequence {sequence}")]
    Equivocation {
        /// Whose.
        domain: TrustDomain,
        /// The number.
        sequence: u64,
    },
    /// [`MAX_DOMAINS`] are remembered already.
    #[error("no room for the bundle of {0}")]
    Full(TrustDomain),
}

/// Trust domain -> bundle. Two domains never share an entry, and a bundle is replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BundleStore {
    bundles: BTreeMap<TrustDomain, Arc<TrustBundle>>,
    marks: BTreeMap<TrustDomain, BundleMark>,
}

impl BundleStore {
    /// An empty store that refuses what `marks` says is older.
    #[must_use]
    pub fn with_marks(marks: BTreeMap<TrustDomain, BundleMark>) -> Self {
        Self {
            bundles: BTreeMap::new(),
            marks,
        }
    }

    /// Puts `bundle` in force for its trust domain.
    ///
    /// # Errors
    /// [`BundleError`]; the one in force then stays.
    pub fn insert(&mut self, bundle: TrustBundle) -> Result<BundleChange, BundleError> {
        let domain = bundle.trust_domain.clone();
        let mark = BundleMark {
            sequence: bundle.sequence,
            hash: bundle.hash(),
        };
        match self.marks.get(&domain) {
            None if self.marks.len() >= MAX_DOMAINS => return Err(BundleError::Full(domain)),
            Some(held) if held.sequence > mark.sequence && !fault::is(Fault::OldBundleTaken) => {
                return Err(BundleError::Older {
                    domain,
                    offered: mark.sequence,
                    held: held.sequence,
                });
            }
            Some(held) if held.sequence == mark.sequence && held.hash != mark.hash => {
                return Err(BundleError::Equivocation {
                    domain,
                    sequence: mark.sequence,
                });
            }
            Some(held) if *held == mark && self.bundles.contains_key(&domain) => {
                return Ok(BundleChange::Unchanged);
            }
            _ => {}
        }
        self.marks.insert(domain.clone(), mark);
        self.bundles.insert(domain, Arc::new(bundle));
        Ok(BundleChange::Taken)
    }

    /// The bundle of `domain`.
    #[must_use]
    pub fn bundle(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.bundles.get(domain)
    }

    /// All bundles, sorted by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.bundles.values()
    }

    /// As this store, with no end of the bundles of `domains`.
    #[must_use]
    pub fn without_end<'a>(&self, domains: impl IntoIterator<Item = &'a TrustDomain>) -> Self {
        let mut lasting = self.clone();
        for domain in domains {
            if let Some(bundle) = lasting.bundles.get_mut(domain) {
                Arc::make_mut(bundle).expires_at = UnixMillis(u64::MAX);
            }
        }
        lasting
    }

    /// Takes the bundle of `domain` out of force. Its mark stays, so that no older one comes back.
    pub fn remove(&mut self, domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        self.bundles.remove(domain)
    }

    /// The marks, for durable storage: to be stored before the bundle is acted on.
    #[must_use]
    pub fn marks(&self) -> &BTreeMap<TrustDomain, BundleMark> {
        &self.marks
    }
}
