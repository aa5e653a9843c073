//! The cluster's segment keys: two are valid at a time. A new one is handed out a minute before it
//! makes proofs, so that everybody can check it by then, and an old one is honoured for most of an
//! hour after, far longer than a HELLO may be old.

use std::time::Duration;

use identity::Mono;
use rand_core::CryptoRng;

use crate::node_messages::{SegmentKeyGrant, SegmentSecret};

/// How long a key makes proofs.
const LIFE: Duration = Duration::from_hours(1);
/// How long before that it is handed out.
const LEAD: Duration = Duration::from_mins(1);

pub(super) struct SegmentRing {
    active: SegmentKeyGrant,
    /// The one before, or, in the last minute, the one to come.
    other: SegmentKeyGrant,
    prepared: bool,
    rotate_at: Mono,
    /// Rises with every change.
    pub(super) version: u64,
}

impl SegmentRing {
    pub(super) fn new(now: Mono, rng: &mut dyn CryptoRng) -> Self {
        Self {
            active: generate(rng),
            other: generate(rng),
            prepared: false,
            rotate_at: now.after(LIFE),
            version: 1,
        }
    }

    /// The valid keys, the one that makes proofs first.
    pub(super) fn keys(&self) -> [&SegmentKeyGrant; 2] {
        [&self.active, &self.other]
    }

    pub(super) fn next_change(&self) -> Mono {
        match self.prepared {
            true => self.rotate_at,
            false => Mono(self.rotate_at.0.saturating_sub(LEAD)),
        }
    }

    /// Does what is due; whether that changed the keys.
    pub(super) fn advance(&mut self, now: Mono, rng: &mut dyn CryptoRng) -> bool {
        if now < self.next_change() {
            return false;
        }
        if !self.prepared {
            self.other = generate(rng);
            self.prepared = true;
        }
        if now >= self.rotate_at {
            std::mem::swap(&mut self.active, &mut self.other);
            self.prepared = false;
            self.rotate_at = now.after(LIFE);
        }
        self.version += 1;
        true
    }
}

fn generate(rng: &mut dyn CryptoRng) -> SegmentKeyGrant {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    // All zero means "no proof" on the wire.
    while id == [0; 8] {
        rng.fill_bytes(&mut id);
    }
    rng.fill_bytes(&mut secret);
    SegmentKeyGrant {
        id,
        secret: SegmentSecret::from_bytes(secret),
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn a_key_is_known_a_minute_before_it_proves_and_most_of_an_hour_after() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let at = |secs| Mono(Duration::from_secs(secs));
        let mut ring = SegmentRing::new(at(0), &mut rng);
        let ids = |ring: &SegmentRing| ring.keys().map(|key| key.id);
        let mut proving = Vec::new();
        let mut known = Vec::new();
        for second in 0..5 * 3600 {
            ring.advance(at(second), &mut rng);
            proving.push(ids(&ring)[0]);
            known.push(ids(&ring));
        }
        let mut distinct = proving.clone();
        distinct.dedup();
        assert_eq!(distinct.len(), 5, "an hour each");
        for (second, proof) in proving.iter().enumerate() {
            // Whoever is a minute behind, and whoever checks a HELLO of 45 s ago, knows the key.
            for other in [
                second.saturating_sub(59),
                second,
                (second + 45).min(known.len() - 1),
            ] {
                assert!(known[other].contains(proof), "{second} {other}");
            }
        }
    }

    #[test]
    fn after_a_long_sleep_both_keys_are_sound() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut ring = SegmentRing::new(Mono::default(), &mut rng);
        let before = ring.keys().map(|key| key.id);
        let late = Mono(Duration::from_hours(50));
        assert!(ring.advance(late, &mut rng));
        let after = ring.keys().map(|key| key.id);
        assert_eq!(after[1], before[0]);
        assert_ne!(
            after[0], before[1],
            "a key that was never handed out proves nothing yet"
        );
        assert!(!ring.advance(late, &mut rng));
        assert!(ring.next_change() > late);
    }
}
