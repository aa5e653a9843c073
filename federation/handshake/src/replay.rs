//! Nonces of HELLOs seen lately: the same nonce on anything but its own connection is a replay.

use std::time::Duration;

use identity::{
    Mono,
    fault::{self, Fault},
};
use policy::DropReason;
use wire::flow::FlowKey;

use crate::{hash::Seed, recent::Recent};

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
    /// In the order of arrival, which is the order of expiry.
    seen: Recent<16, Known>,
    capacity: usize,
}

#[derive(Debug)]
struct Known {
    on: Seen,
    expiry: Mono,
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
    pub fn new(capacity: usize, seed: &Seed) -> Self {
        Self {
            seen: Recent::new(seed),
            capacity,
        }
    }

    /// What is known of `nonce`. Nothing is remembered: that is for HELLOs that were believed.
    pub fn lookup(&mut self, nonce: &[u8; 16], on: Seen, now: Mono) -> Freshness {
        self.expire(now);
        if fault::is(Fault::ReplayCacheOff) {
            return Freshness::New;
        }
        match self.seen.get(nonce) {
            None => Freshness::New,
            Some(known) if known.on == on => Freshness::Again,
            Some(_) => Freshness::Replay,
        }
    }

    /// Remembers a believed HELLO.
    ///
    /// # Errors
    /// [`DropReason::TableFull`] when there is no room: it must be refused, because it could be
    /// replayed. [`DropReason::Replay`] when another thread believed the nonce on another
    /// connection since it was looked up.
    pub fn remember(&mut self, nonce: [u8; 16], on: Seen, now: Mono) -> Result<(), DropReason> {
        self.expire(now);
        if fault::is(Fault::ReplayCacheOff) {
            return Ok(());
        }
        match self.seen.get(&nonce) {
            Some(known) if known.on == on => return Ok(()),
            Some(_) => return Err(DropReason::Replay),
            None if self.seen.len() >= self.capacity => return Err(DropReason::TableFull),
            None => {}
        }
        let expiry = now.after(NONCE_LIFE);
        self.seen.push(nonce, Known { on, expiry });
        Ok(())
    }

    /// Forgets what is too old to be accepted anyway.
    pub fn expire(&mut self, now: Mono) {
        while self.seen.pop_if(|known| known.expiry <= now).is_some() {}
    }

    /// How many nonces are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    fn on(number: u32) -> Seen {
        let key = FlowKey {
            protocol: 6,
            src: [10, 1, 0, 1].into(),
            dst: [10, 2, 0, 1].into(),
            sport: 40_000,
            dport: 80,
        };
        Seen { key, isn: number }
    }

    proptest! {
        /// Against a map of nonces, each with its connection and its end.
        #[test]
        fn agrees_with_a_map(
            steps in prop::collection::vec((any::<bool>(), 0..6u8, 0..3u32, 0..40u64), 0..120),
            capacity in 1..5usize,
        ) {
            let mut cache = ReplayCache::new(capacity, &Seed::new(&[7; 16]));
            let mut naive: BTreeMap<u8, (u32, u64)> = BTreeMap::new();
            let mut now = 0;
            for (remember, nonce, isn, passed) in steps {
                now += passed;
                naive.retain(|_, (_, end)| *end > now);
                let known = naive.get(&nonce).map(|(isn, _)| *isn);
                if remember {
                    let expected = match known {
                        Some(before) if before == isn => Ok(()),
                        Some(_) => Err(DropReason::Replay),
                        None if naive.len() >= capacity => Err(DropReason::TableFull),
                        None => {
                            naive.insert(nonce, (isn, now + 75));
                            Ok(())
                        }
                    };
                    prop_assert_eq!(cache.remember([nonce; 16], on(isn), at(now)), expected);
                } else {
                    let expected = match known {
                        None => Freshness::New,
                        Some(before) if before == isn => Freshness::Again,
                        Some(_) => Freshness::Replay,
                    };
                    prop_assert_eq!(cache.lookup(&[nonce; 16], on(isn), at(now)), expected);
                }
                prop_assert_eq!(cache.len(), naive.len());
            }
        }
    }
}
