//! Translated packets, against the same packets built by etherparse with the other addresses.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::IpAddr;

use landbridge_wire as wire;

use common::{TcpSpec, oracle_accepts, tcp_spec};
use etherparse::PacketBuilder;
use proptest::prelude::*;
use wire::{
    checksum::{Change, Sum},
    icmp::IcmpError,
    ip::Packet,
    translate::{End, translate},
};

/// What quotes a packet.
const ROUTER: [u8; 16] = [172, 16, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

fn address(v6: bool, bytes: [u8; 16]) -> IpAddr {
    match v6 {
        true => IpAddr::from(bytes),
        false => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
    }
}

fn four(bytes: [u8; 16]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// From one address to another.
fn only(from: IpAddr, to: IpAddr) -> impl Fn(IpAddr) -> Option<IpAddr> {
    move |address| (address == from).then_some(to)
}

fn place(spec: &mut TcpSpec, end: End) -> &mut [u8; 16] {
    match end {
        End::Source => &mut spec.src,
        End::Destination => &mut spec.dst,
    }
}

fn udp(spec: &TcpSpec) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (sport, dport) = spec.ports;
    match spec.v6 {
        true => PacketBuilder::ipv6(spec.src, spec.dst, 63)
            .udp(sport, dport)
            .write(&mut bytes, &spec.payload),
        false => PacketBuilder::ipv4(four(spec.src), four(spec.dst), 63)
            .udp(sport, dport)
            .write(&mut bytes, &spec.payload),
    }
    .unwrap();
    bytes
}

fn echo(spec: &TcpSpec) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (id, seq) = spec.ports;
    match spec.v6 {
        true => PacketBuilder::ipv6(spec.src, spec.dst, 63)
            .icmpv6_echo_request(id, seq)
            .write(&mut bytes, &spec.payload),
        false => PacketBuilder::ipv4(four(spec.src), four(spec.dst), 63)
            .icmpv4_echo_request(id, seq)
            .write(&mut bytes, &spec.payload),
    }
    .unwrap();
    bytes
}

