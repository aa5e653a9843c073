//! Who the peers are: by configuration, with what was stored of them.

use std::{collections::BTreeMap, sync::Arc};

use identity::{
    AwayRule, BundleMark, BundleStore, ClaimLimits, IdentityRange, Now, TrustBundle, TrustDomain,
};
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use super::{
    MAX_PEERS, PeerEvent, Peering,
    away::Contact,
    digest,
    peer::{Peer, Problem},
    standing::Standing,
    state::{self, OwnState, PeerState, StateError, StateKey},
};
use crate::peer_messages::AnnouncedRange;

/// A peer, as the operator configured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its cluster.
    pub trust_domain: TrustDomain,
    /// SHA-256 of its root certificate in DER: its first bundle must hold that root. Another pin
    /// than before says that the cluster was set up anew, and voids what was stored of it. `None`:
    /// which roots speak for it is known from elsewhere, and its own word on them counts for nothing.
    pub pin: Option<[u8; 32]>,
    /// Other roots that its first bundle may hold instead: it was introduced while its root was exchanged.
    pub or_roots: Vec<[u8; 32]>,
    /// Its pod ranges, when the operator knows them: it may claim these and no others. `None`: it
    /// may claim what overlaps nobody else's.
    pub ranges: Option<Vec<AnnouncedRange>>,
    /// By its number: where a range of it is seen here, when that is not where its owner has it.
    pub mapped: BTreeMap<u16, IpNet>,
    /// What its credentials may claim here.
    pub limits: ClaimLimits,
    /// Which pods of this cluster it may meet.
    pub offer: ClaimLimits,
    /// What becomes of it when it stays away.
    pub away: Option<AwayRule>,
}

/// Peers that cannot be. None of the list is taken then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// A peer has the trust domain of this cluster.
    #[error(
        "{0} is the trust domain of this cluster: two clusters with one trust domain cannot be peers"
    )]
    Own(TrustDomain),
    /// Two peers have one trust domain.
    #[error("two peers have the trust domain {0}")]
    Twice(TrustDomain),
    /// Too many.
    #[error("{0} peers, at most {MAX_PEERS} are allowed")]
    TooMany(usize),
}

impl PeerConfig {
    /// The roots that its first bundle may hold, that of its pin first.
    pub fn pins(&self) -> impl Iterator<Item = [u8; 32]> {
        self.pin.into_iter().chain(self.or_roots.iter().copied())
    }
}

impl Peering {
    /// Takes the peers, all of them: one that is not named any more loses everything at once, but
    /// for the memory of its sequences.
    ///
    /// # Errors
    /// [`MembershipError`]; nothing changed then.
    pub fn set_peers(&mut self, configs: Vec<PeerConfig>, now: Now) -> Result<(), MembershipError> {
        self.now = now;
        let configs = self.check(configs)?;
        let gone: Vec<_> = self
            .peers
            .keys()
            .filter(|domain| !configs.contains_key(*domain))
            .cloned()
            .collect();
        for domain in gone {
            self.remove(&domain);
        }
        for (domain, config) in configs {
            self.dirty.insert(domain.clone());
            match self.peers.get_mut(&domain) {
                Some(peer) if peer.config == config => {}
                Some(peer) if peer.config.pin == config.pin => peer.configure(config),
                // The pin of a root that it announced since: it rotated, and the operator follows. Or
                // its roots come from elsewhere from now on.
                Some(peer)
                    if config.pin.is_none_or(|pin| {
                        let bundle = self.bundles.bundle(&domain);
                        bundle.is_some_and(|bundle| Self::holds_pin(bundle, pin))
                    }) =>
                {
                    peer.state.pin = config.pin;
                    peer.configure(config);
                    self.unsaved.insert(StateKey::Peer(domain));
                }
                // Set up anew: whatever the old one had goes, its session too.
                Some(_) => {
                    self.remove(&domain);
                    self.add(config);
                }
                None => self.add(config),
            }
        }
        self.settle_ranges();
        self.settle_away();
        self.settle_restrictions();
        self.settle_introductions();
        self.settle_digests();
        self.settle_restored();
        Ok(())
    }

    fn check(
        &self,
        configs: Vec<PeerConfig>,
    ) -> Result<BTreeMap<TrustDomain, PeerConfig>, MembershipError> {
        if configs.len() > MAX_PEERS {
            return Err(MembershipError::TooMany(configs.len()));
        }
        let mut checked = BTreeMap::new();
        for config in configs {
            let offer = config.offer.clone().canonical();
            let config = PeerConfig { offer, ..config };
            let domain = config.trust_domain.clone();
            if domain == self.config.trust_domain {
                return Err(MembershipError::Own(domain));
            }
            if checked.insert(domain.clone(), config).is_some() {
                return Err(MembershipError::Twice(domain));
            }
        }
        Ok(checked)
    }

