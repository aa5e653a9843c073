//! What is revoked: of this cluster, which peers are told, signed and numbered; of peers, which
//! holds here alone; and what each peer revoked of itself. docs/spec/peering.md, section 8.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use handshake::admission::{
    MAX_REVOCATIONS, Restricted, Restrictions, Revocation, RevocationError, Target,
};
use identity::{
    IssuerKey, MAX_LIFETIME, Now, TrustBundle, TrustDomain, UnixMillis,
    fault::{self, Fault},
};
use policy::expression::{self, Labels};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::signatures::Signature;

use super::{
    PeerEvent, Peering, StateKey,
    digest::DigestError,
    peer::{Peer, Problem},
    state::{Numbered, StoredSigned},
};

/// Separates this signature from that of every other object.
const CONTEXT: &str = "revocations";
/// Longest list in bytes, so that it fits into one message with room to spare.
const MAX_LIST: usize = 512 << 10;
/// A revoked credential is forgotten when it expired everywhere: the longest life, and clocks that
/// are apart.
const CREDENTIAL_KEPT: Duration = Duration::from_secs(MAX_LIFETIME.as_secs() + 120);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    trust_domain: TrustDomain,
    sequence: u64,
    revoked: Vec<Revocation>,
}

/// Why something is not revoked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// It is of no peer and not of this cluster.
    #[error("{0} is neither this cluster nor a peer of it")]
    Unknown(TrustDomain),
    /// It is revoked already.
    #[error("{0} is revoked since {1} already")]
    Already(String, UnixMillis),
    /// It is not revoked.
    #[error("{target} of {domain} is not revoked here{elsewhere}")]
    Not {
        /// What.
        target: String,
        /// Of whom.
        domain: TrustDomain,
        /// Who else did, as more of the sentence.
        elsewhere: String,
    },
    /// It makes no sense.
    #[error(transparent)]
    Invalid(#[from] RevocationError),
}

/// A list that a peer signed.
struct Opened {
    payload: Payload,
    bytes: Vec<u8>,
    content: [u8; 32],
}

