//! Two gateways, back to back, and the enforcers of two nodes behind them.
#![allow(dead_code, reason = "each test file uses some of these")]

#[path = "../../../../federation/handshake/tests/support/mod.rs"]
pub mod support;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use handshake::{
    credentials::{CredentialCache, SmallCache},
    hash::Seed,
    node::Node,
    transit::TransitSnapshot,
};
use identity::{CredentialHash, Now};
use landbridge_gateway_core::{
    Context, Dataplane, Disposition, Frame, Limits, Side, Snapshot,
    control::{
        assemble::{Link, Parts, PeerState, assemble},
        tunnels::Tunnels,
    },
    nexthop::{Next, NextHops, Route},
    psp::{AssociationKey, SendAssociation},
    snapshot::Interface,
};
use peering::{
    peer_messages::{TunnelKey, TunnelSecret},
    peers::TunnelState,
};
use policy::DropReason;
use support::{Conn, domain};
use wire::ethernet::Mac;

pub const HEADROOM: usize = 256;
pub const BUFFER: usize = 2048;

/// The node and the peer's gateway as link stations.
pub const NODE: Mac = Mac([2, 0, 0, 0, 0, 0x11]);

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What `process` left in the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub disposition: Disposition,
    pub frame: Vec<u8>,
}

/// A gateway of which a test says what control would have found out.
pub struct Gateway {
    pub number: u8,
    pub transit: Arc<TransitSnapshot>,
    pub ready: bool,
    pub lan: Link,
    pub wan: Link,
    pub tunnels: Tunnels,
    /// Whether the other cluster is a peer.
    pub paired: bool,
    pub snapshot: Arc<Snapshot>,
    pub dataplane: Dataplane,
    pub cx: Context,
}

impl Gateway {
    /// The gateway of "east" (1) or "west" (2), with the other as its peer.
    pub fn new(cluster: &str, limits: &Limits) -> Self {
        let number = if cluster == "east" { 1 } else { 2 };
        let other = 3 - number;
        let node = address(&format!("172.16.{number}.11"));
        let peer = address(&format!("192.0.2.{other}"));
        let link = |interface, prefix: String, next, station| Link {
            interface,
            hops: NextHops::new(
                vec![Route {
                    prefix: prefix.parse().unwrap(),
                    next,
                }],
                BTreeMap::from([station]),
            ),
        };
        let pods = format!("10.{number}.1.0/24");
        let cache: Arc<dyn CredentialCache> = Arc::new(SmallCache::new(64, &Seed::new(&[7; 16])));
        let mut gateway = Self {
            number,
            transit: Arc::new(support::transit_snapshot(cluster)),
            ready: true,
            lan: link(lan(number), pods, Next::Router(node), (node, NODE)),
            wan: link(
                wan(number),
                "192.0.2.0/24".into(),
                Next::Link,
                (peer, wan(other).mac),
            ),
            tunnels: Tunnels::default(),
            paired: true,
            snapshot: Arc::new(Snapshot::closed(domain(cluster))),
            dataplane: Dataplane::new(limits, &[number; 16], &cache),
            cx: Context::new(0, 1000),
        };
        gateway.load();
        gateway
    }

    fn other(&self) -> (identity::TrustDomain, IpAddr) {
        let name = if self.number == 1 { "west" } else { "east" };
        (
            domain(name),
            address(&format!("192.0.2.{}", 3 - self.number)),
        )
    }

    /// Makes a snapshot of what the test says.
    pub fn load(&mut self) {
        let (trust_domain, endpoint) = self.other();
        let peer = self.paired.then(|| PeerState {
            tunnel: self.tunnels.of(&trust_domain),
            trust_domain,
            endpoint,
            port: 1000,
        });
        self.snapshot = Arc::new(assemble(Parts {
            transit: self.transit.clone(),
            ready: self.ready,
            lan: &self.lan,
            wan: &self.wan,
            tunnel_port: 1000,
            peers: peer.into_iter().collect(),
        }));
    }

    /// Takes the associations that it is to send and receive on.
    pub fn set_tunnel(&mut self, send: &[u32], receive: &[u32]) {
        let keys = |spis: &[u32]| spis.iter().map(|spi| tunnel_key(*spi)).collect();
        let state = TunnelState {
            endpoint: None,
            send: keys(send),
            receive: keys(receive),
        };
        let (peer, _) = self.other();
        assert!(self.tunnels.set(&peer, &state).is_empty());
        self.load();
    }

