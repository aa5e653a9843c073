//! Clusters, sessions and disks in virtual time. A session is reliable and in order, as QUIC's is;
//! sessions come and go as a test says.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::Duration,
};

use identity::{IssuerKey, Mono, Now, PodChange, PodRecord, SignedRecord, TrustDomain, UnixMillis};
use peering::{
    peer_messages::{AnnouncedRange, PeerMessage},
    peers::{OwnKeys, PeerConfig, PeerEvent, PeerStatus, Peering, PeeringConfig, StateKey},
};
use policy::model::{Policy, PolicyKind, PolicySet, Tier};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

pub const START: u64 = 1_800_000_000_000;
pub const LATENCY: Duration = Duration::from_millis(20);

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A root certificate, one per name and life of the test process.
pub fn root(name: &str) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().to_vec()
}

pub fn pin(root: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(root).into()
}

/// A policy set that is named, and nothing more.
pub fn policy(cluster: &str, name: &str) -> PolicySet {
    let policy = Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: Some("shop".into()),
        name: name.into(),
        tier: Tier::Application,
        order: 1,
        subject: policy::model::WorkloadSelector {
            clusters: policy::model::ClusterMatch::Own,
            namespaces: policy::model::NamespaceMatch::Any,
            pods: policy::model::LabelSelector::default(),
            service_accounts: vec![],
        },
        staged: false,
        isolates: vec![],
        rules: vec![],
    };
    PolicySet {
        cluster: domain(cluster),
        policies: vec![policy.into()],
    }
}

pub fn offer(namespaces: &[&str]) -> identity::ClaimLimits {
    serde_json::from_value(serde_json::json!({"namespaces": namespaces})).unwrap()
}

/// Stands for the hash of a policy.
pub fn hash(name: &str) -> [u8; 32] {
    pin(name.as_bytes())
}

pub fn range(range_id: u16, prefix: &str) -> AnnouncedRange {
    AnnouncedRange {
        range_id,
        prefix: prefix.parse().unwrap(),
    }
}

pub struct Cluster {
    pub name: TrustDomain,
    pub peering: Peering,
    pub seed: u8,
    pub root: Vec<u8>,
    pub ranges: Vec<AnnouncedRange>,
    pub peers: Vec<PeerConfig>,
    pub policy: String,
    pub disk: BTreeMap<String, Vec<u8>>,
    pub disk_full: bool,
    /// This clock minus the true one, in ms.
    pub skew: i64,
    pub events: Vec<PeerEvent>,
    /// Pods that only those may meet to whom all are offered.
    pub withheld: BTreeSet<String>,
    /// Records of this cluster by position, and those that were received: uid -> generations.
    pub own_records: Vec<(u64, String, SignedRecord)>,
    pub received: Vec<(TrustDomain, String, u64)>,
    pub lives: u8,
    /// Closed by its own peering: {peer, reason}.
    pub closed: Vec<(TrustDomain, String)>,
}

struct Flight {
    at: Mono,
    session: u64,
    from: TrustDomain,
    to: TrustDomain,
    bytes: Vec<u8>,
}

pub struct World {
    pub mono: Mono,
    pub clusters: BTreeMap<TrustDomain, Cluster>,
    /// The sessions that stand, by their two ends in order.
    sessions: BTreeMap<(TrustDomain, TrustDomain), u64>,
    next_session: u64,
    flights: VecDeque<Flight>,
    /// Everything that was ever sent: {from, to, bytes}.
    pub sent: Vec<(TrustDomain, TrustDomain, Vec<u8>)>,
}

fn ends(a: &TrustDomain, b: &TrustDomain) -> (TrustDomain, TrustDomain) {
    (a.min(b).clone(), a.max(b).clone())
}

fn address(name: &TrustDomain) -> SocketAddr {
    let last = name.as_str().bytes().fold(0u8, u8::wrapping_add);
    SocketAddr::from(([192, 0, 2, last], 4433))
}

impl Cluster {
    pub fn key(seed: u8) -> IssuerKey {
        IssuerKey::from_seed(&[seed; 32])
    }

