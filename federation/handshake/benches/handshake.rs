//! What a new connection costs the two agents, beside the cryptography that it cannot do without.
//! docs/benchmarks.md says what each figure means.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_macros,
    // One end of two is timed.
    clippy::disallowed_methods
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use handshake::{
    keys::{AgentSecret, Role},
    node::{Handled, LocalIdentity, Node, NodeLimits, NodeSnapshot, Path},
};
use hmac::{Hmac, KeyInit, Mac};
use identity::{UnixMillis, verify_credential};
use policy::DropReason;
use sha2::{Digest, Sha256};
use support::*;
use wire::flow::FlowKey;
use x25519_dalek::{PublicKey, StaticSecret};

/// By their place in [`Ends`].
const ENDS: [&str; 2] = ["initiator", "responder"];
/// MACs that an end computes for one connection: segment proof, REPLY and CONFIRM.
const MACS: usize = 3;
/// HELLO's fixed header, which the segment proof covers.
const HEADER: [u8; 104] = [7; 104];
/// How many cold handshakes of each end are timed.
const ROUNDS: u64 = 3_000;
/// How many connections stay open while new ones are made.
const OPEN: u64 = 10_000;
/// A credential lives ten minutes, and a connection is made every millisecond of virtual time.
const BEFORE_EXPIRY: u64 = 500_000;

/// Both ends, and which of them is measured.
struct Ends {
    snapshots: [Arc<NodeSnapshot>; 2],
    nodes: [Node; 2],
    /// 0: the initiator's, 1: the responder's.
    measured: usize,
    /// Connections made, by these nodes and before.
    made: u64,
    /// For the end that is not measured: each with a credential and a key that nobody has seen.
    strangers: Vec<Node>,
    /// Those that were, kept: what a benchmark drops would be on the account of what it measures next.
    met: Vec<Node>,
}

impl Ends {
    fn new(measured: usize) -> Self {
        let (east, west) = clusters();
        Self {
            nodes: [fresh(&east, 1), fresh(&west, 2)],
            snapshots: [east, west],
            measured,
            made: 0,
            strangers: Vec::new(),
            met: Vec::new(),
        }
    }

    /// The next connection; how long the measured end took for its three packets.
    fn open(&mut self) -> Duration {
        self.made += 1;
        if self.made.is_multiple_of(BEFORE_EXPIRY) {
            let [east, west] = &self.snapshots;
            self.nodes = [fresh(east, 1), fresh(west, 2)];
        }
        // The end of an old connection is not part of opening a new one.
        if let Some(old) = self.made.checked_sub(OPEN) {
            let old = key(&connection(old));
            for node in &mut self.nodes {
                node.handle_flow_gone(&old);
            }
        }
        let (conn, ms) = (connection(self.made), self.made % BEFORE_EXPIRY);
        let mut took = [Duration::ZERO; 2];
        let mut step = |end: usize, path, packet: &[u8]| {
            let began = Instant::now();
            let handled = send(&mut self.nodes[end], path, black_box(packet), ms);
            took[end] += began.elapsed();
            handled
        };
        let syn = step(0, Path::FromPod, &conn.syn());
        step(1, Path::ToPod, &syn);
        let syn_ack = step(1, Path::FromPod, &conn.syn_ack());
        step(0, Path::ToPod, &syn_ack);
        let ack = step(0, Path::FromPod, &conn.ack());
        step(1, Path::ToPod, &ack);
        for node in &mut self.nodes {
            node.handle_timeout(at(ms));
            while node.poll_event().is_some() {}
        }
        took[self.measured]
    }

    /// In place of the end that is not measured comes a stranger.
    fn meet(&mut self) {
        let stranger = self.strangers.pop().unwrap();
        let other = &mut self.nodes[1 - self.measured];
        self.met.push(std::mem::replace(other, stranger));
    }

