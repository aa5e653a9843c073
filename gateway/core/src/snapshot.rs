//! What the data plane knows at one moment: immutable, replaced as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use handshake::{admission::Admission, keys::SegmentKeys, transit::TransitSnapshot};
use identity::{BundleStore, IdentityNetworks, TrustDomain};
use policy::{KnownKeys, Table};
use wire::ethernet::Mac;

use crate::{
    nexthop::{NextHops, NoHop},
    owners::{Owner, Owners},
    psp::{ReceiveAssociation, SendAssociation},
    translation::Translation,
};

/// The side of the gateway that an interface is on. One interface may serve both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Towards the nodes of the own cluster.
    Lan,
    /// Towards the gateways of peers.
    Wan,
}

/// An interface of the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its link address.
    pub mac: Mac,
    /// Its addresses: the first of a family is the source of what the gateway sends.
    pub addresses: Vec<IpAddr>,
    /// Its MTU in bytes.
    pub mtu: u16,
}

impl Interface {
    /// The address of the same family as `other`.
    #[must_use]
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == other.is_ipv4())
    }
}

/// A peer cluster as the data plane sees it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name.
    pub trust_domain: TrustDomain,
    /// The outer address of its gateway.
    pub endpoint: IpAddr,
    /// Its gateway's tunnel port.
    pub port: u16,
    /// The associations to it: a sending queue takes the one of its number, modulo their number.
    pub outbound: Vec<Arc<SendAssociation>>,
    /// The link address towards the endpoint.
    pub next_hop: Result<Mac, NoHop>,
    /// The largest inner packet that fits both this tunnel and the own cluster's side.
    pub inner_mtu: u16,
    /// Where its pods are seen at other addresses than they have.
    pub translation: Translation,
}

/// An association on which a peer sends.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// The receiving half.
    pub association: Arc<ReceiveAssociation>,
    /// The peer's number.
    pub peer: u16,
}

/// Everything that a packet is judged and forwarded by.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// What handshakes and flows are judged by. Its epoch is the epoch of verdicts; routes and
    /// associations change without one.
    pub transit: Arc<TransitSnapshot>,
    /// False until everything has been learned once, or when it is older than allowed: then no new
    /// flow passes, and established ones go on.
    pub ready: bool,
    /// Towards the nodes.
    pub lan: Interface,
    /// Towards the peers.
    pub wan: Interface,
    /// Our tunnel's UDP port.
    pub tunnel_port: u16,
    /// Whose addresses are whose.
    pub owners: Owners,
    /// By number.
    pub peers: Vec<Peer>,
    /// By SPI.
    pub inbound: BTreeMap<u32, Inbound>,
    /// The addresses of all gateways: our own and the peers'.
    pub endpoints: BTreeSet<IpAddr>,
    /// Towards the pods of the own cluster.
    pub lan_hops: NextHops,
}

impl Snapshot {
    /// What the data plane of a cluster begins with: nothing passes.
    #[must_use]
    pub fn closed(own: TrustDomain) -> Self {
        let transit = TransitSnapshot {
            epoch: 0,
            policy: Arc::new(Table::empty(own.clone())),
            own,
            networks: IdentityNetworks::default(),
            bundles: BundleStore::default(),
            digests: BTreeMap::new(),
            known: KnownKeys::all(),
            pods: BTreeMap::new(),
            segment_keys: SegmentKeys::default(),
            admission: Admission::default(),
        };
        Self {
            transit: Arc::new(transit),
            ready: false,
            lan: Interface::default(),
            wan: Interface::default(),
            tunnel_port: 0,
            owners: Owners::default(),
            peers: Vec::new(),
            inbound: BTreeMap::new(),
            endpoints: BTreeSet::new(),
            lan_hops: NextHops::default(),
        }
    }

    /// The peer of that number.
    #[must_use]
    pub fn peer(&self, number: u16) -> Option<&Peer> {
        self.peers.get(usize::from(number))
    }

    /// The peer that owns `address`.
    #[must_use]
    pub fn peer_of(&self, address: IpAddr) -> Option<(u16, &Peer)> {
        match self.owners.owner(address)? {
            Owner::Peer(number) => Some((number, self.peer(number)?)),
            Owner::Own => None,
        }
    }

    /// Whether `address` is an end of a tunnel: a packet to or from it must never be put into one.
    #[must_use]
    pub fn is_endpoint(&self, address: IpAddr) -> bool {
        self.endpoints.contains(&address)
    }
}
