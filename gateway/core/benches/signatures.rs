//! What made-up credentials take of a core, and of those who connect meanwhile: in real time, counted as the
//! gateway does it. Prints a line of JSON for each figure; docs/benchmarks.md says what they mean.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    // It is about time as it passes, and tells what it saw.
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{Nodes, Outcome, Pair, made_up, support};
use handshake::budget::{Cost, SignatureLimits};
use identity::{CredentialHash, Now, verify_credential};
use landbridge_gateway_core::{Disposition, Limits, Side};
use nix::time::{ClockId, clock_gettime};
use policy::DropReason;
use support::{API, Conn, FRONTEND};

/// Rounds, each with the flood and without, and how long each half is. A HELLO is fresh for 45 s.
const ROUNDS: usize = 3;
const HALF: Duration = Duration::from_secs(3);
/// Connections in a second of those who were seen before.
const CONNECTS: u32 = 500;
/// Credentials that are made up. None of them is remembered, so each is new when it comes again.
const MADE_UP: u64 = 2_000;
/// Made-up credentials between two checks that are measured by themselves.
const SAMPLED: u64 = 64;

fn main() {
    // `cargo test` runs benches with this.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let mut flooded = Round::default();
    let mut alone = Round::default();
    let mut shares = Vec::new();
    for _ in 0..ROUNDS {
        let mut world = World::new();
        alone.add(world.run(false));
        let round = world.run(true);
        shares.push(round.share());
        flooded.add(round);
    }
    shares.sort_by(f64::total_cmp);
    let checks = flooded.checks as f64 / flooded.lasted.as_secs_f64();
    eprintln!(
        "{} made-up HELLOs, {checks:.0} checks in a second at {:.1} us; shares {shares:.3?}; {} and {} connections",
        flooded.refused,
        1e6 * flooded.check(),
        flooded.connects.len(),
        alone.connects.len(),
    );
    let figure = |name: &str, unit: &str, value: f64| {
        println!(
            "{}",
            serde_json::json!({"name": name, "unit": unit, "value": value})
        );
    };
    figure("share of a core in checks", "%", 100.0 * shares[ROUNDS / 2]);
    figure("raw share allowed", "%", 25.0);
    figure("connect of the cached, flooded", "ns", flooded.at(50));
    figure("raw connect of the cached, alone", "ns", alone.at(50));
    figure(
        "connects that failed, flooded",
        "",
        f64::from(flooded.failed + alone.failed),
    );
    figure("raw connects", "", flooded.connects.len() as f64);
}

/// What was seen in a part of the time.
#[derive(Default)]
struct Round {
    lasted: Duration,
    refused: u64,
    checks: u64,
    /// Processor time of single checks, in seconds.
    samples: Vec<f64>,
    /// What the gateway of the client took for each connection, in nanoseconds.
    connects: Vec<f64>,
    failed: u32,
}

impl Round {
    /// What one check costs, in seconds: the mean, as a share of the time is made of all of them.
    fn check(&self) -> f64 {
        self.samples.iter().sum::<f64>() / self.samples.len() as f64
    }

    /// Of a core: by the number of checks and what one takes, not by what the budget says of itself.
    fn share(&self) -> f64 {
        self.checks as f64 * self.check() / self.lasted.as_secs_f64()
    }

    fn at(&self, percent: usize) -> f64 {
        percentile(&self.connects, percent)
    }

    fn add(&mut self, other: Self) {
        self.lasted += other.lasted;
        self.refused += other.refused;
        self.checks += other.checks;
        self.samples.extend(other.samples);
        self.connects.extend(other.connects);
        self.failed += other.failed;
    }
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

/// Two gateways, a client that was seen before, and one that makes up credentials.
struct World {
    pair: Pair,
    nodes: Nodes,
    made_up: Vec<Vec<u8>>,
    start: Instant,
    connected: u32,
}

impl World {
    fn new() -> Self {
        let signatures = SignatureLimits {
            cost: Cost::Measured(thread_time),
            ..SignatureLimits::default()
        };
        let limits = Limits {
            signatures,
            ..Limits::default()
        };
        let (pair, mut nodes) = (Pair::new(&limits), Nodes::new());
        let made_up = (0..MADE_UP).map(|number| {
            let conn = connection(40_000 + number as u32);
            let genuine = support::out(&mut nodes.east, &conn.syn(), support::at(0));
            made_up(&genuine, number)
        });
        let made_up = made_up.collect();
        let mut world = Self {
            pair,
            nodes: Nodes::new(),
            made_up,
            start: Instant::now(),
            connected: 0,
        };
        world.connect().unwrap();
        world
    }

