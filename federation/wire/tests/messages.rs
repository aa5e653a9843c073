//! HELLO, REPLY, CONFIRM and marker: the bytes of docs/spec/handshake.md, "Wire format".
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use landbridge_wire as wire;

use common::TcpSpec;
use proptest::prelude::*;
use wire::{
    ParseError,
    confirm::Confirm,
    edit::TcpEdit,
    hello::{self, Destination, Hello, HelloHeader, MAX_CREDENTIAL, SegmentProof},
    ip::Packet,
    marker::{EXID, MARKER, OurOption},
    psp,
    reply::{self, Reply},
    tcp::Segment,
};

fn example() -> HelloHeader {
    HelloHeader {
        credential_len: 3,
        nonce: [0x11; 16],
        timestamp: 0x0102_0304_0506_0708,
        isn: 0x2122_2324,
        destination: Destination {
            trust_domain: [0x33; 16],
            range_id: 0x4445,
            offset: [0x55; 16],
            port: 0x6667,
        },
        credential_hash: [0x77; 32],
    }
}

#[test]
fn hello_byte_by_byte() {
    let header = example().to_bytes();
    let proof = SegmentProof {
        key_id: [0x88; 8],
        mac: [0x99; 16],
    };
    let bytes = hello::encode(&header, &proof, b"abc");
    let mut expected = b"LBHE\x01\x00\x00\x03".to_vec();
    expected.extend([0x11; 16]);
    expected.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x21, 0x22, 0x23, 0x24]);
    expected.extend([0x33; 16]);
    expected.extend([0x44, 0x45]);
    expected.extend([0x55; 16]);
    expected.extend([0x66, 0x67]);
    expected.extend([0x77; 32]);
    assert_eq!(expected.len(), hello::HEADER_LEN);
    expected.extend([0x88; 8]);
    expected.extend([0x99; 16]);
    expected.extend(b"abc");
    assert_eq!(bytes, expected);
    let parsed = Hello::parse(&bytes).unwrap();
    assert_eq!((parsed.header, parsed.proof), (example(), proof));
    assert_eq!(
        (parsed.header_bytes, parsed.credential),
        (&header, &b"abc"[..])
    );
}

#[test]
fn reply_byte_by_byte() {
    let reply = Reply {
        nonce: [0x11; 16],
        credential: b"abcd",
        mac: [0x22; 16],
    };
    let bytes = reply.encode();
    let mut expected = b"LBRE\x01\x00\x00\x04".to_vec();
    expected.extend([0x11; 16]);
    expected.extend(b"abcd");
    expected.extend([0x22; 16]);
    assert_eq!(bytes, expected);
    assert_eq!(Reply::parse(&bytes), Ok(reply));
}

#[test]
fn other_versions_flags_and_lengths_are_refused() {
    let hello = hello::encode(&example().to_bytes(), &SegmentProof::NONE, b"abc");
    let reply = Reply {
        nonce: [1; 16],
        credential: b"abc",
        mac: [2; 16],
    }
    .encode();
    let long = (MAX_CREDENTIAL as u16 + 1).to_be_bytes();
    for (at, value, error) in [
        (0, &[0x4d][..], ParseError::Version),
        (4, &[2], ParseError::Version),
        (5, &[1], ParseError::Reserved),
        (6, &[0, 0], ParseError::Length),
        (6, &long, ParseError::Length),
        (6, &[0, 2], ParseError::Length),
        (6, &[0, 4], ParseError::Truncated),
    ] {
        let mut changed = hello.clone();
        changed[at..at + value.len()].copy_from_slice(value);
        assert_eq!(Hello::parse(&changed), Err(error), "HELLO {at}");
        let mut changed = reply.clone();
        changed[at..at + value.len()].copy_from_slice(value);
        assert_eq!(Reply::parse(&changed), Err(error), "REPLY {at}");
    }
    for length in 0..hello.len() {
        assert!(Hello::parse(&hello[..length]).is_err());
    }
    assert!(Hello::parse(&[&hello[..], &[0]].concat()).is_err());
    assert!(Reply::parse(&[&reply[..], &[0]].concat()).is_err());
}

#[test]
fn the_longest_hello_fits_the_budget_of_the_design() {
    const { assert!(hello::MAX_LEN <= 1100) };
    const { assert!(reply::MAX_LEN <= hello::MAX_LEN) };
    let header = HelloHeader {
        credential_len: MAX_CREDENTIAL as u16,
        ..example()
    }
    .to_bytes();
    let bytes = hello::encode(&header, &SegmentProof::NONE, &[7; MAX_CREDENTIAL]);
    assert_eq!(bytes.len(), hello::MAX_LEN);
    assert!(Hello::parse(&bytes).is_ok());
}

fn our_option_of(options: &[&[u8]]) -> Vec<u8> {
    let syn = TcpSpec {
        options: Vec::new(),
        ..TcpSpec::syn(false)
    }
    .build();
    let packet = Packet::parse(&syn).unwrap();
    let edit = TcpEdit::new(&packet).unwrap();
    options
        .iter()
        .fold(edit, |edit, option| edit.add_option(option))
        .finish()
        .unwrap()
}

