//! What a gateway holds in memory with a thousand connected peers and a hundred thousand verified credentials.
//! The peers are machines of their own in another process, over real QUIC on loopback; here is what the gateway has: its
//! control and data plane, its sessions, its packet memory. Prints a line of JSON for each figure.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_macros,
    clippy::print_stdout,
    clippy::print_stderr
)]

extern crate quic as landbridge_quic;

#[path = "../../federation/quic/tests/common/mod.rs"]
mod common;
mod memory {
    pub mod members;
    pub mod world;
}

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Cluster, cluster};
use gateway_core::{
    Control, Dataplane, Limits, SharedCache, Snapshot,
    control::{Member, Recipient},
};
use gateway_xdp::{QueueSet, RingSizes};
use handshake::credentials::{CredentialCache, Verified};
use identity::{CredentialHash, claimed_key, verify_credential};
use memory::{
    members,
    world::{self, PEERS, clock, domain, name},
};
use peering::{
    issuer::{Issuer, IssuerConfig, IssuerState},
    peers::{PeerConfig, Peering, PeeringConfig},
};
use quic::{Anchor, Endpoint, Pin, Protocol, Sender, Session, Target};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use tokio::{
    runtime::Builder,
    sync::{Semaphore, mpsc},
    time::{interval, timeout},
};

/// Verified credentials, as many of each peer.
const CREDENTIALS: usize = 100_000;
/// Sessions that are opened at once.
const DIALLED: usize = 20;
/// After this something is wrong.
const HOPELESS: Duration = Duration::from_secs(300);

fn main() {
    // `cargo test` runs benches without the argument that `cargo bench` gives them.
    let member_of = std::env::var(members::OF);
    if member_of.is_err() && !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    match member_of {
        Ok(pin) => runtime.block_on(members::run(&pin)),
        Err(_) => runtime.block_on(gateway()),
    }
}

async fn gateway() {
    let begun = Instant::now();
    let empty = status("VmRSS:");
    let packets = packet_memory();
    let at_rest = status("VmRSS:");
    let east = cluster("east");
    let (mut child, peers) = start_members(&east);
    let mut gateway = Gateway::new(&east, &peers, begun);
    gateway.connect(&peers).await;
    let connected = status("VmRSS:");
    let cache = Arc::new(SharedCache::new(1 << 17, &[7; 16]));
    let shared: Arc<dyn CredentialCache> = cache.clone();
    let dataplane = Dataplane::new(&Limits::default(), &[8; 16], &shared);
    let credentials = gateway.believe(&*cache);
    let all = status("VmRSS:");
    assert_eq!(cache.len(), CREDENTIALS);
    assert_eq!(dataplane.flows().established(), 0);
    child.kill().unwrap();
    child.wait().unwrap();

    let (sessions, heard) = (gateway.links.len(), gateway.heard);
    eprintln!(
        "{sessions} sessions; bytes: {empty} at first, {at_rest} with packet memory, {connected} with peers, {all} with \
         credentials, {} at most",
        status("VmHWM:"),
    );
    let figure = |name: &str, bytes: usize| {
        let line = serde_json::json!({"name": name, "unit": "B", "value": bytes});
        println!("{line}");
    };
    figure("memory of 1,000 peers", connected - at_rest);
    figure("memory of 100,000 credentials", all - connected);
    figure("memory of both, with packet memory", all);
    let said = heard + credentials + packets.len();
    figure("raw words of the peers", heard);
    figure("raw credentials", credentials);
    figure("raw words, credentials, packet memory", said);
}

/// As much as the rings of both interfaces take, with two queues each, written once as a gateway's is.
fn packet_memory() -> Vec<u8> {
    let bytes = QueueSet::memory(2, 2, 1500, RingSizes::default());
    vec![1; usize::try_from(bytes).unwrap()]
}

/// A peer, as its process says.
struct Peer {
    number: usize,
    pin: [u8; 32],
    address: SocketAddr,
}

fn start_members(east: &Cluster) -> (Child, Vec<Peer>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(members::OF, hex::encode(east.root.pin().0))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let peers = lines.take(PEERS).enumerate().map(|(number, line)| {
        let line = line.unwrap();
        let (pin, address) = line.split_once(' ').unwrap();
        Peer {
            number,
            pin: hex::decode(pin).unwrap().try_into().unwrap(),
            address: address.parse().unwrap(),
        }
    });
    let peers = peers.collect();
    (child, peers)
}

/// The control side of a gateway and its sessions.
struct Gateway<'a> {
    begun: Instant,
    cluster: &'a Cluster,
    control: Control,
    dialler: Endpoint,
    links: BTreeMap<usize, Sender>,
    snapshot: Option<Arc<Snapshot>>,
    /// Bytes that peers said.
    heard: usize,
}

enum Input {
    Up(usize, Session),
    Frame(usize, Vec<u8>),
}

impl<'a> Gateway<'a> {
    fn new(cluster: &'a Cluster, peers: &[Peer], begun: Instant) -> Self {
        let now = clock(begun);
        let own = cluster.domain.clone();
        let rng = |seed: u8| Box::new(ChaCha20Rng::from_seed([seed; 32]));
        let config = PeeringConfig::new(own.clone());
        let mut peering = Peering::new(config, world::key(), [], rng(1), now).unwrap();
        peering.set_own_keys(world::keys(cluster), now);
        let (config, state) = (IssuerConfig::new(own.clone()), IssuerState::default());
        let issuer = Issuer::new(config, world::key(), state, rng(2), now);
        let mut control = Control::new(own, 1000, peering, issuer, now);
        control.set_policies(&world::policies("east"), now);
        let members = peers.iter().map(|peer| Member {
            config: PeerConfig {
                ranges: Some(vec![world::range(peer.number)]),
                ..world::peer(&name(peer.number), peer.pin)
            },
            address: peer.address,
        });
        control.set_peers(members.collect(), now).unwrap();
        Self {
            begun,
            cluster,
            control,
            dialler: cluster.bind(&[]).0,
            links: BTreeMap::new(),
            snapshot: None,
            heard: 0,
        }
    }

