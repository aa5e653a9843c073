//! No input makes a parser panic, and what does parse agrees with its own lengths. Threat row 32.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use landbridge_wire as wire;

use common::{TcpSpec, tcp_spec};
use etherparse::PacketBuilder;
use proptest::prelude::*;
use wire::{
    ParseError, edit, ethernet, flow::FlowKey, hello::Hello, icmp::IcmpError, inplace, ip, psp,
    reply::Reply, tcp, udp, vxlan,
};

/// Every entry point over the same bytes. What a parser accepts, it must be able to hand out.
fn read_everything(bytes: &[u8]) {
    let _ = ethernet::Frame::parse(bytes).map(|f| (f.header_len(), f.payload()));
    let _ = vxlan::Vxlan::parse(bytes);
    let _ = udp::Datagram::parse(bytes);
    let _ = tcp::Segment::parse(bytes);
    let _ = Hello::parse(bytes).map(|hello| assert_eq!(hello.encode(), bytes));
    let _ = Reply::parse(bytes).map(|reply| assert_eq!(reply.encode(), bytes));
    if let Ok(header) = psp::Header::parse(bytes) {
        assert_eq!(header.to_bytes()[..], bytes[..psp::HEADER_LEN]);
        let _ = psp::Layout::of(&header, bytes.len());
    }
    let mut changed = bytes.to_vec();
    let _ = inplace::decrement_ttl(&mut changed);
    inplace::set_congestion_experienced(&mut changed);
    inplace::clamp_mss(&mut changed, 20, 536);
    if let Ok(packet) = ip::Packet::parse(bytes) {
        read_packet(&packet);
    }
}

fn read_packet(packet: &ip::Packet<'_>) {
    assert_eq!(
        packet.header_len() + packet.payload().len(),
        packet.total_len()
    );
    let from = if packet.is_v6() {
        "fd00::1"
    } else {
        "10.0.0.1"
    }
    .parse()
    .unwrap();
    for error in [
        edit::icmp_admin_prohibited(packet, from),
        edit::icmp_too_big(packet, from, 1400),
        edit::icmp_time_exceeded(packet, from),
    ]
    .into_iter()
    .flatten()
    {
        assert!(ip::Packet::parse(&error).is_ok());
    }
    let _ = IcmpError::of(packet);
    let _ = FlowKey::of(packet);
    let _ = udp::Datagram::of(packet).map(|d| d.checksum_holds(packet.src(), packet.dst()));
    if let Ok(segment) = tcp::Segment::of(packet) {
        assert_eq!(
            segment.header_len() + segment.payload().len(),
            packet.payload().len()
        );
        let _ = (segment.our_option(), segment.mss(), segment.sequence_len());
        for option in segment.options() {
            assert_eq!(usize::from(option.bytes[1]), option.bytes.len());
        }
        let _ = edit::reset_for(packet).unwrap();
    }
    if let Ok(edit) = edit::TcpEdit::new(packet) {
        let rewritten = edit.remove_exid().reduce_mss_by(80).payload(b"x").finish();
        if let Ok(rewritten) = rewritten {
            let parsed = ip::Packet::parse(&rewritten).unwrap();
            assert!(tcp::Segment::of(&parsed).is_ok());
        }
    }
}

