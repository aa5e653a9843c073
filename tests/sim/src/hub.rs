//! The control side of a gateway: the issuer of its cluster, its peering, and what its data plane
//! judges by. Put together as the gateway's own hub does it, with a disk in memory.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use handshake::{
    credentials::{PodState, PodStates},
    keys::{MacKey, SegmentKey, SegmentKeys},
    transit::TransitSnapshot,
};
use identity::{IdentityNetworks, IssuerKey, Mono, Now, TrustDomain};
use peering::{
    issuer::{Issuer, IssuerConfig, IssuerEvent, IssuerState},
    node_messages::SegmentKeyGrant,
    peer_messages::AnnouncedRange,
    peers::{Digest, OwnKeys, PeerConfig, PeerEvent, Peering, PeeringConfig, TunnelState},
    records::{RecordBook, RecordState},
};
use policy::{KnownKeys, Table};
use sha2::{Digest as _, Sha256};

use crate::{
    dice::Dice,
    objects::{self, Objects},
    wires,
};

/// A gateway's control side. Its disk outlives it.
pub struct Hub {
    number: usize,
    dice: Dice,
    peer_disk: BTreeMap<String, Vec<u8>>,
    issuer_disk: IssuerState,
    epoch: u64,
    life: Option<Life>,
}

struct Life {
    own: TrustDomain,
    domains: Vec<TrustDomain>,
    peering: Peering,
    issuer: Issuer,
    records: RecordBook,
    own_records: u64,
    policy: Arc<Table>,
    digests: BTreeMap<TrustDomain, (Arc<Digest>, Arc<Table>)>,
    judge_again: bool,
    tunnels: Vec<TrustDomain>,
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
            epoch: 0,
            life: None,
        }
    }

    /// The process is killed.
    pub fn kill(&mut self) {
        self.life = None;
    }

    /// A new process reads its disk and what `objects` say.
    ///
    /// # Panics
    /// When the disk is damaged.
    pub fn start(&mut self, objects: &Objects, now: Now) {
        let cluster = &objects.clusters[self.number];
        let key = || IssuerKey::from_seed(&[u8::try_from(self.number + 1).expect("few"); 32]);
        let mut peering = Peering::new(
            PeeringConfig::new(cluster.domain.clone()),
            key(),
            self.peer_disk.clone(),
            Box::new(self.dice.rng()),
            now,
        )
        .expect("a sound disk");
        let own = OwnKeys {
            x509_roots: vec![root(self.number).to_vec()],
            issuer_keys: vec![key().public()],
            carried_labels: None,
        };
        peering.set_own_keys(own, now);
        peering.set_own_ranges(vec![announced(self.number)], now);
        let others = (0..objects.clusters.len()).filter(|other| *other != self.number);
        let peers = others.map(|other| PeerConfig {
            trust_domain: objects.clusters[other].domain.clone(),
            pin: Sha256::digest(root(other)).into(),
            ranges: Some(vec![announced(other)]),
        });
        peering.set_peers(peers.collect(), now).expect("peers");
        let issuer = Issuer::new(
            IssuerConfig::new(cluster.domain.clone()),
            key(),
            self.issuer_disk.clone(),
            Box::new(self.dice.rng()),
            now,
        );
        self.life = Some(Life {
            own: cluster.domain.clone(),
            domains: objects.clusters.iter().map(|c| c.domain.clone()).collect(),
            peering,
            issuer,
            records: RecordBook::default(),
            own_records: 0,
            policy: Arc::new(policy::compile(&cluster.policies).expect("valid policies")),
            digests: BTreeMap::new(),
            judge_again: true,
            tunnels: Vec::new(),
        });
        self.hear(objects, now);
    }

    /// Its source says what `objects` say.
    pub fn hear(&mut self, objects: &Objects, now: Now) {
        let Some(life) = &mut self.life else { return };
        let cluster = &objects.clusters[self.number];
        life.policy = Arc::new(policy::compile(&cluster.policies).expect("valid policies"));
        let (hash, part) = (life.policy.hash(), life.policy.digest_part());
        life.peering.set_policy(hash, &part, now);
        life.peering.set_enforcing(hash, now);
        life.issuer.set_workloads(cluster.workloads(), now);
        life.judge_again = true;
    }

    /// A session with another end is up, or gone.
    pub fn set_connected(&mut self, to: To, up: bool, now: Now) {
        let Some(life) = &mut self.life else { return };
        match to {
            To::Peer(other) => {
                let (peer, remote) = (&life.domains[other], wires::wan_address(other));
                if up {
                    let remote = SocketAddr::new(remote, 4433);
                    life.peering.handle_connected(peer, remote, now);
                } else {
                    life.peering.handle_disconnected(peer, "lost", now);
                }
            }
            To::Node(node) => {
                let node = objects::node_name(node);
                if up {
                    life.issuer.handle_node_connected(&node, now);
                } else {
                    life.issuer.handle_node_disconnected(&node, now);
                }
            }
        }
    }

    /// A message of another end.
    pub fn handle_message(&mut self, from: To, bytes: &[u8], now: Now) {
        let Some(life) = &mut self.life else { return };
        match from {
            To::Peer(other) => {
                let peer = life.domains[other].clone();
                life.peering.handle_message(&peer, bytes, now);
            }
            To::Node(node) => {
                let node = objects::node_name(node);
                life.issuer.handle_node_message(&node, bytes, now);
            }
        }
    }

    /// When a machine is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        let life = self.life.as_ref()?;
        let due = [life.peering.poll_timeout(), life.issuer.poll_timeout()];
        due.into_iter().flatten().min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Some(life) = &mut self.life {
            life.peering.handle_timeout(now);
            life.issuer.handle_timeout(now);
        }
    }

    /// Lets the machines talk until they are quiet; what they have to say to others.
    pub fn pump(&mut self, now: Now) -> Vec<(To, Vec<u8>)> {
        let Some(life) = &mut self.life else {
            return Vec::new();
        };
        let mut out = Vec::new();
        loop {
            while let Some((key, bytes)) = life.peering.poll_persist() {
                self.peer_disk.insert(key.to_string(), bytes);
                life.peering.handle_persisted(&key);
            }
            let mut quiet = true;
            while let Some(event) = life.peering.poll_event() {
                life.peer_event(event, now);
                quiet = false;
            }
            while let Some((peer, after, most)) = life.peering.poll_records() {
                let records: Vec<_> = life.issuer.own_records(after).take(most).collect();
                if let Some(message) = life.peering.handle_own_records(&peer, &records) {
                    out.push((life.peer(&peer), message));
                }
            }
            while let Some((peer, message)) = life.peering.poll_transmit() {
                out.push((life.peer(&peer), message));
            }
            while let Some(event) = life.issuer.poll_event() {
                if event == IssuerEvent::StateChanged {
                    self.issuer_disk = life.issuer.state();
                }
                life.issuer_event(&event, now);
                quiet = false;
            }
            while let Some((node, message)) = life.issuer.poll_transmit() {
                out.push((To::Node(objects::node_number(&node)), message));
            }
            if quiet && life.peering.poll_persist().is_none() {
                return out;
            }
        }
    }

    /// What the data plane judges by from now on, if it changed.
    pub fn take_transit(&mut self) -> Option<Arc<TransitSnapshot>> {
        let life = self.life.as_mut()?;
        if !std::mem::take(&mut life.judge_again) {
            return None;
        }
        self.epoch += 1;
        Some(Arc::new(life.transit(self.epoch)))
    }

    /// The tunnels that changed.
    pub fn take_tunnels(&mut self) -> Vec<(TrustDomain, TunnelState)> {
        let Some(life) = &mut self.life else {
            return Vec::new();
        };
        let changed = std::mem::take(&mut life.tunnels).into_iter();
        changed
            .map(|peer| (peer.clone(), life.peering.tunnel(&peer)))
            .collect()
    }

    /// The peering, while the process runs.
    #[must_use]
    pub fn peering(&self) -> Option<&Peering> {
        self.life.as_ref().map(|life| &life.peering)
    }

    /// What the own issuer recorded of pods: UID and generation.
    #[must_use]
    pub fn recorded(&self, now: Now) -> Vec<(String, u64)> {
        let Some(life) = &self.life else {
            return Vec::new();
        };
        let bundles = life.peering.bundles();
        let own = bundles.bundle(&life.own).expect("own");
        let records = life.issuer.own_records(0).map(|(_, record)| {
            let verified = record.verify(own, now.unix).expect("our own record");
            (verified.record.pod_uid, verified.record.generation)
        });
        records.collect()
    }

    /// What it holds of all clusters.
    #[must_use]
    pub fn records(&self) -> Option<&RecordBook> {
        self.life.as_ref().map(|life| &life.records)
    }
}

