//! `peering` over real sessions: two gateways that both dial, meet, agree on one session, learn of
//! each other, lose each other and meet again. The pump here is the contract of `Peering` in short.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{HOUR, domain, now};
use identity::{IssuerKey, Mono, Now, TrustDomain};
use landbridge_quic as quic;
use peering::{
    peer_messages::AnnouncedRange,
    peers::{OwnKeys, PeerConfig, PeerEvent, Peering, PeeringConfig, Status, TunnelState},
};
use policy::model::PolicySet;
use quic::{
    Anchor, Arrival, Backoff, ClusterRoot, Endpoint, Facts, Identity, Info, Limits, Pin, Preferred,
    Protocol, Sender, Session, Target, Trust, gateway_id, preferred,
};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};

/// What a test sees of a gateway.
#[derive(Clone, Debug, Default)]
struct Seen {
    status: Option<Status>,
    tunnel: TunnelState,
    /// The session that stands, whether it was dialled here, and how many there ever were.
    session: Option<(quic::Instance, bool)>,
    sessions: usize,
    digest: Option<[u8; 32]>,
}

/// What survives a process.
struct Machine {
    own: TrustDomain,
    peer: TrustDomain,
    root: ClusterRoot,
    address: SocketAddr,
    peer_address: SocketAddr,
    peer_pin: Pin,
    disk: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    lives: u8,
}

struct Process {
    runtime: Option<Runtime>,
    seen: watch::Receiver<Seen>,
    policies: mpsc::Sender<[u8; 32]>,
}

enum Input {
    Session(Session),
    Frame(u64, Vec<u8>),
    Ended(u64),
}

impl Machine {
    fn start(&mut self) -> Process {
        self.lives += 1;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (say, seen) = watch::channel(Seen::default());
        let (policies, wanted) = mpsc::channel(4);
        let guard = runtime.enter();
        let gateway = Gateway::new(self, say);
        drop(guard);
        runtime.spawn(gateway.run(wanted));
        Process {
            runtime: Some(runtime),
            seen,
            policies,
        }
    }
}

impl Process {
    /// Dies without a word, as by SIGKILL.
    fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(5));
    }

    fn wait(&mut self, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        let runtime = self.runtime.as_ref().unwrap();
        let waited = runtime.block_on(async {
            let waiting = self.seen.wait_for(|seen| holds(seen));
            let waited = tokio::time::timeout(Duration::from_secs(8), waiting).await;
            waited.ok().and_then(Result::ok).map(|seen| seen.clone())
        });
        waited.unwrap_or_else(|| panic!("{what}: {:#?}", self.seen.borrow()))
    }
}

struct Gateway {
    started: Instant,
    peer: TrustDomain,
    own: TrustDomain,
    peering: Peering,
    endpoint: Endpoint,
    trust: Trust,
    arrivals: Option<mpsc::Receiver<Arrival>>,
    disk: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    link: Option<(u64, Sender, Info)>,
    links: u64,
    inputs: mpsc::Sender<Input>,
    input: mpsc::Receiver<Input>,
    /// Whether a session is wanted.
    wanted: watch::Sender<bool>,
    target: Target,
    say: watch::Sender<Seen>,
}

impl Gateway {
    fn new(machine: &Machine, say: watch::Sender<Seen>) -> Self {
        let id = gateway_id(&machine.own, "gw1").unwrap();
        let identity = Identity::new(machine.root.issue(&id, now(), HOUR).unwrap());
        let trust = Trust::new(machine.own.clone());
        trust.set(machine.peer.clone(), Anchor::Pinned(machine.peer_pin));
        let (endpoint, arrivals) = Endpoint::bind(
            machine.address,
            identity,
            trust.clone(),
            &[Protocol::Peer],
            Limits::default(),
        )
        .unwrap();
        let started = Instant::now();
        let clock = Now {
            mono: Mono::default(),
            unix: now(),
        };
        let mut peering = Peering::new(
            PeeringConfig::new(machine.own.clone()),
            key(&machine.own),
            machine.disk.lock().unwrap().clone(),
            Box::new(ChaCha20Rng::from_seed([machine.lives; 32])),
            clock,
        )
        .unwrap();
        let keys = OwnKeys {
            x509_roots: vec![machine.root.certificate_der().to_vec()],
            issuer_keys: vec![key(&machine.own).public()],
            carried_labels: None,
        };
        peering.set_own_keys(keys, clock);
        let peers = vec![PeerConfig {
            mapped: BTreeMap::new(),
            limits: identity::ClaimLimits::default(),
            or_roots: Vec::new(),
            offer: identity::ClaimLimits::default(),
            away: None,
            trust_domain: machine.peer.clone(),
            pin: Some(machine.peer_pin.0),
            ranges: Some(vec![AnnouncedRange {
                range_id: 1,
                prefix: "10.9.0.0/16".parse().unwrap(),
            }]),
        }];
        peering.set_peers(peers, clock).unwrap();
        let (inputs, input) = mpsc::channel(64);
        Self {
            started,
            peer: machine.peer.clone(),
            own: machine.own.clone(),
            peering,
            endpoint,
            trust,
            arrivals: Some(arrivals),
            disk: machine.disk.clone(),
            link: None,
            links: 0,
            inputs,
            input,
            wanted: watch::channel(true).0,
            target: Target {
                address: machine.peer_address,
                trust_domain: machine.peer.clone(),
                protocol: Protocol::Peer,
            },
            say,
        }
    }

