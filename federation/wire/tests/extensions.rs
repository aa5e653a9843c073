//! IPv4 options, IPv6 extension headers and fragments: what passes, and how far it is read.
//! Threat rows 10 and 33.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use landbridge_wire as wire;

use common::TcpSpec;
use wire::{
    ParseError,
    flow::FlowKey,
    ip::{self, Fragment, Packet},
    tcp::Segment,
};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const NO_NEXT: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;

/// One extension header of `kind` that says `next` follows.
fn extension(kind: u8, next: u8) -> Vec<u8> {
    match kind {
        HOP_BY_HOP | DESTINATION => vec![next, 0, 1, 4, 0, 0, 0, 0],
        // Type 4 with no segment left, 24 bytes.
        ROUTING => [&[next, 2, 4, 0][..], &[0; 20]].concat(),
        // RFC 4302: 24 bytes are 6 words, minus 2. Read as units of 8 it would be 40 bytes.
        AUTHENTICATION => [&[next, 4, 0, 0][..], &[7; 20]].concat(),
        // An atomic fragment.
        FRAGMENT => vec![next, 0, 0, 0, 0, 0, 0, 1],
        other => panic!("{other}"),
    }
}

/// A TCP SYN behind `chain`.
fn packet(chain: &[u8]) -> Vec<u8> {
    let mut bytes = TcpSpec::syn(true).build();
    let upper = bytes.split_off(40);
    bytes[6] = *chain.first().unwrap_or(&ip::TCP);
    for (i, kind) in chain.iter().enumerate() {
        bytes.extend(extension(*kind, *chain.get(i + 1).unwrap_or(&ip::TCP)));
    }
    bytes.extend(upper);
    let length = (bytes.len() - 40) as u16;
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    bytes
}

#[test]
fn each_header_at_each_position_leads_to_the_same_segment() {
    let plain = TcpSpec::syn(true).build();
    let expected = Segment::of(&Packet::parse(&plain).unwrap())
        .unwrap()
        .bytes()
        .to_vec();
    let kinds = [ROUTING, AUTHENTICATION, DESTINATION, FRAGMENT];
    for kind in kinds {
        for length in 1..=8 {
            for position in 0..length {
                let mut chain = vec![DESTINATION; length];
                chain[position] = kind;
                let bytes = packet(&chain);
                let parsed = Packet::parse(&bytes).unwrap();
                assert_eq!(Segment::of(&parsed).unwrap().bytes(), expected, "{chain:?}");
            }
        }
    }
    let bytes = packet(&[HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION]);
    let parsed = Packet::parse(&bytes).unwrap();
    assert_eq!(Segment::of(&parsed).unwrap().bytes(), expected);
}

#[test]
fn hop_by_hop_stands_first_or_not_at_all() {
    assert!(Packet::parse(&packet(&[HOP_BY_HOP])).is_ok());
    // The shape with which a walk that takes AH for units of 8 bytes lands in the wrong header.
    for chain in [&[AUTHENTICATION, HOP_BY_HOP][..], &[HOP_BY_HOP, HOP_BY_HOP]] {
        assert_eq!(
            Packet::parse(&packet(chain)),
            Err(ParseError::IpOption),
            "{chain:?}"
        );
    }
}

#[test]
fn the_walk_is_bounded() {
    assert!(Packet::parse(&packet(&[DESTINATION; 8])).is_ok());
    assert_eq!(
        Packet::parse(&packet(&[DESTINATION; 9])),
        Err(ParseError::IpOption)
    );
    assert_eq!(
        Packet::parse(&packet(&[FRAGMENT, FRAGMENT])),
        Err(ParseError::IpOption)
    );
}

#[test]
fn a_routing_header_with_a_segment_left_or_of_type_0_is_refused() {
    for (kind, left) in [(0, 0), (0, 1), (2, 1), (4, 3)] {
        let mut bytes = packet(&[ROUTING]);
        bytes[42..44].copy_from_slice(&[kind, left]);
        assert_eq!(
            Packet::parse(&bytes),
            Err(ParseError::IpOption),
            "{kind} {left}"
        );
    }
}

#[test]
fn unknown_headers_are_protocols_and_so_nothing_reads_a_segment_behind_them() {
    for kind in [ESP, NO_NEXT, MOBILITY, 253] {
        let mut bytes = packet(&[DESTINATION]);
        bytes[40] = kind;
        let parsed = Packet::parse(&bytes).unwrap();
        assert_eq!(parsed.protocol(), kind);
        assert_eq!(Segment::of(&parsed), Err(ParseError::Protocol));
        assert_eq!(FlowKey::of(&parsed), Err(ParseError::Protocol));
    }
}

