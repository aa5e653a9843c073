//! Rewritten packets: what was not named stays, lengths and checksums hold by the oracle.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use landbridge_wire as wire;

use common::{TcpSpec, oracle_accepts, tcp_spec};
use etherparse::TcpOptionElement;
use proptest::prelude::*;
use wire::{
    ParseError,
    confirm::Confirm,
    edit::{self, EditError, TcpEdit},
    flow::FlowKey,
    icmp::{ErrorKind, IcmpError},
    inplace,
    ip::Packet,
    marker::{MARKER, OurOption},
    tcp::{Flags, Segment, options},
};

fn options_of(packet: &[u8]) -> Vec<Vec<u8>> {
    let packet = Packet::parse(packet).unwrap();
    Segment::of(&packet)
        .unwrap()
        .options()
        .map(|o| o.bytes.to_vec())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_token_put_on_and_taken_off_leaves_the_packet_as_it_was(
        spec in tcp_spec(), token in prop::collection::vec(any::<u8>(), 1..1100),
    ) {
        let before = spec.build();
        let parsed = Packet::parse(&before).unwrap();
        let marked = TcpEdit::new(&parsed).unwrap().add_option(&MARKER).payload(&token).finish();
        prop_assume!(marked != Err(EditError::NoOptionSpace));
        let marked = marked.unwrap();
        prop_assert!(oracle_accepts(&marked));
        let parsed = Packet::parse(&marked).unwrap();
        let segment = Segment::of(&parsed).unwrap();
        prop_assert_eq!(segment.our_option(), OurOption::Marker);
        prop_assert_eq!(segment.payload(), &token[..]);
        let mut expected = options_of(&before);
        expected.push(MARKER.to_vec());
        prop_assert_eq!(options_of(&marked), expected);

        let stripped =
            TcpEdit::new(&parsed).unwrap().remove_exid().payload(&spec.payload).finish().unwrap();
        prop_assert!(oracle_accepts(&stripped));
        prop_assert_eq!(options_of(&stripped), options_of(&before));
        let parsed = Packet::parse(&stripped).unwrap();
        let (old, new) = (Packet::parse(&before).unwrap(), parsed);
        let (old, new) = (Segment::of(&old).unwrap(), Segment::of(&new).unwrap());
        prop_assert_eq!(old.payload(), new.payload());
        prop_assert_eq!(&old.header()[..12], &new.header()[..12]);
        prop_assert_eq!(&old.header()[13..16], &new.header()[13..16]);
    }

    #[test]
    fn an_edit_of_nothing_changes_nothing(spec in tcp_spec()) {
        let before = spec.build();
        let after = TcpEdit::new(&Packet::parse(&before).unwrap()).unwrap().finish().unwrap();
        prop_assert!(oracle_accepts(&after));
        // Only the padding behind an end-of-list byte may be written differently.
        prop_assert_eq!(options_of(&before), options_of(&after));
        prop_assert_eq!(before.len(), after.len());
    }

    #[test]
    fn mss_is_lowered_never_raised(spec in tcp_spec(), limit: u16, by: u16) {
        let before = spec.build();
        let parsed = Packet::parse(&before).unwrap();
        let old = Segment::of(&parsed).unwrap().mss();
        let clamped = TcpEdit::new(&parsed).unwrap().clamp_mss(limit).finish().unwrap();
        let reduced = TcpEdit::new(&parsed).unwrap().reduce_mss_by(by).finish().unwrap();
        for packet in [&clamped, &reduced] {
            prop_assert!(oracle_accepts(packet));
        }
        let mss = |bytes: &[u8]| Segment::of(&Packet::parse(bytes).unwrap()).unwrap().mss();
        prop_assert_eq!(mss(&clamped), old.map(|mss| mss.min(limit)));
        prop_assert!(mss(&reduced) <= old);
    }

    #[test]
    fn in_place_changes_keep_both_checksums(spec in tcp_spec(), limit: u16, odd: bool) {
        let mut spec = spec;
        if odd {
            spec.options.insert(0, TcpOptionElement::Noop);
        }
        prop_assume!(spec.options.len() < 4);
        let mut bytes = spec.build();
        let header_len = Packet::parse(&bytes).unwrap().header_len();
        let before = Segment::of(&Packet::parse(&bytes).unwrap()).unwrap().mss();
        let changed = inplace::clamp_mss(&mut bytes, header_len, limit);
        prop_assert_eq!(changed, before.is_some_and(|mss| mss > limit));
        prop_assert_eq!(inplace::decrement_ttl(&mut bytes), Some(62));
        prop_assert_eq!(inplace::ecn(&bytes), 0);
        inplace::set_congestion_experienced(&mut bytes);
        prop_assert_eq!(inplace::ecn(&bytes), 3);
        prop_assert!(oracle_accepts(&bytes));
        let packet = Packet::parse(&bytes).unwrap();
        prop_assert_eq!(packet.ttl(), 62);
        prop_assert_eq!(Segment::of(&packet).unwrap().mss(), before.map(|mss| mss.min(limit)));
    }

    #[test]
    fn a_reset_passes_the_oracle_and_answers_the_segment(spec in tcp_spec()) {
        let bytes = spec.build();
        let packet = Packet::parse(&bytes).unwrap();
        let reset = edit::reset_for(&packet).unwrap().unwrap();
        prop_assert!(oracle_accepts(&reset));
        let answer = Packet::parse(&reset).unwrap();
        let (key, back) = (FlowKey::of(&packet).unwrap(), FlowKey::of(&answer).unwrap());
        prop_assert_eq!(key.reversed(), back);
        let segment = Segment::of(&answer).unwrap();
        match spec.ack {
            Some(ack) => {
                prop_assert_eq!(segment.seq(), ack);
                prop_assert_eq!(segment.flags(), Flags(Flags::RST));
            }
            None => {
                let length = spec.payload.len() as u32 + u32::from(spec.syn);
                prop_assert_eq!(segment.ack(), spec.seq.wrapping_add(length));
                prop_assert_eq!(segment.seq(), 0);
                prop_assert_eq!(segment.flags(), Flags(Flags::RST | Flags::ACK));
            }
        }
        prop_assert_eq!(edit::reset_for(&answer), Ok(None));
    }
}

