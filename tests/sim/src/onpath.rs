//! An attacker that stands before a node and takes hold of a connection that is being opened to one
//! of its pods.
//!
//! *Steals*: the HELLO goes on from another port, so that the pod's answer is for nobody; the
//! attacker, who sees the answer, completes the connection itself, as far as it can.
//! *Relays*: the whole connection goes to another pod of the cluster, and its answers come back as
//! if from the pod that was dialled.
//! *Splices*: the next part of any handshake becomes that of the connection before.

use std::net::IpAddr;

use etherparse::TcpHeader;
use wire::flow::FlowKey;

use crate::{
    dice::Dice,
    sight::{Sight, timestamp, write},
};

/// Where HELLO's destination has its IPv4 address, and where its segment proof is.
const OFFSET: std::ops::Range<usize> = 66..70;
const PROOF: std::ops::Range<usize> = 104..128;
/// Bytes of HELLO before the segment proof, and before the credential.
const HELLO_HEADER: usize = 104;
const HELLO: usize = 128;
/// What is sent on a connection that was stolen.
pub const LOOT: &[u8] = b"stolen";

/// What the attacker does.
#[derive(Clone, Debug, Default)]
pub struct OnPath {
    grip: Option<Grip>,
    /// The last CONFIRM that it saw pass.
    confirm: Option<Vec<u8>>,
    /// The last HELLO and the last REPLY.
    hello: Option<Vec<u8>>,
    reply: Option<Vec<u8>>,
}

/// What it does with the next connection that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grips {
    /// It goes on from another port, and the attacker completes it.
    Steals,
    /// All of it goes to another pod.
    Relays,
    /// A part of it is that of the connection before.
    Splices,
}

#[derive(Clone, Copy, Debug)]
enum Grip {
    /// It waits for a HELLO.
    Steals,
    /// The same.
    Relays,
    /// It waits for any part of a handshake.
    Splices,
    /// As the pod sees it: from initiator to responder.
    Stolen(FlowKey, u32),
    /// As the initiator sees it, and the pod that it goes to instead.
    Relayed(FlowKey, IpAddr),
}

impl OnPath {
    /// Waits for a connection. Lets go of the one before.
    pub fn wait(&mut self, how: Grips) {
        self.grip = Some(match how {
            Grips::Steals => Grip::Steals,
            Grips::Relays => Grip::Relays,
            Grips::Splices => Grip::Splices,
        });
    }

    /// Lets go.
    pub fn let_go(&mut self) {
        self.grip = None;
    }

    /// A packet is about to reach a node. What reaches it instead; `neighbours` are other pods of
    /// its cluster.
    pub fn arrives(&mut self, packet: Vec<u8>, neighbours: &[IpAddr], dice: &mut Dice) -> Vec<u8> {
        let Some(sight) = Sight::of(&packet) else {
            return packet;
        };
        let before = self.remember(&sight);
        let key = sight.key;
        let opens = sight.hello().is_some();
        match self.grip {
            Some(Grip::Steals) if opens => {
                let Sight {
                    ip,
                    mut tcp,
                    payload,
                    ..
                } = sight;
                // No pod ever uses such a port.
                tcp.source_port |= 0x8000;
                let stolen = FlowKey {
                    sport: tcp.source_port,
                    ..key
                };
                self.grip = Some(Grip::Stolen(stolen, tcp.sequence_number));
                write(ip, tcp, payload)
            }
            Some(Grip::Relays) if opens => {
                let others: Vec<_> = neighbours
                    .iter()
                    .filter(|a| **a != key.dst && **a != key.src)
                    .collect();
                if others.is_empty() {
                    return packet;
                }
                let to = **dice.pick(&others);
                self.grip = Some(Grip::Relayed(key, to));
                redirect(&sight, to, dice.percent(50))
            }
            Some(Grip::Splices) => match before.and_then(|before| splice(&sight, &before, dice)) {
                Some(spliced) => {
                    self.grip = None;
                    spliced
                }
                None => packet,
            },
            // All of it alike, whether a SYN is altered or not: an enforcer looks at each.
            Some(Grip::Relayed(held, to)) if held == key => redirect(&sight, to, dice.percent(50)),
            _ => packet,
        }
    }

    /// Remembers a part of a handshake; the same part of the one before.
    fn remember(&mut self, sight: &Sight<'_>) -> Option<Vec<u8>> {
        if let Some(confirm) = sight.confirm() {
            return self.confirm.replace(confirm);
        }
        let part = match (sight.tcp.syn, sight.tcp.ack) {
            (true, false) => &mut self.hello,
            (true, true) => &mut self.reply,
            (false, _) => return None,
        };
        part.replace(sight.payload.to_vec())
    }

    /// A packet left a node. What the network gets instead, and what the node is sent.
    pub fn leaves(&mut self, packet: Vec<u8>, dice: &mut Dice) -> (Vec<u8>, Vec<Vec<u8>>) {
        let (Some(grip), Some(sight)) = (self.grip, Sight::of(&packet)) else {
            return (packet, Vec::new());
        };
        match grip {
            Grip::Stolen(key, isn) if sight.key == key.reversed() && sight.is_syn_ack() => {
                self.grip = None;
                let forged = self.complete(&sight, isn, dice);
                (packet, forged)
            }
            Grip::Relayed(key, to) if sight.key.src == to && sight.key.dport == key.sport => {
                let Sight {
                    mut ip,
                    tcp,
                    payload,
                    ..
                } = sight;
                if let IpAddr::V4(dialled) = key.dst {
                    ip.source = dialled.octets();
                }
                (write(ip, tcp, payload), Vec::new())
            }
            _ => (packet, Vec::new()),
        }
    }

