//! An attacker on the path inside a cluster: it records what passes, and later replays it, alters
//! it with valid checksums, or lends it to other addresses.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4Header, TcpHeader};

use crate::dice::Dice;

/// How many packets it remembers.
const MEMORY: usize = 64;

/// What it recorded.
#[derive(Clone, Debug, Default)]
pub struct Attacker {
    seen: Vec<Vec<u8>>,
}

impl Attacker {
    /// A packet passes.
    pub fn observe(&mut self, packet: &[u8], dice: &mut Dice) {
        if self.seen.len() < MEMORY {
            self.seen.push(packet.to_vec());
        } else if dice.percent(20) {
            let place = dice.below(MEMORY);
            self.seen[place] = packet.to_vec();
        }
    }

    /// A packet to inject; `addresses` are those of pods it may lend a token to.
    pub fn strike(&self, addresses: &[IpAddr], dice: &mut Dice) -> Option<Vec<u8>> {
        if self.seen.is_empty() {
            return None;
        }
        let packet = dice.pick(&self.seen).clone();
        let (mut ip, rest) = Ipv4Header::from_slice(&packet).ok()?;
        let (mut tcp, payload) = TcpHeader::from_slice(rest).ok()?;
        let mut payload = payload.to_vec();
        let IpAddr::V4(other) = *dice.pick(addresses) else {
            return None;
        };
        match dice.below(7) {
            0 => return Some(packet),
            1 if !payload.is_empty() => {
                let place = dice.below(payload.len());
                payload[place] ^= 1 << dice.below(8);
            }
            2 => ip.source = other.octets(),
            3 => ip.destination = other.octets(),
            4 => tcp.sequence_number = tcp.sequence_number.wrapping_add(1),
            5 => tcp.source_port ^= 1,
            _ => {
                // What a middlebox does that knows no option of ours.
                tcp.set_options(&[]).ok()?;
                payload.clear();
            }
        }
        let length = tcp.header_len() + payload.len();
        ip.set_payload_len(length).ok()?;
        ip.protocol = IpNumber::TCP;
        ip.header_checksum = ip.calc_header_checksum();
        tcp.checksum = tcp.calc_checksum_ipv4(&ip, &payload).ok()?;
        let mut bytes = Vec::new();
        ip.write(&mut bytes).ok()?;
        tcp.write(&mut bytes).ok()?;
        bytes.extend_from_slice(&payload);
        Some(bytes)
    }
}