#[test]
fn confirm_fits_beside_timestamps_and_one_sack_block_but_not_two() {
    let ack = |blocks: usize| {
        let rest = [(1, 2); 3].map(Some);
        let rest = std::array::from_fn(|i| rest[i].filter(|_| i + 1 < blocks));
        let sack = TcpOptionElement::SelectiveAcknowledgement((1, 2), rest);
        let mut options = vec![TcpOptionElement::Noop; 2];
        options.push(TcpOptionElement::Timestamp(1, 2));
        if blocks > 0 {
            options.extend([TcpOptionElement::Noop, TcpOptionElement::Noop, sack]);
        }
        TcpSpec {
            syn: false,
            ack: Some(9),
            options,
            ..TcpSpec::syn(false)
        }
        .build()
    };
    let confirm = Confirm { mac: [1; 16] }.to_bytes();
    for (blocks, fits) in [(0, true), (1, true), (2, false)] {
        let bytes = ack(blocks);
        let edit = TcpEdit::new(&Packet::parse(&bytes).unwrap()).unwrap();
        let confirmed = edit.add_option(&confirm).finish();
        assert_eq!(confirmed.is_ok(), fits, "{blocks} blocks");
        match confirmed {
            Ok(bytes) => assert!(oracle_accepts(&bytes)),
            Err(error) => assert_eq!(error, EditError::NoOptionSpace),
        }
    }
}

#[test]
fn fast_open_and_multipath_are_removed_by_name() {
    let bytes = TcpSpec {
        options: Vec::new(),
        ..TcpSpec::syn(true)
    }
    .build();
    let packet = Packet::parse(&bytes).unwrap();
    let options: [&[u8]; 5] = [
        &[34, 6, 1, 2, 3, 4],
        &[254, 4, 0xf9, 0x89],
        &[30, 4, 0, 1],
        &[253, 4, 1, 2],
        &[2, 4, 5, 0],
    ];
    let edit = TcpEdit::new(&packet).unwrap();
    let all = options
        .iter()
        .fold(edit, |edit, option| edit.add_option(option))
        .finish()
        .unwrap();
    let packet = Packet::parse(&all).unwrap();
    let edit = TcpEdit::new(&packet)
        .unwrap()
        .remove_fast_open()
        .remove_kind(options::MPTCP);
    let left = edit.finish().unwrap();
    assert_eq!(options_of(&left), [options[3], options[4]]);
    assert!(oracle_accepts(&left));
}