    fn now(&self) -> Now {
        Now {
            mono: Mono(self.started.elapsed()),
            unix: now(),
        }
    }

    async fn run(mut self, mut policies: mpsc::Receiver<[u8; 32]>) {
        let mut arrivals = self.arrivals.take().unwrap();
        tokio::spawn(dial(
            self.endpoint.clone(),
            self.target.clone(),
            self.wanted.subscribe(),
            self.inputs.clone(),
        ));
        loop {
            self.settle();
            let due = self
                .peering
                .poll_timeout()
                .map_or(HOUR, |at| at.since(self.now().mono));
            let now = self.now();
            tokio::select! {
                Some(input) = self.input.recv() => self.take(input),
                Some(arrival) = arrivals.recv() => match arrival {
                    Arrival::Session(session) => self.take(Input::Session(session)),
                    Arrival::Refused(refused) => {
                        let why = refused.error.to_string();
                        self.peering.handle_refused(&self.peer.clone(), &why, now);
                    }
                    Arrival::Enrolling(_) | Arrival::Joining(_) => {}
                },
                Some(hash) = policies.recv() => {
                    let part = PolicySet { cluster: self.own.clone(), policies: vec![] };
                    self.peering.set_policy(hash, &part, now);
                    self.peering.set_enforcing(hash, now);
                }
                () = tokio::time::sleep(due) => {}
            }
            let now = self.now();
            self.peering.handle_timeout(now);
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Session(session) => self.take_session(session),
            Input::Frame(id, frame) if self.is_linked(id) => {
                self.peering.handle_message(&self.peer, &frame, now);
            }
            Input::Ended(id) if self.is_linked(id) => {
                self.link = None;
                self.wanted.send_replace(true);
                self.peering.handle_disconnected(&self.peer, "ended", now);
            }
            _ => {}
        }
    }

    fn is_linked(&self, id: u64) -> bool {
        self.link
            .as_ref()
            .is_some_and(|(linked, _, _)| *linked == id)
    }

    fn take_session(&mut self, session: Session) {
        let facts = |info: &Info| Facts {
            dialled: info.dialled,
            instance: info.instance,
        };
        if let Some((_, sender, info)) = &self.link {
            let (old, new) = (facts(info), facts(&session.info));
            if preferred(&self.own, &self.peer, old, new) == Preferred::Old {
                return session.sender.close("there is a session already");
            }
            sender.close("another took its place");
        }
        self.links += 1;
        let (id, inputs) = (self.links, self.inputs.clone());
        let mut receiver = session.receiver;
        tokio::spawn(async move {
            while let Some(frame) = receiver.recv().await {
                let _ = inputs.send(Input::Frame(id, frame)).await;
            }
            let _ = inputs.send(Input::Ended(id)).await;
        });
        let remote = session.info.remote;
        self.link = Some((id, session.sender, session.info));
        self.wanted.send_replace(false);
        let now = self.now();
        self.peering.handle_connected(&self.peer, remote, now);
    }

    /// Store, then act, then send.
    fn settle(&mut self) {
        while let Some((key, bytes)) = self.peering.poll_persist() {
            self.disk.lock().unwrap().insert(format!("{key:?}"), bytes);
            self.peering.handle_persisted(&key);
        }
        while let Some(event) = self.peering.poll_event() {
            match event {
                PeerEvent::BundlesChanged => {
                    if let Some(bundle) = self.peering.bundles().bundle(&self.peer) {
                        let roots = Anchor::Roots(bundle.x509_roots.clone());
                        self.trust.set(self.peer.clone(), roots);
                    }
                }
                PeerEvent::Close { reason, .. } => {
                    if let Some((_, sender, _)) = &self.link {
                        sender.close(&reason);
                    }
                }
                _ => {}
            }
        }
        while let Some((_, message)) = self.peering.poll_transmit() {
            if let Some((_, sender, _)) = &self.link {
                sender.try_send(message).unwrap();
            }
        }
        self.say.send_replace(Seen {
            status: Some(self.peering.status(now())),
            tunnel: self.peering.tunnel(&self.peer),
            session: self
                .link
                .as_ref()
                .map(|(_, _, info)| (info.instance, info.dialled)),
            sessions: self.links as usize,
            digest: self.peering.digest(&self.peer).map(|digest| digest.hash),
        });
    }
}

