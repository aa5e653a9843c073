//! An attacker on the path inside a cluster: it records what passes, and later replays it, alters
//! it with valid checksums, or lends it to other addresses.

use std::net::IpAddr;

use etherparse::Ipv4Header;

use crate::{
    dice::Dice,
    sight::{Sight, write},
    wires,
};

/// Where the sealed part of a tunnel packet begins: after Ethernet, IPv4, UDP and PSP.
const SEALED: usize = wires::HEADER + 20 + 8 + 16;
/// Where HELLO has its nonce.
const NONCE: usize = 8;
/// How many packets it remembers.
const MEMORY: usize = 64;

/// What it recorded.
#[derive(Clone, Debug, Default)]
pub struct Attacker {
    seen: Vec<Vec<u8>>,
    /// Of these, the tokens: they are worth most.
    tokens: Vec<Vec<u8>>,
    tunnelled: Vec<Vec<u8>>,
}

impl Attacker {
    /// A packet passes.
    pub fn observe(&mut self, packet: &[u8], dice: &mut Dice) {
        remember(&mut self.seen, packet, dice);
        if Sight::of(packet).is_some_and(|sight| sight.tcp.syn && sight.option().is_some()) {
            remember(&mut self.tokens, packet, dice);
        }
    }

    /// A frame passes between gateways.
    pub fn observe_tunnel(&mut self, frame: &[u8], dice: &mut Dice) {
        remember(&mut self.tunnelled, frame, dice);
    }

    /// A frame to inject between gateways.
    pub fn strike_tunnel(&self, clusters: usize, dice: &mut Dice) -> Option<Vec<u8>> {
        if self.tunnelled.is_empty() {
            return None;
        }
        let mut frame = dice.pick(&self.tunnelled).clone();
        match dice.below(6) {
            0 => {}
            1 | 2 => {
                let place = wires::HEADER + dice.below(frame.len() - wires::HEADER);
                frame[place] ^= 1 << dice.below(8);
            }
            3 => frame.truncate(wires::HEADER + dice.below(frame.len() - wires::HEADER)),
            4 => {
                // One head, another body.
                let other = dice.pick(&self.tunnelled);
                frame.truncate(SEALED);
                frame.extend_from_slice(other.get(SEALED..)?);
            }
            _ => {
                // What it heard inside a cluster, in clear, at the door of the tunnel.
                let packet = self.seen.get(dice.below(self.seen.len().max(1)))?.clone();
                let to = wires::wan_mac(dice.below(clusters));
                return Some(wires::frame(
                    to,
                    wires::wan_mac(dice.below(clusters)),
                    &packet,
                ));
            }
        }
        if dice.percent(30) {
            redirect(&mut frame, dice.below(clusters))?;
        }
        Some(frame)
    }

    /// A token as it passed, perhaps with another source.
    pub fn token(&self, source: Option<IpAddr>, dice: &mut Dice) -> Option<Vec<u8>> {
        if self.tokens.is_empty() {
            return None;
        }
        let packet = dice.pick(&self.tokens).clone();
        let Some(IpAddr::V4(source)) = source else {
            return Some(packet);
        };
        let sight = Sight::of(&packet)?;
        let mut ip = sight.ip.clone();
        ip.source = source.octets();
        Some(write(ip, sight.tcp.clone(), sight.payload))
    }

    /// A packet to inject; `addresses` are those of pods it may lend a token to.
    pub fn strike(&self, addresses: &[IpAddr], dice: &mut Dice) -> Option<Vec<u8>> {
        let choice = match dice.percent(50) {
            true => &self.tokens,
            false => &self.seen,
        };
        if choice.is_empty() {
            return None;
        }
        let packet = dice.pick(choice).clone();
        let sight = Sight::of(&packet)?;
        let (mut ip, mut tcp) = (sight.ip.clone(), sight.tcp.clone());
        let mut payload = sight.payload.to_vec();
        let IpAddr::V4(other) = *dice.pick(addresses) else {
            return None;
        };
        match dice.below(8) {
            0 => return Some(packet),
            1 if !payload.is_empty() => {
                let place = dice.below(payload.len());
                payload[place] ^= 1 << dice.below(8);
            }
            2 => ip.source = other.octets(),
            3 => ip.destination = other.octets(),
            4 => tcp.sequence_number = tcp.sequence_number.wrapping_add(1),
            5 => tcp.source_port ^= 1,
            // As if the HELLO were another one.
            6 if sight.hello().is_some() => payload[NONCE + dice.below(16)] ^= 1 << dice.below(8),
            _ => {
                // What a middlebox does that knows no option of ours.
                tcp.set_options(&[]).ok()?;
                payload.clear();
            }
        }
        Some(write(ip, tcp, &payload))
    }
}

fn remember(seen: &mut Vec<Vec<u8>>, bytes: &[u8], dice: &mut Dice) {
    if seen.len() < MEMORY {
        seen.push(bytes.to_vec());
    } else if dice.percent(20) {
        let place = dice.below(MEMORY);
        seen[place] = bytes.to_vec();
    }
}

/// Sends a tunnel packet to another gateway than it was for.
fn redirect(frame: &mut Vec<u8>, cluster: usize) -> Option<()> {
    let (mut ip, rest) = Ipv4Header::from_slice(frame.get(wires::HEADER..)?).ok()?;
    let IpAddr::V4(to) = wires::wan_address(cluster) else {
        return None;
    };
    ip.destination = to.octets();
    ip.header_checksum = ip.calc_header_checksum();
    let mut packet = Vec::new();
    ip.write(&mut packet).ok()?;
    packet.extend_from_slice(rest);
    *frame = wires::frame(wires::wan_mac(cluster), wires::wan_mac(cluster), &packet);
    Some(())
}
