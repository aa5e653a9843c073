//! What the issuer knows of one node, and what it has still to tell it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use identity::{Mono, SignedCredential};

use crate::node_messages::AgentPublicKey;

/// Longest time that a key of an agent is believed after it was first announced: ten minutes
/// before its hour, the hour, and a margin.
pub(super) const KEY_AGE: Duration = Duration::from_mins(75);
/// Most pods that a node may wait for before the source names them.
const MAX_WAITING: usize = 4096;
/// Signatures for one node: so many at once, and so many a second.
const SIGNATURES: (u32, u32) = (4096, 100);

/// A key that an agent announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    pub(super) key: AgentPublicKey,
    pub(super) since: Mono,
}

/// Two signatures for one pod and key are this far apart, whatever is asked.
const RESIGN_AFTER: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Node {
    /// A session is up.
    pub(super) connected: bool,
    /// What was sent in this session; `None` before Hello came.
    pub(super) sent: Option<Sent>,
    /// The keys of its agent, the one in use first. They outlive the session, because the agent
    /// does.
    pub(super) keys: Vec<Announced>,
    /// UIDs that were asked for and that the source does not know yet.
    waiting: BTreeSet<String>,
    /// Credentials to be sent, by pod and key.
    pub(super) ready: BTreeMap<(String, AgentPublicKey), Ready>,
    /// What was signed a moment ago, by pod and key. The budget bounds it.
    lately: BTreeMap<(String, AgentPublicKey), Signed>,
    /// When it was last looked through for what is older.
    swept: Mono,
    budget: Budget,
}

#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) credential: SignedCredential,
    pub(super) expires: Mono,
}

#[derive(Debug)]
struct Signed {
    at: Mono,
    generation: u64,
    ready: Ready,
}

/// Versions up to which a node has seen things.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// How many messages were sent since Hello.
    pub(super) count: u64,
    pub(super) segment_keys: u64,
    pub(super) bundles: u64,
    pub(super) restricted: u64,
    pub(super) clusters: u64,
    pub(super) ranges: u64,
    pub(super) signing_root: u64,
    pub(super) registry: u64,
    pub(super) records: u64,
    /// At least one batch of records went out, be it empty: it says whether some were missed.
    pub(super) records_said: bool,
    pub(super) synced: bool,
}

impl Node {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            connected: false,
            sent: None,
            keys: Vec::new(),
            waiting: BTreeSet::new(),
            ready: BTreeMap::new(),
            lately: BTreeMap::new(),
            swept: now,
            budget: Budget::new(now),
        }
    }

    /// Starts over: a session begins or ends.
    pub(super) fn reset(&mut self, connected: bool) {
        self.connected = connected;
        self.sent = None;
        self.ready.clear();
        self.waiting.clear();
    }

    /// Takes the agent's list of keys; those that were known keep their age. Returns whether it
    /// differs.
    pub(super) fn announce(&mut self, keys: &[AgentPublicKey], now: Mono) -> bool {
        let before: Vec<_> = self.keys.iter().map(|known| known.key).collect();
        let mut after: Vec<Announced> = Vec::new();
        for key in keys {
            if after.iter().any(|listed| listed.key == *key) {
                continue;
            }
            let known = self.keys.iter().find(|known| known.key == *key);
            after.push(known.copied().unwrap_or(Announced {
                key: *key,
                since: now,
            }));
        }
        after.retain(|listed| now.since(listed.since) < KEY_AGE);
        self.keys = after;
        !self.keys.iter().map(|known| known.key).eq(before)
    }

    /// Drops keys that are too old; whether there were any.
    pub(super) fn drop_old_keys(&mut self, now: Mono) -> bool {
        let before = self.keys.len();
        self.keys.retain(|known| now.since(known.since) < KEY_AGE);
        self.keys.len() != before
    }

    pub(super) fn holds_key(&self, key: AgentPublicKey) -> bool {
        self.keys.iter().any(|known| known.key == key)
    }

    /// Remembers that the pod was asked for.
    pub(super) fn wait_for(&mut self, uid: &str) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.insert(uid.to_owned());
        }
    }

    /// Whether the pod was asked for before the source named it.
    pub(super) fn waited_for(&mut self, uid: &str) -> bool {
        self.waiting.remove(uid)
    }

    /// The credential of the pod that was signed a moment ago and names `key`, if there is one. It may
    /// not have reached the agent, or have reached it before the agent knew the pod: so it is sent
    /// again and not signed again.
    pub(super) fn signed_lately(
        &self,
        (pod_uid, generation): (&str, u64),
        key: AgentPublicKey,
        now: Mono,
    ) -> Option<Ready> {
        let signed = self.lately.get(&(pod_uid.to_owned(), key))?;
        let counts = signed.generation == generation && now.since(signed.at) < RESIGN_AFTER;
        counts.then(|| signed.ready.clone())
    }

    /// A credential was signed, which is to be sent.
    pub(super) fn signed(
        &mut self,
        (pod_uid, generation): (&str, u64),
        key: AgentPublicKey,
        ready: Ready,
        now: Mono,
    ) {
        if now.since(self.swept) >= RESIGN_AFTER {
            self.swept = now;
            self.lately
                .retain(|_, signed| now.since(signed.at) < RESIGN_AFTER);
        }
        let place = (pod_uid.to_owned(), key);
        let signed = Signed {
            at: now,
            generation,
            ready: ready.clone(),
        };
        self.lately.insert(place.clone(), signed);
        self.ready.insert(place, ready);
    }

    /// What was signed a moment ago may be revoked: it is not sent again.
    pub(super) fn forget_signed(&mut self) {
        self.lately.clear();
        self.ready.clear();
    }

    /// Whether one more signature may be made for this node.
    pub(super) fn may_sign(&mut self, now: Mono) -> bool {
        self.budget.take(now)
    }
}

/// A token bucket.
#[derive(Debug)]
struct Budget {
    left: u32,
    filled: Mono,
}

impl Budget {
    fn new(now: Mono) -> Self {
        Self {
            left: SIGNATURES.0,
            filled: now,
        }
    }

    fn take(&mut self, now: Mono) -> bool {
        let seconds = now.since(self.filled).as_secs();
        if seconds > 0 {
            let more = u32::try_from(seconds)
                .unwrap_or(u32::MAX)
                .saturating_mul(SIGNATURES.1);
            self.left = self.left.saturating_add(more).min(SIGNATURES.0);
            self.filled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}
