//! The keys of agent pairs, derived once and kept, bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::keys::{AgentSecret, PairKeys, Role};

/// Own public key, peer's public key, own role.
type PairId = ([u8; 32], [u8; 32], Role);

/// Pair keys by pair: warm handshakes cost no X25519.
#[derive(Debug)]
pub struct PairCache {
    keys: BTreeMap<PairId, PairKeys>,
    order: VecDeque<PairId>,
    capacity: usize,
}

impl PairCache {
    /// An empty cache for `capacity` pairs.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            keys: BTreeMap::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    /// The keys of `own` in `role` with the owner of `peer`; `None` for a useless `peer`.
    pub fn keys(&mut self, own: &AgentSecret, role: Role, peer: &[u8; 32]) -> Option<&PairKeys> {
        let id = (own.public(), *peer, role);
        if !self.keys.contains_key(&id) {
            let keys = own.pair(role, peer)?;
            if self.keys.len() >= self.capacity
                && let Some(oldest) = self.order.pop_front()
            {
                self.keys.remove(&oldest);
            }
            self.order.push_back(id);
            self.keys.insert(id, keys);
        }
        self.keys.get(&id)
    }

    /// Forgets the keys of own secrets that are no longer in use.
    pub fn retain(&mut self, own: &BTreeSet<[u8; 32]>) {
        self.keys.retain(|id, _| own.contains(&id.0));
        self.order.retain(|id| own.contains(&id.0));
    }
}
