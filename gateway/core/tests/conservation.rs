//! Every frame is accounted for, and nothing that cannot be parsed is forwarded. Threat row 32.
//!
//! Not trusted: every byte of every frame. Trusted: the snapshot.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Gateway, Nodes, Pair, ethernet, lan, support};
use landbridge_gateway_core::{Disposition, Limits, Side, psp::SendAssociation};
use proptest::prelude::*;
use support::{API, Conn, FRONTEND, at};

/// Frames of every kind, for west: from its node, and from the WAN.
struct Seeds {
    lan: Vec<Vec<u8>>,
    inner: Vec<Vec<u8>>,
    wan: Vec<Vec<u8>>,
}

/// West with an established flow, a half-open one, and a peer that seals whatever it is given.
fn world() -> (Gateway, SendAssociation, Seeds) {
    let limits = Limits {
        established: 64,
        half_open: 64,
        nonces: 256,
        ..Limits::default()
    };
    let (mut pair, mut nodes) = (Pair::new(&limits), Nodes::new());
    let conn = Conn::new(FRONTEND, API);
    pair.establish(&mut nodes, &conn, at(0));
    let opening = Conn {
        cport: 40_001,
        ..conn.clone()
    };
    let hello = support::out(&mut nodes.east, &opening.syn(), at(0));
    let arrived = pair.east_to_west(&hello, at(0)).unwrap();
    support::into(&mut nodes.west, &arrived, at(0));
    let reply = support::out(&mut nodes.west, &opening.syn_ack(), at(0));
    let sent = pair.east.node_sends(&conn.request(b"x"), at(0));

    let association = pair.lying_peer();
    let frames = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
        packets
            .iter()
            .map(|packet| ethernet(lan(2).mac, common::NODE, packet))
            .collect()
    };
    let seeds = Seeds {
        lan: frames(&[
            conn.response(b"hello"),
            reply,
            opening.syn_ack(),
            conn.syn(),
        ]),
        inner: vec![hello, conn.request(b"GET /"), opening.ack(), opening.syn()],
        wan: vec![sent.frame],
    };
    (pair.west, association, seeds)
}

/// Flips, overwrites, cuts and appends.
#[derive(Clone, Debug)]
struct Damage {
    changes: Vec<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
    append: usize,
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        for (at, value) in &self.changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
        }
        if let Some(cut) = self.cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.resize(bytes.len() + self.append, 0xee);
    }
}

fn damage() -> impl Strategy<Value = Damage> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = prop::option::weighted(0.2, any::<prop::sample::Index>());
    (changes, cut, prop_oneof![3 => Just(0), 1 => 1usize..40]).prop_map(|(changes, cut, append)| {
        Damage {
            changes,
            cut,
            append,
        }
    })
}

/// An IPv4 header checksum that holds, so that damage reaches what lies behind that check.
fn mend(packet: &mut [u8]) {
    let length = usize::from(packet.first().unwrap_or(&0) & 0x0f) * 4;
    if let Some(header) = packet.get_mut(..length).filter(|header| header.len() >= 20) {
        header[10..12].fill(0);
        let sum = wire::checksum::Sum::default().bytes(header).checksum();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// What goes out must be read by a parser that shares no code with ours.
fn check(gateway: &Gateway, disposition: Disposition, frame: &[u8]) {
    assert!(gateway.cx.totals.balanced());
    if let Disposition::Forward(_) | Disposition::Answer(..) = disposition {
        let parsed = etherparse::SlicedPacket::from_ethernet(frame).unwrap();
        assert!(parsed.transport.is_some(), "{parsed:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// 256 worlds, 200 frames each: on both sides, sealed by a peer that lies, and plain garbage.
    #[test]
    fn frames_are_conserved(
        steps in prop::collection::vec(
            (0u8..8, any::<prop::sample::Index>(), damage(), any::<bool>()), 200,
        ),
    ) {
        let (mut gateway, association, seeds) = world();
        let before = gateway.cx.totals.received;
        let steps_count = steps.len() as u64;
        for (i, (kind, which, damage, mended)) in steps.into_iter().enumerate() {
            let now = at(i as u64);
            let pick = |seeds: &[Vec<u8>]| seeds[which.index(seeds.len())].clone();
            let (side, frame) = match kind {
                0..=2 => {
                    let mut frame = pick(&seeds.lan);
                    damage.apply(&mut frame);
                    if mended && let Some(packet) = frame.get_mut(14..) {
                        mend(packet);
                    }
                    (Side::Lan, frame)
                }
                3..=5 => {
                    let mut packet = pick(&seeds.inner);
                    damage.apply(&mut packet);
                    if mended {
                        mend(&mut packet);
                    }
                    if packet.is_empty() || !matches!(packet[0] >> 4, 4 | 6) {
                        packet = vec![0x45];
                    }
                    (Side::Wan, gateway.tunnel_frame(&association, &packet))
                }
                6 => {
                    let mut frame = pick(&seeds.wan);
                    damage.apply(&mut frame);
                    (Side::Wan, frame)
                }
                _ => {
                    let mut frame = Vec::new();
                    damage.apply(&mut frame);
                    (if mended { Side::Lan } else { Side::Wan }, frame)
                }
            };
            let outcome = gateway.frame(side, &frame, now);
            check(&gateway, outcome.disposition, &outcome.frame);
        }
        prop_assert_eq!(gateway.cx.totals.received - before, steps_count);
    }
}

#[test]
fn a_buffer_without_room_drops_the_frame() {
    let (mut gateway, _, seeds) = world();
    let bytes = &seeds.lan[0];
    // IPv4, UDP and PSP headers (44 bytes; the Ethernet header that comes off makes room for the
    // next one) and the ICV.
    let (header, icv) = (44, 16);
    for (front, back) in [(0, 0), (header - 1, icv), (header, icv - 1), (header, icv)] {
        let mut memory = vec![0; front + bytes.len() + back];
        let range = front..front + bytes.len();
        memory[range.clone()].copy_from_slice(bytes);
        let mut frame = landbridge_gateway_core::Frame::new(&mut memory, range).unwrap();
        let disposition = gateway.dataplane.process(
            &mut gateway.cx,
            Side::Lan,
            &mut frame,
            &gateway.snapshot,
            at(0),
        );
        let expected = match (front, back) {
            (44, 16) => Disposition::Forward(Side::Wan),
            _ => Disposition::Drop(policy::DropReason::TooBig),
        };
        assert_eq!(disposition, expected, "{front} {back}");
        assert!(gateway.cx.totals.balanced());
    }
}
