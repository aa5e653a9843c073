//! Does any change of a token open a connection?

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

use super::*;

/// Mutations that meet one pair of handshakes before a new one is made. Each takes a millisecond, so that buckets
/// fill up again, and all of them fit into the life of a HELLO.
const ROUND: u64 = 2_000;
/// HELLO's proof, which no transcript covers: another one makes no other handshake.
const PROOF: std::ops::Range<usize> = HEADER..HEADER + hello::PROOF_LEN;

#[test]
fn row_3_a_hundred_thousand_mutated_handshakes_open_nothing() {
    mutate(100_000);
}

/// `make mutated`; one to five minutes in a release build, by the machine.
#[test]
#[ignore = "takes minutes"]
fn row_3_ten_million_mutated_handshakes_open_nothing() {
    mutate(10_000_000);
}

fn mutate(count: u64) {
    let mut rng = ChaCha20Rng::seed_from_u64(11);
    let mut made = 0;
    let mut reached = [0u64; 3];
    while made < count {
        let mut stages = Stages::new(made);
        for ms in 10..10 + ROUND.min(count - made) {
            for (stage, count) in reached.iter_mut().enumerate() {
                if made % 3 == stage as u64 {
                    *count += u64::from(stages.attack(stage, &mut rng, ms));
                }
            }
            made += 1;
        }
        stages.the_genuine_one_opens();
    }
    // Not all of them stop at the first check: some get as far as an answer, and open nothing even so.
    assert!(reached[0] > 0, "no mutated HELLO was ever answered");
}

/// Three connections of the same pods, each held where one token is due, and the genuine tokens of a fourth.
struct Stages {
    conns: [Conn; 3],
    ends: [(Node, Node); 3],
    /// SYN with HELLO, SYN-ACK with REPLY, ACK with CONFIRM: as they are due.
    due: [Vec<u8>; 3],
    /// The same of another connection, to take pieces from.
    others: [Vec<u8>; 3],
}

impl Stages {
    fn new(seed: u64) -> Self {
        let mut held = [0, 1, 2, 3].map(|stage: u64| {
            let (a, b, conn) = in_cluster();
            let conn = Conn {
                cport: 40_000 + stage as u16,
                cisn: (seed as u32).wrapping_mul(77) + stage as u32,
                ..conn
            };
            let mut ends = (a, b);
            let due = genuine(&mut ends, &conn, stage.min(2) as usize);
            (conn, ends, due)
        });
        let others = held[3].2.clone();
        let due = [0, 1, 2].map(|stage: usize| held[stage].2[stage].clone());
        let conns = [0, 1, 2].map(|stage: usize| held[stage].0.clone());
        let mut ends = held
            .iter_mut()
            .map(|h| std::mem::replace(&mut h.1, blank()));
        Self {
            conns,
            due,
            others,
            ends: std::array::from_fn(|_| ends.next().unwrap()),
        }
    }

    /// Sends one mutation of the token that is due; whether it was answered. Fails when it opens
    /// something.
    fn attack(&mut self, stage: usize, rng: &mut ChaCha20Rng, ms: u64) -> bool {
        let due = &self.due[stage];
        let token = token(due, stage);
        let mut mutated = change(rng, &token, &self::token(&self.others[stage], stage));
        let bound = |token: &[u8]| match stage {
            0 if token.len() > PROOF.end => [&token[..PROOF.start], &token[PROOF.end..]].concat(),
            _ => token.to_vec(),
        };
        if bound(&mutated) == bound(&token) {
            return false;
        }
        // Half of them by somebody who has the segment key.
        if stage == 0 && mutated.len() >= PROOF.end && rng.next_u32().is_multiple_of(2) {
            prove_again(&mut mutated, "west");
        }
        let Some(packet) = with_token(due, stage, &mutated) else {
            return false;
        };
        let (a, b) = &mut self.ends[stage];
        let conn = &self.conns[stage];
        match stage {
            0 => {
                let Handled::Rewrite { .. } = to_pod(b, &packet, ms) else {
                    return false;
                };
                let Handled::Rewrite { packet, .. } =
                    b.handle_packet(Path::FromPod, &conn.syn_ack(), at(ms))
                else {
                    return false;
                };
                let answered = to_pod(a, &packet, ms);
                assert!(
                    matches!(answered, Handled::Drop(_)),
                    "HELLO {mutated:02x?} was answered by a REPLY that holds: {answered:?}"
                );
                true
            }
            1 => {
                let handled = to_pod(a, &packet, ms);
                assert!(matches!(handled, Handled::Drop(_)), "REPLY {mutated:02x?}");
                false
            }
            _ => {
                let handled = to_pod(b, &packet, ms);
                assert!(
                    matches!(handled, Handled::Drop(_)),
                    "CONFIRM {mutated:02x?}"
                );
                false
            }
        }
    }

