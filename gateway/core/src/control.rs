//! From inputs to snapshots: interfaces, routes, peers and the tunnel's associations.
//!
//! A state machine without I/O. The caller feeds it with what it learns (`set_*`, `handle_*`),
//! sends what [`Control::poll_transmit`] gives to the peers over their QUIC sessions, publishes
//! what [`Control::poll_snapshot`] gives to the queue threads, and calls [`Control::handle_timeout`]
//! when [`Control::poll_timeout`] says so.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use handshake::transit::TransitSnapshot;
use identity::{Mono, Now, TrustDomain};
use rand_core::CryptoRng;
use wire::{ethernet::Mac, psp::Version};

use crate::{
    associations::{Offer, OfferError, PeerAssociations},
    link,
    nexthop::{NextHops, NoHop, Route},
    owners::Owners,
    snapshot::{Inbound, Interface, Peer, Side, Snapshot},
};

/// How often the associations are looked at.
const TICK: Duration = Duration::from_secs(1);

/// What does not change while the gateway runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlConfig {
    /// The UDP port of our tunnel.
    pub tunnel_port: u16,
    /// What seals what peers send to us.
    pub version: Version,
    /// How many associations each peer gets: as many as it may have sending queues.
    pub associations: u16,
}

/// A peer cluster as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// The outer address of its gateway.
    pub endpoint: IpAddr,
}

/// Builds snapshots.
#[derive(Debug)]
pub struct Control<R> {
    config: ControlConfig,
    rng: R,
    transit: Arc<TransitSnapshot>,
    ready: bool,
    lan: Link,
    wan: Link,
    peers: BTreeMap<TrustDomain, Member>,
    outbox: VecDeque<(TrustDomain, Offer)>,
    next_tick: Option<Mono>,
    changed: bool,
}

/// One side's interface and the kernel's tables for it.
#[derive(Clone, Debug, Default)]
struct Link {
    interface: Interface,
    routes: Vec<Route>,
    neighbours: BTreeMap<IpAddr, Mac>,
}

#[derive(Debug)]
struct Member {
    endpoint: IpAddr,
    associations: PeerAssociations,
}

impl<R: CryptoRng> Control<R> {
    /// Without peers and not ready. `rng` makes the tunnel's keys.
    #[must_use]
    pub fn new(config: ControlConfig, transit: Arc<TransitSnapshot>, rng: R) -> Self {
        Self {
            config,
            rng,
            transit,
            ready: false,
            lan: Link::default(),
            wan: Link::default(),
            peers: BTreeMap::new(),
            outbox: VecDeque::new(),
            next_tick: None,
            changed: true,
        }
    }

    /// Takes what handshakes are judged by. Its epoch must have risen if a verdict could differ.
    pub fn set_transit(&mut self, transit: Arc<TransitSnapshot>) {
        self.transit = transit;
        self.changed = true;
    }

    /// Whether new flows may be opened: everything was learned once and is fresh enough.
    pub fn set_ready(&mut self, ready: bool) {
        self.changed |= self.ready != ready;
        self.ready = ready;
    }

    /// Takes the link and network addresses of an interface.
    pub fn set_interface(&mut self, side: Side, interface: Interface) {
        self.link(side).interface = interface;
        self.changed = true;
    }

    /// Takes the kernel's routes of the interface.
    pub fn set_routes(&mut self, side: Side, routes: Vec<Route>) {
        self.link(side).routes = routes;
        self.changed = true;
    }

    /// Takes the kernel's neighbours of the interface, as far as they are resolved.
    pub fn set_neighbours(&mut self, side: Side, neighbours: BTreeMap<IpAddr, Mac>) {
        self.link(side).neighbours = neighbours;
        self.changed = true;
    }

    /// Takes the list of peers. One that is not in it loses its associations at once.
    pub fn set_peers(&mut self, peers: Vec<PeerConfig>) {
        let mut old = std::mem::take(&mut self.peers);
        for PeerConfig {
            trust_domain,
            endpoint,
        } in peers
        {
            let associations = old.remove(&trust_domain).map(|member| member.associations);
            let associations = associations.unwrap_or_default();
            self.peers.insert(
                trust_domain,
                Member {
                    endpoint,
                    associations,
                },
            );
        }
        let peers = &self.peers;
        self.outbox.retain(|(peer, _)| peers.contains_key(peer));
        self.changed = true;
    }

