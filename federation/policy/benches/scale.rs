//! What the engine costs with 100, 1,000 and 10,000 policies of mixed kinds, ten label sets for each
//! and a cluster named in selectors for every ten. `scripts/bench policy` runs it and puts the
//! figures beside the goals of docs/benchmarks.md.
//!
//! Prints a line of JSON per figure: name, unit, value. Each size runs in a process of its own,
//! so that its memory is its own.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_macros
)]

use std::{env, fs, hint::black_box, net::Ipv4Addr, process::Command, sync::Arc, time::Instant};

use identity::Claims;
use landbridge_policy::{KnownKeys, Pair, Peer, Query, Table, compile, model::*};

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "scale/world.rs"]
mod world;

use common::{TCP, set};
use world::{Dice, Size};

const SIZES: [u32; 3] = [100, 1_000, 10_000];
/// How many questions are asked together, between two looks at the clock.
const CHUNK: usize = 50;
const CHUNKS: usize = 1_000;
/// How often anything that is measured alone is repeated.
const TIMES: usize = 20;

fn main() {
    // Cargo's own arguments are no size.
    if let Some(policies) = env::args().find_map(|a| a.strip_prefix("policies=")?.parse().ok()) {
        return measure(Size { policies });
    }
    for size in SIZES {
        let this = env::current_exe().unwrap();
        let status = Command::new(this).arg(format!("policies={size}")).status();
        assert!(status.unwrap().success());
    }
}

fn measure(size: Size) {
    let tell = |name: &str, unit: &str, value: f64| {
        let policies = size.policies;
        println!(
            r#"{{"name": "{name}, {policies} policies", "unit": "{unit}", "value": {value:.1}}}"#
        );
    };
    let set = set("west", world::policies(size));
    let identities = world::identities(size);

    let before = reset_peak();
    let copy = deep_copy(&set);
    tell("raw memory of the set", "kB", peak() - before);
    let before = reset_peak();
    let start = Instant::now();
    let table = compile(&set).unwrap();
    tell("scale compile", "ns", nanoseconds(start));
    tell("scale memory", "kB", peak() - before);
    drop(copy);
    tell(
        "raw clone of the set",
        "ns",
        tenth((0..TIMES).map(|_| {
            let start = Instant::now();
            black_box(deep_copy(&set));
            nanoseconds(start)
        })),
    );

    tell(
        "scale changed policy",
        "ns",
        tenth(changes(size, &set, &table)),
    );
    let questions = questions(&identities);
    tell(
        "scale decide, never seen",
        "ns",
        decide(&table, &identities, &questions),
    );
    tell(
        "scale decide, seen",
        "ns",
        decide_again(&table, &identities),
    );
    tell(
        "scale relabelled pod",
        "ns",
        relabelled(&table, &identities),
    );
    tell("raw list", "ns", first_match(table.rule_count()));
}

fn deep_copy(set: &PolicySet) -> Vec<Policy> {
    set.policies.iter().map(|p| Policy::clone(p)).collect()
}

/// From a changed policy until the table can be asked and its digest be sent.
fn changes(size: Size, set: &PolicySet, table: &Table) -> Vec<f64> {
    let (mut set, mut table) = (set.clone(), table.clone());
    let change = |n: usize| {
        let place = n * 37 % set.policies.len();
        let other = world::policy(size, size.policies + u32::try_from(n).unwrap());
        set.policies[place] = other.into();
        let start = Instant::now();
        let next = table.update(&set).unwrap();
        black_box((next.hash(), next.digest_part()));
        let took = nanoseconds(start);
        table = next;
        took
    };
    (0..TIMES * 5).map(change).collect()
}

/// Places of two identities: of `west`, and of any cluster. No pair comes twice but by chance.
fn questions(identities: &[Claims]) -> Vec<(usize, usize)> {
    let count = u32::try_from(identities.len()).unwrap();
    let mut dice = Dice(7);
    let mut place = || dice.below(count) as usize;
    (0..CHUNK * CHUNKS)
        .map(|_| (place() / 2 * 2, place()))
        .collect()
}