    fn boot(&mut self, now: Now) {
        self.lives += 1;
        let mut config = PeeringConfig::new(self.name.clone());
        config.queues = 2;
        let mut seed = [self.lives; 32];
        seed[0] = self.seed;
        self.peering = Peering::new(
            config,
            Self::key(self.seed),
            self.disk.clone(),
            Box::new(ChaCha20Rng::from_seed(seed)),
            now,
        )
        .unwrap();
        self.set_keys(now);
        self.peering.set_own_ranges(self.ranges.clone(), now);
        self.peering.set_peers(self.peers.clone(), now).unwrap();
        self.set_policy(&self.policy.clone(), now);
    }

    pub fn set_keys(&mut self, now: Now) {
        let keys = OwnKeys {
            x509_roots: vec![self.root.clone()],
            issuer_keys: vec![Self::key(self.seed).public()],
            carried_labels: None,
        };
        self.peering.set_own_keys(keys, now);
    }

    pub fn set_policy(&mut self, name: &str, now: Now) {
        self.policy = name.into();
        let part = policy(self.name.as_str(), name);
        self.peering.set_policy(hash(name), &part, now);
        self.peering.set_enforcing(hash(name), now);
    }

    /// Which pods `peer` may meet, from now on: those of these namespaces, or all.
    pub fn offer(&mut self, peer: &str, namespaces: &[&str], now: Now) {
        let offer = offer(namespaces);
        for config in &mut self.peers {
            if config.trust_domain.as_str() == peer {
                config.offer = offer.clone();
            }
        }
        self.peering.set_peers(self.peers.clone(), now).unwrap();
    }

    /// Says of a pod that it is gone.
    pub fn record(&mut self, uid: &str, generation: u64) {
        let position = self.own_records.len() as u64 + 1;
        let record = PodRecord {
            pod_uid: uid.into(),
            generation,
            change: PodChange::Gone,
        };
        let signed = Self::key(self.seed).sign_record(&self.name, position, &record);
        self.own_records.push((position, uid.into(), signed));
        self.peering.handle_records_changed();
    }

    pub fn status(&self, peer: &str, now: UnixMillis) -> PeerStatus {
        let status = self.peering.status(now);
        let found = status
            .peers
            .into_iter()
            .find(|p| p.trust_domain.as_str() == peer);
        found.unwrap()
    }

    pub fn alarms(&self) -> Vec<&str> {
        let alarms = self.events.iter().filter_map(|event| match event {
            PeerEvent::Alarm { what, .. } => Some(what.as_str()),
            _ => None,
        });
        alarms.collect()
    }
}

impl World {
    /// Clusters that know each other's pins and ranges, with no session yet.
    pub fn new(names: &[&str]) -> Self {
        let mut world = Self {
            mono: Mono(secs(1000)),
            clusters: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
            flights: VecDeque::new(),
            sent: Vec::new(),
        };
        let roots: Vec<_> = names.iter().map(|name| root(name)).collect();
        let ranges = |i: usize| vec![range(1, &format!("10.{}.0.0/16", i + 1))];
        for (i, name) in names.iter().enumerate() {
            let others = (0..names.len()).filter(|other| *other != i);
            let peers = others.map(|other| PeerConfig {
                trust_domain: domain(names[other]),
                pin: Some(pin(&roots[other])),
                ranges: Some(ranges(other)),
                mapped: BTreeMap::new(),
                limits: identity::ClaimLimits::default(),
                or_roots: Vec::new(),
                offer: identity::ClaimLimits::default(),
                away: None,
            });
            let now = world.true_now();
            let seed = i as u8 + 1;
            let mut cluster = Cluster {
                name: domain(name),
                peering: Peering::new(
                    PeeringConfig::new(domain(name)),
                    Cluster::key(seed),
                    [],
                    Box::new(ChaCha20Rng::from_seed([seed; 32])),
                    now,
                )
                .unwrap(),
                seed,
                root: roots[i].clone(),
                ranges: ranges(i),
                peers: peers.collect(),
                policy: "first".into(),
                disk: BTreeMap::new(),
                disk_full: false,
                skew: 0,
                events: vec![],
                withheld: BTreeSet::new(),
                own_records: vec![],
                received: vec![],
                lives: 0,
                closed: vec![],
            };
            cluster.boot(now);
            world.clusters.insert(domain(name), cluster);
        }
        world.pump();
        world
    }