    /// Changes what handshakes are judged by.
    pub fn judge_by(&mut self, change: impl FnOnce(&mut TransitSnapshot)) {
        let mut transit = support::transit_snapshot(if self.number == 1 { "east" } else { "west" });
        transit.epoch = self.snapshot.transit.epoch + 1;
        change(&mut transit);
        self.transit = Arc::new(transit);
        self.load();
    }

    /// One frame, link header first.
    pub fn frame(&mut self, side: Side, bytes: &[u8], now: Now) -> Outcome {
        let mut memory = [0; BUFFER];
        let range = HEADROOM..HEADROOM + bytes.len();
        memory[range.clone()].copy_from_slice(bytes);
        let mut frame = Frame::new(&mut memory, range).unwrap();
        let disposition =
            self.dataplane
                .process(&mut self.cx, side, &mut frame, &self.snapshot, now);
        assert!(self.cx.totals.balanced(), "{:?}", self.cx.totals);
        Outcome {
            disposition,
            frame: frame.packet().to_vec(),
        }
    }

    /// An IP packet from the node.
    pub fn node_sends(&mut self, packet: &[u8], now: Now) -> Outcome {
        let bytes = ethernet(lan(self.number).mac, NODE, packet);
        self.frame(Side::Lan, &bytes, now)
    }

    /// An IP packet through the tunnel, sealed by the peer with `association`.
    pub fn through_tunnel(
        &mut self,
        association: &SendAssociation,
        packet: &[u8],
        now: Now,
    ) -> Outcome {
        let bytes = self.tunnel_frame(association, packet);
        self.frame(Side::Wan, &bytes, now)
    }

    /// The frame in which a peer's gateway would carry `packet` to this one.
    pub fn tunnel_frame(&self, association: &SendAssociation, packet: &[u8]) -> Vec<u8> {
        let mut memory = vec![0; packet.len() + 64];
        memory[32..32 + packet.len()].copy_from_slice(packet);
        let mut frame = Frame::new(&mut memory, 32..32 + packet.len()).unwrap();
        association.seal(&mut frame).unwrap();
        let (own, other) = ([192, 0, 2, self.number], [192, 0, 2, 3 - self.number]);
        let mut outer = Vec::new();
        etherparse::PacketBuilder::ipv4(other, own, 64)
            .udp(50_000, 1000)
            .write(&mut outer, frame.packet())
            .unwrap();
        ethernet(wan(self.number).mac, wan(3 - self.number).mac, &outer)
    }
}

pub fn lan(number: u8) -> Interface {
    Interface {
        mac: Mac([2, 0, 0, 0, 1, number]),
        addresses: vec![address(&format!("172.16.{number}.1"))],
        mtu: 1500,
    }
}

pub fn wan(number: u8) -> Interface {
    Interface {
        mac: Mac([2, 0, 0, 0, 2, number]),
        addresses: vec![address(&format!("192.0.2.{number}"))],
        mtu: 1500,
    }
}

pub fn ethernet(dst: Mac, src: Mac, packet: &[u8]) -> Vec<u8> {
    let ether_type = if packet.first().is_some_and(|b| b >> 4 == 6) {
        0x86dd
    } else {
        0x0800
    };
    [&wire::ethernet::header(dst, src, ether_type)[..], packet].concat()
}

/// The key of the association that its receiver calls `spi`.
fn tunnel_key(spi: u32) -> TunnelKey {
    TunnelKey {
        spi,
        secret: TunnelSecret::from_bytes(secret(spi).to_vec()),
    }
}

fn secret(spi: u32) -> [u8; 16] {
    let mut secret = [9; 16];
    secret[..4].copy_from_slice(&spi.to_be_bytes());
    secret
}

/// The sending half of an association, as the peer has it who was offered `spi`.
pub fn association(spi: u32) -> SendAssociation {
    let key = AssociationKey::from_bytes(&secret(spi)).unwrap();
    SendAssociation::new(spi, &key)
}

