//! Packets for the tests, built by etherparse, which shares no code with this crate.
#![allow(dead_code, reason = "each test file uses some of these")]

use etherparse::{PacketBuilder, TcpOptionElement};
use proptest::prelude::*;

/// The values of a TCP packet.
#[derive(Clone, Debug)]
pub struct TcpSpec {
    pub v6: bool,
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub ports: (u16, u16),
    pub seq: u32,
    pub ack: Option<u32>,
    pub syn: bool,
    pub window: u16,
    pub options: Vec<TcpOptionElement>,
    pub payload: Vec<u8>,
}

impl TcpSpec {
    /// A SYN over IPv4 or IPv6 with the options of Linux.
    pub fn syn(v6: bool) -> Self {
        Self {
            v6,
            src: [10, 1, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            dst: [10, 2, 1, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
            ports: (40_000, 8080),
            seq: 0xffff_fff0,
            ack: None,
            syn: true,
            window: 64_240,
            options: vec![
                TcpOptionElement::MaximumSegmentSize(1460),
                TcpOptionElement::SelectiveAcknowledgementPermitted,
                TcpOptionElement::Timestamp(1, 2),
                TcpOptionElement::Noop,
                TcpOptionElement::WindowScale(7),
            ],
            payload: Vec::new(),
        }
    }

    pub fn build(&self) -> Vec<u8> {
        let short = |a: [u8; 16]| [a[0], a[1], a[2], a[3]];
        let builder = if self.v6 {
            PacketBuilder::ipv6(self.src, self.dst, 63)
        } else {
            PacketBuilder::ipv4(short(self.src), short(self.dst), 63)
        };
        let mut tcp = builder.tcp(self.ports.0, self.ports.1, self.seq, self.window);
        if self.syn {
            tcp = tcp.syn();
        }
        if let Some(ack) = self.ack {
            tcp = tcp.ack(ack);
        }
        let tcp = tcp.options(&self.options).unwrap();
        let mut bytes = Vec::new();
        tcp.write(&mut bytes, &self.payload).unwrap();
        bytes
    }
}

fn option() -> impl Strategy<Value = TcpOptionElement> {
    prop_oneof![
        any::<u16>().prop_map(TcpOptionElement::MaximumSegmentSize),
        any::<u8>().prop_map(TcpOptionElement::WindowScale),
        Just(TcpOptionElement::SelectiveAcknowledgementPermitted),
        any::<(u32, u32)>().prop_map(|(a, b)| TcpOptionElement::Timestamp(a, b)),
        Just(TcpOptionElement::Noop),
        any::<(u32, u32)>()
            .prop_map(|first| TcpOptionElement::SelectiveAcknowledgement(first, [None; 3])),
    ]
}

/// Any TCP packet whose options fit.
pub fn tcp_spec() -> impl Strategy<Value = TcpSpec> {
    let scalars = any::<(
        bool,
        [u8; 16],
        [u8; 16],
        (u16, u16),
        u32,
        Option<u32>,
        bool,
        u16,
    )>();
    let lists = (
        prop::collection::vec(option(), 0..4),
        prop::collection::vec(any::<u8>(), 0..1400),
    );
    (scalars, lists).prop_map(
        |((v6, src, dst, ports, seq, ack, syn, window), (options, payload))| TcpSpec {
            v6,
            src,
            dst,
            ports,
            seq,
            ack,
            syn,
            window,
            options,
            payload,
        },
    )
}

/// Whether etherparse reads `packet` whole and finds its IPv4 and TCP checksums right.
pub fn oracle_accepts(packet: &[u8]) -> bool {
    let Ok(sliced) = etherparse::SlicedPacket::from_ip(packet) else {
        return false;
    };
    let Some(etherparse::TransportSlice::Tcp(tcp)) = &sliced.transport else {
        return false;
    };
    let (upper, length) = match &sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            if header.calc_header_checksum() != header.header_checksum {
                return false;
            }
            (
                tcp.calc_checksum_ipv4(header.source, header.destination)
                    .unwrap(),
                usize::from(header.total_len),
            )
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            let length = 40 + usize::from(ip.header().payload_length());
            (
                tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination())
                    .unwrap(),
                length,
            )
        }
        _ => return false,
    };
    upper == tcp.checksum() && length == packet.len()
}