impl Life {
    fn peer(&self, domain: &TrustDomain) -> To {
        let number = self.domains.iter().position(|it| it == domain);
        To::Peer(number.expect("a cluster of this world"))
    }

    fn peer_event(&mut self, event: PeerEvent, now: Now) {
        match event {
            PeerEvent::BundlesChanged => {
                self.issuer.set_bundles(self.peering.bundles());
                self.take_own_records(now);
                self.judge_again = true;
            }
            PeerEvent::DigestChanged(_) => self.judge_again = true,
            PeerEvent::RangesChanged => {
                self.issuer.set_ranges(self.peering.ranges());
                self.judge_again = true;
            }
            PeerEvent::TunnelChanged(peer) => self.tunnels.push(peer),
            PeerEvent::Records(records) => {
                for (signed, verified) in &records {
                    if self.records.insert(verified, now.mono) {
                        self.issuer.handle_peer_record(signed, verified);
                        self.judge_again = true;
                    }
                }
            }
            PeerEvent::Connected(_) | PeerEvent::Disconnected(_) => {}
            // Nobody misbehaves in the control plane of this world.
            PeerEvent::Alarm { .. } | PeerEvent::Close { .. } | PeerEvent::Removed(_) => {
                panic!("{event:?}")
            }
        }
    }

