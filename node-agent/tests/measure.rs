//! Numbers, not verdicts: connections per second and their latency through two agents, idle and
//! under floods. Run by hand:
//! `cargo test -p landbridge-agent --test measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{
    Netns, SOON, can_run,
    nodes::{Nodes, dropped},
    syn::send_syns,
};

const SECONDS: Duration = Duration::from_secs(8);
const CLIENTS: usize = 8;

#[test]
#[ignore = "takes 20 s and measures this machine"]
fn connections_per_second_idle_and_under_floods() {
    if !can_run() {
        return;
    }
    let nodes = Nodes::start();
    let world = &nodes.world;
    let listener = world.c.listen(8080);
    thread::spawn(move || echo(&listener));
    let connect = || connects(&world.a, "10.1.2.10:8080");
    let before = nodes.one.cpu_ticks();
    thread::park_timeout(Duration::from_secs(3));
    println!(
        "CPU of an idle agent:          {} ticks in 3 s",
        nodes.one.cpu_ticks() - before
    );
    println!("idle:                         {}", connect());
    for (name, sources, rate) in [
        ("one source, as fast as it can", 1u32, None),
        ("4,096 sources, 10,000/s      ", 4096, Some(10_000u32)),
    ] {
        let stop = AtomicBool::new(false);
        let line = thread::scope(|scope| {
            let flooding = scope.spawn(|| world.node1.run(|| flood(sources, rate, &stop)));
            let line = connect();
            stop.store(true, Ordering::Relaxed);
            format!("{line}; {} SYNs sent", flooding.join().unwrap())
        });
        println!("{name}: {line}");
    }
    for agent in [&nodes.one, &nodes.two] {
        println!("{}", agent.ask(r#"{"op":"counters"}"#));
        dropped(agent, "");
    }
}

fn echo(listener: &TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_ok() {
                let _ = stream.write_all(&byte);
            }
        });
    }
}

fn connects(from: &Netns, to: &str) -> String {
    let begun = Instant::now();
    let mut latencies: Vec<Duration> = Vec::new();
    let mut failed = 0;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    from.run(|| {
                        let (mut latencies, mut failed) = (Vec::new(), 0);
                        while begun.elapsed() < SECONDS {
                            let start = Instant::now();
                            match once(to) {
                                Ok(()) => latencies.push(start.elapsed()),
                                Err(error) => {
                                    println!("after {:?}: {error}", start.elapsed());
                                    failed += 1;
                                }
                            }
                        }
                        (latencies, failed)
                    })
                })
            })
            .collect();
        for client in clients {
            let (more, lost) = client.join().unwrap();
            latencies.extend(more);
            failed += lost;
        }
    });
    latencies.sort();
    let at = |percent: usize| latencies[(latencies.len() - 1) * percent / 100];
    let per_second = latencies.len() as f64 / begun.elapsed().as_secs_f64();
    format!(
        "{per_second:.0} connections/s, {failed} failed, p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    )
}

fn once(to: &str) -> std::io::Result<()> {
    let mut stream = std::net::TcpStream::connect_timeout(&to.parse().unwrap(), SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// Bare SYNs to the pod from addresses of its own network; how many were sent.
fn flood(sources: u32, rate: Option<u32>, stop: &AtomicBool) -> u64 {
    let begun = Instant::now();
    let mut sent = 0u64;
    while !stop.load(Ordering::Relaxed) && begun.elapsed() < SECONDS * 2 {
        if rate.is_some_and(|rate| sent as f64 > begun.elapsed().as_secs_f64() * f64::from(rate)) {
            thread::park_timeout(Duration::from_millis(1));
            continue;
        }
        let source = u32::try_from(sent / 50).unwrap() % sources;
        let [_, _, high, low] = source.to_be_bytes();
        let ports = (0..50u16).map(|n| (2000 + n, 8080));
        send_syns([10, 1, 128 + high, low], [10, 1, 2, 10], ports);
        sent += 50;
    }
    sent
}
