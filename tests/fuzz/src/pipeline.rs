//! A gateway that gets frames on both sides, and packets from a peer that seals what it likes.

use landbridge_gateway_core::{Disposition, Limits, Side};

use crate::{
    steps,
    world::{
        self, Nodes, Pair, ethernet, lan,
        support::{self, API, Conn, FRONTEND, at},
    },
};

/// Each frame comes from the LAN (0), from the WAN (1), or sealed by the peer (2). Every one is
/// accounted for, and what goes on is read by a parser that shares no code with ours.
pub fn run(input: &[u8]) {
    let limits = Limits {
        established: 16,
        half_open: 16,
        nonces: 64,
        ..Limits::default()
    };
    let (mut pair, mut nodes) = (Pair::new(&limits), Nodes::new());
    pair.establish(&mut nodes, &Conn::new(FRONTEND, API), at(0));
    let association = pair.lying_peer();
    let mut gateway = pair.west;
    let before = gateway.cx.totals.received;
    let steps = steps::read(input);
    let count = steps.len() as u64;
    for (i, (kind, bytes)) in steps.into_iter().enumerate() {
        let now = at(i as u64);
        // A peer can seal whatever begins like an IP packet.
        let is_ip = matches!(bytes.first().map(|byte| byte >> 4), Some(4 | 6));
        let outcome = match kind % 3 {
            0 => gateway.frame(Side::Lan, bytes, now),
            2 if is_ip => {
                let frame = gateway.tunnel_frame(&association, bytes);
                gateway.frame(Side::Wan, &frame, now)
            }
            _ => gateway.frame(Side::Wan, bytes, now),
        };
        assert!(gateway.cx.totals.balanced());
        if let Disposition::Forward(_) | Disposition::Answer(..) = outcome.disposition {
            let parsed = etherparse::SlicedPacket::from_ethernet(&outcome.frame).unwrap();
            assert!(parsed.transport.is_some(), "{parsed:?}");
        }
    }
    assert_eq!(gateway.cx.totals.received - before, count);
}

/// Frames of a connection that stands, and of one that is being opened.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut nodes = Nodes::new();
    let conn = Conn::new(FRONTEND, API);
    let opening = Conn {
        cport: 40_001,
        ..conn.clone()
    };
    let hello = support::out(&mut nodes.east, &opening.syn(), at(0));
    let frame = |packet: &[u8]| ethernet(lan(2).mac, world::NODE, packet);
    vec![
        steps::write(&[
            (0, frame(&conn.response(b"hello"))),
            (2, conn.request(b"GET /")),
        ]),
        steps::write(&[(2, hello.clone()), (0, frame(&opening.syn_ack()))]),
        steps::write(&[(1, frame(&hello)), (2, opening.syn())]),
    ]
}
