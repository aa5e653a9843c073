//! How long it takes until every connected member enforces what one cluster changes: a revocation, other
//! keys in its bundle, another policy. Links of 100 ms that lose one message of a hundred, in virtual time,
//! with the machines of the gateways; `scripts/bench spread` runs it, and it prints a line of JSON per figure.
#![allow(
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    clippy::disallowed_macros
)]

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use handshake::admission::Target;
use identity::{ClaimLimits, IssuerKey, Mono, Now, SpiffeId, TrustDomain, UnixMillis};
use peering::peers::{OwnKeys, PeerConfig, Peering, PeeringConfig};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rand_core::Rng;

#[path = "../tests/peers/net.rs"]
mod net;

use net::{START, domain, hash, pin, policy, root, secs};

const SIZES: [usize; 3] = [10, 100, 1_000];
const LATENCY: Duration = Duration::from_millis(100);
/// Of a hundred messages so many are lost on each way, and sent again when QUIC's probe timer is over
/// (RFC 9002, section 6.2.1): three round trips at first.
const LOST: u32 = 1;
const AGAIN: Duration = Duration::from_millis(325);

/// {when, order, member, towards the member, bytes}.
type Flight = (Mono, u64, usize, bool, Vec<u8>);

/// One cluster in the middle, which is `east`, and members that know it alone.
struct Star {
    now: Mono,
    east: Peering,
    members: Vec<Peering>,
    names: Vec<TrustDomain>,
    numbers: HashMap<TrustDomain, usize>,
    flights: BinaryHeap<Reverse<Flight>>,
    order: u64,
    /// When the last message of each way arrives: none overtakes another.
    arrived: Vec<[Mono; 2]>,
    rng: ChaCha20Rng,
    sent: Vec<usize>,
}

fn machine(name: &str, seed: u64, at: Now, root: &[u8]) -> Peering {
    let key = || IssuerKey::from_seed(&[7; 32]);
    let rng = Box::new(ChaCha20Rng::seed_from_u64(seed));
    let config = PeeringConfig::new(domain(name));
    let mut made = Peering::new(config, key(), [], rng, at).unwrap();
    made.set_own_keys(keys(root, 1), at);
    made
}

fn keys(root: &[u8], issuers: u8) -> OwnKeys {
    let key = |number: u8| IssuerKey::from_seed(&[6 + number; 32]).public();
    OwnKeys {
        x509_roots: vec![root.to_vec()],
        issuer_keys: (1..=issuers).map(key).collect(),
        carried_labels: None,
    }
}

impl Star {
    fn new(size: usize) -> Self {
        let now = Mono(secs(1000));
        let root = root("all");
        let at = clock(now);
        let names: Vec<_> = (0..size).map(|n| domain(&format!("m{n}"))).collect();
        let peer = |trust_domain: &TrustDomain| PeerConfig {
            trust_domain: trust_domain.clone(),
            pin: Some(pin(&root)),
            ranges: None,
            mapped: std::collections::BTreeMap::new(),
            limits: ClaimLimits::default(),
            or_roots: Vec::new(),
            offer: ClaimLimits::default(),
            away: None,
        };
        let mut east = machine("east", 0, at, &root);
        east.set_peers(names.iter().map(peer).collect(), at)
            .unwrap();
        let members = (1..).zip(&names).map(|(seed, name)| {
            let mut member = machine(name.as_str(), seed, at, &root);
            member.set_peers(vec![peer(&domain("east"))], at).unwrap();
            member
        });
        let mut star = Self {
            now,
            east,
            members: members.collect(),
            numbers: names.iter().cloned().zip(0..).collect(),
            names,
            flights: BinaryHeap::new(),
            order: 0,
            arrived: vec![[now; 2]; size],
            rng: ChaCha20Rng::seed_from_u64(9),
            sent: vec![0; size],
        };
        let remote = SocketAddr::from(([192, 0, 2, 1], 4433));
        for number in 0..size {
            star.east
                .handle_connected(&star.names[number].clone(), remote, at);
            star.members[number].handle_connected(&domain("east"), remote, at);
            star.pump_member(number);
        }
        star.east
            .set_policy(hash("first"), &policy("east", "first"), at);
        star.pump_east();
        star.run(|_, _| true, secs(5));
        star.sent.fill(0);
        star
    }

    fn send(&mut self, number: usize, outward: bool, bytes: Vec<u8>) {
        let mut time = LATENCY;
        while self.rng.next_u32() % 100 < LOST {
            time += AGAIN;
        }
        let last = &mut self.arrived[number][usize::from(outward)];
        *last = self.now.after(time).max(*last);
        let at = *last;
        self.order += 1;
        self.flights
            .push(Reverse((at, self.order, number, outward, bytes)));
    }

