//! What this cluster says of itself: keys, policy, ranges.

use std::{net::SocketAddr, sync::Arc};

use identity::{IssuerKey, Now, TrustBundle, UnixMillis};
use policy::model::PolicySet;

use super::{OwnKeys, PeerEvent, Peering, StateKey, offers::Whole};
use crate::{join::Offer, peer_messages::AnnouncedRange, signatures::Signature};

impl Peering {
    /// Takes the keys by which this cluster is to be believed, and announces them.
    pub fn set_own_keys(&mut self, keys: OwnKeys, now: Now) {
        self.now = now;
        if self.own.bundle.is_none() || self.own.keys != keys {
            self.own.keys = keys;
            self.announce_bundle();
            // An offer by labels depends on which are carried.
            self.settle_digests();
        }
    }

    /// Takes the key that signs digests from now on: one of the keys announced.
    pub fn set_issuer_key(&mut self, key: IssuerKey, now: Now) {
        self.now = now;
        self.key = Arc::new(key);
        // The same under the same numbers: who holds it already is not told again.
        self.sign_revocations();
        self.sign_introductions();
        for told in self.own.digests.values_mut() {
            let sequence = told.announced.sign_again(&self.key);
            self.signatures.extend(sequence.map(Signature::Digest));
        }
    }

    /// Takes the policy of this cluster: `hash` of all of it, and the part that admits identities
    /// of other clusters. Announced when it differs from the last, to each peer as far as it concerns
    /// pods that are offered to it.
    pub fn set_policy(&mut self, hash: [u8; 32], part: &PolicySet, now: Now) {
        self.now = now;
        let held = self.own.policy.as_ref();
        let is_held = held.is_some_and(|held| held.hash == hash && *held.part == *part);
        if part.cluster == self.config.trust_domain && !is_held {
            let part = Arc::new(part.clone());
            self.own.policy = Some(Whole { hash, part });
            self.settle_digests();
        }
    }

    /// Takes the hash of the policy that every part of this cluster enforces now.
    pub fn set_enforcing(&mut self, hash: [u8; 32], now: Now) {
        self.now = now;
        if self.own.enforcing != Some(hash) {
            self.own.enforcing = Some(hash);
            self.tell_all(|outbox| outbox.enforcing = true);
        }
    }

    /// Says all of it anew, under new numbers.
    pub(super) fn announce_everything(&mut self) {
        if self.own.bundle.is_some() {
            self.announce_bundle();
        }
        let revokes = self
            .own
            .state
            .revoked
            .contains_key(&self.config.trust_domain);
        if revokes || self.own.state.revocation_sequence > 0 {
            self.announce_revocations();
        }
        self.announce_introductions();
        let offers: Vec<_> = self.own.digests.keys().cloned().collect();
        for offer in offers {
            self.announce_digest_again(&offer);
        }
    }

    /// Takes the pod ranges of this cluster.
    pub fn set_own_ranges(&mut self, mut ranges: Vec<AnnouncedRange>, now: Now) {
        self.now = now;
        ranges.sort();
        if self.own.ranges != ranges {
            self.own.ranges = ranges;
            self.tell_all(|outbox| outbox.ranges = true);
            self.settle_ranges();
            self.emit(PeerEvent::RangesChanged);
        }
    }

    /// What this cluster says of itself to one that it does not know yet; none before its keys are known.
    #[must_use]
    pub fn join_offer(
        &self,
        name: &str,
        pin: [u8; 32],
        endpoints: Vec<SocketAddr>,
        now: UnixMillis,
    ) -> Option<Offer> {
        Some(Offer {
            trust_domain: self.config.trust_domain.clone(),
            name: name.to_owned(),
            bundle: self.own.bundle.as_ref()?.to_jwks(),
            pin,
            endpoints,
            ranges: self.own.ranges.clone(),
            clock: now,
        })
    }

    /// The key that signs what this cluster says.
    #[must_use]
    pub fn signer(&self) -> Arc<IssuerKey> {
        Arc::clone(&self.key)
    }

    pub(super) fn announce_bundle(&mut self) {
        let life = self.config.bundle_life;
        self.own.state.bundle_sequence += 1;
        let bundle = TrustBundle {
            trust_domain: self.config.trust_domain.clone(),
            sequence: self.own.state.bundle_sequence,
            refresh_hint: self.config.refresh_hint(),
            x509_roots: self.own.keys.x509_roots.clone(),
            issuer_keys: self.own.keys.issuer_keys.clone(),
            carried_labels: self.own.keys.carried_labels.clone(),
            // In whole seconds, as it travels.
            expires_at: UnixMillis::from_secs(self.now.unix.after(life).as_secs()),
        };
        self.own.refresh_at = self.now.mono.after(self.config.refresh_hint());
        self.forget_revoked_credentials();
        // Ours is the highest sequence there is: it cannot be refused.
        let inserted = self.bundles.insert(bundle.clone());
        debug_assert!(inserted.is_ok());
        self.own.bundle = Some(bundle);
        self.unsaved.insert(StateKey::Own);
        self.tell_all(|outbox| outbox.bundle = true);
        self.emit(PeerEvent::BundlesChanged);
    }
}
