//! Attacks on the handshake: rows 1-6, 8, 9, 14, 17, 18, 24 and 26 of the threat list. Each test names its row.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod altered;
mod exhausted;
mod forged;
mod lent;
mod mutated;
mod replayed;
mod revoked;
mod stripped;
mod superseded;

use handshake::node::{Handled, Mark, Node, Path};
use support::*;
use wire::{edit::TcpEdit, hello, ip};

const HEADER: usize = hello::HEADER_LEN;

/// `packet` with another TCP payload, checksums valid.
fn with_payload(packet: &[u8], payload: &[u8]) -> Vec<u8> {
    TcpEdit::new(&ip::Packet::parse(packet).unwrap())
        .unwrap()
        .payload(payload)
        .finish()
        .unwrap()
}

/// `packet` without our option.
fn stripped_option(packet: &[u8]) -> Vec<u8> {
    TcpEdit::new(&ip::Packet::parse(packet).unwrap())
        .unwrap()
        .remove_exid()
        .finish()
        .unwrap()
}

fn to_pod(node: &mut Node, packet: &[u8], ms: u64) -> Handled {
    node.handle_packet(Path::ToPod, packet, at(ms))
}

/// An attacker inside the cluster who has the segment key makes the proof of a changed HELLO hold.
fn prove_again(payload: &mut [u8], cluster: &str) {
    let (id, mac) = segment_keys(cluster).prove(&payload[..HEADER]);
    payload[HEADER..HEADER + 8].copy_from_slice(&id);
    payload[HEADER + 8..HEADER + 24].copy_from_slice(&mac);
}

/// West seen from inside one cluster: both pods belong to it, so its own proof counts.
fn in_cluster() -> (Node, Node, Conn) {
    let mut one = west(false);
    one.pods.retain(|address, _| *address == DB);
    one.pods.insert(DB, local_pod("west", "frontend"));
    let mut other = west(false);
    other.pods.retain(|address, _| *address == API);
    (node(one, 1), node(other, 2), Conn::new(DB, API))
}

/// SYN as given, then the rest of the handshake with the SYN-ACK changed; whether data gets in.
fn open_with(
    a: &mut Node,
    b: &mut Node,
    conn: &Conn,
    syn: &[u8],
    change: impl Fn(Vec<u8>) -> Vec<u8>,
) -> bool {
    let Handled::Rewrite { .. } = to_pod(b, syn, 1) else {
        return false;
    };
    let syn_ack = match b.handle_packet(Path::FromPod, &conn.syn_ack(), at(2)) {
        Handled::Rewrite { packet, .. } => change(packet),
        _ => return false,
    };
    if matches!(to_pod(a, &syn_ack, 3), Handled::Drop(_)) {
        return false;
    }
    let ack = match a.handle_packet(Path::FromPod, &conn.request(b"data"), at(4)) {
        Handled::Rewrite { packet, .. } => packet,
        _ => return false,
    };
    matches!(
        to_pod(b, &ack, 5),
        Handled::Rewrite {
            mark: Mark::Established,
            ..
        }
    )
}