    fn stranger(&self, number: u64) -> Node {
        let other = 1 - self.measured;
        let (cluster, pod, address) = [("east", "frontend", FRONTEND), ("west", "api", API)][other];
        let mut seed = [5; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        let secret = AgentSecret::from_bytes(seed);
        let claims = claims(cluster, pod, &secret);
        let credential = issuer(cluster).issue(&claims).unwrap();
        let (east, west) = snapshots();
        let mut snapshot = [east, west].into_iter().nth(other).unwrap();
        let identity = LocalIdentity {
            credential,
            claims: Arc::new(claims),
            secret,
        };
        snapshot.pods.get_mut(&address).unwrap().identity = Some(identity);
        fresh(&Arc::new(snapshot), 3 + number)
    }
}

/// What each end computes for a connection of two that have met.
fn warm(c: &mut Criterion) {
    for (measured, end) in ENDS.iter().enumerate() {
        let mut ends = Ends::new(measured);
        c.benchmark_group("handshake").bench_function(
            format!("warm handshake, {end}"),
            |bencher| {
                bencher.iter_custom(|count| (0..count).map(|_| ends.open()).sum());
            },
        );
        let warm = |node: &Node| node.signature_checks() <= 1;
        assert!(ends.nodes.iter().all(warm), "not warm");
    }
}

/// What each computes when it has never seen the other's credential, in turns with the two steps of cryptography
/// that make it so: a machine that is slower for a while is so for both. Prints a line of JSON for each figure.
fn cold() {
    let mut ends = [Ends::new(0), Ends::new(1)];
    for ends in &mut ends {
        ends.strangers = (0..ROUNDS).map(|number| ends.stranger(number)).collect();
    }
    let pod = local_pod("east", "frontend").identity.unwrap();
    let bare = Bare::new(pod.credential.bytes().len());
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let began = Instant::now();
        black_box(bare.agree());
        bare.verify();
        times[2].push(began.elapsed());
        for (ends, times) in ends.iter_mut().zip(&mut times) {
            ends.meet();
            times.push(ends.open());
        }
    }
    for ends in &ends {
        let checks = ends.nodes[ends.measured].signature_checks();
        assert_eq!(checks, ROUNDS, "not cold");
    }
    let [initiator, responder] = ENDS.map(|end| format!("cold handshake, {end}"));
    let names = [initiator, responder, "raw cold".into()];
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_unstable();
        // As scripts/bench reads criterion: what else runs on the machine only ever adds to a time.
        let value = times[times.len() / 10].as_nanos() as u64;
        println!(r#"{{"name": "{name}", "unit": "ns", "value": {value}}}"#);
    }
}

fn forged(c: &mut Criterion) {
    let (east, west) = clusters();
    let (mut a, mut b) = (fresh(&east, 1), fresh(&west, 2));
    let syn = out(&mut a, &connection(1).syn(), at(0));
    // Two words of the proof's MAC, 112..128 of HELLO, change places: the checksum still holds.
    let mut forged = syn.clone();
    let mac = syn.len() - tcp_payload(&syn).len() + 112;
    forged[mac..mac + 4].rotate_left(2);
    c.benchmark_group("handshake")
        .bench_function("forged HELLO", |bencher| {
            bencher.iter(|| {
                let handled = b.handle_packet(Path::ToPod, black_box(&forged), at(1));
                assert_eq!(handled, Handled::Drop(DropReason::BadProof));
            });
        });
    into(&mut b, &syn, at(2));
}

/// The two steps that make a cold handshake cold.
fn steps(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    let (own, peer) = (secret("east"), secret("west").public());
    group.bench_function("keys of a pair", |bencher| {
        bencher.iter(|| own.pair(Role::Initiator, black_box(&peer)).unwrap());
    });
    let pod = local_pod("east", "frontend").identity.unwrap();
    let bundles = bundles();
    let bundle = bundles.bundle(&domain("east")).unwrap();
    group.bench_function("credential", |bencher| {
        bencher.iter(|| {
            let bytes = black_box(pod.credential.bytes());
            verify_credential(bytes, bundle, UnixMillis(START)).unwrap()
        });
    });
}

