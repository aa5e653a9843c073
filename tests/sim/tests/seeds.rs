//! 1,000 worlds of two to eight clusters, or as many as `SIM_SEEDS` says, from `SIM_FIRST` on. With
//! `SIM_ONLY`, the transitions of these numbers of one seed.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use landbridge_sim::{
    seeds::{self, Failed},
    world::Summary,
};

/// How long a failure is cut down.
const SHRINK: Duration = Duration::from_secs(60);

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

/// The transitions that are asked for.
fn only() -> Option<Vec<usize>> {
    let text = std::env::var("SIM_ONLY").ok()?;
    let numbers = text.split(',').map(|number| number.trim().parse());
    Some(
        numbers
            .collect::<Result<_, _>>()
            .expect("SIM_ONLY holds numbers"),
    )
}

/// Runs the seeds until one fails.
fn run_all(first: u64, count: u64) -> Result<Vec<Summary>, Box<Failed>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let over = AtomicBool::new(false);
    let run = |seed| {
        let outcome = seeds::run(&seeds::plan(seed));
        over.fetch_or(outcome.is_err(), Ordering::Relaxed);
        outcome
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let (run, over) = (&run, &over);
                let seeds = (first..first + count).filter(move |s| s % threads == worker);
                let seeds = seeds.take_while(|_| !over.load(Ordering::Relaxed));
                scope.spawn(move || seeds.map(run).collect::<Result<Vec<_>, _>>())
            })
            .collect();
        let joined = workers
            .into_iter()
            .map(|w| w.join().expect("it does not panic"));
        Ok(joined.collect::<Result<Vec<_>, _>>()?.concat())
    })
}

#[test]
fn nothing_denied_is_delivered_and_everything_allowed_flows() {
    let (first, count) = (number("SIM_FIRST", 0), number("SIM_SEEDS", 1000));
    if let Some(only) = only() {
        match seeds::run(&seeds::plan(first).only(&only)) {
            Ok(summary) => println!("seed {first} holds: {summary:#?}"),
            Err(failed) => panic!("{failed}"),
        }
        return;
    }
    let summaries = run_all(first, count).unwrap_or_else(|failed| {
        let (seed, failure) = (failed.plan.seed, &failed.failure);
        println!("seed {seed} fails, and is cut down: {failure}");
        panic!("{}", failed.shrunk(SHRINK))
    });
    let total = |field: fn(&Summary) -> u64| summaries.iter().map(field).sum::<u64>();
    let told = [
        ("connections", total(|s| s.connects)),
        ("payloads read in a cluster", total(|s| s.near)),
        ("payloads read between clusters", total(|s| s.far)),
        (
            "packets that gateways let pass, each judged",
            total(|s| s.judged),
        ),
        ("changes", total(|s| s.changes)),
        ("sessions broken", total(|s| s.broken)),
        ("agents killed", total(|s| s.crashes)),
        ("gateways killed", total(|s| s.restarts)),
        ("bundles replaced", total(|s| s.bundles)),
        ("issuer keys exchanged", total(|s| s.rotations)),
        ("packets injected in clusters", total(|s| s.injected)),
        ("packets dropped, delayed or altered", total(|s| s.tampered)),
        ("frames injected between clusters", total(|s| s.struck)),
        ("lies of a gateway", total(|s| s.lies)),
        ("segments forged on stolen connections", total(|s| s.forged)),
        ("tokens sent by pods", total(|s| s.forgeries)),
        ("messages said again", total(|s| s.repeated)),
        (
            "pairs allowed at the end, and talking",
            total(|s| s.allowed_at_end),
        ),
        (
            "pairs denied at the end, and silent",
            total(|s| s.denied_at_end),
        ),
    ];
    println!("{count} seeds:");
    for (what, number) in told {
        println!("{number:>10} {what}");
    }
    // An idle world proves nothing.
    for (what, number) in told {
        assert!(number > count / 4, "too few: {number} {what}");
    }
    assert!(
        total(|s| s.far) > total(|s| s.near),
        "most of the traffic is between clusters"
    );
}
