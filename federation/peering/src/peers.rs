//! A cluster among its peers: who they are, what each said of itself and may be believed, and what
//! we say of ourselves. One [`Peering`] per gateway. docs/spec/peering.md.
//!
//! No I/O and no clock. The contract, for the one task that owns it:
//!
//! 1. Call `handle_*` and `set_*` with what happened. `handle_timeout` when the time of
//!    [`Peering::poll_timeout`] has come.
//! 2. Then store what [`Peering::poll_persist`] gives and say so with [`Peering::handle_persisted`],
//!    until it gives nothing. As long as something is not stored, nothing comes out: no peer hears a
//!    sequence, and nothing is believed, that a crash could undo. While storing fails, read no more
//!    from the sessions.
//! 3. Then [`Peering::poll_event`], [`Peering::poll_records`] and [`Peering::poll_transmit`] until
//!    they give nothing. Messages are made when they are polled, from what the peer has not heard
//!    yet, so a slow peer costs no memory; a message that was polled and not delivered is healed by
//!    a new session.
//!
//! A session is authenticated by the transport: what comes on the session of a peer is the peer's
//! word on itself, and on nobody else.

mod away;
mod clock;
mod digest;
mod inbox;
mod introductions;
mod membership;
mod offers;
mod own;
mod peer;
mod pieces;
mod revocations;
mod standing;
mod state;
mod status;
mod timer;
mod transmit;
mod tunnel;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use handshake::admission::Restricted;
use identity::{
    BundleStore, ClaimLimits, IdentityRange, IssuerKey, IssuerPublicKey, Mono, Now, SignedRecord,
    TrustBundle, TrustDomain, UnixMillis, VerifiedRecord,
};
use rand_core::CryptoRng;

use crate::{
    peer_messages::{AnnouncedRange, Instance},
    signatures::{Signature, Signatures},
};
use peer::Peer;
use standing::Standing;

pub use clock::TOLERATED;
pub use digest::{Digest, DigestError};
pub use introductions::{IntroduceError, Pair, Party};
pub use membership::{MembershipError, PeerConfig};
pub use revocations::RevokeError;
pub use standing::{RestoreError, Restored, Sequences};
pub(crate) use state::StoredSigned;
pub use state::{MAX_STATE, OwnState, StateError, StateKey, check_stored, mark_restored};
pub use status::{PeerStatus, Status};
pub use tunnel::{DRAIN, REKEY_AFTER, REKEY_PACKETS, TunnelCipher, TunnelState};

/// Most peers.
pub const MAX_PEERS: usize = 1024;
/// Most own policies that are remembered, to say which of them is enforced.
const MAX_ANNOUNCED: usize = 32;
/// Most events that wait. A caller that keeps the contract never meets it.
const MAX_EVENTS: usize = 4096;

/// How a gateway is set up.
#[derive(Clone, Debug)]
pub struct PeeringConfig {
    /// This cluster.
    pub trust_domain: TrustDomain,
    /// The UDP port of our tunnel.
    pub tunnel_port: u16,
    /// How many queues send into the tunnel.
    pub queues: u8,
    /// The algorithm of the associations that we make.
    pub cipher: TunnelCipher,
    /// How long a bundle of ours is valid without being announced again; it is announced anew after
    /// a fifth of it.
    pub bundle_life: Duration,
}

impl PeeringConfig {
    /// Port 1000, one queue, AES-128, bundles of a day.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            tunnel_port: 1000,
            queues: 1,
            cipher: TunnelCipher::default(),
            bundle_life: Duration::from_hours(24),
        }
    }

    /// After what time a bundle of ours is announced again, and others ask for it.
    #[must_use]
    pub fn refresh_hint(&self) -> Duration {
        self.bundle_life / 5
    }
}

/// The keys by which this cluster is to be believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnKeys {
    /// X.509 roots in DER.
    pub x509_roots: Vec<Vec<u8>>,
    /// Issuer keys.
    pub issuer_keys: Vec<IssuerPublicKey>,
    /// The label keys that credentials carry; `None` for all.
    pub carried_labels: Option<Vec<String>>,
}

