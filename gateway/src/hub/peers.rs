//! The hub's peers: who they are by configuration, their sessions, whom TLS believes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use gateway_core::control::Member as Peered;
use identity::{AwayRule, ClaimLimits, TrustDomain};
use peering::{join::Member, peers::PeerConfig};
use quic::{
    Anchor, Endpoint, Facts, Pin, Preferred, Protocol, Refused, Session, Target, Trust, preferred,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rand_core::Rng;
use sources::{World, crd::BundleEndpointSpec};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{
    Hub, announced,
    dial::Dialler,
    links::{Input, Link, LinkId},
};
use crate::bundle_source::BundleSource;

/// By which root a peer is believed before its bundle is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Root {
    /// One of these; the first is the one that it is known by.
    OneOf(Vec<Pin>),
    /// Those that are fetched, and after that too.
    Fetched,
}

impl Root {
    /// Whether it is the same peer, set up once.
    fn is_known_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::OneOf(these), Self::OneOf(others)) => these.first() == others.first(),
            (Self::Fetched, Self::Fetched) => true,
            _ => false,
        }
    }
}

/// All peers.
pub(super) struct Peers {
    endpoint: Endpoint,
    trust: Trust,
    inputs: mpsc::Sender<Input>,
    rng: ChaCha20Rng,
    all: BTreeMap<TrustDomain, Peer>,
    /// The name of each number that a dialler was ever started with.
    numbers: Vec<TrustDomain>,
}

struct Peer {
    /// Where its gateway listens for QUIC.
    address: SocketAddr,
    by: Root,
    link: Option<Link>,
    dialler: Dialler,
}

impl Peers {
    pub(super) fn new(
        endpoint: Endpoint,
        trust: Trust,
        inputs: mpsc::Sender<Input>,
        rng: ChaCha20Rng,
    ) -> Self {
        Self {
            endpoint,
            trust,
            inputs,
            rng,
            all: BTreeMap::new(),
            numbers: Vec::new(),
        }
    }

    /// Where its gateway listens.
    pub(super) fn address(&self, peer: &TrustDomain) -> Option<SocketAddr> {
        self.all.get(peer).map(|peer| peer.address)
    }

    /// The peer of a dialler.
    pub(super) fn name(&self, number: usize) -> Option<TrustDomain> {
        self.numbers.get(number).cloned()
    }

    /// Whose session it is.
    pub(super) fn of(&self, id: LinkId) -> Option<TrustDomain> {
        let mut all = self.all.iter();
        let found = all.find(|(_, peer)| peer.link.as_ref().is_some_and(|link| link.id == id));
        found.map(|(domain, _)| domain.clone())
    }

    /// The session ended; whose it was, unless another has taken its place.
    pub(super) fn ended(&mut self, id: LinkId) -> Option<TrustDomain> {
        let domain = self.of(id)?;
        self.lose(&domain);
        Some(domain)
    }

    pub(super) fn send(&self, peer: &TrustDomain, message: Vec<u8>) {
        if let Some(link) = self.all.get(peer).and_then(|peer| peer.link.as_ref()) {
            link.send(message);
        }
    }

    pub(super) fn close_one(&mut self, peer: &TrustDomain, reason: &str) {
        if let Some(link) = self.all.get(peer).and_then(|peer| peer.link.as_ref()) {
            link.close(reason);
        }
        self.lose(peer);
    }

    pub(super) fn close(&mut self, reason: &str) {
        for peer in self.all.values() {
            if let Some(link) = &peer.link {
                link.close(reason);
            }
        }
        self.all.clear();
    }

    /// It is none any more: no session of it is accepted, and none is dialled.
    pub(super) fn remove(&mut self, peer: &TrustDomain) {
        self.close_one(peer, "not a peer any more");
        self.all.remove(peer);
        self.trust.remove(peer);
    }

    /// The session with `peer`, which is none of its any more.
    pub(super) fn take_link(&mut self, peer: &TrustDomain) -> Option<Link> {
        self.all.get_mut(peer)?.link.take()
    }

