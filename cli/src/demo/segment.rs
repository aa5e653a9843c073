//! TCP segments over IPv4 in Ethernet frames, as somebody on the path reads and changes them.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::Range,
};

use anyhow::{Context, Result};
use wire::{
    checksum::Sum,
    edit::TcpEdit,
    ip,
    marker::{EXID, MARKER},
    tcp::{self, Flags, options::EXPERIMENT_1},
};

/// An Ethernet header without tags.
const ETHERNET: usize = 14;
/// Where the checksum stands in a TCP header (RFC 9293 section 3.1).
const CHECKSUM: usize = 16;

/// What a frame holds, and where.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Source address and port.
    pub from: (Ipv4Addr, u16),
    /// Destination address and port.
    pub to: (Ipv4Addr, u16),
    /// The TCP flags.
    pub flags: Flags,
    /// Where the TCP header begins.
    header: usize,
    /// Where the payload begins.
    payload: usize,
    /// Where the packet ends; a short frame is padded.
    end: usize,
}

impl Segment {
    /// Reads `frame`; `None` when it holds anything else.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let packet = packet(frame)?;
        let segment = tcp::Segment::of(&packet).ok()?;
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (packet.src(), packet.dst()) else {
            return None;
        };
        let header = ETHERNET + packet.header_len();
        Some(Self {
            from: (src, segment.sport()),
            to: (dst, segment.dport()),
            flags: segment.flags(),
            header,
            payload: header + segment.header_len(),
            end: ETHERNET + packet.total_len(),
        })
    }

    /// The payload.
    pub fn payload(&self) -> Range<usize> {
        self.payload..self.end
    }

    /// The option that carries a marker or a CONFIRM.
    pub fn our_option(&self, frame: &[u8]) -> Option<Range<usize>> {
        let id = EXID.to_be_bytes();
        let mut at = self.header + tcp::HEADER_LEN;
        while at + 1 < self.payload {
            let length = match frame[at] {
                0 => return None,
                1 => 1,
                _ => usize::from(frame[at + 1]),
            };
            if length == 0 || at + length > self.payload {
                return None;
            }
            if frame[at] == EXPERIMENT_1 && frame.get(at + 2..at + 4) == Some(&id[..]) {
                return Some(at..at + length);
            }
            at += length;
        }
        None
    }

    /// Makes the checksums of `frame`, which was changed, right again.
    pub fn mend(&self, frame: &mut [u8]) {
        let (ip, tcp) = (ETHERNET..self.header, self.header..self.end);
        put(frame, ETHERNET + 10, 0);
        let sum = Sum::default().bytes(&frame[ip]).checksum();
        put(frame, ETHERNET + 10, sum);
        let at = self.header + CHECKSUM;
        put(frame, at, 0);
        let address = |at: usize| {
            let bytes = &frame[ETHERNET + at..ETHERNET + at + 4];
            IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default())
        };
        let sum = Sum::pseudo_header(address(12), address(16), ip::TCP, tcp.len())
            .bytes(&frame[tcp])
            .checksum();
        put(frame, at, sum);
    }

    /// The same with another source.
    pub fn with_source(&self, frame: &[u8], from: (Ipv4Addr, u16)) -> Vec<u8> {
        self.readdressed(frame, 12, 0, from)
    }

    /// The same with another destination.
    pub fn with_destination(&self, frame: &[u8], to: (Ipv4Addr, u16)) -> Vec<u8> {
        self.readdressed(frame, 16, 2, to)
    }

    fn readdressed(
        &self,
        frame: &[u8],
        address_at: usize,
        port_at: usize,
        (address, port): (Ipv4Addr, u16),
    ) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let at = ETHERNET + address_at;
        frame[at..at + 4].copy_from_slice(&address.octets());
        put(&mut frame, self.header + port_at, port);
        self.mend(&mut frame);
        frame
    }
}

/// `frame` without our option, and a SYN or SYN-ACK without its payload, as a middlebox forwards that
/// takes away what it does not know.
pub fn stripped(frame: &[u8]) -> Result<Vec<u8>> {
    let packet = packet(frame).context("no packet to strip")?;
    let segment = tcp::Segment::of(&packet)?;
    let edit = TcpEdit::new(&packet)?.remove_exid();
    let edit = if segment.flags().syn() {
        edit.payload(&[])
    } else {
        edit
    };
    Ok([&frame[..ETHERNET], &edit.finish()?].concat())
}

/// `frame` with our marker among its options, as a pod could write it.
pub fn marked(frame: &[u8]) -> Result<Vec<u8>> {
    // A pod leaves its checksums to the interface.
    let mut whole = frame.to_vec();
    Segment::parse(frame)
        .context("no segment to mark")?
        .mend(&mut whole);
    let packet = packet(&whole).context("no packet to mark")?;
    let marked = TcpEdit::new(&packet)?.add_option(&MARKER).finish()?;
    Ok(beside(frame, &marked))
}

/// The frame that goes where `frame` went and carries `packet`.
pub fn beside(frame: &[u8], packet: &[u8]) -> Vec<u8> {
    [&frame[..ETHERNET], packet].concat()
}

/// What an Ethernet frame carries.
pub fn packet_of(frame: &[u8]) -> &[u8] {
    &frame[ETHERNET..]
}

fn packet(frame: &[u8]) -> Option<ip::Packet<'_>> {
    if frame.get(12..14)? != [0x08, 0x00] {
        return None;
    }
    ip::Packet::parse(frame.get(ETHERNET..)?).ok()
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
