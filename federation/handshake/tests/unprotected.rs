//! Pods of unprotected namespaces, whose addresses lie in identity networks.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use handshake::node::{Handled, Mark, Path};
use policy::DropReason;
use support::*;
use wire::{edit::TcpEdit, ip, marker::MARKER};

const ESTABLISHED: Handled = Handled::Accept(Mark::Established);

#[test]
fn an_unprotected_pod_is_left_alone_in_both_directions() {
    let mut east = east(false);
    east.pods.remove(&FRONTEND);
    east.unprotected.insert(FRONTEND);
    let mut a = node(east, 1);
    let out = Conn::new(FRONTEND, API);
    assert_eq!(
        a.handle_packet(Path::FromPod, &out.syn(), at(0)),
        ESTABLISHED
    );
    let back = Conn::new(API, FRONTEND);
    assert_eq!(
        a.handle_packet(Path::ToPod, &back.syn(), at(1)),
        ESTABLISHED
    );
    // It cannot pass for another, nor be handed a token.
    let syn = out.syn();
    let marked = TcpEdit::new(&ip::Packet::parse(&syn).unwrap()).unwrap();
    let marked = marked.add_option(&MARKER).finish().unwrap();
    let refused = a.handle_packet(Path::FromPod, &marked, at(2));
    assert_eq!(dropped(refused), DropReason::SpoofedIdentity);
}

/// To a protected pod it is an address: policy decides, and no proof is asked for.
#[test]
fn a_protected_pod_sees_an_address() {
    let mut west = west(false);
    west.unprotected.insert(FRONTEND);
    let mut b = node(west, 2);
    let conn = Conn::new(FRONTEND, API);
    assert_eq!(
        b.handle_packet(Path::ToPod, &conn.syn(), at(0)),
        ESTABLISHED
    );
    let dialled = Conn::new(API, FRONTEND);
    assert_eq!(
        b.handle_packet(Path::FromPod, &dialled.syn(), at(1)),
        ESTABLISHED
    );
}
