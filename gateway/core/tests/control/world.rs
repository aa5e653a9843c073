//! The control sides of two gateways and the agent of one node, in virtual time. Sessions are
//! reliable and in order; disks outlive processes.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use identity::{IssuerKey, Labels, Mono, Now, TrustDomain, UnixMillis, Workload};
use landbridge_gateway_core::{
    Control, Frame, Side, Snapshot,
    control::{ControlEvent, Member, Recipient, assemble::Link},
    nexthop::{Next, NextHops, Route},
    snapshot::Interface,
};
use peering::{
    issuer::{Issuer, IssuerConfig, IssuerEvent, IssuerState},
    member::AgentMember,
    peer_messages::AnnouncedRange,
    peers::{OwnKeys, PeerConfig, Peering, PeeringConfig},
};
use policy::{DropReason, model::PolicySet};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use sha2::{Digest, Sha256};
use wire::{ethernet::Mac, psp::Header};

pub const NAMES: [&str; 2] = ["east", "west"];
/// Where a gateway listens for QUIC; its tunnel has another port.
pub const QUIC_PORT: u16 = 4433;

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn number(name: &str) -> u8 {
    if name == "east" { 1 } else { 2 }
}

pub fn other(name: &str) -> &'static str {
    if name == "east" { "west" } else { "east" }
}

/// A root certificate by cluster, the same for the life of the test process.
fn root(name: &str) -> Vec<u8> {
    static ROOTS: std::sync::OnceLock<BTreeMap<String, Vec<u8>>> = std::sync::OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let root = |name: &str| {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().unwrap();
            (
                name.to_owned(),
                params.self_signed(&key).unwrap().der().to_vec(),
            )
        };
        NAMES.map(root).into()
    });
    roots[name].clone()
}

pub fn address(name: &str) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number(name)], QUIC_PORT))
}

fn range(name: &str) -> AnnouncedRange {
    AnnouncedRange {
        range_id: 1,
        prefix: format!("10.{}.0.0/16", number(name)).parse().unwrap(),
    }
}

pub fn member(name: &str) -> Member {
    Member {
        config: PeerConfig {
            mapped: BTreeMap::new(),
            limits: identity::ClaimLimits::default(),
            or_roots: Vec::new(),
            offer: identity::ClaimLimits::default(),
            away: None,
            trust_domain: domain(name),
            pin: Some(Sha256::digest(root(name)).into()),
            ranges: Some(vec![range(name)]),
        },
        address: address(name),
    }
}

pub fn no_policies(name: &str) -> PolicySet {
    PolicySet {
        cluster: domain(name),
        policies: Vec::new(),
    }
}

/// The link of one side of the gateway of `name`.
pub fn link(side: Side, name: &str) -> Link {
    let n = number(name);
    let (own, prefix, station) = match side {
        Side::Lan => ([172, 16, n, 1], format!("10.{n}.1.0/24"), [172, 16, n, 11]),
        Side::Wan => (
            [192, 0, 2, n],
            "192.0.2.0/24".to_owned(),
            [192, 0, 2, 3 - n],
        ),
    };
    let next = match side {
        Side::Lan => Next::Router(station.into()),
        Side::Wan => Next::Link,
    };
    let route = Route {
        prefix: prefix.parse().unwrap(),
        next,
    };
    Link {
        interface: Interface {
            mac: Mac([2, 0, 0, 0, 0, n]),
            addresses: vec![own.into()],
            mtu: 1500,
        },
        hops: NextHops::new(vec![route], [(station.into(), Mac([4; 6]))].into()),
    }
}

/// A pod of east's only node.
pub fn pod(uid: &str, app: &str) -> Workload {
    let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
    Workload {
        namespace: "shop".into(),
        pod: uid.into(),
        uid: uid.into(),
        service_account: "default".into(),
        labels: Labels::try_from(labels).unwrap(),
        namespace_labels: Labels::default(),
        zone: None,
        named_ports: Vec::new(),
        node: "node1".into(),
        address: Some([10, 1, 1, 10].into()),
        interface: None,
        unprotected: false,
    }
}

/// One gateway and its disk.
pub struct Gateway {
    pub control: Control,
    pub snapshot: Option<Arc<Snapshot>>,
    pub events: Vec<ControlEvent>,
    peer_disk: BTreeMap<String, Vec<u8>>,
    issuer_disk: IssuerState,
    lives: u8,
}

