//! What a new connection costs the two agents, beside the cryptography that it cannot do without.
//! docs/benchmarks.md says what each figure means.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{cell::RefCell, hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use handshake::{
    keys::Role,
    node::{Handled, Node, NodeLimits, NodeSnapshot, Path},
};
use hmac::{Hmac, KeyInit, Mac};
use identity::{UnixMillis, verify_credential};
use policy::DropReason;
use sha2::{Digest, Sha256};
use support::*;
use wire::flow::FlowKey;
use x25519_dalek::{PublicKey, StaticSecret};

/// MACs that the two ends compute for one connection: segment proof made and checked, REPLY and
/// CONFIRM at each end.
const MACS: usize = 6;
/// HELLO's fixed header, which the segment proof covers.
const HEADER: [u8; 104] = [7; 104];
/// How many connections stay open while new ones are made.
const OPEN: u64 = 10_000;
/// A credential lives ten minutes, and a connection is made every millisecond of virtual time.
const BEFORE_EXPIRY: u64 = 500_000;
/// Small, so that what is prepared is still in the cache when it is measured.
const FEW: BatchSize = BatchSize::NumIterations(64);

fn warm(c: &mut Criterion) {
    let (east, west) = clusters();
    let nodes = RefCell::new([fresh(&east, 1), fresh(&west, 2)]);
    let (mut prepared, mut made) = (0, 0);
    c.benchmark_group("handshake")
        .bench_function("warm handshake", |bencher| {
            bencher.iter_batched_ref(
                || {
                    prepared += 1;
                    let mut nodes = nodes.borrow_mut();
                    if prepared % BEFORE_EXPIRY == 0 {
                        *nodes = [fresh(&east, 1), fresh(&west, 2)];
                    }
                    // The end of an old connection is not part of opening a new one.
                    if let Some(old) = prepared.checked_sub(OPEN) {
                        let old = key(&connection(old));
                        nodes
                            .iter_mut()
                            .for_each(|node| node.handle_flow_gone(&old));
                    }
                    Packets::new(&connection(prepared))
                },
                |packets| {
                    made += 1;
                    let ms = made % BEFORE_EXPIRY;
                    let [a, b] = &mut *nodes.borrow_mut();
                    packets.open(a, b, ms);
                    for node in [a, b] {
                        node.handle_timeout(at(ms));
                        while node.poll_event().is_some() {}
                    }
                },
                FEW,
            );
        });
    let warm = |node: &Node| node.signature_checks() <= 1;
    assert!(nodes.borrow().iter().all(warm), "not warm");
}

fn cold(c: &mut Criterion) {
    let (east, west) = clusters();
    c.benchmark_group("handshake")
        .bench_function("cold handshake", |bencher| {
            bencher.iter_batched_ref(
                || {
                    let packets = Packets::new(&connection(1));
                    (packets, fresh(&east, 1), fresh(&west, 2))
                },
                |(packets, a, b)| packets.open(a, b, 1),
                FEW,
            );
        });
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
    group.bench_function("raw warm", |b| b.iter(|| bare.warm()));
    group.bench_function("raw cold", |b| {
        b.iter(|| {
            for _ in 0..2 {
                black_box(bare.agree());
                bare.verify();
            }
            bare.warm();
        });
    });
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

    /// The MACs of both ends, and the hash by which the initiator knows the credential in REPLY.
    fn warm(&self) {
        for _ in 0..MACS {
            black_box(self.mac());
        }
        black_box(Sha256::digest(black_box(&self.credential)));
    }
}

/// What the sockets of one connection send.
struct Packets {
    syn: Vec<u8>,
    syn_ack: Vec<u8>,
    ack: Vec<u8>,
}

impl Packets {
    fn new(conn: &Conn) -> Self {
        Self {
            syn: conn.syn(),
            syn_ack: conn.syn_ack(),
            ack: conn.ack(),
        }
    }

    /// SYN, SYN-ACK and ACK through the agents of both ends.
    fn open(&self, a: &mut Node, b: &mut Node, ms: u64) {
        let syn = send(a, Path::FromPod, &self.syn, ms);
        send(b, Path::ToPod, &syn, ms);
        let syn_ack = send(b, Path::FromPod, &self.syn_ack, ms);
        send(a, Path::ToPod, &syn_ack, ms);
        let ack = send(a, Path::FromPod, &self.ack, ms);
        send(b, Path::ToPod, &ack, ms);
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
fn clusters() -> (Arc<NodeSnapshot>, Arc<NodeSnapshot>) {
    let (east, mut west) = (east(false), west(false));
    west.segment_keys = east.segment_keys.clone();
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

criterion_group!(benches, warm, cold, forged, steps, raw);
criterion_main!(benches);
