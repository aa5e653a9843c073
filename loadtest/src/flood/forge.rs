//! The packets of a flood: made once, and changed in the few bytes in which each differs.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow};
use wire::{
    checksum::Sum,
    edit::TcpEdit,
    hello::{self, Destination, Hello, HelloHeader, SegmentProof},
    ip,
    marker::MARKER,
    tcp::{Flags, Segment},
};

/// Where things stand in an IPv4 packet without options, and in its TCP header.
const IP_SUM: Range<usize> = 10..12;
const SRC: Range<usize> = 12..16;
const TCP: usize = ip::V4_HEADER_LEN;
const SPORT: Range<usize> = TCP..TCP + 2;
const SEQ: Range<usize> = TCP + 4..TCP + 8;
const SUM: Range<usize> = TCP + 16..TCP + 18;
/// The same in a HELLO.
const NONCE: Range<usize> = 8..24;
const TIMESTAMP: Range<usize> = 24..32;
const ISN: Range<usize> = 32..36;
const MAC: Range<usize> = hello::HEADER_LEN + 8..hello::HEADER_LEN + 24;
/// What every Linux SYN has: MSS 1460, SACK permitted, no-op, window scale 7.
const OPTIONS: [u8; 12] = [2, 4, 0x05, 0xb4, 4, 2, 1, 3, 3, 7, 1, 1];
/// A credential of the usual size.
const CREDENTIAL: usize = 420;

/// Addresses that packets claim to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    base: u32,
    /// Bits that differ.
    free: u32,
}

impl Sources {
    /// A single one.
    pub fn one(address: Ipv4Addr) -> Self {
        Self {
            base: address.into(),
            free: 0,
        }
    }

    /// `ADDRESS` or `ADDRESS/LENGTH`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, length) = text.split_once('/').unwrap_or((text, "32"));
        let address: Ipv4Addr = address
            .parse()
            .map_err(|_| "it is an IPv4 address or prefix, such as 10.1.1.0/24")?;
        let length: u32 = match length.parse() {
            Ok(length) if length <= 32 => length,
            _ => return Err("a prefix has a length of 0 to 32".into()),
        };
        let free = u32::MAX.checked_shr(length).unwrap_or(0);
        Ok(Self {
            base: u32::from(address) & !free,
            free,
        })
    }

    fn pick(self, dice: u32) -> Ipv4Addr {
        (self.base | dice & self.free).into()
    }
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv4Addr::from(self.base);
        write!(f, "{address}/{}", self.free.leading_zeros())
    }
}

/// What kind of packets.
pub enum Recipe {
    /// These, in turn.
    Replayed(Vec<Vec<u8>>),
    /// Copies of this one, each with a source, port and sequence number of its own.
    Made {
        /// A valid packet.
        packet: Vec<u8>,
        /// Where its HELLO begins, if it has one.
        hello: Option<usize>,
        sources: Sources,
    },
}

impl Recipe {
    /// Plain SYNs, as sockets send them.
    pub fn plain(sources: Sources, target: SocketAddrV4) -> Result<Self> {
        Ok(Self::Made {
            packet: syn(sources.pick(0), target)?,
            hello: None,
            sources,
        })
    }

    /// SYNs with a HELLO whose proof does not hold: credential, destination and key id as in `template`,
    /// a packet that was seen, or made up.
    pub fn forged(sources: Sources, target: SocketAddrV4, template: Option<&[u8]>) -> Result<Self> {
        let plain = syn(sources.pick(0), target)?;
        let token = match template {
            Some(packet) => hello_of(packet)
                .context("the template has no HELLO")?
                .encode(),
            None => made_up(target),
        };
        let packet = ip::Packet::parse(&plain)?;
        let packet = TcpEdit::new(&packet)?
            .add_option(&MARKER)
            .payload(&token)
            .finish()?;
        Ok(Self::Made {
            hello: Some(packet.len() - token.len()),
            packet,
            sources,
        })
    }
}