fn encode(payload: &Payload) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail, and every type here has a form in CBOR.
    let written = ciborium::into_writer(payload, &mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

/// The list of `domain` as peers are sent it.
fn sign(key: &IssuerKey, domain: &TrustDomain, sequence: u64, revoked: &[Revocation]) -> Vec<u8> {
    let payload = Payload {
        trust_domain: domain.clone(),
        sequence,
        revoked: revoked.to_vec(),
    };
    key.sign(CONTEXT, &encode(&payload))
}

fn read(domain: &TrustDomain, bytes: &[u8]) -> Result<Payload, DigestError> {
    let mut rest = bytes;
    let payload: Payload = ciborium::de::from_reader_with_recursion_limit(&mut rest, 16)
        .ok()
        .filter(|_| rest.is_empty())
        .ok_or(DigestError::Malformed)?;
    if payload.trust_domain != *domain {
        return Err(DigestError::Foreign(payload.trust_domain));
    }
    Ok(payload)
}

fn open(bundle: &TrustBundle, signed: &[u8], now: UnixMillis) -> Result<Opened, DigestError> {
    let bytes = bundle.open(CONTEXT, signed, now)?;
    let payload = read(&bundle.trust_domain, &bytes)?;
    let content = Sha256::digest(&bytes).into();
    Ok(Opened {
        payload,
        bytes,
        content,
    })
}

/// What is stored of a peer's list, which was checked when it came.
pub(super) fn stored(domain: &TrustDomain, stored: &StoredSigned) -> Vec<Revocation> {
    read(domain, &stored.payload).map_or_else(|_| Vec::new(), |payload| payload.revoked)
}

/// One form for what means the same, so that it can be taken back in other words.
fn canonical(target: Target) -> Result<Target, RevocationError> {
    let words = |text: &str, labels| {
        let parsed = expression::parse(text, labels);
        let parsed = parsed.map_err(|error| RevocationError::Selector {
            selector: text.to_owned(),
            error,
        })?;
        Ok(parsed.to_string())
    };
    Ok(match target {
        Target::Labels { pods, namespaces } => Target::Labels {
            pods: words(&pods, Labels::OfWorkloads)?,
            namespaces: namespaces
                .map(|text| words(&text, Labels::OfNamespaces))
                .transpose()?,
        },
        other => other,
    })
}

impl Peering {
    /// Revokes `target` of `domain`: this cluster, whose peers are told, or a peer, of which it then
    /// holds in this cluster alone.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing changed then.
    pub fn revoke(
        &mut self,
        domain: &TrustDomain,
        target: Target,
        reason: &str,
        now: Now,
    ) -> Result<Revocation, RevokeError> {
        self.now = now;
        if *domain != self.config.trust_domain && !self.peers.contains_key(domain) {
            return Err(RevokeError::Unknown(domain.clone()));
        }
        let target = canonical(target)?;
        let held = self.own.state.revoked.get(domain);
        if let Some(held) = held.and_then(|held| held.iter().find(|r| r.target == target)) {
            return Err(RevokeError::Already(target.to_string(), held.at));
        }
        let revocation = Revocation {
            target,
            reason: reason.to_owned(),
            at: now.unix,
        };
        let mut next = held.cloned().unwrap_or_default();
        next.push(revocation.clone());
        next.sort();
        self.check_list(domain, &next)?;
        self.own.state.revoked.insert(domain.clone(), next);
        self.own_revocations_changed(domain);
        Ok(revocation)
    }

    /// Takes a revocation back that was made here.
    ///
    /// # Errors
    /// [`RevokeError::Not`] when there is none; what a peer revoked of itself is not taken back here.
    pub fn restore_revoked(
        &mut self,
        domain: &TrustDomain,
        target: Target,
        now: Now,
    ) -> Result<Revocation, RevokeError> {
        self.now = now;
        let target = canonical(target)?;
        let held = self.own.state.revoked.get_mut(domain);
        let place = held
            .as_ref()
            .and_then(|held| held.iter().position(|r| r.target == target));
        let (Some(held), Some(place)) = (held, place) else {
            let theirs = self.peers.get(domain).is_some_and(|peer| {
                let mut revoked = peer.revoked.iter();
                revoked.any(|revocation| revocation.target == target)
            });
            return Err(RevokeError::Not {
                target: target.to_string(),
                domain: domain.clone(),
                elsewhere: match theirs {
                    true => format!(": {domain} did it, and only it can take that back"),
                    false => String::new(),
                },
            });
        };
        let taken = held.remove(place);
        if held.is_empty() {
            self.own.state.revoked.remove(domain);
        }
        self.own_revocations_changed(domain);
        Ok(taken)
    }

    /// What was revoked here, by trust domain.
    #[must_use]
    pub fn revoked_here(&self) -> &BTreeMap<TrustDomain, Vec<Revocation>> {
        &self.own.state.revoked
    }

    /// What `peer` revoked of itself.
    #[must_use]
    pub fn revoked_by(&self, peer: &TrustDomain) -> &[Revocation] {
        let peer = self.peers.get(peer);
        peer.map_or(&[], |peer| peer.revoked.as_slice())
    }

    /// What each trust domain is restricted by: what its credentials may claim, what was revoked
    /// here, and what it revoked of itself.
    #[must_use]
    pub fn restrictions(&self) -> &BTreeMap<TrustDomain, Arc<Restricted>> {
        &self.restricted
    }

    /// Whether all of `domain` was revoked here, and why: then there is no session with it either.
    #[must_use]
    pub fn revoked_cluster(&self, domain: &TrustDomain) -> Option<&Revocation> {
        let revoked = self.own.state.revoked.get(domain)?;
        revoked.iter().find(|r| r.target == Target::Cluster)
    }

    fn check_list(
        &self,
        domain: &TrustDomain,
        revoked: &[Revocation],
    ) -> Result<(), RevocationError> {
        let restrictions = Restrictions {
            revoked: revoked.to_vec(),
            ..Restrictions::default()
        };
        Restricted::new(domain, restrictions)?;
        let theirs = self.peers.get(domain).map_or(0, |peer| peer.revoked.len());
        let signed = sign(&self.key, domain, u64::MAX, revoked);
        if theirs + revoked.len() > MAX_REVOCATIONS || signed.len() > MAX_LIST {
            return Err(RevocationError::TooMany);
        }
        Ok(())
    }

    fn own_revocations_changed(&mut self, domain: &TrustDomain) {
        if *domain == self.config.trust_domain {
            self.announce_revocations();
        } else if self.revoked_cluster(domain).is_some() {
            self.end_revoked(domain);
        }
        self.unsaved.insert(StateKey::Own);
        self.settle_restrictions();
        self.settle_introductions();
    }

    /// A new number, and everybody is told.
    pub(super) fn announce_revocations(&mut self) {
        self.own.state.revocation_sequence += 1;
        self.unsaved.insert(StateKey::Own);
        self.sign_revocations();
        self.tell_all(|outbox| outbox.revocations = true);
    }

    /// The list as it is, under the number that it has.
    pub(super) fn sign_revocations(&mut self) {
        let (domain, state) = (&self.config.trust_domain, &self.own.state);
        let sequence = state.revocation_sequence;
        if sequence == 0 {
            return;
        }
        let revoked = state.revoked.get(domain).map_or(&[][..], Vec::as_slice);
        self.own.revocations = sign(&self.key, domain, sequence, revoked).into();
        self.standing.signed(&self.own.revocations);
        self.signatures.push(Signature::Revocations(sequence));
    }

    /// Whoever runs for years does not carry credentials along that expired long ago.
    pub(super) fn forget_revoked_credentials(&mut self) {
        let now = self.now.unix;
        let own = &self.config.trust_domain;
        let (mut any, mut told) = (false, false);
        for (domain, revoked) in &mut self.own.state.revoked {
            let before = revoked.len();
            revoked.retain(|revocation| {
                let credential = matches!(revocation.target, Target::Credential(_));
                !credential || revocation.at.after(CREDENTIAL_KEPT) > now
            });
            any |= revoked.len() != before;
            told |= revoked.len() != before && domain == own;
        }
        if !any {
            return;
        }
        self.own.state.revoked.retain(|_, of| !of.is_empty());
        self.unsaved.insert(StateKey::Own);
        if told {
            self.announce_revocations();
        }
        self.settle_restrictions();
    }

    /// A list of this cluster that it does not remember, from a peer that was told it: what it revokes
    /// is revoked. Without a signature of this cluster it says nothing.
    pub(super) fn take_returned(&mut self, domain: &TrustDomain, signed: &[u8]) {
        let own = self.config.trust_domain.clone();
        if !self.standing.is_forgotten(signed) {
            return;
        }
        let opened = self
            .bundles
            .bundle(&own)
            .map(|bundle| open(bundle, signed, self.now.unix));
        let Some(Ok(Opened { payload, .. })) = opened else {
            let what = "it holds a list of our revocations that no key of this state signed: it \
                        cannot be taken back";
            return self.alarm(domain, Problem::Returned, what.into());
        };
        if payload.sequence <= self.standing.known().revocations {
            return;
        }
        let mut merged = self
            .own
            .state
            .revoked
            .get(&own)
            .cloned()
            .unwrap_or_default();
        let before = merged.len();
        for revocation in payload.revoked {
            if merged.iter().all(|held| held.target != revocation.target) {
                merged.push(revocation);
            }
        }
        merged.sort();
        if self.check_list(&own, &merged).is_err() {
            let what = "it holds a list of our revocations that cannot be taken back: there are too \
                        many together with those of this state";
            return self.alarm(domain, Problem::Returned, what.into());
        }
        if let Some(peer) = self.peers.get_mut(domain) {
            peer.problems.remove(&Problem::Returned);
        }
        self.standing.regained(payload.sequence);
        if merged.len() != before {
            self.own.state.revoked.insert(own.clone(), merged);
            self.own_revocations_changed(&own);
        }
        self.settle_restored();
    }

    /// There is no session with a cluster that is revoked as a whole.
    pub(super) fn end_revoked(&mut self, domain: &TrustDomain) {
        let Some(revocation) = self.revoked_cluster(domain) else {
            return;
        };
        let reason = format!("revoked: {}", revocation.reason);
        let now = self.now;
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        if peer.session.is_none() {
            return;
        }
        self.dirty.remove(domain);
        if peer.disconnect(&reason, now) {
            self.emit(PeerEvent::Disconnected(domain.clone()));
        }
        self.emit(PeerEvent::Close {
            peer: domain.clone(),
            reason,
        });
    }

    /// The list that a peer signed of itself.
    pub(super) fn take_revocations(&mut self, domain: &TrustDomain, signed: &[u8]) {
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        let refuse = |peer: &mut Peer, why: String| {
            let what = format!("its revocations are refused: {why}");
            peer.problems.insert(Problem::Revocations, what);
        };
        let Some(bundle) = self.bundles.bundle(domain) else {
            return refuse(peer, "they came before its bundle".into());
        };
        let opened = match open(bundle, signed, self.now.unix) {
            Ok(opened) => opened,
            Err(e @ DigestError::Foreign(_)) => {
                return self.alarm(domain, Problem::Revocations, e.to_string());
            }
            Err(e) => return refuse(peer, e.to_string()),
        };
        let Opened {
            payload,
            bytes,
            content,
        } = opened;
        let offered = payload.sequence;
        let held = peer.state.revocations.as_ref();
        let held_empty = held.is_some_and(|held| held.payload.is_empty());
        match Numbered::of(held, offered, &content) {
            Numbered::Older(held) if !fault::is(Fault::OldRevocationsTaken) => {
                let what = format!(
                    "its revocations {offered} are older than {held}, which were seen before"
                );
                return self.alarm(domain, Problem::Revocations, what);
            }
            Numbered::Other => {
                let what =
                    format!("two different lists of revocations have the sequence {offered}");
                return self.alarm(domain, Problem::Revocations, what);
            }
            Numbered::Same if !held_empty => {
                peer.problems.remove(&Problem::Revocations);
                return;
            }
            Numbered::Newer | Numbered::Same | Numbered::Older(_) => {}
        }
        let restrictions = Restrictions {
            revoked: payload.revoked.clone(),
            ..Restrictions::default()
        };
        // What it means cannot be told, so what was revoked before stays so.
        if let Err(e) = Restricted::new(domain, restrictions) {
            return refuse(peer, e.to_string());
        }
        peer.problems.remove(&Problem::Revocations);
        peer.state.revocations = Some(StoredSigned {
            sequence: offered,
            content,
            payload: bytes,
        });
        peer.state.revocations_signed = signed.to_vec();
        peer.revoked = payload.revoked;
        self.unsaved.insert(StateKey::Peer(domain.clone()));
        self.settle_restrictions();
    }

    /// Finds out again what restricts whom.
    pub(super) fn settle_restrictions(&mut self) {
        let own = (&self.config.trust_domain, None);
        let peers = self.peers.iter().map(|(domain, peer)| (domain, Some(peer)));
        let mut next = BTreeMap::new();
        for (domain, peer) in std::iter::once(own).chain(peers) {
            let here = self.own.state.revoked.get(domain);
            let mut revoked = here.cloned().unwrap_or_default();
            if let Some(peer) = peer {
                revoked.extend(peer.revoked.iter().cloned());
            }
            revoked.sort();
            let restrictions = Restrictions {
                limits: peer.map_or_else(Default::default, |peer| peer.config.limits.clone()),
                offer: peer.map_or_else(Default::default, |peer| peer.config.offer.clone()),
                revoked,
                away: peer.and_then(|peer| peer.away),
            };
            if restrictions.is_empty() {
                continue;
            }
            // Each part was checked when it was taken; too many together are no reason to believe
            // anything of it.
            let restricted = Restricted::new(domain, restrictions)
                .or_else(|_| Restricted::new(domain, everything(self.now.unix)));
            if let Ok(restricted) = restricted {
                next.insert(domain.clone(), Arc::new(restricted));
            }
        }
        if next != self.restricted {
            self.restricted = next;
            self.emit(PeerEvent::RestrictionsChanged);
        }
    }
}

fn everything(at: UnixMillis) -> Restrictions {
    let all = Revocation {
        target: Target::Cluster,
        reason: "more is revoked of it than can be told apart".into(),
        at,
    };
    Restrictions {
        revoked: vec![all],
        ..Restrictions::default()
    }
}