fn key(of: &TrustDomain) -> IssuerKey {
    IssuerKey::from_seed(&[of.as_str().len() as u8; 32])
}

async fn dial(
    endpoint: Endpoint,
    target: Target,
    mut wanted: watch::Receiver<bool>,
    inputs: mpsc::Sender<Input>,
) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        if let Ok(session) = endpoint.dial(&target).await {
            backoff.reset();
            let _ = inputs.send(Input::Session(session)).await;
        }
        tokio::time::sleep(backoff.wait(u32::MAX)).await;
    }
}

/// East and west with addresses that are free now.
fn machines() -> (Machine, Machine) {
    let free = || {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let (at_east, at_west) = (free(), free());
    let root = |name| ClusterRoot::generate(&domain(name), now(), HOUR).unwrap();
    let (east, west) = (root("east"), root("westward"));
    let machine = |own: ClusterRoot, peer: &str, pin, address, peer_address| Machine {
        own: own.trust_domain().clone(),
        peer: domain(peer),
        root: own,
        address,
        peer_address,
        peer_pin: pin,
        disk: Arc::default(),
        lives: 0,
    };
    let (east_pin, west_pin) = (east.pin(), west.pin());
    (
        machine(east, "westward", west_pin, at_east, at_west),
        machine(west, "east", east_pin, at_west, at_east),
    )
}

fn send(process: &Process, hash: [u8; 32]) {
    process.policies.blocking_send(hash).unwrap();
}

#[test]
fn two_gateways_that_both_dial_agree_on_one_session_and_learn_of_each_other() {
    let (mut east, mut west) = machines();
    let (mut e, mut w) = (east.start(), west.start());
    send(&e, [1; 32]);
    send(&w, [2; 32]);
    let settled = |seen: &Seen| {
        let status = seen.status.as_ref().map(|status| &status.peers[0]);
        status.is_some_and(|peer| {
            peer.connected
                && peer
                    .problems
                    .iter()
                    .all(|problem| problem.contains("pod ranges"))
                && peer.enforced_hash.is_some()
                && peer.tunnel_send == 1
                && peer.tunnel_receive == 1
        })
    };
    // East has the lower name: what it dialled stays.
    let seen_east = e.wait("east", |seen| {
        settled(seen) && seen.digest == Some([2; 32]) && seen.session.is_some_and(|s| s.1)
    });
    let seen_west = w.wait("west", |seen| {
        settled(seen) && seen.digest == Some([1; 32]) && seen.session.is_some_and(|s| !s.1)
    });
    assert_eq!(seen_east.tunnel.send, seen_west.tunnel.receive);
    assert_eq!(seen_west.tunnel.send, seen_east.tunnel.receive);
    assert_eq!(seen_east.tunnel.endpoint.map(|to| to.port()), Some(1000));
    assert!(seen_east.sessions <= 2 && seen_west.sessions <= 2);

    // A policy takes one way.
    send(&w, [3; 32]);
    e.wait("policy", |seen| seen.digest == Some([3; 32]));
}

#[test]
fn a_gateway_that_was_killed_is_met_again_before_its_old_session_timed_out() {
    let (mut east, mut west) = machines();
    let (mut e, mut w) = (east.start(), west.start());
    send(&w, [2; 32]);
    let first = e.wait("first", |seen| {
        seen.digest == Some([2; 32]) && !seen.tunnel.send.is_empty()
    });
    w.wait("first", |seen| !seen.tunnel.send.is_empty());
    w.kill();

    let since = Instant::now();
    // The pin is worth nothing any more: what is stored of the peer counts.
    let mut w = west.start();
    send(&w, [4; 32]);
    let again = e.wait("again", |seen| {
        seen.digest == Some([4; 32]) && !seen.tunnel.send.is_empty()
    });
    w.wait("again", |seen| !seen.tunnel.send.is_empty());
    assert!(
        since.elapsed() < Limits::default().idle_timeout / 2,
        "{:?}",
        since.elapsed()
    );
    assert_ne!(
        first.session.map(|s| s.0),
        again.session.map(|s| s.0),
        "another process"
    );
    let spis = |seen: &Seen| {
        seen.tunnel
            .send
            .iter()
            .map(|key| key.spi)
            .collect::<Vec<_>>()
    };
    assert_ne!(spis(&first), spis(&again), "new associations");
    let status = again.status.unwrap().peers[0].clone();
    assert!(status.digest_sequence > Some(1), "its sequences went on");
    e.kill();
}