#[test]
fn a_jumbogram_is_refused() {
    let mut bytes = packet(&[HOP_BY_HOP]);
    bytes[4..6].fill(0);
    assert_eq!(Packet::parse(&bytes), Err(ParseError::Truncated));
}

/// An IPv6 fragment of a SYN: `offset` in bytes, `more`, with `payload`.
fn fragment_v6(offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = TcpSpec::syn(true).build()[..40].to_vec();
    bytes[6] = FRAGMENT;
    bytes[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    let field = (offset | u16::from(more)).to_be_bytes();
    bytes.extend_from_slice(&[ip::TCP, 0, field[0], field[1], 0, 0, 0, 7]);
    bytes.extend_from_slice(payload);
    bytes
}

/// The same over IPv4.
fn fragment_v4(offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = TcpSpec::syn(false).build()[..20].to_vec();
    bytes[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    bytes[4..6].copy_from_slice(&7u16.to_be_bytes());
    bytes[6..8].copy_from_slice(&((offset / 8) | (u16::from(more) << 13)).to_be_bytes());
    bytes[10..12].fill(0);
    let sum = wire::checksum::Sum::default().bytes(&bytes).checksum();
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Row 10: whatever the offset (1 unit, as in RFC 3128; overlapping; tiny first), no segment and no
/// flow key is ever read from a fragment, even one that holds a whole header.
#[test]
fn nothing_above_ip_is_read_from_a_fragment() {
    let syn = TcpSpec::syn(false).build();
    let upper = &syn[20..];
    let whole = &upper[..upper.len() & !7];
    for build in [fragment_v4, fragment_v6] {
        for (offset, more, payload) in [
            (0, true, &whole[..8]),
            (0, true, whole),
            (8, true, whole),
            (8, false, upper),
            (16, false, &upper[16..]),
            (24, true, &whole[..8]),
            (65_000, false, upper),
        ] {
            let bytes = build(offset, more, payload);
            let parsed = Packet::parse(&bytes).unwrap();
            assert_eq!(
                parsed.fragment(),
                Some(Fragment {
                    offset,
                    more,
                    id: 7
                })
            );
            assert_eq!(parsed.protocol(), ip::TCP);
            assert_eq!(Segment::of(&parsed), Err(ParseError::Fragment));
            assert_eq!(FlowKey::of(&parsed), Err(ParseError::Fragment));
        }
        let atomic = build(0, false, upper);
        assert!(Segment::of(&Packet::parse(&atomic).unwrap()).is_ok());
    }
}

#[test]
fn fragments_that_cannot_be_joined_are_refused() {
    for build in [fragment_v4, fragment_v6] {
        // Not a multiple of eight although more follow; past the largest packet.
        assert_eq!(
            Packet::parse(&build(0, true, &[0; 9])),
            Err(ParseError::Length)
        );
        assert_eq!(
            Packet::parse(&build(65_528, false, &[0; 8])),
            Err(ParseError::Length)
        );
    }
}

/// An IPv4 SYN with `options`, a multiple of four bytes.
fn with_options(options: &[u8]) -> Vec<u8> {
    let plain = TcpSpec::syn(false).build();
    let mut bytes = [&plain[..20], options, &plain[20..]].concat();
    bytes[0] = 0x45 + (options.len() / 4) as u8;
    let total = bytes.len() as u16;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[10..12].fill(0);
    let sum = wire::checksum::Sum::default()
        .bytes(&bytes[..20 + options.len()])
        .checksum();
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[test]
fn ipv4_options_pass_only_when_known_and_harmless() {
    for (options, passes) in [
        (&[1, 1, 1, 0][..], true),
        (&[148, 4, 0, 0], true),
        (&[7, 7, 4, 0, 0, 0, 0, 0], true),
        (&[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0], true),
        // After the end of the list nothing is read.
        (&[0, 131, 3, 4], true),
        (&[131, 3, 4, 0], false),
        (&[1, 137, 3, 4], false),
        (&[130, 4, 0, 0], false),
        (&[7, 1, 0, 0], false),
        (&[7, 9, 4, 0], false),
        (&[1, 1, 1, 7], false),
    ] {
        let bytes = with_options(options);
        let parsed = Packet::parse(&bytes);
        assert_eq!(parsed.is_ok(), passes, "{options:?}");
        if let Ok(parsed) = parsed {
            assert_eq!(parsed.header_len(), 20 + options.len());
            assert!(Segment::of(&parsed).is_ok());
        }
    }
}