    fn now(&self) -> Now {
        let passed = u64::try_from(self.start.elapsed().as_micros()).unwrap();
        let mut now = support::at(passed / 1_000);
        now.mono.0 = Duration::from_micros(passed);
        now
    }

    /// Connections by the clock; what time is left belongs to the flood, or passes.
    fn run(&mut self, flooded: bool) -> Round {
        let mut round = Round::default();
        let before = self.checks();
        let began = Instant::now();
        let mut due = Duration::ZERO;
        let bundles = support::bundles();
        let bundle = bundles.bundle(&support::domain("east")).unwrap();
        while began.elapsed() < HALF {
            if began.elapsed() >= due {
                due += Duration::from_secs(1) / CONNECTS;
                match self.connect() {
                    Ok(took) => round.connects.push(took.as_nanos() as f64),
                    Err(_) => round.failed += 1,
                }
            } else if flooded {
                let now = self.now();
                let packet = &self.made_up[(round.refused % MADE_UP) as usize];
                let outcome = self.pair.east.node_sends(packet, now);
                match outcome.disposition {
                    Disposition::Drop(DropReason::BadCredential | DropReason::VerifyBudget) => {}
                    other => panic!("{other:?}"),
                }
                if round.refused % SAMPLED == 0 {
                    let credential = &support::tcp_payload(packet)[wire::hello::HEAD_LEN..];
                    let before = thread_time();
                    std::hint::black_box(CredentialHash::of(credential));
                    let judged = verify_credential(credential, bundle, now.unix);
                    round.samples.push((thread_time() - before).as_secs_f64());
                    assert!(judged.is_err());
                }
                round.refused += 1;
            }
        }
        round.lasted = began.elapsed();
        round.checks = self.checks() - before;
        round
    }

    fn checks(&self) -> u64 {
        self.pair.east.dataplane.flows().signature_checks()
    }

    /// A whole connection; what east's gateway took for its four packets.
    fn connect(&mut self) -> Result<Duration, DropReason> {
        let conn = connection(self.connected);
        self.connected += 1;
        let (mut took, now) = (Duration::ZERO, self.now());
        let syn = support::out(&mut self.nodes.east, &conn.syn(), now);
        let syn = self.east_to_west(&syn, &mut took)?;
        support::into(&mut self.nodes.west, &syn, now);
        let syn_ack = support::out(&mut self.nodes.west, &conn.syn_ack(), now);
        let syn_ack = self.west_to_east(&syn_ack, &mut took)?;
        support::into(&mut self.nodes.east, &syn_ack, now);
        let ack = support::out(&mut self.nodes.east, &conn.ack(), now);
        let ack = self.east_to_west(&ack, &mut took)?;
        support::into(&mut self.nodes.west, &ack, now);
        let response = support::out(&mut self.nodes.west, &conn.response(b"hello"), now);
        self.west_to_east(&response, &mut took)?;
        for gateway in [&mut self.pair.east, &mut self.pair.west] {
            while gateway.cx.poll_event().is_some() {}
        }
        Ok(took)
    }

    fn east_to_west(&mut self, packet: &[u8], took: &mut Duration) -> Result<Vec<u8>, DropReason> {
        let now = self.now();
        let began = Instant::now();
        let sent = self.pair.east.node_sends(packet, now);
        *took += began.elapsed();
        inner(self.pair.west.frame(Side::Wan, &passed(sent)?, now))
    }

    fn west_to_east(&mut self, packet: &[u8], took: &mut Duration) -> Result<Vec<u8>, DropReason> {
        let now = self.now();
        let sent = passed(self.pair.west.node_sends(packet, now))?;
        let began = Instant::now();
        let arrived = self.pair.east.frame(Side::Wan, &sent, now);
        *took += began.elapsed();
        inner(arrived)
    }
}

fn passed(outcome: Outcome) -> Result<Vec<u8>, DropReason> {
    match outcome.disposition {
        Disposition::Forward(_) => Ok(outcome.frame),
        Disposition::Drop(reason) | Disposition::Answer(_, reason) => Err(reason),
    }
}

fn inner(outcome: Outcome) -> Result<Vec<u8>, DropReason> {
    let frame = passed(outcome)?;
    Ok(wire::ethernet::Frame::parse(&frame)
        .unwrap()
        .payload()
        .to_vec())
}

/// The connection of that number: no two within 40,000 have the same ports.
fn connection(number: u32) -> Conn {
    Conn {
        cport: 20_000 + (number % 40_000) as u16,
        cisn: number,
        ..Conn::new(FRONTEND, API)
    }
}

/// As the gateway has it.
fn thread_time() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
}
