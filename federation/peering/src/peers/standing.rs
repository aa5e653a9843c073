//! How what peers have seen of this cluster stands to what it remembers: whether its state is one of
//! the past, restored from a backup or copied back, and what follows. docs/spec/peering.md, section 10.
//!
//! A peer is believed on what it saw only as far as it concerns what that peer is told. What it
//! returns is believed by our own signature.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use identity::{Now, TrustDomain, UnixMillis};
use sha2::{Digest as _, Sha256};

use super::{
    OwnState, PeerEvent, Peering, StateKey,
    peer::{Peer, Problem},
};
use crate::peer_messages::Hello;

/// How far the sequences go on above all that peers have seen: agents and peers that are away now may
/// have seen more.
const LEAP: u64 = 1 << 20;
/// No cluster ever said so many: who claims to have seen more makes it up.
const MAX_LEAD: u64 = 1 << 40;

/// Numbers of the newest bundle, digest and list of revocations of this cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    /// Of the bundle.
    pub bundle: u64,
    /// Of the digest.
    pub digest: u64,
    /// Of the list of revocations.
    pub revocations: u64,
}

impl Sequences {
    pub(super) fn seen(hello: &Hello) -> Self {
        Self {
            bundle: hello.seen_bundle,
            digest: hello.seen_digest,
            revocations: hello.seen_revocations,
        }
    }

    fn of(state: &OwnState) -> Self {
        Self {
            bundle: state.bundle_sequence,
            digest: state.digest_sequence,
            revocations: state.revocation_sequence,
        }
    }

    fn each(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            bundle: of(self.bundle, other.bundle),
            digest: of(self.digest, other.digest),
            revocations: of(self.revocations, other.revocations),
        }
    }

    fn exceeds(self, other: Self) -> bool {
        self.each(other, u64::max) != other
    }

    fn lacks_reason(self) -> bool {
        self.bundle.max(self.digest).max(self.revocations) > MAX_LEAD
    }
}

impl fmt::Display for Sequences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "bundle {}, digest {}, revocations {}",
            self.bundle, self.digest, self.revocations
        )
    }
}

/// A state that was restored from a backup, and is not in use yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// These have not said yet what they have seen.
    Waits(Vec<TrustDomain>),
    /// These have seen more than it knows of.
    Refused(Vec<TrustDomain>),
}

/// Why a state of the past is not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// It is none.
    #[error("there is nothing to confirm: no peer has seen more of this cluster than it remembers")]
    Nothing,
    /// What was revoked would be believed again.
    #[error(
        "{peer} has seen our revocations {theirs}, and has not given them back: what they revoke would \
         be believed again. Revoke it anew and confirm with --without-revocations"
    )]
    Revocations {
        /// Who has seen them.
        peer: TrustDomain,
        /// Their number.
        theirs: u64,
    },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// What was remembered when this process started, or was confirmed: everything up to there was
    /// said by this cluster as it is.
    known: Sequences,
    /// The highest that each peer was told in the life of this process.
    told: BTreeMap<TrustDomain, Sequences>,
    /// Who greeted since this process started.
    heard: BTreeSet<TrustDomain>,
    /// What those have seen that have seen more than they were told.
    ahead: BTreeMap<TrustDomain, Sequences>,
    /// Hashes of the lists of revocations that this process signed.
    signed: BTreeSet<[u8; 32]>,
    /// The newest forgotten list that was given back.
    regained: u64,
}

impl Standing {
    pub(super) fn new(own: &OwnState) -> Self {
        Self {
            known: Sequences::of(own),
            ..Self::default()
        }
    }

    pub(super) fn known(&self) -> Sequences {
        self.known
    }

    pub(super) fn told(&mut self, peer: &TrustDomain) -> &mut Sequences {
        self.told.entry(peer.clone()).or_default()
    }

    /// The highest numbers that `peer` was told in the life of this process.
    pub(super) fn was_told(&self, peer: &TrustDomain) -> Sequences {
        self.told.get(peer).copied().unwrap_or_default()
    }

    pub(super) fn may_tell(&self, own: &OwnState, peer: &TrustDomain) -> bool {
        own.restored.is_none() && !self.ahead.contains_key(peer)
    }

    pub(super) fn signed(&mut self, list: &[u8]) {
        self.signed.insert(Sha256::digest(list).into());
    }

    /// Whether this process did not sign that list.
    pub(super) fn is_forgotten(&self, list: &[u8]) -> bool {
        !self
            .signed
            .contains(&<[u8; 32]>::from(Sha256::digest(list)))
    }

    pub(super) fn regained(&mut self, sequence: u64) {
        self.regained = self.regained.max(sequence);
    }

    /// It is no peer any more: nothing is said to it.
    pub(super) fn gone(&mut self, peer: &TrustDomain) {
        self.ahead.remove(peer);
        self.heard.remove(peer);
    }

    /// Those whose word counts, with what they have seen.
    fn credible(&self) -> impl Iterator<Item = (&TrustDomain, &Sequences)> {
        let ahead = self.ahead.iter();
        ahead.filter(|(_, seen)| !seen.lacks_reason())
    }
}

impl Peer {
    /// The peer asks for the list that it signed, once a session.
    pub(super) fn want_revocations(&mut self, above: u64) {
        let held = self.state.revocations.as_ref();
        let has = held.is_some_and(|held| held.sequence > above);
        let Some(session) = &mut self.session else {
            return;
        };
        let gives = has && !session.returned && !self.state.revocations_signed.is_empty();
        session.returned |= gives;
        session.outbox.revocations_returned |= gives;
    }
}

