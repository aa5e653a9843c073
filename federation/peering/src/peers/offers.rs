//! What of the policy of this cluster each peer is told: one digest for all peers to whom the same pods
//! are offered. docs/spec/peering.md, section 4.
//!
//! All digests of this cluster share one sequence: no two have one number, and whichever of them a peer
//! is told next has a higher one than what it was told before.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use identity::{
    ClaimLimits, TrustDomain,
    fault::{self, Fault},
};
use policy::{OfferedPart, model::PolicySet};

use super::{
    Digest, MAX_ANNOUNCED, Own, PeerConfig, Peering, StateKey,
    digest::{self, Announced},
    peer::Peer,
};
use crate::{peer_messages::Enforcing, signatures::Signature};

/// The policy of this cluster.
#[derive(Debug)]
pub(super) struct Whole {
    pub hash: [u8; 32],
    /// What concerns other clusters.
    pub part: Arc<PolicySet>,
}

/// What those are told to whom the same is offered.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub announced: Announced,
    narrowed: Option<Narrowed>,
    /// What was announced last: its hash and its part, which may have been too long to be told.
    said: Option<([u8; 32], Arc<PolicySet>)>,
    /// Which digest stands for which policy of this cluster, newest last.
    stands_for: VecDeque<([u8; 32], Enforcing)>,
}

#[derive(Debug)]
struct Narrowed {
    of: Arc<PolicySet>,
    carried: Option<Vec<String>>,
    to: OfferedPart,
}

impl Told {
    /// The part of `whole` for pods that keep to `offer`, and its hash.
    fn narrow(
        &mut self,
        whole: &Whole,
        offer: &ClaimLimits,
        carried: Option<&[String]>,
    ) -> ([u8; 32], Arc<PolicySet>) {
        if offer.is_empty() || fault::is(Fault::WholeDigestTold) {
            return (whole.hash, Arc::clone(&whole.part));
        }
        let last = self.narrowed.take();
        let last = last.filter(|last| last.carried.as_deref() == carried);
        let narrowed = match last {
            Some(last) if Arc::ptr_eq(&last.of, &whole.part) => last,
            last => Narrowed {
                to: OfferedPart::new(&whole.part, offer, carried, last.as_ref().map(|l| &l.to)),
                of: Arc::clone(&whole.part),
                carried: carried.map(<[String]>::to_vec),
            },
        };
        let made = (narrowed.to.hash(), Arc::clone(narrowed.to.part()));
        self.narrowed = Some(narrowed);
        made
    }

    fn newest(&self) -> Option<&Digest> {
        self.announced.newest().map(|newest| &newest.digest)
    }

    /// The newest stands for `policy` from now on.
    fn stand_for(&mut self, policy: [u8; 32]) {
        let newest = self.newest().map(|newest| Enforcing {
            sequence: newest.sequence,
            hash: newest.hash,
        });
        self.stands_for.retain(|(of, _)| *of != policy);
        self.stands_for
            .extend(newest.map(|newest| (policy, newest)));
        if self.stands_for.len() > MAX_ANNOUNCED {
            self.stands_for.pop_front();
        }
    }
}

impl Peering {
    /// The digest that `peer` is told.
    #[must_use]
    pub fn digest_for(&self, peer: &TrustDomain) -> Option<&Digest> {
        let peer = self.peers.get(peer)?;
        self.own.digests.get(&peer.config.offer)?.newest()
    }

    /// Which pods of this cluster `peer` may meet.
    #[must_use]
    pub fn offered(&self, peer: &TrustDomain) -> Option<&ClaimLimits> {
        Some(&self.peers.get(peer)?.config.offer)
    }

