//! Members that this cluster introduces to each other, and those whom its peers introduce to it.
//! docs/spec/membership.md.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use identity::{Mono, Now, TrustDomain, UnixMillis};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteArray;

use super::{
    PeerEvent, Peering, StateKey,
    peer::{Peer, Problem},
    state::{Numbered, StoredSigned},
    timer::LOOK,
};
use crate::{
    introductions::{
        Introduction, ListError, MAX_INTRODUCED, MAX_LIFE, MAX_ROOTS, MIN_LIFE, Opened, open, sign,
    },
    signatures::Signature,
};

/// One of two that are introduced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Party {
    /// Its cluster.
    pub trust_domain: TrustDomain,
    /// What it is called here.
    pub name: String,
    /// Where its gateways listen.
    pub endpoints: Vec<SocketAddr>,
}

/// Two that are introduced to each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// Both.
    pub parties: [Party; 2],
    /// The number of the introduction.
    pub number: u64,
    /// For how long it holds when it is not renewed, in seconds.
    pub life: u64,
    /// Until when it holds.
    pub until: UnixMillis,
}

/// What a peer was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// The number of the list.
    pub sequence: u64,
    /// Whom it names.
    pub introduced: Vec<Introduction>,
    /// The end of the longest introduction that it was ever told: a list without any is remembered
    /// until then.
    pub until: UnixMillis,
}

/// Why somebody is not introduced, or not taken back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntroduceError {
    /// Two times the same.
    #[error("{0} is to be introduced to another cluster, not to itself")]
    Same(TrustDomain),
    /// It is not known here.
    #[error("{0} is no peer of this cluster: only peers can be introduced to each other")]
    NoPeer(TrustDomain),
    /// It is not believed here.
    #[error("{0} is revoked here")]
    Revoked(TrustDomain),
    /// No introduction lives so long.
    #[error("an introduction holds for 1 minute to 365 days without its introducer")]
    Life,
    /// Too many.
    #[error("{0} knows {MAX_INTRODUCED} clusters by this one already")]
    TooMany(TrustDomain),
    /// There is nothing to take back.
    #[error("{0} and {1} were not introduced to each other here")]
    None(TrustDomain, TrustDomain),
}

impl Pair {
    fn is_of(&self, one: &TrustDomain, other: &TrustDomain) -> bool {
        self.names(one) && self.names(other) && one != other
    }

    fn names(&self, domain: &TrustDomain) -> bool {
        let mut parties = self.parties.iter();
        parties.any(|party| party.trust_domain == *domain)
    }

    /// When it is renewed: at half of its life.
    fn renew_at(&self) -> UnixMillis {
        UnixMillis(self.until.0.saturating_sub(self.life * 500))
    }
}

impl Peering {
    /// Introduces two peers to each other, or once more. It is renewed by itself until it is taken back;
    /// `life` is how long it holds when this cluster is not heard any more.
    ///
    /// # Errors
    /// [`IntroduceError`]; nothing changed then.
    pub fn introduce(
        &mut self,
        parties: [Party; 2],
        life: Duration,
        now: Now,
    ) -> Result<Pair, IntroduceError> {
        self.now = now;
        let [one, other] = parties.each_ref().map(|party| &party.trust_domain);
        if one == other {
            return Err(IntroduceError::Same(one.clone()));
        }
        if !(MIN_LIFE..=MAX_LIFE).contains(&life) {
            return Err(IntroduceError::Life);
        }
        for domain in [one, other] {
            if !self.peers.contains_key(domain) {
                return Err(IntroduceError::NoPeer(domain.clone()));
            }
            if self.revoked_cluster(domain).is_some() {
                return Err(IntroduceError::Revoked(domain.clone()));
            }
            let pairs = self.own.state.introduced.iter();
            let others = pairs.filter(|pair| pair.names(domain) && !pair.is_of(one, other));
            if others.count() >= MAX_INTRODUCED {
                return Err(IntroduceError::TooMany(domain.clone()));
            }
        }
        let state = &mut self.own.state;
        state.introduced.retain(|pair| !pair.is_of(one, other));
        state.introduction_sequence += 1;
        let pair = Pair {
            number: state.introduction_sequence,
            life: life.as_secs(),
            until: now.unix.after(life),
            parties,
        };
        state.introduced.push(pair.clone());
        self.unsaved.insert(StateKey::Own);
        self.settle_introductions();
        Ok(pair)
    }

