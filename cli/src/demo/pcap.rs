//! Reads what tcpdump wrote: the classic capture format, microseconds, in this machine's byte order
//! (pcap-savefile(5)).
//!
//! ```text
//! file   0..4 magic a1b2c3d4   4..20 version, zone, precision, snapshot length   20..24 link type
//! record 0..8 time   8..12 bytes kept   12..16 bytes on the wire   16.. the frame
//! ```

use std::{
    fs::File,
    io::{BufReader, ErrorKind, Read},
    net::Ipv4Addr,
    path::Path,
};

use anyhow::{Context, Result, bail};

use super::plan::PSP_PORT;

/// More than any snapshot length that tcpdump takes.
const MAX_FRAME: u32 = 262_144;
/// Ethernet as link type.
const ETHERNET: u32 = 1;

/// Calls `visit` with every Ethernet frame of the capture.
pub fn for_each(path: &Path, mut visit: impl FnMut(&[u8])) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut header = [0; 24];
    reader
        .read_exact(&mut header)
        .with_context(|| format!("{} is no capture", path.display()))?;
    if (word(&header, 0), word(&header, 20)) != (0xa1b2_c3d4, ETHERNET) {
        bail!("{} is no Ethernet capture of this machine", path.display());
    }
    let mut frame = Vec::new();
    loop {
        let mut record = [0; 16];
        match reader.read_exact(&mut record) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e).context("reading the capture"),
        }
        let kept = word(&record, 8);
        if kept > MAX_FRAME {
            bail!("{} is damaged", path.display());
        }
        frame.resize(kept as usize, 0);
        reader
            .read_exact(&mut frame)
            .with_context(|| format!("{} is cut short", path.display()))?;
        visit(&frame);
    }
}

/// What an IP packet is, in words; `None` for other frames (ARP).
pub fn describe_ip(frame: &[u8]) -> Option<String> {
    let payload = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => {
            let protocol = payload.get(9)?;
            let address = |at: usize| {
                let bytes: [u8; 4] = payload.get(at..at + 4)?.try_into().ok()?;
                Some(Ipv4Addr::from(bytes))
            };
            let (from, to) = (address(12)?, address(16)?);
            let ports = match transport(payload) {
                Some([from, to]) => format!(" ports {from} -> {to}"),
                None => String::new(),
            };
            Some(format!("{from} -> {to} protocol {protocol}{ports}"))
        }
        [0x86, 0xdd] => Some(format!("IPv6, next header {}", payload.get(6)?)),
        _ => None,
    }
}

/// Source and destination port of a UDP packet over IPv4.
pub fn udp_ports(frame: &[u8]) -> Option<[u16; 2]> {
    let payload = frame.get(14..)?;
    let is_udp = frame.get(12..14)? == [0x08, 0x00] && payload.get(9) == Some(&17);
    is_udp.then(|| transport(payload)).flatten()
}

/// Which key a tunnel packet over IPv4 was sealed with, and its counter: the receiver's address and SPI,
/// and the IV (docs/spec/psp.md).
pub fn tunnel_counter(frame: &[u8]) -> Option<((Ipv4Addr, u32), u64)> {
    let [_, to] = udp_ports(frame)?;
    let packet = frame.get(14..).filter(|_| to == PSP_PORT)?;
    let header = packet.get(usize::from(packet.first()? & 0xf) * 4 + 8..)?;
    let receiver: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let spi = u32::from_be_bytes(header.get(4..8)?.try_into().ok()?);
    let iv = u64::from_be_bytes(header.get(8..16)?.try_into().ok()?);
    Some(((receiver.into(), spi), iv))
}

/// The UDP port that an ICMP error over IPv4 says nobody listens on (RFC 792: type 3, code 3).
pub fn refused_port(frame: &[u8]) -> Option<u16> {
    let packet = frame.get(14..)?;
    let is_icmp = frame.get(12..14)? == [0x08, 0x00] && packet.get(9) == Some(&1);
    let message = packet.get(usize::from(packet.first()? & 0xf) * 4..)?;
    let is_refusal = is_icmp && message.get(..2)? == [3, 3];
    let quoted = message.get(8..).filter(|_| is_refusal)?;
    let is_udp = quoted.get(9) == Some(&17);
    transport(quoted).filter(|_| is_udp).map(|[_, to]| to)
}

/// The first four bytes after the IPv4 header, of an unfragmented or first packet.
fn transport(packet: &[u8]) -> Option<[u16; 2]> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
    let ports = packet.get(header..header + 4).filter(|_| fragment == 0)?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some([port(0), port(2)])
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn udp_frame() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0]);
        frame.extend([192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend([0x03, 0xe8, 0x11, 0x51, 0, 12, 0, 0]);
        frame
    }

    fn capture(frames: &[&[u8]]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
        file.extend([0; 16]);
        file.extend(1_u32.to_ne_bytes());
        for frame in frames {
            file.extend([0; 8]);
            let length = u32::try_from(frame.len()).unwrap().to_ne_bytes();
            file.extend([length, length].concat());
            file.extend(*frame);
        }
        file
    }

    #[test]
    fn frames_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let udp = udp_frame();
        std::fs::write(&path, capture(&[b"first frame", &udp])).unwrap();
        let mut seen = Vec::new();
        for_each(&path, |frame| seen.push(frame.to_vec())).unwrap();
        assert_eq!(seen, [b"first frame".to_vec(), udp]);
    }

    #[test]
    fn damage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pcap");
        let whole = capture(&[b"frame"]);
        for damaged in [
            &whole[..10],
            &whole[..whole.len() - 1],
            b"not a capture, but long enough",
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert!(for_each(&path, |_| {}).is_err());
        }
    }

    #[test]
    fn a_tunnel_packet_says_its_key_and_counter() {
        let mut frame = udp_frame();
        frame[36..38].copy_from_slice(&PSP_PORT.to_be_bytes());
        frame.extend([4, 1, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9]);
        let key = (Ipv4Addr::new(192, 0, 2, 2), 0x102);
        assert_eq!(tunnel_counter(&frame), Some((key, 9)));
        assert_eq!(tunnel_counter(&frame[..frame.len() - 1]), None);
        assert_eq!(tunnel_counter(&udp_frame()), None);
    }

    #[test]
    fn packets_are_told_apart() {
        let udp = udp_frame();
        assert_eq!(udp_ports(&udp), Some([1000, 4433]));
        assert_eq!(
            describe_ip(&udp).unwrap(),
            "192.0.2.1 -> 192.0.2.2 protocol 17 ports 1000 -> 4433"
        );
        let mut arp = udp.clone();
        arp[13] = 0x06;
        assert_eq!((describe_ip(&arp), udp_ports(&arp)), (None, None));
        let mut fragment = udp.clone();
        fragment[21] = 1;
        assert_eq!(udp_ports(&fragment), None);
        let mut refusal = udp[..14].to_vec();
        refusal.extend([0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0]);
        refusal.extend([192, 0, 2, 2, 192, 0, 2, 1, 3, 3, 0, 0, 0, 0, 0, 0]);
        refusal.extend(&udp[14..]);
        assert_eq!(refused_port(&refusal), Some(4433));
        let mut other = refusal.clone();
        other[35] = 1;
        assert_eq!((refused_port(&other), refused_port(&udp)), (None, None));
        for length in 0..refusal.len() {
            let start = &refusal[..length];
            let _ = (describe_ip(start), udp_ports(start), refused_port(start));
            let _ = tunnel_counter(start);
        }
    }
}
