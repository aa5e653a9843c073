//! 1,000 worlds of three clusters, or as many as `SIM_SEEDS` says, from `SIM_FIRST` on.

use std::panic::{AssertUnwindSafe, catch_unwind};

use landbridge_sim::{seeds, world::Summary};

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
        ("packets injected in clusters", total(|s| s.injected)),
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

fn run(seed: u64) -> Summary {
    let world = AssertUnwindSafe(|| seeds::run(seed));
    catch_unwind(world).unwrap_or_else(|_| {
        panic!("replay: SIM_FIRST={seed} SIM_SEEDS=1 cargo test -p landbridge-sim --test seeds")
    })
}