/// What the gateway should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// The peer greeted us: the session is in use.
    Connected(TrustDomain),
    /// The session is gone.
    Disconnected(TrustDomain),
    /// [`Peering::bundles`] changed.
    BundlesChanged,
    /// [`Peering::digest`] of the peer changed.
    DigestChanged(TrustDomain),
    /// [`Peering::ranges`] changed.
    RangesChanged,
    /// [`Peering::restrictions`] changed.
    RestrictionsChanged,
    /// [`Peering::introduced`] of the peer changed.
    IntroductionsChanged(TrustDomain),
    /// [`Peering::tunnel`] of the peer changed.
    TunnelChanged(TrustDomain),
    /// Pods of the peer were relabelled or deleted. Signatures hold.
    Records(Vec<(SignedRecord, VerifiedRecord)>),
    /// The peer's clock is off by more than is tolerated, or is right again.
    Clock {
        /// Whose.
        peer: TrustDomain,
        /// Both clocks, in words.
        off: Option<String>,
    },
    /// [`Peering::restored`] changed.
    RestoredChanged,
    /// Somebody rolls a peer back or speaks for it who should not. For the audit log; it stands in
    /// the status too.
    Alarm {
        /// Which peer it is about.
        peer: TrustDomain,
        /// What was seen.
        what: String,
    },
    /// The session is to be closed.
    Close {
        /// Whose.
        peer: TrustDomain,
        /// What the peer is told.
        reason: String,
    },
    /// The peer says that it is none any more.
    Left {
        /// Who.
        peer: TrustDomain,
        /// Why, in its words.
        why: String,
    },
    /// All of the peer is gone: it is none any more, or it was set up anew under another pin. Which
    /// of both, [`Peering::peers`] says.
    Removed(TrustDomain),
}

/// See the module.
pub struct Peering {
    config: PeeringConfig,
    key: Arc<IssuerKey>,
    rng: Box<dyn CryptoRng + Send>,
    instance: Instance,
    now: Now,
    own: Own,
    peers: BTreeMap<TrustDomain, Peer>,
    bundles: BundleStore,
    restricted: BTreeMap<TrustDomain, Arc<Restricted>>,
    /// What was stored of peers that are none now.
    former: BTreeMap<TrustDomain, state::PeerState>,
    unsaved: BTreeSet<StateKey>,
    events: VecDeque<PeerEvent>,
    /// Peers that may have something to be told.
    dirty: BTreeSet<TrustDomain>,
    /// Where the next search for records begins, so that no peer waits for another's.
    records_after: Option<TrustDomain>,
    /// Bundles that ended before were reported.
    ends_seen: UnixMillis,
    signatures: Signatures,
    /// How what peers have seen of this cluster stands to what it remembers.
    standing: Standing,
}

/// What this cluster says of itself.
#[derive(Default)]
struct Own {
    state: OwnState,
    keys: OwnKeys,
    bundle: Option<TrustBundle>,
    refresh_at: Mono,
    policy: Option<offers::Whole>,
    digests: offers::Digests,
    enforcing: Option<[u8; 32]>,
    ranges: Vec<AnnouncedRange>,
    problem: Option<String>,
    /// The list of revocations, signed once for all peers.
    revocations: Arc<[u8]>,
    /// The list of introductions of each peer, signed.
    introductions: BTreeMap<TrustDomain, Vec<u8>>,
}