    fn lose(&mut self, domain: &TrustDomain) {
        if let Some(peer) = self.all.get_mut(domain) {
            peer.link = None;
            peer.dialler.wake();
        }
    }

    /// Whether a session was ended, because the peer is configured otherwise than before.
    fn keep(&mut self, domain: TrustDomain, address: SocketAddr, by: Root) -> bool {
        let same = |peer: &&mut Peer| peer.address == address && peer.by.is_known_as(&by);
        if let Some(peer) = self.all.get_mut(&domain).filter(same) {
            peer.by = by;
            return false;
        }
        let had = self
            .all
            .get(&domain)
            .is_some_and(|peer| peer.link.is_some());
        if had {
            self.close_one(&domain, "configured anew");
        }
        let target = Target {
            address,
            trust_domain: domain.clone(),
            protocol: Protocol::Peer,
        };
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let dialler = Dialler::start(
            self.endpoint.clone(),
            target,
            self.numbers.len(),
            self.inputs.clone(),
            ChaCha20Rng::from_seed(seed),
        );
        self.numbers.push(domain.clone());
        let peer = Peer {
            address,
            by,
            link: None,
            dialler,
        };
        self.all.insert(domain, peer);
        had
    }
}

/// By what it is believed, as it is declared.
enum DeclaredRoot {
    /// The pin, and other roots that an introduction named.
    Pins(String, Vec<[u8; 32]>),
    Endpoint(BundleEndpointSpec),
}

impl DeclaredRoot {
    fn of(pin: Option<&String>, endpoint: Option<&BundleEndpointSpec>) -> Option<Self> {
        let endpoint = endpoint.cloned().map(Self::Endpoint);
        endpoint.or_else(|| pin.cloned().map(|pin| Self::Pins(pin, Vec::new())))
    }
}

/// A peer as the file or an object declares it.
struct Declared {
    cluster: String,
    endpoint: Option<String>,
    root: Option<DeclaredRoot>,
    limits: ClaimLimits,
    offer: ClaimLimits,
    introducer: bool,
    away: Option<AwayRule>,
}

impl From<&Member> for Declared {
    fn from(member: &Member) -> Self {
        Self {
            cluster: member.name.clone(),
            endpoint: member.endpoints.first().map(ToString::to_string),
            root: Some(DeclaredRoot::Pins(
                Pin(member.pin).to_string(),
                member.roots.clone(),
            )),
            limits: member.accept.clone(),
            offer: member.offer.clone(),
            introducer: member.introducer,
            away: member.away,
        }
    }
}

/// A peer that can be one.
struct Wanted {
    config: PeerConfig,
    address: SocketAddr,
    /// `None`: it has a pin.
    source: Option<BundleSource>,
}

impl Wanted {
    fn root(&self) -> Root {
        match self.config.pin {
            Some(_) => Root::OneOf(self.config.pins().map(Pin).collect()),
            None => Root::Fetched,
        }
    }
}

fn wanted(world: &World, declared: Declared) -> Result<Wanted, String> {
    let cluster = world
        .federation
        .cluster(&declared.cluster)
        .ok_or("the federation has no such cluster")?;
    let endpoint = declared.endpoint.ok_or("it has no endpoint")?;
    let address = endpoint
        .parse()
        .map_err(|_| format!("its endpoint {endpoint:?} is not address:port"))?;
    let root = declared
        .root
        .ok_or("it has neither a root pin nor a bundle endpoint")?;
    let (pin, or_roots, source) = match root {
        DeclaredRoot::Pins(pin, or_roots) => {
            let pin: Pin = pin.parse().map_err(|e: quic::PinError| e.to_string())?;
            (Some(pin.0), or_roots, None)
        }
        DeclaredRoot::Endpoint(spec) => {
            let source = BundleSource::new(&spec);
            (
                None,
                Vec::new(),
                Some(source.map_err(|e| format!("bundleEndpoint.{e:#}"))?),
            )
        }
    };
    let config = PeerConfig {
        trust_domain: cluster.trust_domain.clone(),
        pin,
        or_roots,
        ranges: Some(cluster.pod_ranges.iter().map(announced).collect()),
        mapped: (cluster.pod_ranges.iter())
            .filter_map(|range| Some((range.id, range.map_to?)))
            .collect(),
        limits: declared.limits,
        offer: declared.offer,
        away: declared.away,
    };
    Ok(Wanted {
        config,
        address,
        source,
    })
}

