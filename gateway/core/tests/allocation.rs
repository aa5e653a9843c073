//! A packet of an established flow costs no allocation. (What the cryptographic library does in C
//! is not seen here.)
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{HEADROOM, Nodes, Pair, ethernet, lan, support};
use landbridge_gateway_core::{Disposition, Frame, Limits, Side};
use support::{API, Conn, FRONTEND, at};

#[test]
fn an_established_flow_allocates_nothing() {
    let limits = Limits {
        established: 64,
        half_open: 64,
        nonces: 256,
        flow_shards: 4,
        ..Limits::default()
    };
    let (mut pair, mut nodes) = (Pair::new(&limits), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    pair.establish(&mut nodes, &conn, at(0));
    let bytes = ethernet(lan(1).mac, common::NODE, &conn.request(&[7; 1000]));
    let Pair { east, west } = &mut pair;
    let mut memory = [0; common::BUFFER];
    let measured = allocation_counter::measure(|| {
        for _ in 0..100 {
            let range = HEADROOM..HEADROOM + bytes.len();
            memory[range.clone()].copy_from_slice(&bytes);
            let mut frame = Frame::new(&mut memory, range).unwrap();
            let sent =
                east.dataplane
                    .process(&mut east.cx, Side::Lan, &mut frame, &east.snapshot, at(1));
            assert_eq!(sent, Disposition::Forward(Side::Wan));
            let arrived =
                west.dataplane
                    .process(&mut west.cx, Side::Wan, &mut frame, &west.snapshot, at(1));
            assert_eq!(arrived, Disposition::Forward(Side::Lan));
        }
    });
    assert_eq!(measured.count_total, 0);
}