    pub fn mesh(names: &[&str]) -> Self {
        let mut world = Self::new(names);
        world.connect_all();
        world.run(secs(1));
        world
    }

    fn true_now(&self) -> Now {
        let since = self.mono.0 - secs(1000);
        Now {
            mono: self.mono,
            unix: UnixMillis(START + since.as_millis() as u64),
        }
    }

    /// As the clocks of `name` say.
    pub fn now(&self, name: &str) -> Now {
        let now = self.true_now();
        let skew = self
            .clusters
            .get(&domain(name))
            .map_or(0, |cluster| cluster.skew);
        Now {
            mono: now.mono,
            unix: UnixMillis(now.unix.0.saturating_add_signed(skew)),
        }
    }

    pub fn get(&mut self, name: &str) -> &mut Cluster {
        self.clusters.get_mut(&domain(name)).unwrap()
    }

    /// Does something to one cluster, and what follows from it.
    pub fn with<T>(&mut self, name: &str, act: impl FnOnce(&mut Cluster, Now) -> T) -> T {
        let now = self.now(name);
        let done = act(self.get(name), now);
        self.pump();
        done
    }

    pub fn status(&mut self, of: &str, peer: &str) -> PeerStatus {
        let now = self.now(of).unix;
        self.get(of).status(peer, now)
    }

    pub fn connect_all(&mut self) {
        let names: Vec<_> = self.clusters.keys().cloned().collect();
        for (i, a) in names.iter().enumerate() {
            for b in &names[i + 1..] {
                self.connect(a.as_str(), b.as_str());
            }
        }
    }

    /// A new session; one that stood is replaced, as the newest always is.
    pub fn connect(&mut self, a: &str, b: &str) {
        let (a, b) = (domain(a), domain(b));
        self.next_session += 1;
        self.sessions.insert(ends(&a, &b), self.next_session);
        for (at, other) in [(&a, &b), (&b, &a)] {
            let now = self.now(at.as_str());
            let peering = &mut self.get(at.as_str()).peering;
            peering.handle_connected(other, address(other), now);
        }
        self.pump();
    }

    pub fn disconnect(&mut self, a: &str, b: &str) {
        let (a, b) = (domain(a), domain(b));
        if self.sessions.remove(&ends(&a, &b)).is_none() {
            return;
        }
        for (at, other) in [(&a, &b), (&b, &a)] {
            let now = self.now(at.as_str());
            let peering = &mut self.get(at.as_str()).peering;
            peering.handle_disconnected(other, "lost", now);
        }
        self.pump();
    }

    pub fn is_connected(&self, a: &str, b: &str) -> bool {
        self.sessions.contains_key(&ends(&domain(a), &domain(b)))
    }

    /// The process of `name` dies and starts again from what its disk holds.
    pub fn restart(&mut self, name: &str) {
        let it = domain(name);
        let others: Vec<_> = self.clusters.keys().cloned().collect();
        for other in others.iter().filter(|other| **other != it) {
            self.disconnect(name, other.as_str());
        }
        let now = self.now(name);
        self.get(name).boot(now);
        self.pump();
    }

    /// Bytes that `from` would never say, on its session with `to`, at once.
    pub fn inject(&mut self, from: &str, to: &str, bytes: &[u8]) {
        let now = self.now(to);
        let from = domain(from);
        self.get(to).peering.handle_message(&from, bytes, now);
        self.pump();
    }

