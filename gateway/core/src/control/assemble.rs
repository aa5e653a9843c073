//! From what control knows to the snapshot of the data plane.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use handshake::transit::TransitSnapshot;
use identity::TrustDomain;

use super::tunnels::Tunnel;
use crate::{
    link,
    nexthop::NextHops,
    owners::Owners,
    snapshot::{Inbound, Interface, Peer, Snapshot},
    translation::Translation,
};

/// One side's interface and the kernel's tables for it. An interface that is down is one without
/// an address, as the default is: nothing is taken from it and nothing sent.
#[derive(Clone, Debug, Default)]
pub struct Link {
    /// Its addresses and its MTU.
    pub interface: Interface,
    /// What leaves by it.
    pub hops: NextHops,
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
    pub lan: &'a Link,
    /// Towards the peers.
    pub wan: &'a Link,
    /// Our tunnel's UDP port.
    pub tunnel_port: u16,
    /// The peers, sorted by name: a peer's number is its place.
    pub peers: Vec<PeerState<'a>>,
}

/// Puts a snapshot together.
#[must_use]
pub fn assemble(parts: Parts<'_>) -> Snapshot {
    let (lan, wan) = (&parts.lan.interface, &parts.wan.interface);
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
            next_hop: parts.wan.hops.lookup(peer.endpoint),
            inner_mtu: link::inner_mtu(lan, wan, peer.endpoint),
            translation: Translation::of(&peer.trust_domain, &parts.transit.networks),
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
        lan: lan.clone(),
        wan: wan.clone(),
        tunnel_port: parts.tunnel_port,
        peers,
        inbound,
        lan_hops: parts.lan.hops.clone(),
    }
}