impl Peering {
    /// The peering of a gateway with the memory `stored` of its former life: every object that
    /// [`Self::poll_persist`] ever gave. `rng` makes tunnel keys: it must be seeded from the
    /// system's randomness.
    ///
    /// # Errors
    /// When a stored object is damaged. Without its memory a gateway would take old bundles and
    /// digests for new ones, so it must not start; which object it was is said.
    pub fn new(
        config: PeeringConfig,
        key: IssuerKey,
        stored: impl IntoIterator<Item = (String, Vec<u8>)>,
        mut rng: Box<dyn CryptoRng + Send>,
        now: Now,
    ) -> Result<Self, (String, StateError)> {
        let mut instance = Instance::default();
        rng.fill_bytes(&mut instance.0);
        let mut peering = Self {
            config,
            key: Arc::new(key),
            rng,
            instance,
            now,
            own: Own::default(),
            peers: BTreeMap::new(),
            bundles: BundleStore::default(),
            restricted: BTreeMap::new(),
            former: BTreeMap::new(),
            unsaved: BTreeSet::new(),
            events: VecDeque::new(),
            dirty: BTreeSet::new(),
            records_after: None,
            ends_seen: now.unix,
            signatures: Signatures::default(),
            standing: Standing::default(),
        };
        peering.restore(stored)?;
        peering.sign_revocations();
        peering.sign_introductions();
        peering.settle_restrictions();
        Ok(peering)
    }

    /// A session with `peer` is up, which the transport has authenticated as a gateway of that trust
    /// domain; one before it is gone. `remote`: the other end of it.
    pub fn handle_connected(&mut self, peer: &TrustDomain, remote: SocketAddr, now: Now) {
        self.now = now;
        let Some(it) = self.peers.get_mut(peer) else {
            return;
        };
        let had_tunnel = it.connect(remote, now);
        self.dirty.insert(peer.clone());
        if had_tunnel {
            self.emit(PeerEvent::TunnelChanged(peer.clone()));
        }
        self.end_revoked(peer);
    }

    /// The session with `peer` ended. What it said stays in force until it expires by itself, and
    /// so do the associations: flows outlive the loss of a session.
    pub fn handle_disconnected(&mut self, peer: &TrustDomain, why: &str, now: Now) {
        self.now = now;
        let Some(it) = self.peers.get_mut(peer) else {
            return;
        };
        self.dirty.remove(peer);
        if it.disconnect(why, now) {
            self.emit(PeerEvent::Disconnected(peer.clone()));
        }
    }

    /// Dialling `peer` failed, or somebody who claims to be `peer` was refused: for the status.
    pub fn handle_refused(&mut self, peer: &TrustDomain, why: &str, now: Now) {
        self.now = now;
        if let Some(it) = self.peers.get_mut(peer) {
            it.failure = Some((now.unix, shorten(why)));
        }
    }

    /// So many packets were sent on the association `spi` of `peer` in all.
    pub fn handle_sent(&mut self, peer: &TrustDomain, spi: u32, packets: u64) {
        if let Some(it) = self.peers.get_mut(peer)
            && let Some(generation) = it.tunnel.sent(spi, packets)
            && let Some(session) = &mut it.session
        {
            session.outbox.rekey = Some(generation);
            self.dirty.insert(peer.clone());
        }
    }

    /// Tells `peer` that we are no peer of its any more; to be followed by taking it from the peers once
    /// that is sent.
    pub fn leave(&mut self, peer: &TrustDomain, why: &str) {
        if let Some(session) = self.peers.get_mut(peer).and_then(|it| it.session.as_mut()) {
            session.outbox.leave = Some(shorten(why));
            self.dirty.insert(peer.clone());
        }
    }

    /// Own records may have been made: [`Self::poll_records`] asks for them.
    pub fn handle_records_changed(&mut self) {
        self.tell_all(|outbox| outbox.records = true);
    }

    /// The next object to store: its key, its bytes. The same again until
    /// [`Self::handle_persisted`].
    #[must_use]
    pub fn poll_persist(&self) -> Option<(StateKey, Vec<u8>)> {
        let key = self.unsaved.first()?.clone();
        let bytes = match &key {
            StateKey::Own => state::seal(&self.own.state),
            StateKey::Peer(domain) => match self.peers.get(domain) {
                Some(peer) => state::seal(&peer.state),
                None => state::seal(self.former.get(domain)?),
            },
        };
        Some((key, bytes))
    }