fn query<'a>(subject: &'a Claims, peer: &'a Claims, n: usize, known: &'a KnownKeys) -> Query<'a> {
    Query {
        direction: [Direction::Ingress, Direction::Egress][n % 2],
        subject,
        peer: Peer::Identity {
            claims: peer,
            address: Some(Ipv4Addr::new(10, 1, 2, 3).into()),
        },
        protocol: TCP,
        port: [8001, 443][n / 2 % 2],
        known,
    }
}

/// Identities are copied before: whoever decides has just read them from a packet or a table.
fn decide(table: &Table, identities: &[Claims], questions: &[(usize, usize)]) -> f64 {
    let known = KnownKeys::all();
    let chunks = questions.chunks(CHUNK).map(|chunk| {
        let copy = |place: &usize| identities[*place].clone();
        let pairs = chunk
            .iter()
            .map(|(subject, peer)| (copy(subject), copy(peer)));
        let pairs: Vec<(Claims, Claims)> = pairs.collect();
        let start = Instant::now();
        for (n, (subject, peer)) in pairs.iter().enumerate() {
            black_box(table.decide(&query(subject, peer, n, &known)));
        }
        nanoseconds(start) / pairs.len() as f64
    });
    tenth(chunks)
}

/// The same few pairs again and again.
fn decide_again(table: &Table, identities: &[Claims]) -> f64 {
    let known = KnownKeys::all();
    let few = identities.iter().take(64).cloned().map(Arc::new);
    let few: Vec<Arc<Claims>> = few.collect();
    let round = |_| {
        let start = Instant::now();
        for n in 0..CHUNK * 4 {
            // West's are the even ones.
            black_box(table.decide_pair(&Pair {
                direction: [Direction::Ingress, Direction::Egress][n % 2],
                subject: &few[n / 4 * 2 % 64],
                peer: &few[n / 4 * 7 % 64],
                address: Some(Ipv4Addr::new(10, 1, 2, 3).into()),
                protocol: TCP,
                port: [8001, 443][n / 2 % 2],
                known: &known,
            }));
        }
        nanoseconds(start) / (CHUNK * 4) as f64
    };
    tenth((0..CHUNKS).map(round))
}

/// A pod gets other labels, and its next connection is decided by them.
fn relabelled(table: &Table, identities: &[Claims]) -> f64 {
    let known = KnownKeys::all();
    tenth((0..TIMES * 10).map(|n| {
        let start = Instant::now();
        let mut pod = identities[n * 2].clone();
        pod.labels = common::labels(&format!("app=a{n} version=new tier=back"));
        black_box(table.decide(&query(&pod, &identities[n], n, &known)));
        nanoseconds(start)
    }))
}

/// A rule of a packet filter: two prefixes, a protocol, ports.
struct Line {
    source: (u32, u32),
    destination: (u32, u32),
    protocol: u8,
    ports: (u16, u16),
}

/// What a packet filter pays that asks one rule after the other, and finds none that fits.
fn first_match(rules: usize) -> f64 {
    let mut dice = Dice(3);
    let mut line = |_| Line {
        source: (dice.below(1 << 24), u32::MAX),
        destination: (dice.below(1 << 24), u32::MAX),
        protocol: TCP,
        ports: (8000, 8002),
    };
    let lines: Vec<Line> = (0..rules).map(&mut line).collect();
    let fits = |line: &Line, source: u32, destination: u32, port: u16| {
        source & line.source.1 == line.source.0
            && destination & line.destination.1 == line.destination.0
            && line.protocol == TCP
            && (line.ports.0..=line.ports.1).contains(&port)
    };
    let packet = black_box((0x0a01_0203_u32, 0x0a02_0304_u32, 8001_u16));
    tenth((0..CHUNKS).map(|_| {
        let start = Instant::now();
        let (source, destination, port) = black_box(packet);
        black_box(
            lines
                .iter()
                .find(|line| fits(line, source, destination, port))
                .is_some(),
        );
        nanoseconds(start)
    }))
}

fn nanoseconds(start: Instant) -> f64 {
    start.elapsed().as_nanos() as f64
}

/// The tenth percentile: other work on the machine only ever adds.
fn tenth(samples: impl IntoIterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.into_iter().collect();
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 10]
}

/// Forgets what the most memory of this process was; what it is now, in kB.
fn reset_peak() -> f64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    peak()
}

fn peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