impl Hub {
    /// The peers of the configuration file, and those that FederationPeer objects name. A cluster
    /// that the federation does not have is none.
    pub(super) fn configure_peers(&mut self, world: &World) {
        self.problems
            .retain(|origin, _| !origin.starts_with("peer "));
        let object = |cluster: &String| world.peers.iter().find(|p| p.cluster == *cluster);
        let in_file = self.config.peers.iter();
        let file = in_file.filter(|peer| !peer.while_declared || object(&peer.cluster).is_some());
        let file = file.map(|peer| Declared {
            cluster: peer.cluster.clone(),
            endpoint: Some(peer.endpoint.to_string()),
            root: DeclaredRoot::of(peer.root_pin.as_ref(), peer.bundle_endpoint.as_ref()),
            limits: match object(&peer.cluster) {
                Some(object) if peer.accept.is_empty() => object.accept.clone(),
                _ => peer.accept.clone(),
            },
            offer: match object(&peer.cluster) {
                Some(object) if peer.offer.is_empty() => object.offer.clone(),
                _ => peer.offer.clone(),
            },
            introducer: peer.introducer
                || object(&peer.cluster).is_some_and(|object| object.introducer),
            away: (peer.away).or_else(|| object(&peer.cluster).and_then(|object| object.away)),
        });
        // The file wins: an object of the same cluster need not repeat what the file says.
        let listed = |cluster: &String| self.config.peers.iter().any(|p| p.cluster == *cluster);
        let objects = world.peers.iter().filter(|peer| !listed(&peer.cluster));
        // An object refines what was joined: it need not repeat what the token said.
        let joined = |cluster: &String| self.members.iter().find(|m| m.name == *cluster);
        let objects = objects.map(|peer| {
            let member = joined(&peer.cluster).map(Declared::from);
            let endpoint = peer.endpoints.first().cloned();
            let root = DeclaredRoot::of(peer.root_pin.as_ref(), peer.bundle_endpoint.as_ref());
            Declared {
                cluster: peer.cluster.clone(),
                endpoint: endpoint.or_else(|| member.as_ref()?.endpoint.clone()),
                offer: match &member {
                    Some(member) if peer.offer.is_empty() => member.offer.clone(),
                    _ => peer.offer.clone(),
                },
                introducer: peer.introducer || member.as_ref().is_some_and(|m| m.introducer),
                away: (peer.away).or_else(|| member.as_ref()?.away),
                limits: match &member {
                    Some(member) if peer.accept.is_empty() => member.limits.clone(),
                    _ => peer.accept.clone(),
                },
                // The pin of an object is the only one.
                root: root.or_else(|| member?.root),
            }
        });
        let is_object = |cluster: &String| world.peers.iter().any(|p| p.cluster == *cluster);
        let members = self.members.iter();
        let members = members.filter(|member| !listed(&member.name) && !is_object(&member.name));
        let members = members.map(Declared::from);
        let all: Vec<_> = file.chain(objects).chain(members).collect();
        let mut peers: BTreeMap<TrustDomain, Wanted> = BTreeMap::new();
        let mut introducers = BTreeSet::new();
        for declared in all {
            let (cluster, introducer) = (declared.cluster.clone(), declared.introducer);
            match wanted(world, declared) {
                Ok(peer) => {
                    let domain = peer.config.trust_domain.clone();
                    if introducer {
                        introducers.insert(domain.clone());
                    }
                    peers.entry(domain).or_insert(peer);
                }
                Err(why) => {
                    self.problem(&format!("peer {cluster}"), format!("peer {cluster}: {why}"))
                }
            }
        }
        let peered = peers.values().map(|peer| Peered {
            config: peer.config.clone(),
            address: peer.address,
        });
        let now = self.now();
        let before: Vec<_> = self.control.peering().peers().cloned().collect();
        if let Err(e) = self.control.set_peers(peered.collect(), now) {
            self.problem("peer list", e.to_string());
            return;
        }
        self.members.introducers = introducers;
        let stays = |domain: &&TrustDomain| {
            peers.contains_key(*domain) || self.members.iter().any(|m| m.trust_domain == **domain)
        };
        let gone: Vec<_> = before
            .into_iter()
            .filter(|domain| !stays(&domain))
            .collect();
        self.refuse_introduced(&gone);
        let mut sources = BTreeMap::new();
        for (domain, peer) in peers {
            if self.control.peering().revoked_cluster(&domain).is_some() {
                // Nobody of it is spoken with, whoever dials.
                self.peers.remove(&domain);
                continue;
            }
            let root = peer.root();
            sources.extend(peer.source.map(|source| (domain.clone(), source)));
            if self.peers.keep(domain.clone(), peer.address, root) {
                let why = "configured anew";
                self.control.handle_peer_disconnected(&domain, why, now);
            }
        }
        for (peer, why) in self.fetched.set(sources) {
            self.problem(&format!("peer {peer}"), format!("peer {peer}: {why}"));
        }
        self.trust_bundles();
        self.settle_introduced();
    }