pub struct World {
    pub elapsed: Duration,
    pub gateways: BTreeMap<&'static str, Gateway>,
    pub agent: AgentMember,
    /// Whether the gateways have a session.
    session: bool,
}

pub fn now(elapsed: Duration) -> Now {
    let millis = u64::try_from(elapsed.as_millis()).unwrap();
    Now {
        mono: Mono(elapsed),
        unix: UnixMillis(1_800_000_000_000 + millis),
    }
}

fn boot(
    name: &str,
    peer_disk: &BTreeMap<String, Vec<u8>>,
    issuer: IssuerState,
    life: u8,
    now: Now,
) -> Control {
    let rng = |what: u8| {
        let mut seed = [number(name); 32];
        (seed[1], seed[2]) = (life, what);
        Box::new(ChaCha20Rng::from_seed(seed))
    };
    let key = || IssuerKey::from_seed(&[number(name); 32]);
    let config = PeeringConfig::new(domain(name));
    let tunnel_port = config.tunnel_port;
    let mut peering = Peering::new(config, key(), peer_disk.clone(), rng(0), now).unwrap();
    let own = OwnKeys {
        x509_roots: vec![root(name)],
        issuer_keys: vec![key().public()],
        carried_labels: None,
    };
    peering.set_own_keys(own, now);
    let issuer = Issuer::new(IssuerConfig::new(domain(name)), key(), issuer, rng(1), now);
    let mut control = Control::new(domain(name), tunnel_port, peering, issuer, now);
    control.set_own_ranges(vec![range(name)], now);
    control.set_peers(vec![member(other(name))], now).unwrap();
    control.set_link(Side::Lan, link(Side::Lan, name));
    control.set_link(Side::Wan, link(Side::Wan, name));
    control
}

/// The control side of `name` before its source said anything.
pub fn without_policy(name: &str) -> Control {
    let start = now(Duration::ZERO);
    boot(name, &BTreeMap::new(), IssuerState::default(), 1, start)
}

/// Its source says that there is nothing.
fn hear_nothing(name: &str, control: &mut Control, now: Now) {
    control.set_policies(&no_policies(name), now);
    control.set_workloads(Vec::new(), now);
}

impl World {
    /// Both gateways run and have a session; east's node too.
    pub fn new() -> Self {
        let mut world = Self::apart();
        world.connect();
        world
    }

    /// The gateways have not met.
    pub fn apart() -> Self {
        let start = now(Duration::ZERO);
        let gateway = |name| {
            let (peer_disk, issuer_disk) = (BTreeMap::new(), IssuerState::default());
            let mut control = boot(name, &peer_disk, issuer_disk.clone(), 1, start);
            hear_nothing(name, &mut control, start);
            let gateway = Gateway {
                control,
                snapshot: None,
                events: Vec::new(),
                peer_disk,
                issuer_disk,
                lives: 1,
            };
            (name, gateway)
        };
        let rng = Box::new(ChaCha20Rng::from_seed([7; 32]));
        let mut world = Self {
            elapsed: Duration::ZERO,
            gateways: NAMES.map(gateway).into(),
            agent: AgentMember::new(domain("east"), "node1", BTreeMap::new(), rng, start),
            session: false,
        };
        world.connect_node();
        world.settle();
        world
    }

    pub fn now(&self) -> Now {
        now(self.elapsed)
    }

    pub fn get(&mut self, name: &str) -> &mut Control {
        &mut self.gateways.get_mut(name).unwrap().control
    }

    pub fn snapshot(&self, name: &str) -> &Arc<Snapshot> {
        self.gateways[name].snapshot.as_ref().unwrap()
    }

    /// A new session between the gateways, which displaces an older one.
    pub fn connect(&mut self) {
        let now = self.now();
        for name in NAMES {
            let peer = domain(other(name));
            let remote = address(other(name));
            self.get(name).handle_peer_connected(&peer, remote, now);
        }
        self.session = true;
        self.settle();
    }

    fn connect_node(&mut self) {
        let now = self.now();
        self.get("east").handle_node_connected("node1", now);
        self.agent.handle_connected(now);
    }

    /// The process of `name` is killed and started again; both notice.
    pub fn restart(&mut self, name: &'static str) {
        let now = self.now();
        let gateway = self.gateways.get_mut(name).unwrap();
        gateway.lives = gateway.lives.wrapping_add(1);
        let issuer = gateway.issuer_disk.clone();
        gateway.control = boot(name, &gateway.peer_disk, issuer, gateway.lives, now);
        hear_nothing(name, &mut gateway.control, now);
        let peer = domain(name);
        self.get(other(name))
            .handle_peer_disconnected(&peer, "lost", now);
        if name == "east" {
            self.agent.handle_disconnected(now);
            self.connect_node();
        }
        self.connect();
    }

