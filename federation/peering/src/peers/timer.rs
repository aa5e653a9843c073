//! All deadlines of a [`Peering`].

use std::time::Duration;

use identity::{Mono, Now, UnixMillis};

use super::{PeerEvent, Peering, clock::PING_EVERY};

/// The wall clock may be set: what it decides is looked at again after this at the latest.
pub(super) const LOOK: Duration = Duration::from_secs(60);

impl Peering {
    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let refresh = self.own.bundle.as_ref().map(|_| self.own.refresh_at);
        let peers = self.peers.values().flat_map(|peer| {
            let greeted = peer.session.as_ref().filter(|s| s.hello.is_some());
            let ping = greeted.map(|session| session.ping_at);
            let rekey = greeted.and(peer.tunnel.rekey_at());
            [ping, rekey, peer.tunnel.drained_at()]
        });
        let others = [
            refresh,
            self.next_end(),
            self.next_renewal(),
            self.away_at(),
        ];
        peers.chain(others).flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        if self.own.bundle.is_some() && self.own.refresh_at <= now.mono {
            self.announce_bundle();
        }
        self.renew_introductions();
        let (mut offer, mut drained) = (Vec::new(), Vec::new());
        for (domain, peer) in &mut self.peers {
            if peer.tunnel.drop_drained(now.mono) {
                drained.push(domain.clone());
            }
            let rekey = peer.tunnel.rekey_at().is_some_and(|at| at <= now.mono);
            let Some(session) = peer.session.as_mut().filter(|s| s.hello.is_some()) else {
                continue;
            };
            if rekey {
                offer.push(domain.clone());
            }
            if session.ping_at <= now.mono {
                session.ping_at = now.mono.after(PING_EVERY);
                session.outbox.ping = true;
                self.dirty.insert(domain.clone());
            }
        }
        for domain in offer {
            self.offer(&domain);
        }
        for domain in drained {
            self.emit(PeerEvent::TunnelChanged(domain));
        }
        // A bundle that ends changes what is believed, though nobody said anything.
        let before = std::mem::replace(&mut self.ends_seen, now.unix);
        let ended = |end: UnixMillis| before < end && end <= now.unix;
        if self.bundles.iter().any(|bundle| ended(bundle.expires_at)) {
            self.emit(PeerEvent::BundlesChanged);
        }
        self.settle_away();
    }

    /// When the next bundle ends, by the monotonic clock.
    fn next_end(&self) -> Option<Mono> {
        let ends = self.bundles.iter().map(|bundle| bundle.expires_at);
        let next = ends.filter(|end| *end > self.ends_seen).min()?;
        let left = Duration::from_millis(next.0.saturating_sub(self.now.unix.0));
        Some(self.now.mono.after(left.min(LOOK)))
    }
}