    /// Until every peer has said everything.
    async fn connect(&mut self, peers: &[Peer]) {
        let (inputs, mut arriving) = mpsc::channel(1024);
        let permits = Arc::new(Semaphore::new(DIALLED));
        for peer in peers {
            let target = Target {
                address: peer.address,
                trust_domain: domain(&name(peer.number)),
                protocol: Protocol::Peer,
            };
            let anchor = Anchor::Pinned(Pin(peer.pin));
            self.cluster.trust.set(target.trust_domain.clone(), anchor);
            let (dialler, inputs, number) = (self.dialler.clone(), inputs.clone(), peer.number);
            let permits = permits.clone();
            tokio::spawn(async move {
                let permit = permits.acquire_owned().await.unwrap();
                let session = dialler.dial(&target).await.unwrap();
                drop(permit);
                inputs.send(Input::Up(number, session)).await.unwrap();
            });
        }
        let mut ticks = interval(Duration::from_secs(1));
        while !self.complete() {
            let waited = self.begun.elapsed();
            assert!(waited < HOPELESS, "{} digests", self.digests());
            tokio::select! {
                input = arriving.recv() => self.take(input.unwrap(), &inputs),
                _ = ticks.tick() => self.control.handle_timeout(clock(self.begun)),
            }
            self.settle();
        }
        // What a pin was for, the bundle is from now on.
        let bundles = self.control.peering().bundles();
        for peer in peers {
            let of = domain(&name(peer.number));
            let roots = bundles.bundle(&of).unwrap().x509_roots.clone();
            self.cluster.trust.set(of, Anchor::Roots(roots));
        }
        // What they still have to say, until all are silent for a second.
        while let Ok(input) = timeout(Duration::from_secs(1), arriving.recv()).await {
            self.take(input.unwrap(), &inputs);
            self.settle();
        }
    }

    fn take(&mut self, input: Input, inputs: &mpsc::Sender<Input>) {
        let now = clock(self.begun);
        match input {
            Input::Up(number, session) => {
                let remote = session.info.remote;
                self.links.insert(number, session.sender);
                let (mut receiver, inputs) = (session.receiver, inputs.clone());
                tokio::spawn(async move {
                    while let Some(frame) = receiver.recv().await {
                        if inputs.send(Input::Frame(number, frame)).await.is_err() {
                            return;
                        }
                    }
                });
                let of = domain(&name(number));
                self.control.handle_peer_connected(&of, remote, now);
            }
            Input::Frame(number, bytes) => {
                self.heard += bytes.len();
                let of = domain(&name(number));
                self.control.handle_peer_message(&of, &bytes, now);
            }
        }
    }

    /// As the gateway's hub does. What it stores is not kept in memory there either.
    fn settle(&mut self) {
        loop {
            while let Some((key, _)) = self.control.poll_persist() {
                self.control.handle_persisted(&key);
            }
            let mut quiet = true;
            while self.control.poll_event().is_some() {
                quiet = false;
            }
            drop(self.control.take_signatures());
            while let Some((to, message)) = self.control.poll_transmit() {
                let Recipient::Peer(peer) = to else { continue };
                let number = peer.as_str().strip_prefix('m').unwrap();
                let number: usize = number.parse().unwrap();
                self.links[&number].try_send(message).unwrap();
            }
            if quiet && self.control.poll_persist().is_none() {
                break;
            }
        }
        if let Some(snapshot) = self.control.poll_snapshot() {
            self.snapshot = Some(snapshot);
        }
    }

    fn digests(&self) -> usize {
        let held = self.snapshot.as_ref();
        held.map_or(0, |held| held.transit.digests.len())
    }

    /// Every digest is in force, and every tunnel has its keys.
    fn complete(&self) -> bool {
        let Some(snapshot) = &self.snapshot else {
            return false;
        };
        let peers = snapshot.peers.iter();
        let tunnels = peers.filter(|peer| !peer.outbound.is_empty()).count();
        self.digests() == PEERS && tunnels == PEERS
    }

    /// Verifies and remembers credentials of all peers; how many bytes they have.
    fn believe(&self, cache: &dyn CredentialCache) -> usize {
        let bundles = &self.snapshot.as_ref().unwrap().transit.bundles;
        let mut total = 0;
        for number in 0..CREDENTIALS {
            let now = clock(self.begun).unix;
            let of = domain(&name(number % PEERS));
            let bundle = bundles.bundle(&of).unwrap();
            let credential = world::credential(&of, number / PEERS, now);
            let bytes = credential.bytes();
            let mut claims = verify_credential(bytes, bundle, now).unwrap();
            total += bytes.len();
            // As `handshake::credentials::Verifier` does.
            claims.labels = cache.shared(claims.labels);
            claims.namespace_labels = cache.shared(claims.namespace_labels);
            let verified = Verified {
                bytes: None,
                claims: Arc::new(claims),
                key: claimed_key(bytes).unwrap(),
            };
            cache.remember(CredentialHash::of(bytes), verified);
        }
        total
    }
}

/// A line of this process's status, in bytes.
fn status(what: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what));
    let kib = line.unwrap().trim().strip_suffix(" kB").unwrap();
    1024 * kib.parse::<usize>().unwrap()
}