    /// The ACK of a SYN-ACK with payload: without CONFIRM, with a made-up one, with another's.
    fn complete(&self, answer: &Sight<'_>, isn: u32, dice: &mut Dice) -> Vec<Vec<u8>> {
        let mut ip = answer.ip.clone();
        (ip.source, ip.destination) = (ip.destination, ip.source);
        let made_up = [&[253, 20, 0x4c, 0x42][..], &dice.bytes()[..16]].concat();
        let confirms = [None, Some(made_up), self.confirm.clone()];
        let forge = |confirm: Option<Vec<u8>>| {
            let (sport, dport) = (answer.tcp.destination_port, answer.tcp.source_port);
            let mut tcp = TcpHeader::new(sport, dport, isn.wrapping_add(1), 64_000);
            (tcp.ack, tcp.psh) = (true, true);
            tcp.acknowledgment_number = answer.tcp.sequence_number.wrapping_add(1);
            match confirm {
                None => tcp.set_options(&[timestamp()]),
                Some(option) => tcp.set_options_raw(&option),
            }
            .expect("it fits");
            write(ip.clone(), tcp, LOOT)
        };
        confirms.into_iter().map(forge).collect()
    }
}

/// The segment with what another connection had `before` in its place: all of it, or of a HELLO and
/// of a REPLY the end.
fn splice(sight: &Sight<'_>, before: &[u8], dice: &mut Dice) -> Option<Vec<u8>> {
    let mut tcp = sight.tcp.clone();
    let mut payload = sight.payload.to_vec();
    if sight.confirm().is_some() {
        tcp.set_options_raw(before).ok()?;
    } else {
        let from = *dice.pick(&[0, HELLO_HEADER, HELLO, payload.len().saturating_sub(16)]);
        payload.truncate(from);
        payload.extend_from_slice(before.get(from..)?);
    }
    Some(write(sight.ip.clone(), tcp, &payload))
}

/// The segment for another pod. If it `patches` a HELLO, that names the pod, too, and has no segment
/// proof then: the attacker cannot make one.
fn redirect(sight: &Sight<'_>, to: IpAddr, patches: bool) -> Vec<u8> {
    let (mut ip, tcp) = (sight.ip.clone(), sight.tcp.clone());
    let mut payload = sight.payload.to_vec();
    if let IpAddr::V4(to) = to {
        ip.destination = to.octets();
        if patches && sight.hello().is_some() {
            // The ranges of this world are /16: the offset is what follows.
            let [_, _, c, d] = to.octets();
            payload[OFFSET].copy_from_slice(&[0, 0, c, d]);
            payload[PROOF].fill(0);
        }
    }
    write(ip, tcp, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_redirects_both_ways_and_completes_what_it_stole() {
        let mut dice = Dice::new(1);
        let mut onpath = OnPath::default();
        let [a, b, c] = [[10, 1, 1, 10], [10, 2, 1, 10], [10, 2, 2, 10]];
        let syn = |flags: &str, payload: &[u8]| {
            let mut tcp = TcpHeader::new(1025, 80, 7, 100);
            (tcp.syn, tcp.ack) = (flags.contains('S'), flags.contains('A'));
            let ip = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, a, b);
            write(ip.expect("short"), tcp, payload)
        };
        let mut hello = b"LBHE".to_vec();
        hello.resize(128, 1);
        hello.extend_from_slice(b"..p0-1-123456789..");
        let packet = syn("S", &hello);
        assert_eq!(
            onpath.arrives(packet.clone(), &[c.into()], &mut dice),
            packet
        );

        onpath.wait(Grips::Relays);
        let taken = onpath.arrives(packet.clone(), &[b.into(), c.into()], &mut dice);
        let sight = Sight::of(&taken).expect("a segment");
        assert_eq!(sight.key.dst, IpAddr::from(c));
        assert_eq!(sight.hello().expect("a HELLO").pod, "p0-1-123456789");
        let back = |key: FlowKey| {
            let mut tcp = TcpHeader::new(80, key.sport, 90, 100);
            (tcp.syn, tcp.ack, tcp.acknowledgment_number) = (true, true, 8);
            let ip = etherparse::Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, c, a);
            write(ip.expect("short"), tcp, b"")
        };
        let (answer, forged) = onpath.leaves(back(sight.key), &mut dice);
        assert_eq!(
            Sight::of(&answer).expect("a segment").key.src,
            IpAddr::from(b)
        );
        assert!(forged.is_empty());

        onpath.wait(Grips::Steals);
        let taken = onpath.arrives(syn("S", &hello), &[], &mut dice);
        let key = Sight::of(&taken).expect("a segment").key;
        assert_eq!(key.sport, 1025 | 0x8000);
        let mut reply = back(key);
        // From the pod that was dialled.
        reply[12..16].copy_from_slice(&b);
        let (_, forged) = onpath.leaves(reply, &mut dice);
        let acks = forged.iter().map(|f| Sight::of(f).expect("a segment"));
        let acks: Vec<_> = acks.collect();
        assert!(acks.iter().all(|s| s.key == key && s.payload == LOOT));
        assert!(acks.iter().all(|s| s.tcp.acknowledgment_number == 91));
        assert_eq!(acks.iter().filter(|s| s.confirm().is_some()).count(), 1);
    }
}
