//! 1,000 worlds of three clusters, or as many as `SIM_SEEDS` says, from `SIM_FIRST` on.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use landbridge_sim::world::{Summary, World};

const SPAN: Duration = Duration::from_secs(10);

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

#[test]
fn nothing_denied_is_delivered_and_everything_allowed_flows() {
    let (first, count) = (number("SIM_FIRST", 0), number("SIM_SEEDS", 1000));
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let summaries: Vec<Summary> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|worker| {
                let seeds = (first..first + count).filter(move |s| s % threads == worker);
                scope.spawn(move || seeds.map(run).collect::<Vec<_>>())
            })
            .collect();
        let joined = workers
            .into_iter()
            .flat_map(|w| w.join().expect("a seed failed, see above"));
        joined.collect()
    });
    let total = |field: fn(&Summary) -> u64| summaries.iter().map(field).sum::<u64>();
    println!(
        "{count} seeds: {} connects, {} deliveries, {} injected packets, {} changes, \
         {} broken sessions, {} crashes, \
         {} gateway restarts, {} packets between clusters and {} of an attacker there; at the end {} pairs allowed and talking, {} denied and silent",
        total(|s| s.connects),
        total(|s| s.deliveries),
        total(|s| s.injected),
        total(|s| s.changes),
        total(|s| s.broken),
        total(|s| s.crashes),
        total(|s| s.restarts),
        total(|s| s.tunnelled),
        total(|s| s.struck),
        total(|s| s.allowed_at_end),
        total(|s| s.denied_at_end),
    );
    // An idle world proves nothing.
    for busy in [
        total(|s| s.deliveries),
        total(|s| s.injected),
        total(|s| s.restarts),
        total(|s| s.tunnelled),
        total(|s| s.struck),
        total(|s| s.allowed_at_end),
        total(|s| s.denied_at_end),
    ] {
        assert!(busy > count);
    }
}

fn run(seed: u64) -> Summary {
    let world = AssertUnwindSafe(|| World::new(3, seed).run(SPAN));
    catch_unwind(world).unwrap_or_else(|_| {
        panic!("replay: SIM_FIRST={seed} SIM_SEEDS=1 cargo test -p landbridge-sim --test seeds")
    })
}