    fn add(&mut self, config: PeerConfig) {
        let domain = config.trust_domain.clone();
        let fresh = || PeerState::new(domain.clone(), config.pin);
        let state = match self.former.remove(&domain) {
            Some(stored) if stored.pin == config.pin => stored,
            Some(mut stored) if stored.fits(config.pin) => {
                stored.pin = config.pin;
                self.unsaved.insert(StateKey::Peer(domain.clone()));
                stored
            }
            Some(_) => {
                self.forget_mark(&domain);
                self.unsaved.insert(StateKey::Peer(domain.clone()));
                fresh()
            }
            None => fresh(),
        };
        let contact = self.own.state.contacts.get(&domain);
        let contact = contact.map_or_else(
            || Contact::at(self.now),
            |contact| Contact::before(*contact, self.now),
        );
        let mut peer = Peer::new(config, state, contact, self.now);
        // Checked when they came; the checksum of the file vouches for them since.
        let stored = peer.state.digest.as_ref();
        peer.digest = stored
            .and_then(|stored| digest::read(&domain, &stored.payload).ok())
            .map(Arc::new);
        if peer.digest.is_some() {
            self.emit(PeerEvent::DigestChanged(domain.clone()));
        }
        let jwks = peer.state.bundle.as_deref();
        let bundle = jwks.and_then(|jwks| TrustBundle::from_jwks(domain.clone(), jwks).ok());
        if bundle.is_some_and(|bundle| self.bundles.insert(bundle).is_ok()) {
            self.emit(PeerEvent::BundlesChanged);
        }
        self.peers.insert(domain, peer);
    }

    fn remove(&mut self, domain: &TrustDomain) {
        let Some(mut peer) = self.peers.remove(domain) else {
            return;
        };
        self.dirty.remove(domain);
        if peer.session.is_some() {
            self.emit(PeerEvent::Close {
                peer: domain.clone(),
                reason: "not a peer any more".into(),
            });
        }
        if self.bundles.remove(domain).is_some() {
            self.emit(PeerEvent::BundlesChanged);
        }
        self.emit(PeerEvent::Removed(domain.clone()));
        self.forget_contact(domain);
        self.standing.gone(domain);
        // What it said is void; what it may not unsay stays.
        peer.state.bundle = None;
        peer.state.ranges.clear();
        peer.state.revocations_signed.clear();
        let PeerState {
            digest,
            revocations,
            introductions,
            ..
        } = &mut peer.state;
        for said in [digest, revocations, introductions].into_iter().flatten() {
            said.payload.clear();
        }
        self.unsaved.insert(StateKey::Peer(domain.clone()));
        self.former.insert(domain.clone(), peer.state);
        self.introduce_no_more(domain);
    }

    /// A store without the mark of `domain`.
    fn forget_mark(&mut self, domain: &TrustDomain) {
        let mut marks = self.bundles.marks().clone();
        marks.remove(domain);
        let mut bundles = BundleStore::with_marks(marks);
        for bundle in self.bundles.iter().filter(|b| b.trust_domain != *domain) {
            // It is the one of its mark.
            let inserted = bundles.insert(TrustBundle::clone(bundle));
            debug_assert!(inserted.is_ok());
        }
        self.bundles = bundles;
    }