    /// A peer has a new QUIC session: its old associations are over, in both directions, because
    /// it may be another process. Offers of new ones are made.
    pub fn handle_connected(&mut self, peer: &TrustDomain, now: Now) {
        let Some(member) = self.peers.get_mut(peer) else {
            return;
        };
        self.outbox.retain(|(to, _)| to != peer);
        member.associations.reset();
        self.offer(peer, now);
        self.next_tick.get_or_insert(now.mono.after(TICK));
        self.changed = true;
    }

    /// Takes an association that `peer` offered: from now on we seal with it.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn handle_offer(&mut self, peer: &TrustDomain, offer: &Offer) -> Result<(), OfferError> {
        let member = self.peers.get_mut(peer).ok_or(OfferError::UnknownPeer)?;
        member.associations.take_offer(offer)?;
        self.changed = true;
        Ok(())
    }

    /// The next offer, and the peer whose session it is to be sent on.
    pub fn poll_transmit(&mut self) -> Option<(TrustDomain, Offer)> {
        self.outbox.pop_front()
    }

    /// When [`Control::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.next_tick
    }

    /// Replaces associations that are old or worn, and forgets replaced ones.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.next_tick.is_none_or(|tick| tick > now.mono) {
            return;
        }
        self.next_tick = Some(now.mono.after(TICK));
        let domains: Vec<TrustDomain> = self.peers.keys().cloned().collect();
        for peer in domains {
            if let Some(member) = self.peers.get_mut(&peer) {
                self.changed |= member.associations.retire(now.mono);
            }
            self.offer(&peer, now);
        }
    }

    /// The newest snapshot, if anything changed since the last call.
    pub fn poll_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        std::mem::take(&mut self.changed).then(|| Arc::new(self.snapshot()))
    }

    /// Offers what `peer` should have and has not.
    fn offer(&mut self, peer: &TrustDomain, now: Now) {
        let taken: Vec<u32> = self
            .peers
            .values()
            .flat_map(|member| member.associations.names())
            .collect();
        let Some(member) = self.peers.get_mut(peer) else {
            return;
        };
        let offers = member
            .associations
            .renew(&self.config, &taken, &mut self.rng, now.mono);
        self.changed |= !offers.is_empty();
        self.outbox
            .extend(offers.into_iter().map(|offer| (peer.clone(), offer)));
    }

    fn link(&mut self, side: Side) -> &mut Link {
        match side {
            Side::Lan => &mut self.lan,
            Side::Wan => &mut self.wan,
        }
    }

    fn snapshot(&self) -> Snapshot {
        let (lan, wan) = (self.lan.interface.clone(), self.wan.interface.clone());
        let wan_hops = NextHops::new(self.wan.routes.clone(), self.wan.neighbours.clone());
        let domains: Vec<TrustDomain> = self.peers.keys().cloned().collect();
        let mut inbound = BTreeMap::new();
        let mut peers = Vec::with_capacity(domains.len());
        // A number is the position in the sorted list of peers, as in `domains`.
        for (number, (trust_domain, member)) in (0u16..).zip(&self.peers) {
            for association in member.associations.receiving() {
                let association = association.clone();
                inbound.insert(
                    association.spi(),
                    Inbound {
                        association,
                        peer: number,
                    },
                );
            }
            peers.push(Peer {
                trust_domain: trust_domain.clone(),
                endpoint: member.endpoint,
                port: member
                    .associations
                    .port()
                    .unwrap_or(self.config.tunnel_port),
                outbound: member.associations.sending().cloned().collect(),
                next_hop: wan_hops.lookup(member.endpoint),
                inner_mtu: link::inner_mtu(&lan, &wan, member.endpoint),
            });
        }
        let own = lan.addresses.iter().chain(&wan.addresses).copied();
        Snapshot {
            endpoints: own.chain(peers.iter().map(|peer| peer.endpoint)).collect(),
            owners: Owners::new(&self.transit.networks, &self.transit.own, &domains),
            transit: self.transit.clone(),
            ready: self.ready,
            lan,
            wan,
            tunnel_port: self.config.tunnel_port,
            peers,
            inbound,
            lan_hops: NextHops::new(self.lan.routes.clone(), self.lan.neighbours.clone()),
        }
    }

    /// The neighbours whose link addresses a working gateway needs and does not have: routers
    /// towards peers. Those of pods are asked for by packets ([`crate::Event::Unresolved`]).
    #[must_use]
    pub fn unresolved(&self) -> Vec<IpAddr> {
        let hops = NextHops::new(self.wan.routes.clone(), self.wan.neighbours.clone());
        let ends = self
            .peers
            .values()
            .map(|member| hops.lookup(member.endpoint));
        ends.filter_map(|hop| match hop {
            Err(NoHop::Neighbour(address)) => Some(address),
            _ => None,
        })
        .collect()
    }
}