#[test]
fn a_damaged_segment_is_not_laundered() {
    let mut bytes = TcpSpec {
        payload: vec![1; 100],
        ..TcpSpec::syn(false)
    }
    .build();
    *bytes.last_mut().unwrap() ^= 1;
    let refused = TcpEdit::new(&Packet::parse(&bytes).unwrap());
    assert_eq!(refused.err(), Some(EditError::Checksum));
}

#[test]
fn extension_headers_and_ip_options_survive_an_edit() {
    let plain = TcpSpec::syn(true).build();
    let mut extended = [&plain[..40], &[6, 0, 1, 4, 0, 0, 0, 0], &plain[40..]].concat();
    extended[6] = 60;
    let length = (extended.len() - 40) as u16;
    extended[4..6].copy_from_slice(&length.to_be_bytes());
    let edit = TcpEdit::new(&Packet::parse(&extended).unwrap()).unwrap();
    let marked = edit.add_option(&MARKER).finish().unwrap();
    assert_eq!(marked[6..48], extended[6..48]);
    let packet = Packet::parse(&marked).unwrap();
    let segment = Segment::of(&packet).unwrap();
    assert!(segment.checksum_holds(packet.src(), packet.dst()));
    assert_eq!(segment.our_option(), OurOption::Marker);
}

#[test]
fn icmp_errors_quote_headers_but_no_token() {
    for v6 in [false, true] {
        let token = b"a token with labels that nobody else should read".to_vec();
        let spec = TcpSpec {
            payload: token.clone(),
            ..TcpSpec::syn(v6)
        };
        let bytes = spec.build();
        let packet = Packet::parse(&bytes).unwrap();
        let from = if v6 { "fd00::1" } else { "172.16.1.1" }.parse().unwrap();
        let too_big = edit::icmp_too_big(&packet, from, 1420).unwrap();
        let other = if v6 { "172.16.1.1" } else { "fd00::1" }.parse().unwrap();
        assert_eq!(edit::icmp_too_big(&packet, other, 1420), None);
        assert!(!too_big.windows(token.len()).any(|w| w == token));
        etherparse::SlicedPacket::from_ip(&too_big).unwrap();
        let parsed = Packet::parse(&too_big).unwrap();
        assert_eq!((parsed.src(), parsed.dst()), (from, packet.src()));
        let error = IcmpError::of(&parsed).unwrap();
        assert_eq!(error.kind, ErrorKind::TooBig(1420));
        assert_eq!(error.about, FlowKey::of(&packet).unwrap());
        assert_eq!(error.seq, Some(spec.seq));
        let prohibited = edit::icmp_admin_prohibited(&packet, from).unwrap();
        let kind = IcmpError::of(&Packet::parse(&prohibited).unwrap())
            .unwrap()
            .kind;
        assert_eq!(kind, ErrorKind::Unreachable(if v6 { 1 } else { 13 }));
        let exceeded = edit::icmp_time_exceeded(&packet, from).unwrap();
        let kind = IcmpError::of(&Packet::parse(&exceeded).unwrap())
            .unwrap()
            .kind;
        assert_eq!(kind, ErrorKind::TimeExceeded(0));
        // No error about an error.
        assert_eq!(edit::icmp_too_big(&parsed, from, 1420), None);
    }
}

#[test]
fn a_damaged_icmp_error_is_refused_at_every_bit() {
    for v6 in [false, true] {
        let bytes = TcpSpec::syn(v6).build();
        let from = if v6 { "fd00::1" } else { "172.16.1.1" }.parse().unwrap();
        let error = edit::icmp_too_big(&Packet::parse(&bytes).unwrap(), from, 1400).unwrap();
        let header_len = Packet::parse(&error).unwrap().header_len();
        for bit in header_len * 8..error.len() * 8 {
            let mut flipped = error.clone();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            let parsed = Packet::parse(&flipped).unwrap();
            let refused = IcmpError::of(&parsed).err();
            assert!(
                matches!(refused, Some(ParseError::Checksum | ParseError::Protocol)),
                "bit {bit}: {refused:?}"
            );
        }
    }
}

#[test]
fn time_to_live_runs_out() {
    for v6 in [false, true] {
        let mut bytes = TcpSpec::syn(v6).build();
        for left in (1..63).rev() {
            assert_eq!(inplace::decrement_ttl(&mut bytes), Some(left));
            assert!(oracle_accepts(&bytes));
        }
        let before = bytes.clone();
        assert_eq!(inplace::decrement_ttl(&mut bytes), None);
        assert_eq!(bytes, before);
    }
}