    /// Messages and events flow until nobody has anything to say.
    pub fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for name in NAMES {
                for (recipient, bytes) in self.gateways.get_mut(name).unwrap().settle() {
                    quiet = false;
                    self.deliver(name, &recipient, &bytes);
                }
            }
            while self.agent.poll_event().is_some() {}
            while let Some(bytes) = self.agent.poll_transmit() {
                quiet = false;
                let now = self.now();
                self.get("east").handle_node_message("node1", &bytes, now);
            }
            if quiet {
                return;
            }
        }
    }

    fn deliver(&mut self, from: &str, to: &Recipient, bytes: &[u8]) {
        let now = self.now();
        match to {
            Recipient::Node(node) => {
                assert_eq!((from, node.as_str()), ("east", "node1"));
                self.agent.handle_message(bytes, now);
            }
            Recipient::Peer(peer) if self.session => {
                let (from, peer) = (domain(from), peer.as_str().to_owned());
                self.get(&peer).handle_peer_message(&from, bytes, now);
            }
            Recipient::Peer(_) => {}
        }
    }

    /// Time passes; every machine gets what is due.
    pub fn run(&mut self, span: Duration) {
        let end = self.elapsed + span;
        loop {
            let due = self
                .gateways
                .values()
                .map(|gateway| gateway.control.poll_timeout());
            let next = due.chain(self.agent.poll_timeout()).min().unwrap();
            if next.0 > end {
                break;
            }
            self.elapsed = self.elapsed.max(next.0);
            self.wake();
        }
        self.elapsed = end;
        self.wake();
    }

    fn wake(&mut self) {
        let now = self.now();
        for name in NAMES {
            self.get(name).handle_timeout(now);
        }
        self.agent.handle_timeout(now);
        self.settle();
    }

    /// East has these pods from now on.
    pub fn set_pods(&mut self, pods: &[Workload]) {
        let now = self.now();
        self.get("east").set_workloads(pods.to_vec(), now);
        self.agent.set_pods(pods.to_vec(), now);
        self.settle();
    }
}

impl Gateway {
    /// One round of the contract.
    fn settle(&mut self) -> Vec<(Recipient, Vec<u8>)> {
        let mut out = Vec::new();
        loop {
            while let Some((key, bytes)) = self.control.poll_persist() {
                self.peer_disk.insert(key.to_string(), bytes);
                self.control.handle_persisted(&key);
            }
            let mut quiet = true;
            while let Some(event) = self.control.poll_event() {
                if event == ControlEvent::Issuer(IssuerEvent::StateChanged) {
                    self.issuer_disk = self.control.issuer().state();
                }
                self.events.push(event);
                quiet = false;
            }
            out.extend(std::iter::from_fn(|| self.control.poll_transmit()));
            if quiet && self.control.poll_persist().is_none() {
                break;
            }
        }
        if let Some(snapshot) = self.control.poll_snapshot() {
            self.snapshot = Some(snapshot);
        }
        out
    }
}

/// A packet sealed by the gateway of `snapshot` for its first peer.
pub fn seal(snapshot: &Snapshot) -> Vec<u8> {
    let packet = wire::ip::v4_header(
        ([10, 1, 1, 10].into(), [10, 2, 1, 10].into()),
        wire::ip::TCP,
        0,
        20,
    );
    let packet = [&packet.unwrap()[..], &[7; 20]].concat();
    let mut memory = vec![0; packet.len() + 64];
    memory[32..32 + packet.len()].copy_from_slice(&packet);
    let mut frame = Frame::new(&mut memory, 32..32 + packet.len()).unwrap();
    snapshot.peers[0].outbound[0].seal(&mut frame).unwrap();
    frame.packet().to_vec()
}

/// Opens what [`seal`] made.
pub fn open(snapshot: &Snapshot, sealed: &[u8]) -> Result<(), DropReason> {
    let mut memory = sealed.to_vec();
    let mut frame = Frame::new(&mut memory, 0..sealed.len()).unwrap();
    let header = Header::parse(sealed).unwrap();
    let inbound = snapshot.inbound.get(&header.spi);
    let inbound = inbound.ok_or(DropReason::TunnelUnknownSpi)?;
    inbound.association.open(&header, &mut frame)
}