    fn issuer_event(&mut self, event: &IssuerEvent, now: Now) {
        match event {
            IssuerEvent::StateChanged => {}
            IssuerEvent::RegistryChanged | IssuerEvent::SegmentKeysChanged => {
                self.judge_again = true;
            }
            IssuerEvent::RecordsChanged => {
                self.take_own_records(now);
                self.peering.handle_records_changed();
            }
            IssuerEvent::Refused { .. }
            | IssuerEvent::Misbehaved { .. }
            | IssuerEvent::Problem(_) => panic!("{event:?}"),
        }
    }

    fn take_own_records(&mut self, now: Now) {
        let records: Vec<_> = self.issuer.own_records(self.own_records).collect();
        let Some(bundle) = self.peering.bundles().bundle(&self.own).cloned() else {
            return;
        };
        for (position, record) in records {
            let verified = record.verify(&bundle, now.unix).expect("our own record");
            self.judge_again |= self.records.insert(&verified, now.mono);
            self.own_records = position;
        }
    }

    fn transit(&mut self, epoch: u64) -> TransitSnapshot {
        let own = self.own.clone();
        for peer in self.domains.iter().filter(|domain| **domain != own) {
            let Some(digest) = self.peering.digest(peer) else {
                self.digests.remove(peer);
                continue;
            };
            if self.digests.get(peer).is_none_or(|(old, _)| old != digest) {
                let part = digest.part.as_deref().expect("small policies");
                let table = Arc::new(policy::compile(part).expect("a digest compiles"));
                self.digests.insert(peer.clone(), (digest.clone(), table));
            }
        }
        let digests = self.digests.iter();
        let pods = self.issuer.addresses();
        let keys: Vec<_> = self.issuer.segment_keys().map(Clone::clone).into();
        TransitSnapshot {
            epoch,
            own,
            networks: IdentityNetworks::new(self.peering.ranges()).expect("disjoint"),
            bundles: self.peering.bundles().clone(),
            policy: self.policy.clone(),
            digests: digests
                .map(|(peer, (_, table))| (peer.clone(), table.clone()))
                .collect(),
            known: KnownKeys::all(),
            pods: pods
                .map(|(address, claims)| (address, Arc::new(claims)))
                .collect(),
            segment_keys: segment_keys(&keys),
            changes: changes(&self.records),
        }
    }
}

/// The keys as the handshake takes them.
#[must_use]
pub fn segment_keys(grants: &[SegmentKeyGrant]) -> SegmentKeys {
    let keys = grants.iter().map(|grant| SegmentKey {
        id: grant.id,
        key: MacKey::from_bytes(*grant.secret.expose()),
    });
    SegmentKeys::new(keys.collect())
}

/// The records as the handshake takes them.
#[must_use]
pub fn changes(records: &RecordBook) -> PodStates {
    let mut changes = PodStates::default();
    for (domain, uid, state) in records.iter() {
        let state = match state {
            RecordState::Relabelled(claims) => PodState::Relabelled(claims.clone()),
            RecordState::Gone => PodState::Gone,
        };
        changes.insert(domain.clone(), uid.to_owned(), state);
    }
    changes
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
        (0..8).map(root).collect()
    });
    &roots[number]
}
