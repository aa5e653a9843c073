//! From what the hub knows to the snapshot of the queue threads.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use gateway_core::{
    Snapshot, link,
    nexthop::{NextHops as Hops, Route},
    owners::Owners,
    snapshot::{Inbound, Interface, Peer},
};
use handshake::transit::TransitSnapshot;
use identity::TrustDomain;
use wire::ethernet::Mac;

use super::tunnels::Tunnel;
use crate::nexthops::NextHops;

/// One side of the gateway as it is configured.
#[derive(Clone, Debug)]
pub struct Side {
    /// The interface's name.
    pub interface: String,
    /// The gateway's address there.
    pub address: IpAddr,
}

/// A peer as it is now.
#[derive(Debug)]
pub struct PeerState<'a> {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// Where its tunnel ends.
    pub endpoint: IpAddr,
    /// Its tunnel's UDP port.
    pub port: u16,
    /// The associations with it.
    pub tunnel: Option<&'a Tunnel>,
}

/// Everything that goes into a snapshot.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What handshakes are judged by.
    pub transit: Arc<TransitSnapshot>,
    /// Whether new flows may be opened.
    pub ready: bool,
    /// Towards the nodes.
    pub lan: &'a Side,
    /// Towards the peers.
    pub wan: &'a Side,
    /// Our tunnel's UDP port.
    pub tunnel_port: u16,
    /// The kernel's tables.
    pub hops: &'a NextHops,
    /// The peers, sorted by name: a peer's number is its place.
    pub peers: Vec<PeerState<'a>>,
}

/// Puts a snapshot together.
#[must_use]
pub fn assemble(parts: Parts<'_>) -> Snapshot {
    let (lan, lan_hops) = side(parts.lan, parts.hops);
    let (wan, wan_hops) = side(parts.wan, parts.hops);
    let domains: Vec<TrustDomain> = parts.peers.iter().map(|p| p.trust_domain.clone()).collect();
    let mut inbound = BTreeMap::new();
    let mut peers = Vec::with_capacity(parts.peers.len());
    for (number, peer) in (0u16..).zip(parts.peers) {
        let receive = peer.tunnel.map(|tunnel| &tunnel.receive);
        for (spi, association) in receive.into_iter().flatten() {
            let association = Arc::clone(association);
            inbound.insert(
                *spi,
                Inbound {
                    association,
                    peer: number,
                },
            );
        }
        peers.push(Peer {
            outbound: peer
                .tunnel
                .map_or_else(Vec::new, |tunnel| tunnel.send.clone()),
            next_hop: wan_hops.lookup(peer.endpoint),
            inner_mtu: link::inner_mtu(&lan, &wan, peer.endpoint),
            trust_domain: peer.trust_domain,
            endpoint: peer.endpoint,
            port: peer.port,
        });
    }
    let own = lan.addresses.iter().chain(&wan.addresses).copied();
    Snapshot {
        endpoints: own.chain(peers.iter().map(|p| p.endpoint)).collect(),
        owners: Owners::new(&parts.transit.networks, &parts.transit.own, &domains),
        transit: parts.transit,
        ready: parts.ready,
        lan,
        wan,
        tunnel_port: parts.tunnel_port,
        peers,
        inbound,
        lan_hops,
    }
}

/// The interface and the part of the kernel's tables that leaves by it. An interface that is down is
/// one without an address: nothing is taken from it and nothing sent.
fn side(side: &Side, hops: &NextHops) -> (Interface, Hops) {
    let Some(interface) = hops.interfaces().find(|i| i.name == side.interface) else {
        return (Interface::default(), Hops::default());
    };
    // Routes come in the order of preference: the first of a prefix is the one that counts, and one
    // that leaves elsewhere or refuses must not be hidden by a shorter one of ours.
    let mut routes = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for route in hops.routes() {
        if seen.insert(route.prefix.trunc()) && route.interface == Some(interface.index) {
            routes.push(Route {
                prefix: route.prefix,
                via: route.via,
            });
        }
    }
    let neighbours = hops.neighbours().iter();
    let neighbours = neighbours
        .filter(|((index, _), _)| *index == interface.index)
        .map(|((_, address), mac)| (*address, Mac(*mac)))
        .collect();
    let facts = Interface {
        mac: Mac(interface.mac),
        addresses: vec![side.address],
        mtu: u16::try_from(interface.mtu).unwrap_or(u16::MAX),
    };
    (facts, Hops::new(routes, neighbours))
}