/// The HELLO of `packet`, if it is a SYN with one.
pub fn hello_of(packet: &[u8]) -> Option<Hello<'_>> {
    let packet = ip::Packet::parse(packet).ok()?;
    let segment = Segment::of(&packet).ok()?;
    let marked = segment.our_option() == wire::marker::OurOption::Marker;
    let is_one = segment.flags().is_syn() && marked && !packet.is_v6();
    Hello::parse(segment.payload()).ok().filter(|_| is_one)
}

fn syn(source: Ipv4Addr, target: SocketAddrV4) -> Result<Vec<u8>> {
    let mut segment = vec![0; 20];
    segment[2..4].copy_from_slice(&target.port().to_be_bytes());
    segment[12] = ((20 + OPTIONS.len()) as u8 / 4) << 4;
    segment[13] = Flags::SYN;
    segment[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    segment.extend_from_slice(&OPTIONS);
    let (src, dst) = (IpAddr::V4(source), IpAddr::V4(*target.ip()));
    let mut packet = ip::with_header(src, dst, ip::TCP, &segment)
        .ok_or_else(|| anyhow!("no packet from {src} to {dst}"))?;
    close(&mut packet, source, *target.ip());
    Ok(packet)
}

fn made_up(target: SocketAddrV4) -> Vec<u8> {
    let header = HelloHeader {
        credential_len: CREDENTIAL as u16,
        nonce: [0; 16],
        timestamp: 0,
        isn: 0,
        destination: Destination {
            trust_domain: [0x5a; 16],
            range_id: 1,
            offset: [0; 16],
            port: target.port(),
        },
        credential_hash: [0x5a; 32],
    };
    let proof = SegmentProof {
        key_id: [0x5a; 8],
        mac: [0; 16],
    };
    hello::encode(&header.to_bytes(), &proof, &[0x5a; CREDENTIAL])
}

/// Writes both checksums.
fn close(packet: &mut [u8], source: Ipv4Addr, target: Ipv4Addr) {
    packet[IP_SUM].fill(0);
    let header = Sum::default().bytes(&packet[..TCP]).checksum();
    packet[IP_SUM].copy_from_slice(&header.to_be_bytes());
    packet[SUM].fill(0);
    let segment = &packet[TCP..];
    let sum = Sum::pseudo_header(source.into(), target.into(), ip::TCP, segment.len());
    let checksum = sum.bytes(segment).checksum().to_be_bytes();
    packet[SUM].copy_from_slice(&checksum);
}

/// Makes packet after packet.
pub struct Forge {
    recipe: Recipe,
    dice: u64,
    turn: usize,
}

impl Forge {
    /// Begins with `seed`.
    pub fn new(recipe: Recipe, seed: u64) -> Self {
        Self {
            recipe,
            dice: seed,
            turn: 0,
        }
    }

    /// Writes the next packet into `out`.
    pub fn next(&mut self, out: &mut Vec<u8>) {
        let random = [
            self.roll(),
            self.roll(),
            self.roll(),
            self.roll(),
            self.roll(),
        ];
        match &self.recipe {
            Recipe::Replayed(packets) => {
                out.clone_from(&packets[self.turn % packets.len()]);
                self.turn += 1;
            }
            Recipe::Made {
                packet,
                hello,
                sources,
            } => {
                out.clone_from(packet);
                let source = sources.pick(random[0] as u32);
                out[SRC].copy_from_slice(&source.octets());
                // Above the well-known ports.
                let port = 1_024 + (random[0] >> 32) % 64_512;
                out[SPORT].copy_from_slice(&(port as u16).to_be_bytes());
                let sequence = (random[1] as u32).to_be_bytes();
                out[SEQ].copy_from_slice(&sequence);
                if let Some(token) = hello.and_then(|at| out.get_mut(at..)) {
                    let two = |a: u64, b: u64| (u128::from(a) << 64 | u128::from(b)).to_be_bytes();
                    token[NONCE].copy_from_slice(&two(random[1], random[2]));
                    token[TIMESTAMP].copy_from_slice(&now().to_be_bytes());
                    token[ISN].copy_from_slice(&sequence);
                    // One in 2^128 would hold.
                    token[MAC].copy_from_slice(&two(random[3], random[4]));
                }
                let target = [out[16], out[17], out[18], out[19]];
                close(out, source, target.into());
            }
        }
    }

    /// splitmix64: it only has to be different each time.
    fn roll(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.dice ^ self.dice >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, as in a HELLO.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    const TARGET: &str = "10.2.1.10:8080";

    fn made(recipe: Recipe, count: usize) -> Vec<Vec<u8>> {
        let mut forge = Forge::new(recipe, 7);
        let mut packet = Vec::new();
        let mut next = || {
            forge.next(&mut packet);
            packet.clone()
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn forged_packets_are_syns_with_a_hello_that_only_lacks_its_proof() {
        let sources = Sources::parse("10.1.1.0/28").unwrap();
        let target = TARGET.parse().unwrap();
        let seen = made(Recipe::forged(sources, target, None).unwrap(), 1).remove(0);
        let copied = Recipe::forged(sources, target, Some(&seen)).unwrap();
        let (mut nonces, mut macs, mut from) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for packet in made(copied, 200) {
            let hello = hello_of(&packet).unwrap();
            let template = hello_of(&seen).unwrap();
            let ip = ip::Packet::parse(&packet).unwrap();
            let segment = Segment::of(&ip).unwrap();
            assert!(segment.checksum_holds(ip.src(), ip.dst()));
            assert_eq!(
                (segment.dport(), ip.dst().to_string()),
                (8080, "10.2.1.10".into())
            );
            assert_eq!(hello.header.isn, segment.seq());
            assert!(now() - hello.header.timestamp < 10_000);
            assert_eq!(hello.header.destination, template.header.destination);
            assert_eq!(hello.proof.key_id, template.proof.key_id);
            assert_eq!(hello.credential, template.credential);
            nonces.insert(hello.header.nonce);
            macs.insert(hello.proof.mac);
            from.insert(ip.src().to_string());
        }
        assert_eq!((nonces.len(), macs.len(), from.len()), (200, 200, 16));
        assert!(from.contains("10.1.1.15") && !from.contains("10.1.1.16"));
    }

    #[test]
    fn plain_packets_are_valid_syns_and_carry_nothing_of_ours() {
        let own = Sources::one(Ipv4Addr::new(10, 1, 1, 10));
        for packet in made(Recipe::plain(own, TARGET.parse().unwrap()).unwrap(), 20) {
            let ip = ip::Packet::parse(&packet).unwrap();
            let segment = Segment::of(&ip).unwrap();
            assert!(segment.checksum_holds(ip.src(), ip.dst()));
            assert!(segment.flags().is_syn() && segment.payload().is_empty());
            assert_eq!(segment.our_option(), wire::marker::OurOption::Absent);
            assert_eq!(ip.src().to_string(), "10.1.1.10");
        }
    }

    #[test]
    fn replayed_packets_are_as_they_were() {
        let packets = vec![vec![1, 2], vec![3]];
        let played = made(Recipe::Replayed(packets), 3);
        assert_eq!(played, [vec![1, 2], vec![3], vec![1, 2]]);
    }

    #[test]
    fn sources_are_read_as_addresses_and_prefixes() {
        let words = |text| Sources::parse(text).map(|sources| sources.to_string());
        assert_eq!(words("10.1.1.7").unwrap(), "10.1.1.7/32");
        assert_eq!(words("10.1.1.7/24").unwrap(), "10.1.1.0/24");
        assert_eq!(words("0.0.0.0/0").unwrap(), "0.0.0.0/0");
        for wrong in ["", "10.1.1", "10.1.1.0/33", "10.1.1.0/", "::1"] {
            assert!(words(wrong).is_err(), "{wrong}");
        }
    }
}