    /// Takes what was stored; peers get theirs when they are configured.
    pub(super) fn restore(
        &mut self,
        stored: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<(), (String, StateError)> {
        let mut marks: BTreeMap<TrustDomain, BundleMark> = BTreeMap::new();
        for (name, bytes) in stored {
            match state::open::<OwnState>(&bytes) {
                Ok(own) => {
                    self.standing = Standing::new(&own);
                    self.own.state = own;
                }
                Err(StateError::Content) => {
                    let peer: PeerState = state::open(&bytes).map_err(|e| (name, e))?;
                    let mark = peer.mark.map(BundleMark::from);
                    marks.extend(mark.map(|mark| (peer.trust_domain.clone(), mark)));
                    self.former.insert(peer.trust_domain.clone(), peer);
                }
                Err(e) => return Err((name, e)),
            }
        }
        self.bundles = BundleStore::with_marks(marks);
        Ok(())
    }

    /// Whether `bundle` holds the root of the pin.
    pub(super) fn holds_pin(bundle: &TrustBundle, pin: [u8; 32]) -> bool {
        let mut roots = bundle.x509_roots.iter();
        roots.any(|root| Self::pin_of(root) == pin)
    }

    /// Whether `bundle` may be the first of a peer.
    pub(super) fn is_first(bundle: &TrustBundle, config: &PeerConfig) -> bool {
        // Without a pin its roots are known from elsewhere.
        config.pin.is_none() || config.pins().any(|pin| Self::holds_pin(bundle, pin))
    }

    /// The pin that stands for a root certificate in DER.
    pub(super) fn pin_of(root: &[u8]) -> [u8; 32] {
        Sha256::digest(root).into()
    }

    /// Finds out again which ranges are whose: own ones first, then configured ones, then claims.
    pub(super) fn settle_ranges(&mut self) {
        let before: Vec<_> = self.peers.values().flat_map(|p| p.ranges.clone()).collect();
        let own = &self.config.trust_domain;
        let mut taken: Vec<IdentityRange> = self.own.ranges.iter().map(|r| r.of(own)).collect();
        for configured in [true, false] {
            for (domain, peer) in &mut self.peers {
                if peer.config.ranges.is_some() == configured {
                    peer.settle_ranges(domain, &mut taken);
                }
            }
        }
        let after = self.peers.values().flat_map(|p| p.ranges.clone());
        if !after.eq(before) {
            self.emit(PeerEvent::RangesChanged);
        }
    }
}

impl Peer {
    /// The ranges that are believed to be this peer's: of the configuration, or else what it
    /// claimed, less what overlaps ranges that are `taken`.
    fn settle_ranges(&mut self, domain: &TrustDomain, taken: &mut Vec<IdentityRange>) {
        let (claimed, configured) = (&self.state.ranges, &self.config.ranges);
        let mut problem = configured.as_ref().and_then(|configured| {
            let differs = !claimed.is_empty() && !same(claimed, configured);
            differs.then(|| {
                let (claimed, configured) = (list(claimed), list(configured));
                format!("it announces the pod ranges {claimed}, and {configured} are configured")
            })
        });
        self.ranges.clear();
        for range in configured.as_ref().unwrap_or(claimed) {
            let real = range.prefix.trunc();
            let mapped = self.config.mapped.get(&range.range_id);
            let range = match mapped.map(IpNet::trunc) {
                Some(here) if !IdentityRange::can_map(real, here) => {
                    problem = Some(format!(
                        "its pod range {real} cannot be mapped to {here}, which has another size, and is not \
                         taken"
                    ));
                    continue;
                }
                Some(here) => range.seen_at(here, domain),
                None => range.of(domain),
            };
            // What comes from an address must be of one range.
            let twice = self.ranges.iter().find(|other| {
                let other = other.real.unwrap_or(other.prefix);
                other.contains(&real) || real.contains(&other)
            });
            if let Some(other) = twice {
                problem = Some(format!(
                    "its pod range {real} overlaps its range {}, and is not taken",
                    other.real.unwrap_or(other.prefix)
                ));
            } else if let Some(other) = taken.iter().find(|other| overlap(&range, other)) {
                problem = Some(format!(
                    "its pod range {} overlaps {} of {}, and is not taken",
                    range.prefix, other.prefix, other.trust_domain
                ));
            } else {
                taken.push(range.clone());
                self.ranges.push(range);
            }
        }
        match problem {
            Some(problem) => self.problems.insert(Problem::Ranges, problem),
            None => self.problems.remove(&Problem::Ranges),
        };
    }
}

fn same(a: &[AnnouncedRange], b: &[AnnouncedRange]) -> bool {
    let sorted = |ranges: &[AnnouncedRange]| {
        let mut ranges = ranges.to_vec();
        ranges.sort();
        ranges
    };
    sorted(a) == sorted(b)
}

fn list(ranges: &[AnnouncedRange]) -> String {
    let words = ranges
        .iter()
        .take(8)
        .map(|r| format!("{} = {}", r.range_id, r.prefix));
    let mut words: Vec<_> = words.collect();
    if ranges.len() > words.len() {
        words.push("...".into());
    }
    format!("[{}]", words.join(", "))
}

fn overlap(a: &IdentityRange, b: &IdentityRange) -> bool {
    a.prefix.contains(&b.prefix) || b.prefix.contains(&a.prefix)
}

impl AnnouncedRange {
    fn of(&self, domain: &TrustDomain) -> IdentityRange {
        IdentityRange {
            prefix: self.prefix.trunc(),
            trust_domain: domain.clone(),
            range_id: self.range_id,
            real: None,
        }
    }

    /// As it is seen where it is mapped to `here`.
    fn seen_at(&self, here: IpNet, domain: &TrustDomain) -> IdentityRange {
        IdentityRange {
            prefix: here,
            real: Some(self.prefix.trunc()),
            ..self.of(domain)
        }
    }
}

/// The own ranges and those of `peers`, disjoint unless the own ones are not, sorted by prefix.
pub(super) fn all_ranges<'a>(
    own: &TrustDomain,
    ranges: &[AnnouncedRange],
    peers: impl Iterator<Item = &'a Peer>,
) -> Vec<IdentityRange> {
    let own = ranges.iter().map(|range| range.of(own));
    let mut all: Vec<_> = own
        .chain(peers.flat_map(|peer| peer.ranges.iter().cloned()))
        .collect();
    all.sort();
    all
}