/// Packets of every kind that the parsers know.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![TcpSpec::syn(false).build(), TcpSpec::syn(true).build()];
    for seed in seeds.clone() {
        let packet = ip::Packet::parse(&seed).unwrap();
        let from = if packet.is_v6() {
            "fd00::1"
        } else {
            "10.0.0.1"
        }
        .parse()
        .unwrap();
        seeds.push(edit::icmp_too_big(&packet, from, 1400).unwrap());
    }
    let mut datagram = Vec::new();
    PacketBuilder::ipv4([10, 1, 1, 1], [10, 2, 2, 2], 9)
        .udp(1000, 1000)
        .write(
            &mut datagram,
            &[
                0x04, 1, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 7, 7, 7, 7,
            ],
        )
        .unwrap();
    seeds.push(datagram);
    let mut extended = Vec::new();
    PacketBuilder::ipv6([1; 16], [2; 16], 9)
        .udp(53, 53)
        .write(&mut extended, b"payload")
        .unwrap();
    // Hop-by-hop, AH and an atomic fragment header before the UDP header.
    let upper = extended.split_off(40);
    extended[6] = 0;
    extended.extend_from_slice(&[51, 0, 1, 4, 0, 0, 0, 0]);
    extended.extend_from_slice(&[44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    extended.extend_from_slice(&[17, 0, 0, 0, 0, 0, 0, 9]);
    extended.extend_from_slice(&upper);
    let length = (extended.len() - 40) as u16;
    extended[4..6].copy_from_slice(&length.to_be_bytes());
    assert_eq!(ip::Packet::parse(&extended).unwrap().protocol(), ip::UDP);
    seeds.push(extended);
    seeds
}

/// Writes the IPv4 header checksum, so that a mutation reaches what lies behind that check.
fn fix_checksum(bytes: &mut [u8]) {
    let length = usize::from(bytes.first().unwrap_or(&0) & 0x0f) * 4;
    if let Some(header) = bytes.get_mut(..length).filter(|h| h.len() >= 20) {
        header[10..12].fill(0);
        let sum = wire::checksum::Sum::default().bytes(header).checksum();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..1600)) {
        read_everything(&bytes);
    }

    /// Ten thousand damaged packets of every kind: bytes changed, cut and appended.
    #[test]
    fn damaged_packets(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        how in 0u8..4,
    ) {
        let seeds = seeds();
        let mut bytes = seeds[which.index(seeds.len())].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        match how {
            0 => bytes.truncate(cut.index(bytes.len() + 1)),
            1 => bytes.extend_from_slice(&[0; 18]),
            _ => {}
        }
        read_everything(&bytes);
        if bytes.first().is_some_and(|b| b >> 4 == 4) {
            fix_checksum(&mut bytes);
            read_everything(&bytes);
        }
    }

    #[test]
    fn the_oracle_and_the_view_read_the_same(spec in tcp_spec()) {
        let bytes = spec.build();
        let packet = ip::Packet::parse(&bytes).unwrap();
        let segment = tcp::Segment::of(&packet).unwrap();
        prop_assert_eq!(packet.is_v6(), spec.v6);
        prop_assert_eq!(packet.ttl(), 63);
        prop_assert_eq!((segment.sport(), segment.dport()), spec.ports);
        prop_assert_eq!(segment.seq(), spec.seq);
        prop_assert_eq!(segment.flags().ack().then(|| segment.ack()), spec.ack);
        prop_assert_eq!(segment.flags().syn(), spec.syn);
        prop_assert_eq!(segment.window(), spec.window);
        prop_assert_eq!(segment.payload(), &spec.payload[..]);
        prop_assert!(segment.checksum_holds(packet.src(), packet.dst()));
        let (_, rest) = etherparse::TcpHeader::from_slice(packet.payload()).unwrap();
        prop_assert_eq!(rest, segment.payload());
    }

    #[test]
    fn both_directions_of_a_flow_hash_alike(spec in tcp_spec()) {
        let bytes = spec.build();
        let key = FlowKey::of(&ip::Packet::parse(&bytes).unwrap()).unwrap();
        prop_assert_eq!(key.symmetric(), key.reversed().symmetric());
        prop_assert_eq!(key.reversed().reversed(), key);
    }
}

#[test]
fn padding_after_the_packet_is_not_part_of_it() {
    let mut bytes = TcpSpec::syn(false).build();
    let length = bytes.len();
    bytes.extend_from_slice(&[0xee; 20]);
    assert_eq!(ip::Packet::parse(&bytes).unwrap().total_len(), length);
}

#[test]
fn every_shorter_packet_is_truncated() {
    for bytes in [TcpSpec::syn(false).build(), TcpSpec::syn(true).build()] {
        for length in 0..bytes.len() {
            assert_eq!(
                ip::Packet::parse(&bytes[..length]),
                Err(ParseError::Truncated),
                "{length}"
            );
        }
    }
}

#[test]
fn one_flipped_bit_of_an_ipv4_header_never_parses() {
    let bytes = TcpSpec::syn(false).build();
    // Bit 2 makes it version 6, which has no header checksum: there the EtherType disagrees.
    for bit in (0..160).filter(|bit| *bit != 2) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 0x80 >> (bit % 8);
        assert!(ip::Packet::parse(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn malformed_tcp_options_are_refused() {
    let mut header = [0u8; 24];
    header[12] = 6 << 4;
    for (options, well_formed) in [
        ([1, 1, 1, 1], true),
        ([0, 9, 9, 9], true),
        ([2, 4, 5, 180], true),
        ([2, 4, 5, 0], true),
        ([2, 0, 0, 0], false),
        ([2, 1, 0, 0], false),
        ([2, 5, 0, 0], false),
        ([1, 1, 1, 2], false),
        ([254, 255, 0, 0], false),
    ] {
        header[20..].copy_from_slice(&options);
        assert_eq!(
            tcp::Segment::parse(&header).is_ok(),
            well_formed,
            "{options:?}"
        );
    }
}

#[test]
fn tagged_frames_are_walked_and_a_third_tag_is_refused() {
    let frame = |tags: usize| {
        let mut bytes = vec![0; 12];
        for _ in 0..tags {
            bytes.extend_from_slice(&[0x81, 0, 0, 5]);
        }
        bytes.extend_from_slice(&[0x08, 0, 0x45]);
        bytes
    };
    for tags in 0..=2 {
        let bytes = frame(tags);
        let parsed = ethernet::Frame::parse(&bytes).unwrap();
        assert_eq!((parsed.ether_type(), parsed.tags()), (ethernet::IPV4, tags));
        assert_eq!(parsed.payload(), [0x45]);
        assert_eq!(parsed.header_len(), 14 + 4 * tags);
    }
    assert_eq!(ethernet::Frame::parse(&frame(3)), Err(ParseError::Length));
    assert_eq!(ethernet::Frame::parse(&[0; 64]), Err(ParseError::Length));
}

#[test]
fn vxlan_reads_back_and_refuses_other_flags() {
    let mut bytes = vxlan::header(0x0012_3456).to_vec();
    bytes.push(9);
    let parsed = vxlan::Vxlan::parse(&bytes).unwrap();
    assert_eq!((parsed.vni, parsed.frame), (0x12_3456, &[9][..]));
    bytes[0] = 0x88;
    assert_eq!(vxlan::Vxlan::parse(&bytes), Err(ParseError::Reserved));
}