    /// Nothing was broken by what came: the tokens that are due still do what they are for.
    fn the_genuine_one_opens(&mut self) {
        let [_, (a1, _), (_, b2)] = &mut self.ends;
        into(a1, &self.due[1], at(10 + ROUND));
        let handled = to_pod(b2, &self.due[2], 10 + ROUND);
        let established = |mark: &Mark| *mark == Mark::Established;
        assert!(
            matches!(&handled, Handled::Rewrite { mark, .. } if established(mark)),
            "{handled:?}"
        );
    }
}

/// Tokens of one handshake up to `last`; the last one is not delivered.
fn genuine((a, b): &mut (Node, Node), conn: &Conn, last: usize) -> [Vec<u8>; 3] {
    let mut tokens = [const { Vec::new() }; 3];
    tokens[0] = out(a, &conn.syn(), at(1));
    if last > 0 {
        into(b, &tokens[0], at(2));
        tokens[1] = out(b, &conn.syn_ack(), at(3));
    }
    if last > 1 {
        into(a, &tokens[1], at(4));
        tokens[2] = out(a, &conn.ack(), at(5));
    }
    tokens
}

fn blank() -> (Node, Node) {
    let (a, b, _) = in_cluster();
    (a, b)
}

/// HELLO and REPLY are payloads, CONFIRM is an option: 12 bytes of timestamps and no-ops stand before it.
fn token(packet: &[u8], stage: usize) -> Vec<u8> {
    match stage {
        0 | 1 => tcp_payload(packet).to_vec(),
        _ => {
            let packet = ip::Packet::parse(packet).unwrap();
            let segment = wire::tcp::Segment::of(&packet).unwrap();
            match segment.our_option() {
                wire::marker::OurOption::Confirm(mac) => mac.to_vec(),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn with_token(packet: &[u8], stage: usize, token: &[u8]) -> Option<Vec<u8>> {
    let parsed = ip::Packet::parse(packet).unwrap();
    let edit = TcpEdit::new(&parsed).unwrap();
    match stage {
        0 | 1 => edit.payload(token).finish().ok(),
        _ => {
            let option = [&[0xfd, token.len() as u8 + 4, 0x4c, 0x42], token].concat();
            edit.remove_exid().add_option(&option).finish().ok()
        }
    }
}

/// `token` with some of its bits, bytes or parts changed; `other` is a genuine one to take parts from.
fn change(rng: &mut ChaCha20Rng, token: &[u8], other: &[u8]) -> Vec<u8> {
    let mut new = token.to_vec();
    for _ in 0..=rng.next_u32() % 3 {
        let length = new.len().max(1) as u32;
        let at = (rng.next_u32() % length) as usize;
        let end = (at + 1 + (rng.next_u32() % 32) as usize).min(new.len());
        match rng.next_u32() % 8 {
            0..=2 => new[at] ^= 1 << (rng.next_u32() % 8),
            3 => rng.fill_bytes(&mut new[at..end]),
            4 => {
                let end = end.min(other.len()).max(at.min(other.len()));
                let from = &other[at.min(other.len())..end];
                new[at..at + from.len()].copy_from_slice(from);
            }
            5 => {
                let from = (rng.next_u32() % length) as usize;
                let size = (end - at).min(new.len() - from);
                new.copy_within(from..from + size, at);
            }
            6 if new.len() > 20 => new.truncate(at.max(20)),
            6 => new[at] = 0,
            _ if new.len() < 1_000 && token.len() > 16 => new.extend_from_within(at..end),
            _ => new.swap(at, end - 1),
        }
    }
    new
}
