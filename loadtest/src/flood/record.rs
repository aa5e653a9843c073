//! SYNs with a HELLO, as they crossed a wire: from a capture file, or from all interfaces of a network
//! namespace.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use super::forge::hello_of;
use crate::{
    netns::{self, Home},
    tap,
};

/// Ethernet header, and its type for IPv4.
const LINK: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
/// Link types of capture files (<https://www.tcpdump.org/linktypes.html>): Ethernet, raw IP, and what tcpdump
/// writes of "any" interface in its two forms, with the length before the packet.
const LINKS: [(u32, usize); 4] = [(1, LINK), (101, 0), (113, 16), (276, 20)];

/// The IPv4 packet behind `link` bytes, without padding, if it is a SYN with a HELLO.
fn signed_syn(frame: &[u8], link: usize) -> Option<Vec<u8>> {
    let packet = frame.get(link..)?;
    let length = u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]);
    let packet = packet.get(..length.into())?;
    hello_of(packet).map(|_| packet.to_vec())
}

/// All that a capture file holds: the classic format, of either byte order and resolution
/// (pcap-savefile(5)).
pub fn from_file(path: &Path) -> Result<Vec<Vec<u8>>> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    read(&file).with_context(|| format!("cannot use {}", path.display()))
}

fn read(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    let word = |at: usize| {
        let bytes = file.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_le_bytes)
    };
    let swap = match word(0) {
        Some(0xa1b2_c3d4 | 0xa1b2_3c4d) => false,
        Some(0xd4c3_b2a1 | 0x4d3c_b2a1) => true,
        Some(0x0a0d_0d0a) => {
            bail!("it is pcapng: `tcpdump -r FILE -w OTHER` makes the classic format of it")
        }
        _ => bail!("it is no capture of tcpdump"),
    };
    let word = |at| word(at).map(|w| if swap { w.swap_bytes() } else { w });
    let kind = word(20).context("it is cut short")? & 0xffff;
    let Some((_, link)) = LINKS.iter().find(|(number, _)| *number == kind) else {
        bail!("its link type {kind} is not supported; capture on an Ethernet interface");
    };
    let (mut at, mut packets) = (24, Vec::new());
    while let Some(kept) = word(at + 8) {
        let frame = file.get(at + 16..at + 16 + kept as usize);
        let frame = frame.context("it is cut short")?;
        packets.extend(signed_syn(frame, *link));
        at += 16 + kept as usize;
    }
    Ok(packets)
}

/// Up to `count` SYNs that pass within `limit` in the namespace `name`. One that crosses several interfaces is
/// taken once.
pub fn from_wire(name: &str, count: usize, limit: Duration) -> Result<Vec<Vec<u8>>> {
    Home::here()?.run(|| {
        netns::enter(name)?;
        let mut packets = Vec::<Vec<u8>>::new();
        tap::watch(limit, |frame| {
            if frame.get(12..LINK) == Some(&IPV4)
                && let Some(packet) = signed_syn(frame, LINK)
                && !packets.iter().any(|known| same(known, &packet))
            {
                packets.push(packet);
            }
            packets.len() >= count
        })?;
        Ok(packets)
    })
}

/// The same packet, seen before and after a router lowered its time to live.
fn same(a: &[u8], b: &[u8]) -> bool {
    let [a, b] = [a, b].map(|packet| hello_of(packet).map(|hello| hello.header));
    a == b
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::flood::forge::{Forge, Recipe, Sources};

    fn capture(kind: u32, frames: &[Vec<u8>], big: bool) -> Vec<u8> {
        let word = |word: u32| match big {
            true => word.to_be_bytes(),
            false => word.to_le_bytes(),
        };
        let mut file = [word(0xa1b2_c3d4).as_slice(), &[0; 16], &word(kind)].concat();
        for frame in frames {
            let length = word(frame.len() as u32);
            file.extend([&[0; 8], &length[..], &length, frame].concat());
        }
        file
    }

    fn forged() -> Vec<u8> {
        let target = "10.2.1.10:80".parse().unwrap();
        let recipe = Recipe::forged(Sources::parse("10.1.1.1").unwrap(), target, None).unwrap();
        let mut packet = Vec::new();
        Forge::new(recipe, 1).next(&mut packet);
        packet
    }

    #[test]
    fn only_syns_with_a_hello_are_taken_and_without_their_link() {
        let packet = forged();
        let frame = |link: usize, packet: &[u8]| [&vec![0; link][..], packet].concat();
        for (kind, link) in LINKS {
            let padded = [&frame(link, &packet)[..], &[0; 5]].concat();
            let other = frame(link, &packet[..60]);
            for big in [false, true] {
                let file = capture(kind, &[other.clone(), padded.clone()], big);
                assert_eq!(read(&file).unwrap(), [packet.as_slice()], "{kind} {big}");
            }
        }
    }

    #[test]
    fn what_is_no_capture_is_said() {
        let words = |file: &[u8]| read(file).unwrap_err().to_string();
        let whole = capture(1, &[forged()], false);
        assert!(words(&whole[..whole.len() - 1]).contains("cut short"));
        assert!(words(b"thesis").contains("no capture"));
        assert!(words(&capture(127, &[], false)).contains("link type 127"));
        assert!(words(&0x0a0d_0d0a_u32.to_le_bytes()).contains("pcapng"));
    }

    #[test]
    fn a_router_on_the_way_makes_no_other_packet_of_it() {
        let packet = forged();
        let mut later = packet.clone();
        later[8] -= 1;
        // Of the word that the time to live begins (RFC 1624).
        let [old, new] = [&packet, &later].map(|p| u16::from_be_bytes([p[8], p[9]]));
        let sum = u16::from_be_bytes([packet[10], packet[11]]);
        let sum = wire::checksum::update(sum, old, new);
        later[10..12].copy_from_slice(&sum.to_be_bytes());
        assert!(same(&packet, &later));
        let mut other = packet.clone();
        let nonce = packet.len() - hello_of(&packet).unwrap().encode().len() + 8;
        other[nonce] ^= 1;
        assert!(!same(&packet, &other));
    }
}