/// "Packet too big" from `from` to the sender of `quoted`, of which `length` bytes are left.
fn too_big(v6: bool, from: [u8; 16], to: [u8; 16], quoted: &[u8], length: usize) -> Vec<u8> {
    let quoted = &quoted[..length.min(quoted.len())];
    let mut bytes = Vec::new();
    match v6 {
        true => PacketBuilder::ipv6(from, to, 63)
            .icmpv6_raw(2, 0, [0, 0, 5, 100])
            .write(&mut bytes, quoted),
        false => PacketBuilder::ipv4(four(from), four(to), 63)
            .icmpv4_raw(3, 4, [0, 0, 5, 100])
            .write(&mut bytes, quoted),
    }
    .unwrap();
    bytes
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Source), Just(End::Destination)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_translated_packet_is_the_one_that_would_have_been_built(
        spec in tcp_spec(), end in ends(), to: [u8; 16], kind in 0..3,
    ) {
        let build = |spec: &TcpSpec| match kind {
            0 => spec.build(),
            1 => udp(spec),
            _ => echo(spec),
        };
        let mut other = spec.clone();
        let old = address(spec.v6, *place(&mut other, end));
        *place(&mut other, end) = to;
        let mut packet = build(&spec);
        translate(&mut packet, end, only(old, address(spec.v6, to))).unwrap();
        prop_assert_eq!(&packet, &build(&other));
        translate(&mut packet, end, only(address(spec.v6, to), old)).unwrap();
        prop_assert_eq!(&packet, &build(&spec), "and back");
    }

    /// The sender of a packet and its destination are the other way round in an error about it.
    #[test]
    fn what_an_icmp_error_quotes_is_translated_at_the_other_end(
        mut spec in tcp_spec(), end in ends(), to: [u8; 16], is_udp: bool, length in 0..200_usize,
    ) {
        // The error's own addresses are a router's and the sender's.
        prop_assume!(address(spec.v6, spec.src) != address(spec.v6, spec.dst));
        // Half a checksum is no checksum: it stays.
        let header = if spec.v6 { 40 } else { 20 };
        prop_assume!(length != header + if is_udp { 7 } else { 17 });
        spec.payload.truncate(400);
        let quote = |spec: &TcpSpec| if is_udp { udp(spec) } else { spec.build() };
        let error = |spec: &TcpSpec| too_big(spec.v6, ROUTER, spec.src, &quote(spec), length);
        let mut other = spec.clone();
        let old = match end {
            End::Source => std::mem::replace(&mut other.dst, to),
            End::Destination => std::mem::replace(&mut other.src, to),
        };
        let (old, to) = (address(spec.v6, old), address(spec.v6, to));
        let mut packet = error(&spec);
        let whole = packet.clone();
        translate(&mut packet, end, only(old, to)).unwrap();
        // An address whose header is not whole stays.
        let quotes_header = length >= header;
        let mut expected = if quotes_header { error(&other) } else { whole };
        if !quotes_header && end == End::Destination {
            let mut outer = spec.clone();
            outer.src = other.src;
            expected = too_big(spec.v6, ROUTER, outer.src, &quote(&spec), length);
        }
        prop_assert_eq!(&packet, &expected);
        if quotes_header && length >= header + 8 {
            let about = IcmpError::of(&Packet::parse(&packet).unwrap()).unwrap().about;
            let translated = match end {
                End::Source => about.dst,
                End::Destination => about.src,
            };
            prop_assert_eq!(translated, to);
        }
        let translated = packet.clone();
        translate(&mut packet, end, |_| None).unwrap();
        prop_assert_eq!(&packet, &translated);
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(spec in tcp_spec(), to: [u8; 16], by in 1..0xffff_u16) {
        let mut packet = spec.build();
        let at = if spec.v6 { 56 } else { 36 };
        let right = u16::from_be_bytes([packet[at], packet[at + 1]]);
        // Another value in ones' complement, in which 0 is 0xffff.
        let sum = u32::from(right) + u32::from(by);
        let wrong = ((sum & 0xffff) + (sum >> 16)) as u16;
        packet[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        prop_assert!(!oracle_accepts(&packet));
        let (old, new) = (address(spec.v6, spec.src), address(spec.v6, to));
        translate(&mut packet, End::Source, only(old, new)).unwrap();
        prop_assert_eq!(Packet::parse(&packet).unwrap().src(), new);
        prop_assert!(!oracle_accepts(&packet));
    }

    /// Whatever comes: no panic, no other length, and what cannot be read stays as it was.
    #[test]
    fn any_bytes_are_survived(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), end in ends(), to: [u8; 16],
        repair: bool, at: prop::sample::Index, seed in tcp_spec(),
    ) {
        if repair {
            // A packet that can be read, with strange contents.
            let mut packet = too_big(seed.v6, seed.src, seed.dst, &bytes, 200);
            let index = at.index(packet.len());
            packet[index] = to[0];
            if !seed.v6 {
                packet[10..12].fill(0);
                let header = usize::from(packet[0] & 0x0f) * 4;
                let sum = packet.get(..header).map(|h| Sum::default().bytes(h).checksum());
                packet[10..12].copy_from_slice(&sum.unwrap_or(0).to_be_bytes());
            }
            bytes = packet;
        }
        let before = bytes.clone();
        let map = |old: IpAddr| Some(address(old.is_ipv6(), to));
        match translate(&mut bytes, end, map) {
            Err(_) => prop_assert_eq!(bytes, before),
            Ok(()) => {
                let (old, new) = (Packet::parse(&before).unwrap(), Packet::parse(&bytes).unwrap());
                prop_assert_eq!(old.total_len(), new.total_len());
                let kept = |p: &Packet<'_>| match end {
                    End::Source => (p.dst(), p.src() == address(p.is_v6(), to)),
                    End::Destination => (p.src(), p.dst() == address(p.is_v6(), to)),
                };
                prop_assert_eq!(kept(&new), (kept(&old).0, true));
                prop_assert_eq!(&bytes[new.total_len()..], &before[old.total_len()..]);
            }
        }
    }

    #[test]
    fn a_change_equals_a_new_sum(
        bytes in prop::collection::vec(any::<u8>(), 24..80), new: [u8; 16], at in 0..4_usize,
    ) {
        let mut bytes = bytes;
        bytes.truncate(bytes.len() & !1);
        bytes[23] |= 1;
        let before = Sum::default().bytes(&bytes).checksum();
        let change = Change::of(&bytes[2 * at..2 * at + 16], &new);
        bytes[2 * at..2 * at + 16].copy_from_slice(&new);
        prop_assert_eq!(change.apply(before), Sum::default().bytes(&bytes).checksum());
    }
}

/// RFC 768: a datagram without a checksum has none afterwards; one whose checksum comes to zero is sent
/// as all ones.
#[test]
fn udp_without_a_checksum_gets_none_and_zero_is_written_as_ones() {
    let mut spec = TcpSpec::syn(false);
    spec.payload = vec![0; 2];
    let mut none = udp(&spec);
    none[26..28].fill(0);
    let to = [100, 64, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (old, new) = (address(false, spec.src), address(false, to));
    translate(&mut none, End::Source, only(old, new)).unwrap();
    assert_eq!(none[26..28], [0, 0]);
    // A payload that brings the new checksum to zero.
    let mut other = spec.clone();
    other.src = to;
    let sum = udp(&other);
    spec.payload = sum[26..28].to_vec();
    other.payload.clone_from(&spec.payload);
    let (mut packet, expected) = (udp(&spec), udp(&other));
    assert_eq!(expected[26..28], [0xff, 0xff], "the case is the one meant");
    translate(&mut packet, End::Source, only(old, new)).unwrap();
    assert_eq!(packet, expected);
}

/// A later fragment carries no header of TCP: what stands where its checksum would is payload.
#[test]
fn a_later_fragment_keeps_its_payload() {
    let mut spec = TcpSpec::syn(false);
    spec.payload = vec![7; 64];
    let mut fragment = spec.build();
    fragment[6..8].copy_from_slice(&0x0010_u16.to_be_bytes());
    fragment[10..12].fill(0);
    let checksum = Sum::default().bytes(&fragment[..20]).checksum();
    fragment[10..12].copy_from_slice(&checksum.to_be_bytes());
    let before = fragment.clone();
    let to = IpAddr::from([100, 64, 1, 10]);
    translate(
        &mut fragment,
        End::Destination,
        only(address(false, spec.dst), to),
    )
    .unwrap();
    assert_eq!(Packet::parse(&fragment).unwrap().dst(), to);
    assert_eq!(fragment[20..], before[20..]);
}
