//! The verified credentials that all threads share.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher,
    sync::{Mutex, PoisonError},
};

use dashmap::DashMap;
use handshake::credentials::{CredentialCache, Verified};
use identity::{CredentialHash, Labels};
use siphasher::sip::SipHasher13;

/// A bounded, concurrent [`CredentialCache`]: a lookup takes no lock that another lookup waits for.
/// At the limit the oldest goes.
#[derive(Debug)]
pub struct SharedCache {
    entries: DashMap<CredentialHash, Verified, Keyed>,
    /// In the order of arrival.
    order: Mutex<VecDeque<CredentialHash>>,
    labels: Mutex<Pool>,
    capacity: usize,
}

/// Labels of remembered credentials: pods of one Deployment have the same ones, and all of a namespace those of
/// the namespace.
#[derive(Debug)]
struct Pool {
    hasher: Keyed,
    /// By their hash: of two that have one, the last.
    labels: BTreeMap<u64, Labels>,
    /// With so many, those that no credential has any more are dropped.
    sweep_at: usize,
}

/// Fewer labels are not worth a look at all of them.
const FEW: usize = 1024;

impl SharedCache {
    /// An empty cache for `capacity` credentials (about 1 KiB each), with 16
    /// secret, random bytes.
    #[must_use]
    pub fn new(capacity: usize, key: &[u8; 16]) -> Self {
        let hasher = Keyed(SipHasher13::new_with_key(key));
        Self {
            labels: Mutex::new(Pool {
                hasher: hasher.clone(),
                labels: BTreeMap::new(),
                sweep_at: FEW,
            }),
            entries: DashMap::with_hasher(hasher),
            order: Mutex::default(),
            capacity: capacity.max(1),
        }
    }

    /// How many credentials are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl CredentialCache for SharedCache {
    fn lookup(&self, hash: &CredentialHash) -> Option<Verified> {
        self.entries.get(hash).map(|verified| verified.clone())
    }

    fn remember(&self, hash: CredentialHash, verified: Verified) {
        // Nobody writes them down, and they are a third of what is kept.
        let verified = Verified {
            bytes: None,
            ..verified
        };
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if self.entries.insert(hash, verified).is_none() {
            order.push_back(hash);
        }
        while order.len() > self.capacity {
            if let Some(oldest) = order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }

    fn shared(&self, labels: Labels) -> Labels {
        let mut pool = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        pool.shared(labels)
    }
}

impl Pool {
    fn shared(&mut self, labels: Labels) -> Labels {
        let hash = self.hasher.hash_one(&labels);
        if let Some(same) = self.labels.get(&hash).filter(|same| **same == labels) {
            return same.clone();
        }
        if self.labels.len() >= self.sweep_at {
            self.labels.retain(|_, labels| labels.is_shared());
            self.sweep_at = FEW.max(2 * self.labels.len());
        }
        self.labels.insert(hash, labels.clone());
        labels
    }
}

/// SipHash under a secret key: an issuer that grinds credentials cannot aim them at one bucket.
#[derive(Clone, Debug)]
struct Keyed(SipHasher13);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use identity::KeyId;

    use super::*;
    use crate::testing::{claims, domain};

    /// However many pods come and go, what is kept of their labels is what pods have that are there.
    #[test]
    fn equal_labels_are_held_once_and_only_while_they_are_used() {
        let cache = SharedCache::new(3, &[1; 16]);
        let labels = |n: u32| {
            let labels = BTreeMap::from([("app".to_owned(), format!("a{n}"))]);
            Labels::try_from(labels).unwrap()
        };
        let first = cache.shared(labels(0));
        for n in 1..100_000 {
            drop(cache.shared(labels(n)));
        }
        assert!(cache.labels.lock().unwrap().labels.len() <= FEW);
        assert_eq!(first, labels(0));
        drop(first);
        assert!(!labels(0).is_shared());
        let kept: Vec<_> = (0..3).map(|_| cache.shared(labels(0))).collect();
        assert!(kept[0].is_shared());
        assert_eq!(kept[0], kept[2]);
    }

    #[test]
    fn the_oldest_goes_at_the_limit() {
        let cache = SharedCache::new(3, &[1; 16]);
        let verified = Verified {
            bytes: None,
            claims: Arc::new(claims(&domain("east"), "a")),
            key: KeyId([1; 8]),
        };
        let hash = |n: u8| CredentialHash([n; 32]);
        for n in [1, 2, 3, 3, 4] {
            cache.remember(hash(n), verified.clone());
        }
        assert_eq!(cache.len(), 3);
        let held: Vec<u8> = (0..6)
            .filter(|n| cache.lookup(&hash(*n)).is_some())
            .collect();
        assert_eq!(held, [2, 3, 4]);
    }
}
