//! Peers that stay away: since when, and what holds of them then. docs/spec/peering.md, section 9.

use std::time::Duration;

use handshake::admission::Away;
use identity::{AwayRule, AwayThen, Mono, Now, TrustBundle, TrustDomain, UnixMillis};

use super::{Peering, StateKey, TOLERATED, peer::Peer, timer::LOOK};

/// How old what is stored of a peer's last contact may be: so much longer it seems to be away after a
/// crash.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// A bundle that is kept has no end so long before it would have: not every clock is this one.
const BEFORE_ITS_END: Duration = Duration::from_mins(5);

/// When a peer was heard last, by both clocks: neither of them alone can be trusted with it. The
/// monotonic one knows nothing of the time before this process, nor of a machine that was suspended;
/// the other one may be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contact {
    pub unix: UnixMillis,
    /// From here on it is known how much time passed, and how much had passed before; `None` when
    /// that cannot be told.
    mono: Mono,
    before: Option<Duration>,
}

impl Contact {
    pub(crate) fn at(now: Now) -> Self {
        Self {
            unix: now.unix,
            mono: now.mono,
            before: Some(Duration::ZERO),
        }
    }

    /// As it was stored by a former process.
    pub(crate) fn before(unix: UnixMillis, now: Now) -> Self {
        let ahead = Duration::from_millis(unix.0.saturating_sub(now.unix.0));
        Self {
            unix,
            mono: now.mono,
            // A clock that was set back says nothing of how long it was.
            before: (ahead <= TOLERATED).then(|| passed(unix, now.unix)),
        }
    }

    /// How long ago it is, at least by one of the clocks.
    fn age(&self, now: Now) -> Duration {
        let Some(before) = self.before else {
            return Duration::MAX;
        };
        let counted = before.saturating_add(now.mono.since(self.mono));
        counted.max(passed(self.unix, now.unix))
    }
}

fn passed(from: UnixMillis, to: UnixMillis) -> Duration {
    Duration::from_millis(to.0.saturating_sub(from.0))
}

impl Peer {
    /// How long it has been away.
    pub(super) fn away_for(&self, now: Now) -> Option<Duration> {
        (!self.is_connected()).then(|| self.contact.age(now))
    }

    /// What holds of it because it is away.
    fn becomes(&self, bundle: Option<&TrustBundle>, now: Now) -> Option<Away> {
        let rule = self.config.away?;
        let over = self.away_for(now)? >= rule.limit.duration();
        let ends = |bundle: &TrustBundle| bundle.expires_at <= now.unix.after(BEFORE_ITS_END);
        match rule.then {
            AwayThen::Closed => over.then_some(Away::Closed {
                since: self.contact.unix,
            }),
            AwayThen::Keep => (over || bundle.is_some_and(ends)).then_some(Away::Kept),
        }
    }

    /// When to look again whether it is away for too long.
    fn looks_at(&self, noted: Option<&UnixMillis>, now: Now) -> Option<Mono> {
        let rule = self.config.away?;
        let Some(age) = self.away_for(now) else {
            let noted = noted.map_or(NOTED_EVERY, |noted| passed(*noted, now.unix));
            return Some(now.mono.after(NOTED_EVERY.saturating_sub(noted)));
        };
        let left = rule.limit.duration().checked_sub(age)?;
        let waits = self.away.is_none() && !left.is_zero();
        waits.then(|| now.mono.after(left.min(LOOK)))
    }

    /// In words.
    pub(super) fn away_problem(&self, now: Now) -> Option<String> {
        let rule = self.config.away?;
        let (away, heard) = (self.away_for(now)?, self.contact.unix);
        let limit = rule.limit;
        match self.away? {
            Away::Closed { .. } => Some(format!(
                "heard last at {heard}, and may be away for {limit}: nothing of it is admitted until \
                 it is heard again"
            )),
            Away::Kept => Some(format!(
                "heard last at {heard}, {} ago, and may be away for {limit}: what it said last is \
                 kept in force, its bundle beyond its end too",
                words(away)
            )),
        }
    }
}

/// Enough for people.
fn words(age: Duration) -> String {
    if age == Duration::MAX {
        return "nobody knows how long".into();
    }
    let minutes = age.as_secs() / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, 0) => format!("{} s", age.as_secs()),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

impl Peering {
    /// The rule for `peer`, when there is one.
    #[must_use]
    pub fn away_rule(&self, peer: &TrustDomain) -> Option<AwayRule> {
        self.peers.get(peer)?.config.away
    }

    /// Finds out again who is away for too long, and notes when the others were heard.
    pub(super) fn settle_away(&mut self) {
        let now = self.now;
        let contacts = &mut self.own.state.contacts;
        let (mut noted, mut changed) = (false, false);
        for (domain, peer) in &mut self.peers {
            if peer.config.away.is_none() {
                noted |= contacts.remove(domain).is_some();
            } else if peer.is_connected() {
                let last = contacts.get(domain);
                if last.is_none_or(|last| is_old(*last, now.unix)) {
                    contacts.insert(domain.clone(), now.unix);
                    noted = true;
                }
            } else if !contacts.contains_key(domain) {
                // Another restart must not give it more time.
                contacts.insert(domain.clone(), peer.contact.unix);
                noted = true;
            }
            let next = peer.becomes(self.bundles.bundle(domain).map(|b| &**b), now);
            changed |= peer.away != next;
            peer.away = next;
        }
        if noted {
            self.unsaved.insert(StateKey::Own);
        }
        if changed {
            self.settle_restrictions();
        }
    }

    pub(super) fn forget_contact(&mut self, domain: &TrustDomain) {
        if self.own.state.contacts.remove(domain).is_some() {
            self.unsaved.insert(StateKey::Own);
        }
    }

    /// When to call [`Self::settle_away`] at the latest.
    pub(super) fn away_at(&self) -> Option<Mono> {
        let contacts = &self.own.state.contacts;
        let peers = self.peers.iter();
        let all = peers.filter_map(|(domain, peer)| peer.looks_at(contacts.get(domain), self.now));
        all.min()
    }
}

/// A clock that was set back makes it old too.
fn is_old(noted: UnixMillis, now: UnixMillis) -> bool {
    noted > now || passed(noted, now) >= NOTED_EVERY
}
