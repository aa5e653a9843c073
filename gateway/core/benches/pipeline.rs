//! What a packet of an established flow costs a gateway, beside bare AES-GCM of the same bytes.
//! docs/benchmarks.md says what each figure means.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{hash::Hasher, hint::black_box, ops::Range};

use aws_lc_rs::{
    aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use common::{BUFFER, HEADROOM, Nodes, Pair, ethernet, lan, support};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use landbridge_gateway_core::{
    Disposition, Frame, Limits, Side,
    flows::Found,
    psp::{AssociationKey, ReceiveAssociation, SendAssociation},
    track::Facts,
};
use policy::DropReason;
use siphasher::sip::SipHasher13;
use support::{API, Conn, FRONTEND, at};
use wire::{flow::FlowKey, ip, psp::Header, tcp::Segment};

/// Bytes of TCP payload.
const SIZES: [usize; 2] = [64, 1400];
/// Flows in the table when one is looked up.
const FLOWS: u16 = 10_000;
/// Small, so that the frames that are prepared are still in the cache when they are measured.
const FEW: BatchSize = BatchSize::NumIterations(64);
const KEY: [u8; 16] = [7; 16];

fn gateway(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    for size in SIZES {
        let (mut pair, packet) = established(size);
        let bytes = ethernet(lan(1).mac, common::NODE, &packet);
        group.bench_function(format!("LAN to WAN, {size} B"), |b| {
            let east = &mut pair.east;
            b.iter_batched_ref(
                || in_buffer(&bytes),
                |(memory, range)| {
                    let mut frame = Frame::new(memory, range.clone()).unwrap();
                    let sent = east.dataplane.process(
                        &mut east.cx,
                        Side::Lan,
                        &mut frame,
                        &east.snapshot,
                        at(1),
                    );
                    assert_eq!(sent, Disposition::Forward(Side::Wan));
                },
                FEW,
            );
        });
        group.bench_function(format!("WAN to LAN, {size} B"), |b| {
            let Pair { east, west } = &mut pair;
            b.iter_batched_ref(
                || in_buffer(&east.node_sends(&packet, at(1)).frame),
                |(memory, range)| {
                    let mut frame = Frame::new(memory, range.clone()).unwrap();
                    let arrived = west.dataplane.process(
                        &mut west.cx,
                        Side::Wan,
                        &mut frame,
                        &west.snapshot,
                        at(1),
                    );
                    assert_eq!(arrived, Disposition::Forward(Side::Lan));
                },
                FEW,
            );
        });
    }
}

/// Sealing and opening alone: counter, header, replay window, and the cipher.
fn psp(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    let key = AssociationKey::from_bytes(&KEY).unwrap();
    for size in SIZES {
        let (_, packet) = established(size);
        let (tx, rx) = (
            SendAssociation::new(5, &key),
            ReceiveAssociation::new(5, &key),
        );
        group.bench_function(format!("PSP seal, {size} B"), |b| {
            b.iter_batched_ref(
                || in_buffer(&packet),
                |(memory, range)| {
                    let mut frame = Frame::new(memory, range.clone()).unwrap();
                    tx.seal(&mut frame).unwrap();
                },
                FEW,
            );
        });
        group.bench_function(format!("PSP open, {size} B"), |b| {
            b.iter_batched_ref(
                || {
                    let (mut memory, range) = in_buffer(&packet);
                    let mut frame = Frame::new(&mut memory, range).unwrap();
                    tx.seal(&mut frame).unwrap();
                    let range = frame.range();
                    (memory, range)
                },
                |(memory, range)| {
                    let mut frame = Frame::new(memory, range.clone()).unwrap();
                    let header = Header::parse(frame.packet()).unwrap();
                    rx.open(&header, &mut frame).unwrap();
                },
                FEW,
            );
        });
    }
}

/// AES-128-GCM of the bytes of the inner packet, with no associated data.
fn raw(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &KEY).unwrap());
    for size in SIZES {
        let (_, packet) = established(size);
        let mut counter = 0_u64;
        let mut nonce = || {
            counter += 1;
            let mut bytes = [0; 12];
            bytes[4..].copy_from_slice(&counter.to_be_bytes());
            bytes
        };
        group.bench_function(format!("raw AES-128-GCM seal, {size} B"), |b| {
            b.iter_batched_ref(
                || (packet.clone(), nonce()),
                |(bytes, nonce)| {
                    let nonce = Nonce::assume_unique_for_key(*nonce);
                    key.seal_in_place_separate_tag(nonce, Aad::empty(), bytes)
                        .unwrap()
                },
                FEW,
            );
        });
        group.bench_function(format!("raw AES-128-GCM open, {size} B"), |b| {
            b.iter_batched_ref(
                || {
                    let (mut bytes, nonce) = (packet.clone(), nonce());
                    let unique = Nonce::assume_unique_for_key(nonce);
                    key.seal_in_place_append_tag(unique, Aad::empty(), &mut bytes)
                        .unwrap();
                    (bytes, nonce)
                },
                |(bytes, nonce)| {
                    let nonce = Nonce::assume_unique_for_key(*nonce);
                    black_box(key.open_in_place(nonce, Aad::empty(), bytes).unwrap().len())
                },
                FEW,
            );
        });
    }
}

