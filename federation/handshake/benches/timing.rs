//! Whether the time of a comparison tells where a forged MAC is wrong. After "Dude, is my code constant time?" (Reparaz,
//! Balasch, Verbauwhede, 2017): two classes of inputs in random order, Welch's t-test over the times of each. A |t| above
//! 4.5 after a million measurements is a leak. Beside it a comparison that ends at the first difference, which must be
//! found out. Prints a line of JSON for each figure.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_macros,
    // Time is what is measured.
    clippy::disallowed_methods
)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use handshake::keys::{MacKey, Tag, tags_equal};
use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};

const MEASUREMENTS: usize = 1_000_000;
/// A comparison is shorter than what the clock can tell.
const COMPARISONS: usize = 64;
/// What the scheduler and interrupts add is neither class's: the slowest twentieth does not count.
const COUNTED: f64 = 0.95;
/// As the paper has it.
const BOUND: f64 = 4.5;
/// What a HELLO's segment proof covers.
const HEADER: [u8; 104] = [7; 104];

fn main() {
    let key = MacKey::from_bytes([3; 32]);
    let right = key.tag(&HEADER);
    figure("raw bound of |t|", BOUND);
    figure(
        "comparison that ends early",
        t(&right, |tag| repeated(|| ends_early(&right, tag))),
    );
    figure(
        "comparison of MACs",
        t(&right, |tag| repeated(|| tags_equal(&right, tag))),
    );
    figure(
        "check of a segment proof",
        t(&right, |tag| key.holds(&HEADER, tag)),
    );
}

/// What no key may be compared with.
fn ends_early(a: &Tag, b: &Tag) -> bool {
    a.iter().zip(b).all(|(a, b)| black_box(a) == black_box(b))
}

fn repeated(compare: impl Fn() -> bool) -> bool {
    (0..COMPARISONS).all(|_| !black_box(compare()))
}

/// |t| of the two classes: wrong in the first byte, wrong in the last.
fn t(right: &Tag, run: impl Fn(&Tag) -> bool) -> f64 {
    let mut classes = [*right; 2];
    classes[0][0] ^= 1;
    classes[1][15] ^= 1;
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    // Both are read from one place.
    let mut tag = *right;
    let mut times = Vec::with_capacity(MEASUREMENTS);
    for _ in 0..MEASUREMENTS {
        let class = usize::from(rng.next_u32() & 1 == 1);
        black_box(&mut tag).copy_from_slice(black_box(&classes[class]));
        let begun = Instant::now();
        black_box(run(black_box(&tag)));
        times.push((class, begun.elapsed()));
    }
    let mut sorted: Vec<_> = times.iter().map(|(_, time)| *time).collect();
    sorted.sort_unstable();
    let slowest = sorted[(COUNTED * MEASUREMENTS as f64) as usize];
    times.retain(|(_, time)| *time < slowest);
    welch(&times)
}

fn welch(times: &[(usize, Duration)]) -> f64 {
    let of = |class: usize| {
        let times: Vec<_> = times
            .iter()
            .filter(|(of, _)| *of == class)
            .map(|(_, time)| time.as_nanos() as f64)
            .collect();
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let variance = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance / count)
    };
    let (first, last) = (of(0), of(1));
    (first.0 - last.0).abs() / (first.1 + last.1).sqrt()
}

fn figure(name: &str, value: f64) {
    println!("{{\"name\": \"{name}\", \"unit\": \"t\", \"value\": {value}}}");
}
