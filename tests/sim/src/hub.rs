//! The process of a gateway's control side, as the binary has one: the real control, with a disk
//! in memory and sessions made of messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use gateway_core::{
    Control, Side, Snapshot,
    control::{ControlEvent, Member, Recipient, assemble::Link},
    nexthop::{Next, NextHops, Route},
    snapshot::Interface,
};
use identity::{IssuerKey, Mono, Now, TrustDomain};
use peering::{
    issuer::{Issuer, IssuerConfig, IssuerEvent, IssuerState},
    key_ring::{KeyRing, Schedule, Step},
    peer_messages::AnnouncedRange,
    peers::{OwnKeys, PeerConfig, PeerEvent, Peering, PeeringConfig},
};
use policy::model::PolicySet;
use sha2::{Digest as _, Sha256};

use crate::{
    dice::Dice,
    objects::{self, NODES, Objects},
    wires,
};

/// Certificates that there are: more than clusters.
const CERTIFICATES: usize = 16;
/// How long an issuer key is published before it is used.
const PUBLISHED: Duration = Duration::from_secs(2);
/// How long the one before it is believed then.
const KEPT: Duration = Duration::from_secs(2);
/// No key is exchanged by itself.
const BY_COMMAND: Schedule = Schedule {
    life: None,
    publish: PUBLISHED,
    keep: KEPT,
};
/// The UDP port of QUIC; the tunnel's is another.
const QUIC_PORT: u16 = 4433;

/// A gateway's control side. Its disk outlives it.
pub struct Hub {
    number: usize,
    dice: Dice,
    peer_disk: BTreeMap<String, Vec<u8>>,
    issuer_disk: IssuerState,
    /// It publishes a second root, as before and after a change of keys.
    second_root: bool,
    /// The lives of its issuer keys, on its disk.
    ring: Option<KeyRing>,
    life: Option<Life>,
    /// Peers whose session is to be closed.
    closing: Vec<usize>,
    /// When control is due, since it was pumped.
    due: Option<Mono>,
}

struct Life {
    control: Control,
    domains: Vec<TrustDomain>,
}

/// To whom a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The gateway of a cluster.
    Peer(usize),
    /// The agent of a node of this cluster.
    Node(usize),
}

impl Hub {
    /// The hub of cluster `number`, which does not run yet.
    #[must_use]
    pub fn new(number: usize, dice: Dice) -> Self {
        Self {
            number,
            dice,
            peer_disk: BTreeMap::new(),
            issuer_disk: IssuerState::default(),
            second_root: false,
            ring: None,
            life: None,
            closing: Vec::new(),
            due: None,
        }
    }

    /// The process is killed.
    pub fn kill(&mut self) {
        self.life = None;
        self.due = None;
    }

    /// The keys on its disk change: it publishes another bundle when it starts again.
    pub fn change_keys(&mut self) {
        self.second_root = !self.second_root;
    }

    /// An operator exchanges the issuer key, fast.
    pub fn rotate(&mut self, now: Now) {
        let Some(ring) = &mut self.ring else { return };
        // One that waits already is none the less exchanged.
        if ring.publish(PUBLISHED, KEPT, now.unix).is_ok() {
            self.announce_keys(now);
        }
    }

    /// Does what is due in the lives of the keys.
    fn advance_keys(&mut self, now: Now) {
        while let Some(ring) = &mut self.ring
            && let Some(step) = ring.due(&BY_COMMAND, now.unix)
        {
            ring.take(step, now.unix);
            let current = ring.current();
            match (step, &mut self.life) {
                (Step::Use(_), Some(life)) => {
                    let key = || key(self.number, current);
                    // What the one before signed lives longer than it is believed.
                    life.control.set_issuer_key(key, true, now);
                }
                _ => self.announce_keys(now),
            }
        }
    }

    fn announce_keys(&mut self, now: Now) {
        let own = self.own_keys();
        if let Some(life) = &mut self.life {
            life.control.set_own_keys(own, now);
        }
    }

    fn own_keys(&self) -> OwnKeys {
        // Any other certificate will do.
        let second = self.second_root.then_some(CERTIFICATES - 1 - self.number);
        let roots = [self.number].into_iter().chain(second);
        let mut roots: Vec<_> = roots.map(|number| root(number).to_vec()).collect();
        // In the order in which they are read.
        roots.sort();
        let ring = self.ring.iter().flat_map(KeyRing::generations);
        OwnKeys {
            x509_roots: roots,
            issuer_keys: ring.map(|g| key(self.number, g.number).public()).collect(),
            carried_labels: None,
        }
    }

