//! Nonces of HELLOs seen lately: the same nonce on anything but its own connection is a replay.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use identity::Mono;
use wire::flow::FlowKey;

/// How long a nonce is kept: the accepted age of a HELLO (45 s) plus the accepted lead (30 s).
pub const NONCE_LIFE: Duration = Duration::from_secs(75);

/// The connection a nonce was first seen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The tuple as it was seen here.
    pub key: FlowKey,
    /// The initiator's initial sequence number.
    pub isn: u32,
}

/// Nonce -> connection, bounded in number and time.
#[derive(Debug)]
pub struct ReplayCache {
    seen: BTreeMap<[u8; 16], Seen>,
    /// In the order of arrival, which is the order of expiry.
    order: VecDeque<(Mono, [u8; 16])>,
    capacity: usize,
}

/// What the cache knows of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Not seen before.
    New,
    /// Seen before on this very connection.
    Again,
    /// Seen before on another connection.
    Replay,
}

impl ReplayCache {
    /// An empty cache for at most `capacity` nonces.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            seen: BTreeMap::new(),
            order: VecDeque::new(),
            capacity,
        }
    }

    /// What is known of `nonce`. Nothing is remembered: that is for HELLOs that were believed.
    pub fn lookup(&mut self, nonce: &[u8; 16], on: Seen, now: Mono) -> Freshness {
        self.expire(now);
        match self.seen.get(nonce) {
            None => Freshness::New,
            Some(seen) if *seen == on => Freshness::Again,
            Some(_) => Freshness::Replay,
        }
    }

    /// Remembers a believed HELLO. False when there is no room: then it must be refused, because
    /// it could be replayed.
    #[must_use]
    pub fn remember(&mut self, nonce: [u8; 16], on: Seen, now: Mono) -> bool {
        self.expire(now);
        if self.seen.len() >= self.capacity {
            return false;
        }
        if self.seen.insert(nonce, on).is_none() {
            self.order.push_back((now.after(NONCE_LIFE), nonce));
        }
        true
    }

    /// Forgets what is too old to be accepted anyway.
    pub fn expire(&mut self, now: Mono) {
        while let Some((expiry, nonce)) = self.order.front()
            && *expiry <= now
        {
            self.seen.remove(nonce);
            self.order.pop_front();
        }
    }

    /// How many nonces are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}
