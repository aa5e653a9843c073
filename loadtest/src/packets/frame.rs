//! The frame that is sent: a copy of one that was seen, of another size.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, bail};
use wire::{
    checksum::Sum,
    ethernet,
    ip::{self, Packet},
    tcp::Segment,
};

/// DSCP CS1, lower effort (RFC 8622 section 1): nothing on the way must hold up others for these, and who
/// counts them at the far end knows them by it.
pub const TOS: u8 = 0x20;
/// What the payload is made of.
const FILLER: u8 = 0x5a;

/// A segment of an established connection, as it left an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    link: Vec<u8>,
    addresses: (Ipv4Addr, Ipv4Addr),
    tcp: Vec<u8>,
    /// The sequence number after its data.
    end: u32,
}

impl Template {
    /// The frame, if it carries data to `target`, belongs neither to the beginning nor to the end of a connection, and
    /// was sent by the interface with the address `mac`.
    pub fn of(frame: &[u8], mac: [u8; 6], target: SocketAddrV4) -> Option<Self> {
        let ethernet = ethernet::Frame::parse(frame).ok()?;
        let packet = Packet::parse(ethernet.payload()).ok()?;
        let segment = Segment::of(&packet).ok()?;
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (packet.src(), packet.dst()) else {
            return None;
        };
        let flags = segment.flags();
        let established = flags.ack() && !(flags.syn() || flags.fin() || flags.rst());
        let ours = ethernet.src().0 == mac && SocketAddrV4::new(dst, segment.dport()) == target;
        (ours && established && !segment.payload().is_empty()).then(|| Self {
            link: frame[..ethernet.header_len()].to_vec(),
            addresses: (src, dst),
            tcp: segment.bytes()[..segment.header_len()].to_vec(),
            end: segment.seq().wrapping_add(segment.sequence_len()),
        })
    }

    /// A frame whose IP packet has `size` bytes. Its data ends where that of the template does: the far end has
    /// had it, and takes none of it.
    pub fn frame(&self, size: usize) -> Result<Vec<u8>> {
        let headers = ip::V4_HEADER_LEN + self.tcp.len();
        let Some(payload) = size.checked_sub(headers).filter(|payload| *payload > 0) else {
            bail!("the headers of this connection take {headers} bytes: --size must be above that");
        };
        let (src, dst) = self.addresses;
        let mut tcp = self.tcp.clone();
        let sequence = self.end.wrapping_sub(payload as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[16..18].fill(0);
        tcp.resize(tcp.len() + payload, FILLER);
        let sum = Sum::pseudo_header(src.into(), dst.into(), ip::TCP, tcp.len());
        let checksum = sum.bytes(&tcp).checksum();
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        let header = ip::v4_header((src, dst), ip::TCP, TOS, tcp.len());
        let header = header.context("an IP packet has at most 65,535 bytes")?;
        Ok([&self.link, &header[..], &tcp].concat())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use wire::tcp::Flags;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
    const PADDING: usize = 9;

    fn target() -> SocketAddrV4 {
        "10.2.1.10:8080".parse().unwrap()
    }

    /// A data segment with timestamps from 10.1.1.10:40000, and padding behind it.
    fn seen(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = vec![0; 32];
        tcp[..2].copy_from_slice(&40_000u16.to_be_bytes());
        tcp[2..4].copy_from_slice(&8_080u16.to_be_bytes());
        tcp[4..8].copy_from_slice(&10u32.to_be_bytes());
        tcp[8..12].copy_from_slice(&77u32.to_be_bytes());
        (tcp[12], tcp[13]) = (8 << 4, flags);
        tcp[20..24].copy_from_slice(&[1, 1, 8, 10]);
        tcp.extend(payload);
        let [src, dst] = [[10, 1, 1, 10], [10, 2, 1, 10]].map(IpAddr::from);
        let packet = ip::with_header(src, dst, ip::TCP, &tcp).unwrap();
        let link = ethernet::header(
            ethernet::Mac([2, 0, 0, 0, 0, 1]),
            ethernet::Mac(MAC),
            ethernet::IPV4,
        );
        [&link, &packet[..], &[0; PADDING]].concat()
    }

    #[test]
    fn the_copy_has_the_size_asked_for_and_only_old_data() {
        let data = seen(Flags::ACK, &[1; 64]);
        let template = Template::of(&data, MAC, target()).unwrap();
        for size in [64, 1_400] {
            let frame = template.frame(size).unwrap();
            assert_eq!(frame.len(), 14 + size);
            assert_eq!(frame[..14], data[..14]);
            let packet = Packet::parse(&frame[14..]).unwrap();
            assert_eq!((packet.total_len(), frame[15]), (size, TOS));
            assert!(Sum::default().bytes(&frame[14..34]).holds());
            let segment = Segment::of(&packet).unwrap();
            assert!(segment.checksum_holds(packet.src(), packet.dst()));
            assert_eq!((segment.sport(), segment.dport()), (40_000, 8_080));
            assert_eq!((segment.ack(), segment.header_len()), (77, 32));
            assert_eq!(segment.payload().len(), size - 52);
            let end = segment.seq().wrapping_add(segment.sequence_len());
            assert_eq!(end, 10 + 64);
        }
    }

    #[test]
    fn only_data_of_an_established_connection_that_left_this_interface_is_copied() {
        let of = |frame: &[u8]| Template::of(frame, MAC, target());
        for flags in [
            Flags::SYN,
            Flags::SYN | Flags::ACK,
            Flags::FIN | Flags::ACK,
            Flags::RST | Flags::ACK,
            0,
        ] {
            assert_eq!(of(&seen(flags, &[1; 5])), None, "{flags}");
        }
        assert_eq!(of(&seen(Flags::ACK, &[])), None, "no data");
        let data = seen(Flags::ACK, &[1; 5]);
        assert_eq!(of(&data[..50]), None, "cut short");
        assert_eq!(Template::of(&data, [2; 6], target()), None);
        let other = "10.2.1.10:8081".parse().unwrap();
        assert_eq!(Template::of(&data, MAC, other), None);
        assert!(of(&data).is_some());
    }

    #[test]
    fn a_size_without_room_for_data_is_refused() {
        let template = Template::of(&seen(Flags::ACK, &[1]), MAC, target()).unwrap();
        let words = template.frame(52).unwrap_err().to_string();
        assert!(words.contains("52 bytes"), "{words}");
        assert_eq!(template.frame(53).unwrap().len(), 14 + 53);
        assert!(template.frame(65_536).is_err());
    }
}