/// A SYN whose segment proof does not hold, as floods bring them.
fn forged(c: &mut Criterion) {
    let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
    let genuine = support::out(&mut nodes.east, &Conn::new(FRONTEND, API).syn(), at(0));
    // Two words of the proof's MAC, 112..128 of HELLO, change places: the checksum still holds.
    let mut forged = genuine.clone();
    let mac = genuine.len() - support::tcp_payload(&genuine).len() + 112;
    forged[mac..mac + 4].rotate_left(2);
    let bytes = ethernet(lan(1).mac, common::NODE, &forged);
    let mut group = c.benchmark_group("pipeline");
    let east = &mut pair.east;
    group.bench_function("forged HELLO", |b| {
        b.iter_batched_ref(
            || in_buffer(&bytes),
            |(memory, range)| {
                let mut frame = Frame::new(memory, range.clone()).unwrap();
                let refused = east.dataplane.process(
                    &mut east.cx,
                    Side::Lan,
                    &mut frame,
                    &east.snapshot,
                    at(1),
                );
                assert_eq!(refused, Disposition::Drop(DropReason::BadProof));
            },
            FEW,
        );
    });
    assert_eq!(east.dataplane.flows().signature_checks(), 0);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[9; 32]);
    group.bench_function("raw HMAC-SHA256 of 104 B", |b| {
        b.iter(|| hmac::sign(&key, black_box(&[7; 104])));
    });
}

/// The flow of a segment, among many.
fn lookup(c: &mut Criterion) {
    let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
    let mut segments = Vec::new();
    for number in 0..FLOWS {
        let conn = Conn {
            cport: 20_000 + number,
            ..Conn::new(FRONTEND, API)
        };
        let now = at(u64::from(number));
        pair.establish(&mut nodes, &conn, now);
        while pair.east.cx.poll_event().is_some() {}
        let packet = conn.request(&[7; 64]);
        let parsed = ip::Packet::parse(&packet).unwrap();
        let facts = Facts::of(&Segment::of(&parsed).unwrap());
        segments.push((FlowKey::of(&parsed).unwrap(), facts, packet.len()));
    }
    let flows = pair.east.dataplane.flows();
    let epoch = pair.east.snapshot.transit.epoch;
    // A stride that has no factor with the number of flows: each once, none beside the one before.
    let mut order = (0..segments.len())
        .map(|n| n * 7919 % segments.len())
        .cycle();
    let mut next = || &segments[order.next().unwrap()];
    let mut group = c.benchmark_group("pipeline");
    group.bench_function("flow lookup", |b| {
        b.iter(|| {
            let (key, facts, length) = next();
            let found = flows.find(key, facts, *length, epoch, at(u64::from(FLOWS)));
            assert_eq!(found, Found::Fits);
        });
    });
    group.bench_function("raw SipHash-1-3 of 37 B", |b| {
        b.iter(|| {
            let (key, ..) = next();
            let mut hasher = SipHasher13::new_with_key(&KEY);
            hasher.write(&black_box(key).symmetric());
            hasher.finish()
        });
    });
}

/// Gateways between which a flow is established, and an IP packet of it with `size` bytes. The
/// WAN takes the largest of them in one piece.
fn established(size: usize) -> (Pair, Vec<u8>) {
    let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
    for gateway in [&mut pair.east, &mut pair.west] {
        gateway.wan.interface.mtu = 1600;
        gateway.load();
    }
    let conn = Conn::new(FRONTEND, API);
    pair.establish(&mut nodes, &conn, at(0));
    (pair, conn.request(&vec![7; size]))
}

fn in_buffer(bytes: &[u8]) -> (Vec<u8>, Range<usize>) {
    let mut memory = vec![0; BUFFER];
    let range = HEADROOM..HEADROOM + bytes.len();
    memory[range.clone()].copy_from_slice(bytes);
    (memory, range)
}

criterion_group!(benches, gateway, psp, raw, forged, lookup);
criterion_main!(benches);