    /// The object that was polled last is stored.
    pub fn handle_persisted(&mut self, key: &StateKey) {
        self.unsaved.remove(key);
    }

    /// What was signed since: to be in the audit log before anything is sent.
    pub fn take_signatures(&mut self) -> Vec<Signature> {
        self.signatures.take()
    }

    /// What the gateway should know next. Nothing while something is not stored.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.unsaved.is_empty().then(|| self.events.pop_front())?
    }

    /// The bundles in force: the own one and those of peers, expired ones too.
    #[must_use]
    pub fn bundles(&self) -> &BundleStore {
        &self.bundles
    }

    /// What `peer` announced of its policy.
    #[must_use]
    pub fn digest(&self, peer: &TrustDomain) -> Option<&Arc<Digest>> {
        self.peers.get(peer)?.digest.as_ref()
    }

    /// The own digest, as it is announced to those to whom all pods are offered.
    #[must_use]
    pub fn own_digest(&self) -> Option<&Digest> {
        let told = self.own.digests.get(&ClaimLimits::default())?;
        told.announced.newest().map(|newest| &newest.digest)
    }

    /// The pod ranges of this cluster and of its peers, disjoint, sorted by prefix.
    #[must_use]
    pub fn ranges(&self) -> Vec<IdentityRange> {
        membership::all_ranges(
            &self.config.trust_domain,
            &self.own.ranges,
            self.peers.values(),
        )
    }

    /// The tunnel with `peer`.
    #[must_use]
    pub fn tunnel(&self, peer: &TrustDomain) -> TunnelState {
        self.peers
            .get(peer)
            .map_or_else(TunnelState::default, |peer| peer.tunnel.state())
    }

    /// The root by which `peer` was first believed, as it is configured. `None` also when its roots are
    /// known from elsewhere.
    #[must_use]
    pub fn pin(&self, peer: &TrustDomain) -> Option<[u8; 32]> {
        self.peers.get(peer)?.config.pin
    }

    /// Every root by which `peer` is known: those of its configuration, and those of its bundle.
    #[must_use]
    pub fn roots(&self, peer: &TrustDomain) -> Vec<[u8; 32]> {
        let bundle = self.bundles.bundle(peer);
        let roots = bundle.into_iter().flat_map(|bundle| &bundle.x509_roots);
        let roots = roots.map(|root| Self::pin_of(root));
        let peer = self.peers.get(peer).into_iter();
        let configured = peer.flat_map(|peer| peer.config.pins());
        configured.chain(roots).collect()
    }

    /// What the credentials of `peer` may claim here.
    #[must_use]
    pub fn limits(&self, peer: &TrustDomain) -> Option<&ClaimLimits> {
        self.peers.get(peer).map(|peer| &peer.config.limits)
    }

    /// The peers' names.
    pub fn peers(&self) -> impl Iterator<Item = &TrustDomain> {
        self.peers.keys()
    }

    fn tell_all(&mut self, tell: impl Fn(&mut peer::Outbox)) {
        for (domain, peer) in &mut self.peers {
            if let Some(session) = &mut peer.session {
                tell(&mut session.outbox);
                self.dirty.insert(domain.clone());
            }
        }
    }

    /// Events without content are the same however often they happened.
    fn emit(&mut self, event: PeerEvent) {
        let plain = matches!(
            event,
            PeerEvent::BundlesChanged
                | PeerEvent::RangesChanged
                | PeerEvent::RestrictionsChanged
                | PeerEvent::RestoredChanged
                | PeerEvent::DigestChanged(_)
                | PeerEvent::IntroductionsChanged(_)
                | PeerEvent::TunnelChanged(_)
        );
        if plain && self.events.contains(&event) {
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl fmt::Debug for Peering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peering")
            .field("trust_domain", &self.config.trust_domain)
            .field("peers", &self.peers.keys())
            .field("unsaved", &self.unsaved)
            .finish_non_exhaustive()
    }
}

/// What others say, bounded.
fn shorten(text: &str) -> String {
    text.chars().take(300).collect()
}