#[test]
fn marker_and_confirm_are_told_apart_and_nothing_else_is_either() {
    let confirm = Confirm { mac: [0xab; 16] }.to_bytes();
    assert_eq!(confirm[..4], [253, 20, 0x4c, 0x42]);
    assert_eq!(MARKER, [253, 4, 0x4c, 0x42]);
    assert_eq!(EXID.to_be_bytes(), MARKER[2..]);
    for (options, expected) in [
        (vec![], OurOption::Absent),
        (vec![&MARKER[..]], OurOption::Marker),
        (vec![&confirm[..]], OurOption::Confirm(&[0xab; 16])),
        (vec![&MARKER[..], &MARKER], OurOption::Malformed),
        (vec![&MARKER[..], &confirm], OurOption::Malformed),
        (vec![&[253, 5, 0x4c, 0x42, 0][..]], OurOption::Malformed),
        // Another experiment, and the other kind for experiments.
        (vec![&[253, 4, 0x4c, 0x43][..]], OurOption::Absent),
        (vec![&[254, 4, 0x4c, 0x42][..]], OurOption::Absent),
        (vec![&[253, 3, 0x4c][..]], OurOption::Absent),
    ] {
        let bytes = our_option_of(&options);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            Segment::of(&packet).unwrap().our_option(),
            expected,
            "{options:?}"
        );
    }
}

#[test]
fn a_token_is_never_in_the_sequence_space() {
    let plain = TcpSpec {
        payload: vec![7; 900],
        ..TcpSpec::syn(false)
    }
    .build();
    let packet = Packet::parse(&plain).unwrap();
    assert_eq!(Segment::of(&packet).unwrap().sequence_len(), 901);
    let marked = TcpEdit::new(&packet)
        .unwrap()
        .add_option(&MARKER)
        .finish()
        .unwrap();
    let packet = Packet::parse(&marked).unwrap();
    assert_eq!(Segment::of(&packet).unwrap().sequence_len(), 1);
}

fn header() -> impl Strategy<Value = HelloHeader> {
    (
        (
            1..=MAX_CREDENTIAL as u16,
            any::<[u8; 16]>(),
            any::<u64>(),
            any::<u32>(),
        ),
        (
            any::<[u8; 16]>(),
            any::<u16>(),
            any::<[u8; 16]>(),
            any::<u16>(),
        ),
        any::<[u8; 32]>(),
    )
        .prop_map(
            |((credential_len, nonce, timestamp, isn), d, credential_hash)| HelloHeader {
                credential_len,
                nonce,
                timestamp,
                isn,
                destination: Destination {
                    trust_domain: d.0,
                    range_id: d.1,
                    offset: d.2,
                    port: d.3,
                },
                credential_hash,
            },
        )
}

proptest! {
    #[test]
    fn hello_reads_back(header in header(), key_id: [u8; 8], mac: [u8; 16], fill: u8) {
        let credential = vec![fill; header.credential_len.into()];
        let proof = SegmentProof { key_id, mac };
        let bytes = hello::encode(&header.to_bytes(), &proof, &credential);
        let parsed = Hello::parse(&bytes).unwrap();
        prop_assert_eq!((parsed.header, parsed.proof), (header, proof));
        prop_assert_eq!(parsed.credential, &credential[..]);
        prop_assert_eq!(parsed.encode(), bytes);
    }

    #[test]
    fn reply_reads_back(
        nonce: [u8; 16], mac: [u8; 16],
        credential in prop::collection::vec(any::<u8>(), 1..=MAX_CREDENTIAL),
    ) {
        let reply = Reply { nonce, credential: &credential, mac };
        let bytes = reply.encode();
        prop_assert_eq!(Reply::parse(&bytes), Ok(reply));
    }

    #[test]
    fn psp_header_reads_back(
        next_header: u8, crypt_offset in 0u8..64, sample: bool, drop: bool, aes256: bool,
        spi: u32, iv: u64,
    ) {
        let version = if aes256 { psp::Version::Aes256Gcm } else { psp::Version::Aes128Gcm };
        let header = psp::Header { next_header, crypt_offset, sample, drop, version, spi, iv };
        prop_assert_eq!(psp::Header::parse(&header.to_bytes()), Ok(header));
    }
}

#[test]
fn psp_headers_that_are_not_spoken_are_refused() {
    let good = psp::Header::tunnel(4, psp::Version::Aes128Gcm, 7, 9).to_bytes();
    assert_eq!(good, [4, 1, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9]);
    for (at, value, error) in [
        (1, 0, ParseError::Length),
        (1, 2, ParseError::Length),
        (2, 0x40, ParseError::Reserved),
        (2, 0x80, ParseError::Reserved),
        (3, 0x00, ParseError::Reserved),
        (3, 0x03, ParseError::Length),
        (3, 0x09, ParseError::Version),
        (3, 0x3d, ParseError::Version),
    ] {
        let mut changed = good;
        changed[at] = value;
        assert_eq!(psp::Header::parse(&changed), Err(error), "{at} {value}");
    }
    let header = psp::Header {
        crypt_offset: 5,
        ..psp::Header::parse(&good).unwrap()
    };
    let layout = psp::Layout::of(&header, 60).unwrap();
    assert_eq!(
        (layout.aad, layout.body, layout.icv),
        (0..36, 36..44, 44..60)
    );
    assert_eq!(psp::Layout::of(&header, 51), Err(ParseError::Truncated));
}
