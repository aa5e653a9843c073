//! The verified credentials that all threads share.

use std::{
    collections::VecDeque,
    hash::BuildHasher,
    sync::{Mutex, PoisonError},
};

use dashmap::DashMap;
use handshake::credentials::{CredentialCache, Verified};
use identity::CredentialHash;
use siphasher::sip::SipHasher13;

/// A bounded, concurrent [`CredentialCache`]: a lookup takes no lock that another lookup waits for.
/// At the limit the oldest goes.
#[derive(Debug)]
pub struct SharedCache {
    entries: DashMap<CredentialHash, Verified, Keyed>,
    /// In the order of arrival.
    order: Mutex<VecDeque<CredentialHash>>,
    capacity: usize,
}

impl SharedCache {
    /// An empty cache for `capacity` credentials (about 1.5 KiB each), with 16
    /// secret, random bytes.
    #[must_use]
    pub fn new(capacity: usize, key: &[u8; 16]) -> Self {
        Self {
            entries: DashMap::with_hasher(Keyed(SipHasher13::new_with_key(key))),
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

    use super::*;
    use crate::testing::{claims, domain};

    #[test]
    fn the_oldest_goes_at_the_limit() {
        let cache = SharedCache::new(3, &[1; 16]);
        let verified = Verified {
            bytes: Arc::from(&b"x"[..]),
            claims: Arc::new(claims(&domain("east"), "a")),
            bundle: 1,
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
