//! The enforcers of two nodes, to which strangers send what they like.

use handshake::node::{Handled, Node, Path};
use wire::{flow::FlowKey, ip};

use crate::{
    packets, steps,
    world::support::{API, Conn, FRONTEND, at, east, node, west},
};

/// Each packet goes to one of them, as one of four paths; the two lowest bits say which path, the
/// third which node. Whatever goes on can be read, everything is counted, and no flow stands but that
/// of the one genuine connection which the seeds hold, and those of the node with its own pod, which are no
/// stranger's.
pub fn run(input: &[u8]) {
    let (mut a, mut b) = (node(east(false), 1), node(west(false), 2));
    let conn = Conn::new(FRONTEND, API);
    let mut of_node = Vec::new();
    for (i, (kind, packet)) in steps::read(input).into_iter().enumerate() {
        let path = match kind & 3 {
            0 => Path::FromPod,
            1 => Path::ToPod,
            2 => Path::Local,
            _ => Path::FromNode,
        };
        let node = if kind & 4 == 0 { &mut a } else { &mut b };
        if let Path::FromNode = path {
            let key = ip::Packet::parse(packet).and_then(|p| FlowKey::of(&p));
            of_node.extend(key.ok());
        }
        let handled = node.handle_packet(path, packet, at(i as u64));
        if let Handled::Rewrite { packet, .. } = handled {
            ip::Packet::parse(&packet).unwrap();
        }
        while node.poll_event().is_some() {}
    }
    for node in [&a, &b] {
        for flow in node.flows() {
            let known = is_genuine(&flow.key, &conn) || of_node.contains(&flow.key);
            assert!(known, "{}", flow.key);
        }
        balanced(node);
    }
}

fn is_genuine(key: &FlowKey, conn: &Conn) -> bool {
    (key.src, key.dst, key.sport, key.dport) == (conn.client, conn.server, conn.cport, conn.sport)
}

fn balanced(node: &Node) {
    let counters = node.counters();
    let dropped: u64 = counters.dropped.values().sum();
    assert_eq!(counters.received, counters.forwarded + dropped);
}

/// The genuine connection as its nodes saw it, whole and in part.
pub fn seeds() -> Vec<Vec<u8>> {
    let conn = Conn::new(FRONTEND, API);
    let sent = packets::connection();
    let whole = vec![
        (0, conn.syn()),
        (5, sent[0].clone()),
        (4, conn.syn_ack()),
        (1, sent[1].clone()),
        (0, conn.ack()),
        (5, sent[2].clone()),
        (4, conn.response(b"hello")),
    ];
    vec![
        steps::write(&whole),
        steps::write(&whole[..3]),
        steps::write(&[(5, sent[2].clone()), (5, sent[0].clone())]),
        steps::write(&[(2, conn.syn()), (3, conn.syn())]),
    ]
}
