//! A pod of this node and the credentials that are held for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use identity::{Claims, Mono, SignedCredential, Workload};

use crate::node_messages::AgentPublicKey;

/// When an answer has not come, it is asked for again after this.
pub(super) const RETRY: Duration = Duration::from_secs(5);

pub(super) struct LocalPod {
    pub(super) workload: Workload,
    held: BTreeMap<AgentPublicKey, Held>,
    asked: BTreeMap<AgentPublicKey, Mono>,
    /// The generation below which credentials are void.
    void_below: u64,
}

/// A credential that is held.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) credential: SignedCredential,
    pub(super) claims: Arc<Claims>,
    pub(super) renew: Mono,
    pub(super) expires: Mono,
}

impl LocalPod {
    pub(super) fn new(workload: Workload) -> Self {
        Self {
            workload,
            held: BTreeMap::new(),
            asked: BTreeMap::new(),
            void_below: 0,
        }
    }

    /// Takes a credential, unless it is of an older generation or ends sooner than the one held.
    pub(super) fn take(&mut self, key: AgentPublicKey, held: Held) -> bool {
        let generation = held.claims.generation;
        if generation < self.void_below {
            return false;
        }
        self.void(generation);
        if self
            .held
            .get(&key)
            .is_some_and(|old| old.claims.generation == generation && old.expires > held.expires)
        {
            return false;
        }
        self.held.insert(key, held);
        self.asked.remove(&key);
        true
    }

    /// Credentials of generations below `generation` are void; whether one was held.
    pub(super) fn void(&mut self, generation: u64) -> bool {
        self.void_below = self.void_below.max(generation);
        let before = self.held.len();
        self.held
            .retain(|_, held| held.claims.generation >= generation);
        if self.held.len() == before {
            return false;
        }
        // What was asked for before is answered by what is void now.
        self.asked.clear();
        true
    }

    /// Drops credentials of these ids, so that others are asked for.
    pub(super) fn drop_revoked(&mut self, ids: &BTreeSet<[u8; 16]>) {
        let before = self.held.len();
        self.held.retain(|_, held| !ids.contains(&held.claims.id));
        if self.held.len() != before {
            self.asked.clear();
        }
    }

    /// Those that are not believed are over.
    pub(super) fn end_unless(
        &mut self,
        now: Mono,
        is_believed: impl Fn(&SignedCredential) -> bool,
    ) {
        for (key, held) in &mut self.held {
            if held.expires > now && !is_believed(&held.credential) {
                held.renew = now;
                held.expires = now;
                self.asked.remove(key);
            }
        }
    }

    /// Forgets credentials whose key is not held any more.
    pub(super) fn keep_keys(&mut self, held: impl Fn(AgentPublicKey) -> bool) {
        self.held.retain(|key, _| held(*key));
        self.asked.retain(|key, _| held(*key));
    }

    /// What it proves itself with: the newest generation, in validity if there is one, by the key
    /// that suits best. It may be over: then it still says what the pod is, and opens no flow.
    pub(super) fn best(
        &self,
        now: Mono,
        preference: impl Fn(AgentPublicKey) -> u8,
    ) -> Option<(AgentPublicKey, &Held)> {
        let rank = |(key, held): &(&AgentPublicKey, &Held)| {
            let valid = now < held.expires;
            (
                held.claims.generation,
                valid,
                preference(**key),
                held.expires,
            )
        };
        let (key, held) = self.held.iter().max_by_key(rank)?;
        Some((*key, held))
    }

    /// When a credential naming `key` is to be asked for.
    pub(super) fn ask_at(&self, key: AgentPublicKey) -> Mono {
        let again = self.asked.get(&key).map(|asked| asked.after(RETRY));
        let renew = self.held.get(&key).map(|held| held.renew);
        again.max(renew).unwrap_or_default()
    }

    /// Whether it was asked for before, and nothing came.
    pub(super) fn was_asked(&self, key: AgentPublicKey) -> bool {
        self.asked.contains_key(&key)
    }

    pub(super) fn asked(&mut self, key: AgentPublicKey, now: Mono) {
        self.asked.insert(key, now);
    }

    /// Nothing that was asked for will be answered.
    pub(super) fn forget_asked(&mut self) {
        self.asked.clear();
    }

    /// When a credential in use ends.
    pub(super) fn next_end(&self, now: Mono) -> Option<Mono> {
        self.held
            .values()
            .map(|held| held.expires)
            .filter(|end| *end > now)
            .min()
    }
}
