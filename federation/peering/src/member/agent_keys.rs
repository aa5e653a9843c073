//! The agent's X25519 keys: made here, used for an hour each, kept until the last credential that
//! names them is over, then overwritten.

use std::time::Duration;

use handshake::keys::AgentSecret;
use identity::Mono;
use rand_core::CryptoRng;

use crate::node_messages::AgentPublicKey;

/// How long a key is used.
pub(super) const LIFE: Duration = Duration::from_hours(1);
/// How long before its use a key is made, so that credentials name it in time.
pub(super) const LEAD: Duration = Duration::from_mins(10);
/// How much longer than its last credential a key is kept: handshakes that began in time may end.
const AFTERGLOW: Duration = Duration::from_mins(2);

pub(super) struct AgentKey {
    /// Overwritten when dropped.
    secret: AgentSecret,
    public: AgentPublicKey,
    from: Mono,
    until: Mono,
    /// The end of the last credential that names it.
    named_until: Mono,
}

/// Oldest first; never more than four, as each is kept for less than two lives.
pub(super) struct AgentKeys(Vec<AgentKey>);

impl AgentKeys {
    pub(super) fn new(now: Mono, rng: &mut dyn CryptoRng) -> Self {
        Self(vec![generate(now, rng)])
    }

    /// Does what is due; whether the keys in use or to come are others now.
    pub(super) fn advance(&mut self, now: Mono, rng: &mut dyn CryptoRng) -> bool {
        let before = self.announced(now);
        let mut changed = false;
        let end = self.0.last().map_or(now, |newest| newest.until);
        if end <= now {
            // It slept through its whole life.
            self.0.push(generate(now, rng));
            changed = true;
        } else if end <= now.after(LEAD) {
            self.0.push(generate(end, rng));
            changed = true;
        }
        self.0.retain(|key| now < key.end());
        changed || self.announced(now) != before
    }

    /// When [`Self::advance`] has something to do.
    pub(super) fn next_change(&self) -> Option<Mono> {
        let make = self
            .0
            .last()
            .map(|newest| Mono(newest.until.0.saturating_sub(LEAD)));
        let drop = self.0.iter().map(AgentKey::end).min();
        make.into_iter().chain(drop).min()
    }

    /// When the key in use becomes another.
    pub(super) fn next_use(&self, now: Mono) -> Option<Mono> {
        self.0.iter().map(|key| key.from).find(|from| *from > now)
    }

    /// The keys that credentials are wanted for: the one in use, then the one to come.
    pub(super) fn announced(&self, now: Mono) -> Vec<AgentPublicKey> {
        self.0
            .iter()
            .filter(|key| now < key.until)
            .map(|key| key.public)
            .collect()
    }

    /// How well a key suits at `now`: the one in use, else one that was, else the one to come.
    pub(super) fn preference(&self, public: AgentPublicKey, now: Mono) -> u8 {
        match self.key(public) {
            Some(key) if key.from <= now && now < key.until => 2,
            Some(key) if key.until <= now => 1,
            _ => 0,
        }
    }

    pub(super) fn secret(&self, public: AgentPublicKey) -> Option<&AgentSecret> {
        self.key(public).map(|key| &key.secret)
    }

    /// A credential names the key until `until`.
    pub(super) fn named(&mut self, public: AgentPublicKey, until: Mono) {
        if let Some(key) = self.0.iter_mut().find(|key| key.public == public) {
            key.named_until = key.named_until.max(until);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn key(&self, public: AgentPublicKey) -> Option<&AgentKey> {
        self.0.iter().find(|key| key.public == public)
    }
}

impl AgentKey {
    fn end(&self) -> Mono {
        self.until.max(self.named_until).after(AFTERGLOW)
    }
}

fn generate(from: Mono, rng: &mut dyn CryptoRng) -> AgentKey {
    let secret = AgentSecret::generate(rng);
    AgentKey {
        public: AgentPublicKey(secret.public()),
        secret,
        from,
        until: from.after(LIFE),
        named_until: from,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn the_next_key_is_there_ten_minutes_ahead_and_the_old_one_outlives_its_credentials() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let at = |minutes: u64| Mono(Duration::from_mins(minutes));
        let mut keys = AgentKeys::new(at(0), &mut rng);
        let first = keys.announced(at(0))[0];
        assert!(!keys.advance(at(49), &mut rng));
        assert_eq!(keys.next_change(), Some(at(50)));
        assert!(keys.advance(at(50), &mut rng));
        let [in_use, next] = keys.announced(at(50))[..] else {
            panic!("two keys")
        };
        assert_eq!(in_use, first);
        assert_eq!(
            (
                keys.preference(first, at(59)),
                keys.preference(next, at(59))
            ),
            (2, 0)
        );
        assert_eq!(keys.next_use(at(50)), Some(at(60)));
        assert_eq!(
            (
                keys.preference(first, at(60)),
                keys.preference(next, at(60))
            ),
            (1, 2)
        );
        assert_eq!(keys.announced(at(60)), [next]);
        // Its last credential was issued just before its hour was over.
        keys.named(first, at(69));
        keys.advance(at(70), &mut rng);
        assert!(keys.secret(first).is_some());
        keys.advance(at(71), &mut rng);
        assert!(keys.secret(first).is_none(), "and then it is gone");
        assert!(keys.secret(next).is_some());
    }

    #[test]
    fn keys_do_not_pile_up_and_a_long_sleep_is_survived() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut keys = AgentKeys::new(Mono::default(), &mut rng);
        for minute in 0..24 * 60 {
            let now = Mono(Duration::from_mins(minute));
            keys.advance(now, &mut rng);
            for key in keys.announced(now) {
                keys.named(key, now.after(Duration::from_mins(10)));
            }
            assert!(keys.len() <= 3);
            assert!(!keys.announced(now).is_empty());
        }
        let late = Mono(Duration::from_hours(100));
        assert!(keys.advance(late, &mut rng));
        assert_eq!(keys.announced(late).len(), 1);
        assert_eq!(keys.preference(keys.announced(late)[0], late), 2);
    }
}