    fn pump_east(&mut self) {
        while let Some((key, _)) = self.east.poll_persist() {
            self.east.handle_persisted(&key);
        }
        while self.east.poll_event().is_some() {}
        while let Some((peer, ..)) = self.east.poll_records() {
            assert!(self.east.handle_own_records(&peer, &[], 0).is_none());
        }
        while let Some((peer, bytes)) = self.east.poll_transmit() {
            let number = self.numbers[&peer];
            self.sent[number] += bytes.len();
            self.send(number, true, bytes);
        }
    }

    fn pump_member(&mut self, number: usize) {
        let member = &mut self.members[number];
        while let Some((key, _)) = member.poll_persist() {
            member.handle_persisted(&key);
        }
        while member.poll_event().is_some() {}
        while let Some((peer, ..)) = member.poll_records() {
            assert!(member.handle_own_records(&peer, &[], 0).is_none());
        }
        let mut out = Vec::new();
        while let Some((_, bytes)) = self.members[number].poll_transmit() {
            out.push(bytes);
        }
        out.into_iter()
            .for_each(|bytes| self.send(number, false, bytes));
    }

    /// Delivers for `time`; when each member was first seen to hold what `holds` looks for.
    fn run(&mut self, holds: impl Fn(&Peering, usize) -> bool, time: Duration) -> Vec<Duration> {
        let (begun, end) = (self.now, self.now.after(time));
        let mut seen: Vec<Option<Duration>> = vec![None; self.members.len()];
        let east = domain("east");
        while let Some(Reverse(next)) = self.flights.pop() {
            let (at, _, number, outward, bytes) = next;
            if at > end {
                break;
            }
            self.now = at;
            let clock = clock(at);
            match outward {
                true => {
                    self.members[number].handle_message(&east, &bytes, clock);
                    self.pump_member(number);
                    if seen[number].is_none() && holds(&self.members[number], number) {
                        seen[number] = Some(at.since(begun));
                    }
                }
                false => {
                    let name = self.names[number].clone();
                    self.east.handle_message(&name, &bytes, clock);
                    self.pump_east();
                }
            }
        }
        self.now = end;
        seen.into_iter().map(|seen| seen.unwrap_or(time)).collect()
    }
}

fn clock(mono: Mono) -> Now {
    let since = mono.0 - secs(1000);
    Now {
        mono,
        unix: UnixMillis(START + since.as_millis() as u64),
    }
}

fn main() {
    for size in SIZES {
        let east = domain("east");
        let mut star = Star::new(size);
        let id = SpiffeId::workload(&east, "shop", "api").unwrap();
        let now = clock(star.now);
        star.east
            .revoke(&east, Target::Identity(id), "a stolen key", now)
            .unwrap();
        star.pump_east();
        let of = east.clone();
        let times = star.run(|member, _| member.restrictions().contains_key(&of), secs(5));
        tell("revocation", size, times, &mut star.sent);

        let now = clock(star.now);
        let roots = star.east.bundles().bundle(&east).unwrap().x509_roots[0].clone();
        star.east.set_own_keys(keys(&roots, 2), now);
        star.pump_east();
        let of = east.clone();
        let two = move |member: &Peering, _| {
            member
                .bundles()
                .bundle(&of)
                .is_some_and(|b| b.issuer_keys.len() == 2)
        };
        let times = star.run(two, secs(5));
        tell("bundle", size, times, &mut star.sent);

        let now = clock(star.now);
        star.east
            .set_policy(hash("second"), &policy("east", "second"), now);
        star.pump_east();
        let of = east.clone();
        let second = move |member: &Peering, _| {
            member
                .digest(&of)
                .is_some_and(|digest| digest.hash == hash("second"))
        };
        let times = star.run(second, secs(5));
        tell("policy", size, times, &mut star.sent);
    }
    println!(
        r#"{{"name": "raw one way", "unit": "ns", "value": {}}}"#,
        LATENCY.as_nanos()
    );
    println!(r#"{{"name": "raw empty message", "unit": "B", "value": 1}}"#);
}

fn tell(what: &str, size: usize, mut times: Vec<Duration>, sent: &mut [usize]) {
    times.sort();
    let place = |share: usize| times[(times.len() * share).div_ceil(100).max(1) - 1];
    for (share, name) in [(50, "p50"), (99, "p99"), (100, "last")] {
        let ns = place(share).as_nanos();
        println!(r#"{{"name": "{what} {name}, {size} members", "unit": "ns", "value": {ns}}}"#);
    }
    let bytes = sent.iter().sum::<usize>() / size;
    println!(
        r#"{{"name": "{what} bytes a member, {size} members", "unit": "B", "value": {bytes}}}"#
    );
    sent.fill(0);
}
