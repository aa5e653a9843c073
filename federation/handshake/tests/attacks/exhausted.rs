//! Can somebody fill what the node remembers?

use std::sync::Arc;

use handshake::node::NodeLimits;
use policy::DropReason;
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

use super::*;

fn small(snapshot: handshake::node::NodeSnapshot, seed: u64) -> Node {
    let limits = NodeLimits {
        half_open: 8,
        flows: 16,
        ..NodeLimits::default()
    };
    let rng = Box::new(ChaCha20Rng::seed_from_u64(seed));
    Node::new(Arc::new(snapshot), limits, rng)
}

/// A connection of `cport`; with `heard`, up to the server's first segment.
fn open(a: &mut Node, b: &mut Node, cport: u16, heard: bool) -> Conn {
    let conn = Conn {
        cport,
        ..Conn::new(FRONTEND, API)
    };
    let ms = u64::from(cport);
    let syn = out(a, &conn.syn(), at(ms));
    into(b, &syn, at(ms));
    let syn_ack = out(b, &conn.syn_ack(), at(ms));
    into(a, &syn_ack, at(ms));
    if heard {
        let ack = out(a, &conn.ack(), at(ms));
        into(b, &ack, at(ms));
        let response = out(b, &conn.response(b"x"), at(ms));
        into(a, &response, at(ms));
    }
    conn
}

/// A server that proves itself and is never heard again leaves something behind at the client's
/// node. There is no end of such servers, and the kernel does not track what it was not told of.
#[test]
fn row_14_servers_that_are_never_heard_again_fill_nothing() {
    let (mut a, mut b) = (small(east(false), 1), node(west(false), 2));
    let established: Vec<_> = (1..=12)
        .map(|cport| open(&mut a, &mut b, cport, true))
        .collect();
    for cport in 100..200 {
        let conn = open(&mut a, &mut b, cport, false);
        // The newest can go on all the same.
        out(&mut a, &conn.ack(), at(1_000));
        assert!(a.flows().count() <= 16, "{}", a.flows().count());
    }
    for conn in established {
        let handled = a.handle_packet(Path::FromPod, &conn.request(b"more"), at(2_000));
        assert_eq!(handled, Handled::Accept(Mark::Established));
    }
    // Established ones take the rest of the room, and then nothing more fits.
    for cport in 300..304 {
        open(&mut a, &mut b, cport, true);
    }
    let conn = Conn {
        cport: 400,
        ..Conn::new(FRONTEND, API)
    };
    let syn = out(&mut a, &conn.syn(), at(3_000));
    into(&mut b, &syn, at(3_000));
    let syn_ack = out(&mut b, &conn.syn_ack(), at(3_000));
    assert_eq!(
        dropped(to_pod(&mut a, &syn_ack, 3_000)),
        DropReason::TableFull
    );
}