    /// Takes an introduction back: whoever knows the other by it alone forgets it.
    ///
    /// # Errors
    /// When there is none.
    pub fn withdraw(
        &mut self,
        one: &TrustDomain,
        other: &TrustDomain,
        now: Now,
    ) -> Result<Pair, IntroduceError> {
        self.now = now;
        let pairs = &mut self.own.state.introduced;
        let Some(place) = pairs.iter().position(|pair| pair.is_of(one, other)) else {
            return Err(IntroduceError::None(one.clone(), other.clone()));
        };
        let pair = pairs.remove(place);
        self.unsaved.insert(StateKey::Own);
        self.settle_introductions();
        Ok(pair)
    }

    /// Who is introduced to whom here.
    #[must_use]
    pub fn introductions(&self) -> &[Pair] {
        &self.own.state.introduced
    }

    /// Whom `peer` introduces; none before it said so.
    #[must_use]
    pub fn introduced(&self, peer: &TrustDomain) -> Option<&[Introduction]> {
        self.peers.get(peer)?.introduced.as_deref()
    }

    /// Whoever is no peer any more is not vouched for.
    pub(super) fn introduce_no_more(&mut self, domain: &TrustDomain) {
        let pairs = &mut self.own.state.introduced;
        let before = pairs.len();
        pairs.retain(|pair| !pair.names(domain));
        if pairs.len() != before {
            self.unsaved.insert(StateKey::Own);
        }
    }

    /// Finds out again whom each peer is to know by us, and tells it when that changed.
    pub(super) fn settle_introductions(&mut self) {
        let mut wanted: BTreeMap<TrustDomain, Vec<Introduction>> = BTreeMap::new();
        for pair in &self.own.state.introduced {
            let [one, other] = &pair.parties;
            let both = (self.introducible(one, pair), self.introducible(other, pair));
            // Each of them learns of the other, or none does.
            if let (Some(about_one), Some(about_other)) = both {
                let mut tell = |to: &Party, of| {
                    wanted.entry(to.trust_domain.clone()).or_default().push(of);
                };
                tell(other, about_one);
                tell(one, about_other);
            }
        }
        let said: Vec<_> = self.own.state.introductions.keys().cloned().collect();
        for audience in said {
            wanted.entry(audience).or_default();
        }
        for (audience, mut introduced) in wanted {
            introduced.sort();
            let state = &mut self.own.state;
            let held = state.introductions.get(&audience);
            if held.map_or(introduced.is_empty(), |held| held.introduced == introduced) {
                continue;
            }
            let ends = introduced.iter().map(|one| one.until);
            let until = ends.chain(held.map(|held| held.until)).max();
            state.introduction_sequence += 1;
            let next = Told {
                sequence: state.introduction_sequence,
                introduced,
                until: until.unwrap_or_default(),
            };
            state.introductions.insert(audience.clone(), next);
            self.announce_list(audience);
        }
    }

    /// All lists as they are, under new numbers.
    pub(super) fn announce_introductions(&mut self) {
        let audiences: Vec<_> = self.own.state.introductions.keys().cloned().collect();
        for audience in audiences {
            let state = &mut self.own.state;
            state.introduction_sequence += 1;
            if let Some(told) = state.introductions.get_mut(&audience) {
                told.sequence = state.introduction_sequence;
            }
            self.announce_list(audience);
        }
    }

    fn announce_list(&mut self, audience: TrustDomain) {
        self.unsaved.insert(StateKey::Own);
        self.sign_list(&audience);
        let peer = self.peers.get_mut(&audience);
        if let Some(session) = peer.and_then(|peer| peer.session.as_mut()) {
            session.outbox.introductions = true;
            self.dirty.insert(audience);
        }
    }

    /// What is said of `party`, if it can be vouched for.
    fn introducible(&self, party: &Party, pair: &Pair) -> Option<Introduction> {
        let domain = &party.trust_domain;
        if self.revoked_cluster(domain).is_some() {
            return None;
        }
        let peer = self.peers.get(domain)?;
        // What it says of its own ranges is theirs; what is configured may be what they are here.
        let ranges = match peer.state.ranges.is_empty() {
            true => peer.config.ranges.clone().unwrap_or_default(),
            false => peer.state.ranges.clone(),
        };
        Some(Introduction {
            trust_domain: domain.clone(),
            name: party.name.clone(),
            roots: self.told_roots(domain, peer)?,
            endpoints: party.endpoints.clone(),
            ranges,
            number: pair.number,
            until: pair.until,
        })
    }

