//! The keys of agent pairs, derived once and kept, bounded.

use std::collections::BTreeSet;

use crate::{
    hash::Seed,
    keys::{AgentSecret, PairKeys, Role},
    recent::Recent,
};

/// Pair keys by pair: warm handshakes cost no X25519.
#[derive(Debug)]
pub struct PairCache {
    keys: Recent<{ PAIR }, PairKeys>,
    capacity: usize,
}

/// The own public key, the peer's, and the own role.
const PAIR: usize = 65;

impl PairCache {
    /// An empty cache for `capacity` pairs; at the limit the oldest goes.
    #[must_use]
    pub fn new(capacity: usize, seed: &Seed) -> Self {
        Self {
            keys: Recent::new(seed),
            capacity,
        }
    }

    /// The keys of `own` in `role` with the owner of `peer`; `None` for a useless `peer`.
    pub fn keys(&mut self, own: &AgentSecret, role: Role, peer: &[u8; 32]) -> Option<&PairKeys> {
        let mut pair = [role as u8; PAIR];
        pair[..32].copy_from_slice(&own.public());
        pair[32..64].copy_from_slice(peer);
        let number = match self.keys.find(&pair) {
            Some(number) => number,
            None => {
                let keys = own.pair(role, peer)?;
                let is_full = self.keys.len() >= self.capacity;
                self.keys.pop_if(|_| is_full);
                self.keys.push(pair, keys)
            }
        };
        self.keys.at(number)
    }

    /// Forgets the keys of own secrets that are no longer in use.
    pub fn retain(&mut self, own: &BTreeSet<[u8; 32]>) {
        let is_own = |pair: &[u8; PAIR]| pair.first_chunk().is_some_and(|key| own.contains(key));
        self.keys.retain(is_own);
    }
}