    /// TLS believes a peer by its bundle, and by its pin until there is one. A bundle without roots
    /// is one: the peer withdrew them, and the pin does not bring them back. Where roots are fetched, those
    /// count and nothing else.
    pub(super) fn trust_bundles(&mut self) {
        for (domain, peer) in &self.peers.all {
            let anchor = match (&peer.by, self.control.peering().bundles().bundle(domain)) {
                (Root::Fetched, _) => Anchor::Roots(self.fetched.believed(domain)),
                (_, Some(bundle)) => Anchor::Roots(bundle.x509_roots.clone()),
                (Root::OneOf(pins), None) => Anchor::OneOf(pins.clone()),
            };
            self.peers.trust.set(domain.clone(), anchor);
        }
    }

    /// Nobody hears of a bundle whose sequence is not stored: the event came after that.
    pub(super) fn publish_bundle(&self) {
        if self.control.peering().restored().is_some() {
            return;
        }
        let Some(bundle) = self.control.peering().bundles().bundle(&self.own) else {
            return;
        };
        let new = bundle.to_jwks();
        self.own_bundle.send_if_modified(|text| {
            let changed = **text != *new;
            if changed {
                *text = new.into();
            }
            changed
        });
    }

    pub(super) fn peer_session(&mut self, session: Session) {
        let domain = session.info.peer.id.trust_domain().clone();
        let id = self.link_id();
        let (own, inputs) = (self.own.clone(), self.sender.clone());
        let facts = |info: &quic::Info| Facts {
            dialled: info.dialled,
            instance: info.instance,
        };
        let Some(peer) = self.peers.all.get_mut(&domain) else {
            session.sender.close("not a peer");
            return;
        };
        if let Some(old) = &peer.link {
            let new = facts(&session.info);
            if preferred(&own, &domain, facts(&old.info), new) == Preferred::Old {
                session.sender.close("there is a session already");
                return;
            }
            old.close("another session took its place");
        }
        let remote = session.info.remote;
        info!(peer = %domain, %remote, dialled = session.info.dialled, "session");
        peer.link = Some(Link::start(id, session, inputs));
        peer.dialler.rest();
        let now = self.now();
        self.control.handle_peer_connected(&domain, remote, now);
    }

    pub(super) fn refused(&mut self, refused: &Refused) {
        let now = self.now();
        let from = refused.remote.ip();
        if self.refusals.note(from, now.mono) {
            warn!(remote = %refused.remote, "refused: {}", refused.error);
        }
        // From the address of a peer it is worth a word in that peer's status.
        let peer = self.peers.all.iter().find(|(_, p)| p.address.ip() == from);
        if let Some((domain, _)) = peer {
            let domain = domain.clone();
            self.control
                .handle_peer_refused(&domain, &refused.error.to_string(), now);
        }
    }
}