/// The cryptography alone, by the crates that the handshake uses.
fn raw(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake");
    let pod = local_pod("east", "frontend").identity.unwrap();
    let bare = Bare::new(pod.credential.bytes().len());
    group.bench_function("raw HMAC-SHA256 of 104 B", |b| b.iter(|| bare.mac()));
    group.bench_function("raw X25519", |b| b.iter(|| bare.agree()));
    group.bench_function("raw Ed25519 verify", |b| b.iter(|| bare.verify()));
    group.bench_function("raw warm, initiator", |b| {
        b.iter(|| {
            bare.warm();
            // By it the initiator knows the credential in REPLY.
            black_box(Sha256::digest(black_box(&bare.credential)));
        });
    });
    group.bench_function("raw warm, responder", |b| b.iter(|| bare.warm()));
}

struct Bare {
    secret: StaticSecret,
    peer: PublicKey,
    verifying: VerifyingKey,
    signature: Signature,
    credential: Vec<u8>,
}

impl Bare {
    /// With a credential of `length` bytes.
    fn new(length: usize) -> Self {
        let signing = SigningKey::from_bytes(&[3; 32]);
        let credential = vec![5; length];
        Self {
            secret: StaticSecret::from([1; 32]),
            peer: PublicKey::from(&StaticSecret::from([2; 32])),
            verifying: signing.verifying_key(),
            signature: signing.sign(&credential),
            credential,
        }
    }

    fn mac(&self) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(black_box(&[9; 32])).unwrap();
        mac.update(black_box(&HEADER));
        mac.finalize().into_bytes().into()
    }

    fn agree(&self) -> [u8; 32] {
        self.secret.diffie_hellman(black_box(&self.peer)).to_bytes()
    }

    fn verify(&self) {
        self.verifying
            .verify_strict(black_box(&self.credential), &self.signature)
            .unwrap();
    }

    /// The MACs of one end.
    fn warm(&self) {
        for _ in 0..MACS {
            black_box(self.mac());
        }
    }
}

fn send(node: &mut Node, path: Path, packet: &[u8], ms: u64) -> Vec<u8> {
    match node.handle_packet(path, packet, at(ms)) {
        Handled::Rewrite { packet, .. } => packet,
        other => panic!("{other:?}"),
    }
}

/// Both nodes hold one segment key: no gateway stands between them that would write the proof of
/// the other cluster.
fn snapshots() -> (NodeSnapshot, NodeSnapshot) {
    let (east, mut west) = (east(false), west(false));
    west.segment_keys = east.segment_keys.clone();
    (east, west)
}

fn clusters() -> (Arc<NodeSnapshot>, Arc<NodeSnapshot>) {
    let (east, west) = snapshots();
    (Arc::new(east), Arc::new(west))
}

fn fresh(snapshot: &Arc<NodeSnapshot>, seed: u64) -> Node {
    let rng = rand_chacha::rand_core::SeedableRng::seed_from_u64(seed);
    let rng: Box<rand_chacha::ChaCha20Rng> = Box::new(rng);
    Node::new(snapshot.clone(), NodeLimits::default(), rng)
}

/// The connection of that number: no two within 40,000 have the same ends.
fn connection(number: u64) -> Conn {
    Conn {
        cport: 20_000 + (number % 40_000) as u16,
        cisn: number as u32,
        ..Conn::new(FRONTEND, API)
    }
}

fn key(conn: &Conn) -> FlowKey {
    FlowKey {
        protocol: 6,
        src: conn.client,
        dst: conn.server,
        sport: conn.cport,
        dport: conn.sport,
    }
}

criterion_group!(benches, warm, forged, steps, raw);

fn main() {
    if std::env::args().any(|argument| argument == "cold") {
        return cold();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
