//! One packet of an established flow: `cargo bench -p landbridge-gateway-core`.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use common::{HEADROOM, Nodes, Pair, ethernet, lan, support};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use landbridge_gateway_core::{Frame, Limits, Side};
use support::{API, Conn, FRONTEND, at};

fn established(c: &mut Criterion) {
    let (mut pair, mut nodes) = (Pair::new(&Limits::default()), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    pair.establish(&mut nodes, &conn, at(0));
    for size in [64, 1300] {
        let packet = conn.request(&vec![7; size]);
        let bytes = ethernet(lan(1).mac, common::NODE, &packet);
        let mut group = c.benchmark_group(format!("{size} bytes"));
        group.throughput(Throughput::Elements(1));
        group.bench_function("LAN to WAN", |b| {
            let mut memory = [0; common::BUFFER];
            b.iter(|| {
                let range = HEADROOM..HEADROOM + bytes.len();
                memory[range.clone()].copy_from_slice(&bytes);
                let mut frame = Frame::new(&mut memory, range).unwrap();
                let east = &mut pair.east;
                black_box(east.dataplane.process(
                    &mut east.cx,
                    Side::Lan,
                    &mut frame,
                    &east.snapshot,
                    at(1),
                ))
            });
        });
        group.bench_function("WAN to LAN", |b| {
            let Pair { east, west } = &mut pair;
            b.iter_batched_ref(
                || {
                    let sent = east.node_sends(&packet, at(1)).frame;
                    let mut memory = vec![0; common::BUFFER];
                    memory[HEADROOM..HEADROOM + sent.len()].copy_from_slice(&sent);
                    (memory, HEADROOM..HEADROOM + sent.len())
                },
                |(memory, range)| {
                    let mut frame = Frame::new(memory, range.clone()).unwrap();
                    black_box(west.dataplane.process(
                        &mut west.cx,
                        Side::Wan,
                        &mut frame,
                        &west.snapshot,
                        at(1),
                    ))
                },
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

criterion_group!(benches, established);
criterion_main!(benches);