    /// A new process reads its disk, what `objects` say, and these policies.
    ///
    /// # Panics
    /// When the disk is damaged.
    pub fn start(&mut self, objects: &Objects, policies: &PolicySet, now: Now) {
        let domain = objects.clusters[self.number].domain.clone();
        let ring = self.ring.get_or_insert_with(|| KeyRing::new(now.unix));
        let current = ring.current();
        let key = || key(self.number, current);
        let config = PeeringConfig::new(domain.clone());
        let tunnel_port = config.tunnel_port;
        let (disk, rng) = (self.peer_disk.clone(), Box::new(self.dice.rng()));
        let mut peering = Peering::new(config, key(), disk, rng, now).expect("a sound disk");
        peering.set_own_keys(self.own_keys(), now);
        let (config, memory) = (IssuerConfig::new(domain.clone()), self.issuer_disk.clone());
        let issuer = Issuer::new(config, key(), memory, Box::new(self.dice.rng()), now);

        let mut control = Control::new(domain, tunnel_port, peering, issuer, now);
        control.set_own_ranges(vec![announced(self.number)], now);
        control
            .set_peers(self.members(objects), now)
            .expect("peers");
        let count = objects.clusters.len();
        control.set_link(Side::Lan, lan(self.number));
        control.set_link(Side::Wan, wan(self.number, count));
        self.life = Some(Life {
            control,
            domains: objects.clusters.iter().map(|c| c.domain.clone()).collect(),
        });
        self.hear(objects, policies, now);
    }

    fn members(&self, objects: &Objects) -> Vec<Member> {
        let own = &objects.clusters[self.number];
        let others = (0..objects.clusters.len()).filter(|other| *other != self.number);
        let members = others.map(|other| Member {
            config: PeerConfig {
                trust_domain: objects.clusters[other].domain.clone(),
                pin: Some(Sha256::digest(root(other)).into()),
                or_roots: Vec::new(),
                mapped: BTreeMap::new(),
                limits: own.limits(other),
                offer: own.offer(other),
                away: None,
                ranges: Some(vec![announced(other)]),
            },
            address: SocketAddr::new(wires::wan_address(other), QUIC_PORT),
        });
        members.collect()
    }

    /// Its source says what `objects` say, and these policies.
    pub fn hear(&mut self, objects: &Objects, policies: &PolicySet, now: Now) {
        let members = self.members(objects);
        let Some(life) = &mut self.life else { return };
        life.control.set_peers(members, now).expect("peers");
        let cluster = &objects.clusters[self.number];
        life.control.set_policies(policies, now);
        life.control.set_workloads(cluster.workloads(), now);
        let domain = &cluster.domain;
        let wanted: BTreeSet<_> = cluster.revoked.iter().map(|r| r.target(domain)).collect();
        let held = life.control.peering().revoked_here().get(domain);
        let held: BTreeSet<_> = held
            .into_iter()
            .flatten()
            .map(|r| r.target.clone())
            .collect();
        for target in wanted.difference(&held) {
            let revoked = life
                .control
                .revoke(domain, target.clone(), "by chance", now);
            revoked.expect("a revocation");
        }
        for target in held.difference(&wanted) {
            let restored = life.control.restore_revoked(domain, target.clone(), now);
            restored.expect("it was revoked");
        }
    }

    /// A session with another end is up, or gone.
    pub fn set_connected(&mut self, to: To, up: bool, now: Now) {
        let Some(Life { control, domains }) = &mut self.life else {
            return;
        };
        match (to, up) {
            (To::Peer(other), true) => {
                let remote = SocketAddr::new(wires::wan_address(other), QUIC_PORT);
                control.handle_peer_connected(&domains[other], remote, now);
            }
            (To::Peer(other), false) => {
                control.handle_peer_disconnected(&domains[other], "lost", now);
            }
            (To::Node(node), true) => {
                control.handle_node_connected(&objects::node_name(node), now);
            }
            (To::Node(node), false) => {
                control.handle_node_disconnected(&objects::node_name(node), now);
            }
        }
    }

    /// A message of another end.
    pub fn handle_message(&mut self, from: To, bytes: &[u8], now: Now) {
        let Some(Life { control, domains }) = &mut self.life else {
            return;
        };
        match from {
            To::Peer(other) => control.handle_peer_message(&domains[other], bytes, now),
            To::Node(node) => control.handle_node_message(&objects::node_name(node), bytes, now),
        }
    }