    /// The roots of the peer's bundle, that of its configuration first while it is one of them: by any of
    /// them its gateways may be met. Before there is a bundle, that of its configuration; `None` when neither
    /// is there.
    fn told_roots(&self, domain: &TrustDomain, peer: &Peer) -> Option<Vec<ByteArray<32>>> {
        let bundle = self.bundles.bundle(domain);
        let roots = bundle.into_iter().flat_map(|bundle| &bundle.x509_roots);
        let mut roots: Vec<_> = roots.map(|root| Self::pin_of(root)).collect();
        roots.sort_by_key(|root| Some(*root) != peer.config.pin);
        if roots.is_empty() {
            roots.push(peer.config.pin?);
        }
        roots.truncate(MAX_ROOTS);
        Some(roots.into_iter().map(ByteArray::new).collect())
    }

    /// All lists anew, by the key that signs now.
    pub(super) fn sign_introductions(&mut self) {
        let audiences: Vec<_> = self.own.state.introductions.keys().cloned().collect();
        for audience in audiences {
            self.sign_list(&audience);
        }
    }

    fn sign_list(&mut self, audience: &TrustDomain) {
        let Some(told) = self.own.state.introductions.get(audience) else {
            return;
        };
        let (own, sequence) = (&self.config.trust_domain, told.sequence);
        let signed = sign(&self.key, own, audience, sequence, &told.introduced);
        self.own.introductions.insert(audience.clone(), signed);
        self.signatures.push(Signature::Introductions {
            audience: audience.clone(),
            sequence,
        });
    }

    /// When the next introduction is to be renewed, by the monotonic clock.
    pub(super) fn next_renewal(&self) -> Option<Mono> {
        let pairs = self.own.state.introduced.iter();
        let next = pairs.map(Pair::renew_at).min()?;
        let left = Duration::from_millis(next.0.saturating_sub(self.now.unix.0));
        Some(self.now.mono.after(left.min(LOOK)))
    }

    /// Introductions hold as long as nobody takes them back.
    pub(super) fn renew_introductions(&mut self) {
        let (now, state) = (self.now.unix, &mut self.own.state);
        let mut any = false;
        for pair in &mut state.introduced {
            if pair.renew_at() <= now {
                pair.until = now.after(Duration::from_secs(pair.life));
                any = true;
            }
        }
        let before = state.introductions.len();
        state
            .introductions
            .retain(|_, told| !told.introduced.is_empty() || told.until > now);
        if any || state.introductions.len() != before {
            self.unsaved.insert(StateKey::Own);
            self.settle_introductions();
        }
    }

    /// The list that a peer signed of whom it introduces to this cluster.
    pub(super) fn take_introductions(&mut self, domain: &TrustDomain, signed: &[u8]) {
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        let refuse = |peer: &mut Peer, why: String| {
            let what = format!("its introductions are refused: {why}");
            peer.problems.insert(Problem::Introductions, what);
        };
        let Some(bundle) = self.bundles.bundle(domain) else {
            return refuse(peer, "they came before its bundle".into());
        };
        let opened = match open(bundle, &self.config.trust_domain, signed, self.now.unix) {
            Ok(opened) => opened,
            Err(e @ (ListError::Foreign(_) | ListError::Audience(_))) => {
                let what = format!("its introductions are refused: {e}");
                return self.alarm(domain, Problem::Introductions, what);
            }
            Err(e) => return refuse(peer, e.to_string()),
        };
        let Opened {
            sequence,
            introduced,
            bytes,
            content,
        } = opened;
        match Numbered::of(peer.state.introductions.as_ref(), sequence, &content) {
            Numbered::Older(held) => {
                let what = format!(
                    "its introductions {sequence} are older than {held}, which were seen before"
                );
                return self.alarm(domain, Problem::Introductions, what);
            }
            Numbered::Other => {
                let what =
                    format!("two different lists of introductions have the sequence {sequence}");
                return self.alarm(domain, Problem::Introductions, what);
            }
            // Of a peer that was away from the list there is the number alone.
            Numbered::Same if peer.introduced.is_some() => {
                peer.problems.remove(&Problem::Introductions);
                return;
            }
            Numbered::Newer | Numbered::Same => {}
        }
        peer.problems.remove(&Problem::Introductions);
        peer.state.introductions = Some(StoredSigned {
            sequence,
            content,
            payload: bytes,
        });
        peer.introduced = Some(introduced);
        self.unsaved.insert(StateKey::Peer(domain.clone()));
        self.emit(PeerEvent::IntroductionsChanged(domain.clone()));
    }
}