    /// Finds out again what each peer is to be told of the policy, and announces what changed.
    pub(super) fn settle_digests(&mut self) {
        let Some(whole) = self.own.policy.take() else {
            return;
        };
        let peers = self.peers.values();
        let mut offers: BTreeSet<_> = peers.map(|peer| peer.config.offer.clone()).collect();
        // What people see of the own policy.
        offers.insert(ClaimLimits::default());
        self.own.digests.retain(|offer, _| offers.contains(offer));
        let carried = self.own.keys.carried_labels.clone();
        for offer in offers {
            let told = self.own.digests.entry(offer.clone()).or_default();
            let next = told.narrow(&whole, &offer, carried.as_deref());
            if told.said.as_ref() == Some(&next) {
                told.stand_for(whole.hash);
            } else {
                self.announce_digest(&offer, next, whole.hash);
            }
        }
        self.own.policy = Some(whole);
        // Whoever was told a newer one by another offer would take this for one of the past.
        let passed = self.peers.iter().filter_map(|(domain, peer)| {
            let newest = self.own.digests.get(&peer.config.offer)?.newest()?;
            let is_older = newest.sequence < self.standing.was_told(domain).digest;
            is_older.then(|| peer.config.offer.clone())
        });
        for offer in passed.collect::<BTreeSet<_>>() {
            self.announce_digest_again(&offer);
        }
        let parts = self.own.digests.values().filter_map(Told::newest);
        let is_long = parts.clone().any(|digest| digest.part.is_none());
        self.own.problem = is_long.then(|| {
            "the part of our policy that admits other clusters is too large to be announced: peers \
             cannot refuse early what we deny"
                .into()
        });
    }

    /// What was announced last, under a new number.
    pub(super) fn announce_digest_again(&mut self, offer: &ClaimLimits) {
        let said = self
            .own
            .digests
            .get(offer)
            .and_then(|told| told.said.clone());
        let whole = self.own.policy.as_ref().map(|whole| whole.hash);
        if let (Some(said), Some(whole)) = (said, whole) {
            self.announce_digest(offer, said, whole);
        }
    }

    /// Tells `next`, a hash and a part, which stands for the policy of the hash `whole`.
    fn announce_digest(
        &mut self,
        offer: &ClaimLimits,
        next: ([u8; 32], Arc<PolicySet>),
        whole: [u8; 32],
    ) {
        let state = &mut self.own.state;
        state.digest_sequence += 1;
        let sequence = state.digest_sequence;
        if offer.is_empty() {
            state.announced.push_back((sequence, next.0));
            if state.announced.len() > MAX_ANNOUNCED {
                state.announced.pop_front();
            }
        }
        let (hash, part) = &next;
        let newest = digest::sign(&self.key, sequence, *hash, part);
        self.signatures.push(Signature::Digest(sequence));
        let told = self.own.digests.entry(offer.clone()).or_default();
        told.announced.push(newest);
        told.said = Some(next);
        told.stand_for(whole);
        self.unsaved.insert(StateKey::Own);
        for (domain, peer) in &mut self.peers {
            if peer.config.offer == *offer && peer.tell_digest() {
                self.dirty.insert(domain.clone());
            }
        }
    }
}

impl Own {
    /// What `hash`, the policy that is enforced here, is to those to whom `offer` is told.
    pub(super) fn enforcing_for(&self, offer: &ClaimLimits, hash: [u8; 32]) -> Enforcing {
        if offer.is_empty() {
            let mut announced = self.state.announced.iter().rev();
            let sequence = announced.find(|(_, of)| *of == hash);
            let sequence = sequence.map_or(0, |(sequence, _)| *sequence);
            return Enforcing { sequence, hash };
        }
        let told = self.digests.get(offer);
        let mut known = told
            .into_iter()
            .flat_map(|told| told.stands_for.iter().rev());
        let stands = known.find(|(of, _)| *of == hash);
        // Of a policy that they were never told not even the hash is theirs.
        stands.map_or(
            Enforcing {
                sequence: 0,
                hash: [0; 32],
            },
            |(_, stands)| *stands,
        )
    }
}

impl Peer {
    /// Takes what the operator says of it now.
    pub(super) fn configure(&mut self, config: PeerConfig) {
        let is_other = self.config.offer != config.offer && !fault::is(Fault::OfferToldOnce);
        self.config = config;
        if is_other {
            self.tell_digest();
            self.tell_records_again();
        }
    }

    /// Whether there is somebody to be told.
    fn tell_digest(&mut self) -> bool {
        let Some(session) = &mut self.session else {
            return false;
        };
        session.outbox.digest = true;
        session.outbox.enforcing = true;
        true
    }

    /// What was not told is offered now.
    fn tell_records_again(&mut self) {
        // Whatever it has, it may lack what came before.
        self.records_told = 0;
        let Some(session) = &mut self.session else {
            return;
        };
        session.outbox.records = true;
        match session.records_out {
            true => session.records_again = true,
            false => session.records_sent = 0,
        }
    }
}

/// By what is offered.
pub(super) type Digests = BTreeMap<ClaimLimits, Told>;