    /// When control is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        self.due
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Some(life) = &mut self.life {
            life.control.handle_timeout(now);
            self.advance_keys(now);
        }
    }

    /// Stores and delivers until control is quiet; what it has to say to others.
    pub fn pump(&mut self) -> Vec<(To, Vec<u8>)> {
        let Some(Life { control, domains }) = &mut self.life else {
            return Vec::new();
        };
        let mut out = Vec::new();
        loop {
            while let Some((key, bytes)) = control.poll_persist() {
                self.peer_disk.insert(key.to_string(), bytes);
                control.handle_persisted(&key);
            }
            let mut quiet = true;
            while let Some(event) = control.poll_event() {
                if event == ControlEvent::Issuer(IssuerEvent::StateChanged) {
                    self.issuer_disk = control.issuer().state();
                }
                if let ControlEvent::Peer(PeerEvent::Close { peer, .. }) = &event {
                    self.closing.push(number_of(domains, peer));
                }
                check(&event);
                quiet = false;
            }
            while let Some((recipient, message)) = control.poll_transmit() {
                let to = match recipient {
                    Recipient::Node(node) => To::Node(objects::node_number(&node)),
                    Recipient::Peer(domain) => To::Peer(number_of(domains, &domain)),
                };
                out.push((to, message));
            }
            if quiet && control.poll_persist().is_none() {
                self.due = Some(control.poll_timeout());
                return out;
            }
        }
    }

    /// The peers whose session is to be closed.
    pub fn take_closing(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.closing)
    }

    /// What the data plane decides by from now on, if it changed.
    pub fn take_snapshot(&mut self) -> Option<Arc<Snapshot>> {
        self.life.as_mut()?.control.poll_snapshot()
    }

    /// Control, while the process runs.
    #[must_use]
    pub fn control(&self) -> Option<&Control> {
        self.life.as_ref().map(|life| &life.control)
    }

    /// What the own issuer recorded of pods: UID and generation.
    ///
    /// # Panics
    /// When a record does not hold.
    #[must_use]
    pub fn recorded(&self, objects: &Objects, now: Now) -> Vec<(String, u64)> {
        let Some(control) = self.control() else {
            return Vec::new();
        };
        let bundles = control.peering().bundles();
        let own = bundles.bundle(&objects.clusters[self.number].domain);
        let records = control.issuer().own_records(0).map(|(_, record)| {
            let verified = record.verify(own.expect("its own"), now.unix);
            let verified = verified.expect("our own record");
            (verified.record.pod_uid, verified.record.generation)
        });
        records.collect()
    }
}

/// The issuer key of this number of a cluster.
fn key(cluster: usize, number: u32) -> IssuerKey {
    let mut seed = [u8::try_from(cluster + 1).expect("few"); 32];
    seed[..4].copy_from_slice(&number.to_be_bytes());
    IssuerKey::from_seed(&seed)
}

fn number_of(domains: &[TrustDomain], domain: &TrustDomain) -> usize {
    let number = domains.iter().position(|it| it == domain);
    number.expect("a cluster of this world")
}

/// In the control plane of this world somebody repeats old messages, and that is all.
fn check(event: &ControlEvent) {
    let expected = match event {
        ControlEvent::Peer(event) => !matches!(event, PeerEvent::Removed(_)),
        // A pod that is revoked gets no credential.
        ControlEvent::Issuer(IssuerEvent::Problem(words)) => words.contains("is revoked since"),
        ControlEvent::Issuer(event) => !matches!(
            event,
            IssuerEvent::Refused { .. } | IssuerEvent::Misbehaved { .. }
        ),
        // An old key that was said again: the data plane never counts with it a second time.
        ControlEvent::Warning(words) => words.contains("offered the association"),
    };
    assert!(expected, "{event:?}");
}

/// The side of a cluster's nodes, as the kernel knows it.
fn lan(number: usize) -> Link {
    let routes = (0..NODES).map(|node| Route {
        prefix: format!("10.{}.{}.0/24", number + 1, node + 1)
            .parse()
            .expect("a prefix"),
        next: Next::Router(wires::node_address(number, node)),
    });
    let stations = (0..NODES).map(|node| {
        let mac = wires::node_mac(number, node);
        (wires::node_address(number, node), mac)
    });
    Link {
        interface: Interface {
            mac: wires::lan_mac(number),
            addresses: vec![wires::lan_address(number)],
            mtu: 1500,
        },
        hops: NextHops::new(routes.collect(), stations.collect()),
    }
}

/// The side of the other clusters.
fn wan(number: usize, count: usize) -> Link {
    let all = Route {
        prefix: "192.0.2.0/24".parse().expect("a prefix"),
        next: Next::Link,
    };
    let stations = (0..count).map(|other| (wires::wan_address(other), wires::wan_mac(other)));
    Link {
        interface: Interface {
            mac: wires::wan_mac(number),
            addresses: vec![wires::wan_address(number)],
            mtu: 1500,
        },
        hops: NextHops::new(vec![all], stations.collect()),
    }
}

fn announced(number: usize) -> AnnouncedRange {
    AnnouncedRange {
        range_id: 1,
        prefix: objects::prefix(number).parse().expect("a prefix"),
    }
}

/// A root certificate for each cluster, made once per process: nothing here depends on its key.
fn root(number: usize) -> &'static [u8] {
    static ROOTS: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let root = |_| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.self_signed(&key).expect("signed").der().to_vec()
        };
        (0..CERTIFICATES).map(root).collect()
    });
    &roots[number]
}