impl Peering {
    /// `domain` greets, and says what it has seen of this cluster.
    pub(super) fn has_seen(&mut self, domain: &TrustDomain, seen: Sequences) {
        let known = self.standing.known;
        let told = self.standing.was_told(domain);
        self.standing.heard.insert(domain.clone());
        if seen.exceeds(known.each(told, u64::max)) {
            self.standing.ahead.insert(domain.clone(), seen);
            let session = self
                .peers
                .get_mut(domain)
                .and_then(|it| it.session.as_mut());
            if let Some(session) = session.filter(|_| seen.revocations > known.revocations) {
                session.outbox.revocations_wanted = Some(known.revocations);
            }
            let what = self.ahead_words(seen);
            self.alarm(domain, Problem::OwnState, what);
        } else {
            self.standing.ahead.remove(domain);
            if let Some(peer) = self.peers.get_mut(domain) {
                peer.problems.remove(&Problem::OwnState);
            }
        }
        self.settle_restored();
    }

    fn ahead_words(&self, seen: Sequences) -> String {
        let known = self.standing.known;
        if seen.lacks_reason() {
            return format!(
                "it claims to have seen {seen} of this cluster, which nobody ever said: it is told \
                 nothing"
            );
        }
        format!(
            "it has seen {seen} of this cluster, and {known} is what this gateway remembers: it runs \
             on an old copy of its state, and tells the peer nothing until `landbridge restore \
             --confirm`"
        )
    }

    /// What a restored state waits for, as long as it does.
    #[must_use]
    pub fn restored(&self) -> Option<Restored> {
        self.own.state.restored?;
        let ahead: Vec<_> = self
            .standing
            .credible()
            .map(|(peer, _)| peer.clone())
            .collect();
        if !ahead.is_empty() {
            return Some(Restored::Refused(ahead));
        }
        let waited_for = self.peers.keys().filter(|peer| {
            !self.standing.heard.contains(*peer) && self.revoked_cluster(peer).is_none()
        });
        Some(Restored::Waits(waited_for.cloned().collect()))
    }

    /// Everybody was heard and nobody has seen more: it is no state of the past.
    pub(super) fn settle_restored(&mut self) {
        match self.restored() {
            None => {}
            Some(Restored::Waits(nobody)) if nobody.is_empty() => self.go_on_above(),
            Some(_) => self.emit(PeerEvent::RestoredChanged),
        }
    }

    /// Goes on with a state of the past, above all that peers have seen; `without_revocations`:
    /// although what was revoked since is lost.
    ///
    /// # Errors
    /// [`RestoreError`]; nothing changed then.
    pub fn confirm_restored(
        &mut self,
        without_revocations: bool,
        now: Now,
    ) -> Result<Sequences, RestoreError> {
        self.now = now;
        if self.own.state.restored.is_none() && self.standing.credible().next().is_none() {
            return Err(RestoreError::Nothing);
        }
        let back = self.standing.known.revocations.max(self.standing.regained);
        let lost = (self.standing.credible()).find(|(_, seen)| seen.revocations > back);
        if let Some((peer, seen)) = lost
            && !without_revocations
        {
            return Err(RestoreError::Revocations {
                peer: peer.clone(),
                theirs: seen.revocations,
            });
        }
        self.go_on_above();
        Ok(Sequences::of(&self.own.state))
    }

    fn go_on_above(&mut self) {
        let mut top = Sequences::of(&self.own.state);
        for (_, seen) in self.standing.credible() {
            top = top.each(*seen, u64::max);
        }
        let top = top.each(Sequences::default(), |number, _| {
            number.saturating_add(LEAP)
        });
        let state = &mut self.own.state;
        state.bundle_sequence = top.bundle;
        state.digest_sequence = top.digest;
        state.revocation_sequence = top.revocations;
        // What peers have seen of these they do not say in their greeting: no restored state is trusted with it.
        let introductions = &mut state.introduction_sequence;
        *introductions = introductions.saturating_add(LEAP);
        state.restored = None;
        self.standing.known = top;
        let made_up = |seen: &Sequences| seen.lacks_reason();
        self.standing.ahead.retain(|_, seen| made_up(seen));
        for (domain, peer) in &mut self.peers {
            if !self.standing.ahead.contains_key(domain) {
                peer.problems.remove(&Problem::OwnState);
                peer.problems.remove(&Problem::Returned);
            }
        }
        self.unsaved.insert(StateKey::Own);
        self.announce_everything();
        self.emit(PeerEvent::RestoredChanged);
    }

    /// In words, what a state of the past waits for.
    pub(super) fn standing_problem(&self) -> Option<String> {
        let list = |peers: &[TrustDomain]| {
            let mut words: Vec<_> = peers.iter().take(8).map(TrustDomain::to_string).collect();
            if peers.len() > words.len() {
                words.push("others".into());
            }
            words.join(", ")
        };
        let closed = "nothing is said to peers, no agent is served, and no new flow opens";
        let known = self.standing.known;
        let at: UnixMillis = match (self.own.state.restored, self.restored()?) {
            (Some(at), Restored::Waits(peers)) => {
                return Some(format!(
                    "restored at {at} from a backup that knows {known}: {closed}, until {} said what \
                     they have seen, or until `landbridge restore --confirm`",
                    list(&peers)
                ));
            }
            (Some(at), Restored::Refused(_)) => at,
            (None, _) => return None,
        };
        let seen = self
            .standing
            .credible()
            .map(|(peer, seen)| format!("{peer} has seen {seen}"));
        let seen: Vec<_> = seen.take(8).collect();
        Some(format!(
            "restored at {at} from an old backup, which knows {known}; {}: {closed}, until `landbridge \
             restore --confirm`",
            seen.join("; ")
        ))
    }
}