    pub fn say(&mut self, from: &str, to: &str, message: &PeerMessage) {
        self.inject(from, to, &message.encode());
    }

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.mono.after(time);
        while let Some(next) = self.next_wake().filter(|next| *next <= end) {
            self.mono = self.mono.max(next);
            self.step();
        }
        self.mono = end;
    }

    fn next_wake(&self) -> Option<Mono> {
        let timeouts = self
            .clusters
            .values()
            .filter_map(|c| c.peering.poll_timeout());
        let flights = self.flights.front().map(|flight| flight.at);
        timeouts.chain(flights).min()
    }

    fn step(&mut self) {
        while let Some(flight) = self.flights.pop_front_if(|flight| flight.at <= self.mono) {
            // What is under way when a session ends is lost with it.
            let session = self.sessions.get(&ends(&flight.from, &flight.to));
            if session == Some(&flight.session) {
                let now = self.now(flight.to.as_str());
                let to = self.clusters.get_mut(&flight.to).unwrap();
                to.peering.handle_message(&flight.from, &flight.bytes, now);
                self.pump();
            }
        }
        let names: Vec<_> = self.clusters.keys().cloned().collect();
        for name in names {
            let now = self.now(name.as_str());
            let cluster = self.clusters.get_mut(&name).unwrap();
            if cluster
                .peering
                .poll_timeout()
                .is_some_and(|at| at <= now.mono)
            {
                cluster.peering.handle_timeout(now);
                let next = cluster.peering.poll_timeout();
                assert!(
                    next.is_none_or(|at| at > now.mono),
                    "a timeout that does not pass"
                );
            }
        }
        self.pump();
    }

    /// What the task around the machine does, in the order of the contract.
    pub fn pump(&mut self) {
        let names: Vec<_> = self.clusters.keys().cloned().collect();
        for name in &names {
            self.pump_one(name);
        }
        self.check_tunnels();
    }

    fn pump_one(&mut self, name: &TrustDomain) {
        let at = self.mono.after(LATENCY);
        let cluster = self.clusters.get_mut(name).unwrap();
        while let Some((key, bytes)) = cluster.peering.poll_persist() {
            if cluster.disk_full {
                assert!(cluster.peering.poll_event().is_none());
                assert!(cluster.peering.poll_transmit().is_none());
                assert!(cluster.peering.poll_records().is_none());
                return;
            }
            let file = match &key {
                StateKey::Own => "own".into(),
                StateKey::Peer(peer) => format!("peer-{peer}"),
            };
            cluster.disk.insert(file, bytes);
            cluster.peering.handle_persisted(&key);
        }
        let mut closed = Vec::new();
        while let Some(event) = cluster.peering.poll_event() {
            match &event {
                PeerEvent::Close { peer, reason } => closed.push((peer.clone(), reason.clone())),
                PeerEvent::Records(records) => {
                    for (_, verified) in records {
                        cluster.received.push((
                            verified.trust_domain.clone(),
                            verified.record.pod_uid.clone(),
                            verified.record.generation,
                        ));
                    }
                }
                _ => {}
            }
            cluster.events.push(event);
        }
        let mut messages = Vec::new();
        while let Some((peer, after, most)) = cluster.peering.poll_records() {
            let all = cluster.peering.offered(&peer).unwrap().is_empty();
            let records = cluster.own_records.iter().filter(|(position, uid, _)| {
                *position > after && (all || !cluster.withheld.contains(uid))
            });
            let records = records
                .take(most)
                .map(|(at, _, record)| (*at, record.clone()));
            let records: Vec<_> = records.collect();
            let through = cluster.own_records.len() as u64;
            let peering = &mut cluster.peering;
            let message = peering.handle_own_records(&peer, &records, through);
            messages.extend(message.map(|message| (peer, message)));
        }
        while let Some(message) = cluster.peering.poll_transmit() {
            messages.push(message);
        }
        cluster.closed.extend(closed.iter().cloned());
        for (to, bytes) in messages {
            self.sent.push((name.clone(), to.clone(), bytes.clone()));
            if let Some(session) = self.sessions.get(&ends(name, &to)) {
                self.flights.push_back(Flight {
                    at,
                    session: *session,
                    from: name.clone(),
                    to,
                    bytes,
                });
            }
        }
        for (peer, _) in closed {
            self.disconnect(name.as_str(), peer.as_str());
        }
    }

    /// Make before break: whoever sends has only associations on which the other receives, unless
    /// the sessions of the two are not the same yet.
    fn check_tunnels(&self) {
        for (a, b) in self.sessions.keys() {
            for (from, to) in [(a, b), (b, a)] {
                let receive = self.clusters[to].peering.tunnel(from).receive;
                let receive: BTreeSet<_> = receive.iter().map(|key| key.spi).collect();
                for key in self.clusters[from].peering.tunnel(to).send {
                    assert!(
                        receive.contains(&key.spi),
                        "{from} sends on what {to} lacks"
                    );
                }
            }
        }
    }
}