/// The SYN `genuine` as a member of east would make it up who knows the segment key: everything holds but the
/// signature of its credential, which nobody has seen before. Another one for each `number`.
pub fn made_up(genuine: &[u8], number: u64) -> Vec<u8> {
    const HEADER: usize = wire::hello::HEADER_LEN;
    const SEEN: usize = wire::hello::HEAD_LEN;
    let mut hello = support::tcp_payload(genuine).to_vec();
    // In the scalar of the signature, far from its end: it stays below the order of the group, so that all of the
    // check is made.
    let scalar = hello.len() - 32;
    hello[scalar..scalar + 8].copy_from_slice(&number.to_be_bytes());
    let hash = CredentialHash::of(&hello[SEEN..]);
    hello[8..16].copy_from_slice(&number.to_be_bytes());
    hello[72..HEADER].copy_from_slice(&hash.0);
    let (id, mac) = support::segment_keys("east").prove(&hello[..HEADER]);
    hello[HEADER..HEADER + 8].copy_from_slice(&id);
    hello[HEADER + 8..SEEN].copy_from_slice(&mac);
    let packet = wire::ip::Packet::parse(genuine).unwrap();
    let edit = wire::edit::TcpEdit::new(&packet).unwrap();
    edit.payload(&hello).finish().unwrap()
}

/// East and west with their tunnel up.
pub struct Pair {
    pub east: Gateway,
    pub west: Gateway,
}

impl Pair {
    pub fn new(limits: &Limits) -> Self {
        let mut pair = Self {
            east: Gateway::new("east", limits),
            west: Gateway::new("west", limits),
        };
        pair.east.set_tunnel(&[201, 202], &[101, 102]);
        pair.west.set_tunnel(&[101, 102], &[201, 202]);
        pair
    }

    /// A way into west's tunnel, as a peer that lies would have it.
    pub fn lying_peer(&mut self) -> SendAssociation {
        self.west.set_tunnel(&[101, 102], &[666]);
        association(666)
    }

    /// From a node of east to a node of west; the IP packet that arrives.
    pub fn east_to_west(&mut self, packet: &[u8], now: Now) -> Result<Vec<u8>, DropReason> {
        carry(&mut self.east, &mut self.west, packet, now)
    }

    /// From a node of west to a node of east.
    pub fn west_to_east(&mut self, packet: &[u8], now: Now) -> Result<Vec<u8>, DropReason> {
        carry(&mut self.west, &mut self.east, packet, now)
    }

    /// A connection between the pods of `conn`, proven and allowed on the whole path.
    pub fn establish(&mut self, nodes: &mut Nodes, conn: &Conn, now: Now) {
        let syn = support::out(&mut nodes.east, &conn.syn(), now);
        let syn = self.east_to_west(&syn, now).unwrap();
        support::into(&mut nodes.west, &syn, now);
        let syn_ack = support::out(&mut nodes.west, &conn.syn_ack(), now);
        let syn_ack = self.west_to_east(&syn_ack, now).unwrap();
        support::into(&mut nodes.east, &syn_ack, now);
        let ack = support::out(&mut nodes.east, &conn.ack(), now);
        let ack = self.east_to_west(&ack, now).unwrap();
        support::into(&mut nodes.west, &ack, now);
        let response = support::out(&mut nodes.west, &conn.response(b"hello"), now);
        let response = self.west_to_east(&response, now).unwrap();
        support::into(&mut nodes.east, &response, now);
    }
}

/// The enforcers of one node in each cluster.
pub struct Nodes {
    pub east: Node,
    pub west: Node,
}

impl Nodes {
    pub fn new() -> Self {
        Self {
            east: support::node(support::east(false), 11),
            west: support::node(support::west(false), 12),
        }
    }
}

fn carry(
    from: &mut Gateway,
    to: &mut Gateway,
    packet: &[u8],
    now: Now,
) -> Result<Vec<u8>, DropReason> {
    let sent = from.node_sends(packet, now);
    match sent.disposition {
        Disposition::Forward(side) => assert_eq!(side, Side::Wan),
        Disposition::Drop(reason) | Disposition::Answer(_, reason) => return Err(reason),
    }
    let arrived = to.frame(Side::Wan, &sent.frame, now);
    match arrived.disposition {
        Disposition::Forward(side) => assert_eq!(side, Side::Lan),
        Disposition::Drop(reason) | Disposition::Answer(_, reason) => return Err(reason),
    }
    let header = wire::ethernet::Frame::parse(&arrived.frame).unwrap();
    assert_eq!((header.dst(), header.src()), (NODE, lan(to.number).mac));
    Ok(header.payload().to_vec())
}
