//! `latency`: requests and answers of a fixed size on connections that stand.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

use crate::{
    connect::progress,
    options::{Common, duration, rate},
    outcome::Failure,
    pace::{self, Schedule, Start},
    recorder::Recorder,
    report::Report,
    run::{Run, raise_descriptor_limit},
};

/// Arguments of `latency`.
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    /// HOST:PORT, or with --demo also CLUSTER/NAMESPACE/POD:PORT; what listens there must echo
    target: String,
    /// Bytes of a request, and of its answer
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    size: u32,
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Begin so many requests in a second over all connections, whatever becomes of them (open loop); times count
    /// from the moment at which each should have begun
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// How long an answer may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: &LatencyArgs) -> Result<ExitCode> {
    let place = args.common.prepare(&args.target)?;
    raise_descriptor_limit();
    let run = Run::new(args.common.duration);
    let recorder = Rc::new(RefCell::new(Recorder::new(run.begin)?));
    let shape = Shape {
        target: place.target,
        size: args.size as usize,
        connections: args.connections as usize,
        rate: args.rate,
        limit: args.timeout,
    };
    run.block_on(progress(recorder.clone()), measure(&run, &recorder, shape))?;
    let mut report = Report::new("latency", &args.target, args.common.place_name(), &run)
        .with("size_bytes", args.size)
        .with("connections", args.connections);
    if let Some(rate) = args.rate {
        report = report.with("rate", rate);
    }
    report.attempts(&recorder.borrow(), "requests", args.rate.is_some());
    report.drops(&place.watch);
    report.print(args.common.output);
    Ok(run.exit_code())
}

#[derive(Clone, Copy)]
struct Shape {
    target: SocketAddr,
    size: usize,
    connections: usize,
    rate: Option<f64>,
    limit: Duration,
}

async fn measure(run: &Rc<Run>, recorder: &Rc<RefCell<Recorder>>, shape: Shape) -> Result<()> {
    let mut tasks = JoinSet::new();
    let due = Cell::new(0u64);
    let mut queues = Vec::new();
    for _ in 0..shape.connections {
        let starts = match shape.rate {
            None => Starts::Closed(run.clone()),
            Some(_) => {
                let (sender, receiver) = mpsc::unbounded_channel();
                queues.push(sender);
                Starts::Open(receiver)
            }
        };
        tasks.spawn_local(converse(shape, recorder.clone(), starts));
    }
    if let Some(rate) = shape.rate {
        let schedule = Schedule {
            rate,
            length: run.length,
        };
        let mut starts = pace::keep(schedule, run.begin, run.stop_flag())?;
        while let Some(start) = starts.recv().await {
            due.set(due.get() + 1);
            // A connection's task ends after its queue, so somebody listens.
            let _ = queues[start.number as usize % queues.len()].send(start);
        }
        queues.clear();
    }
    run.over().await;
    let drain = async { while tasks.join_next().await.is_some() {} };
    // What is still under way then is counted below.
    let _ = timeout(run.patience(shape.limit), drain).await;
    tasks.abort_all();
    let mut recorder = recorder.borrow_mut();
    let never_begun = due.get().saturating_sub(recorder.late.len());
    let left = recorder.in_flight + never_begun;
    recorder.leave(left);
    Ok(())
}

/// When a connection's requests begin.
enum Starts {
    /// When the answer before came.
    Closed(Rc<Run>),
    /// By the clock. While an answer is late, those behind it wait here, and their time runs.
    Open(mpsc::UnboundedReceiver<Start>),
}

impl Starts {
    async fn next(&mut self) -> Option<Instant> {
        match self {
            Self::Closed(run) => (!run.is_over()).then(Instant::now),
            Self::Open(starts) => starts.recv().await.map(|start| start.intended),
        }
    }
}

/// One connection after the other, as long as there are requests.
async fn converse(shape: Shape, recorder: Rc<RefCell<Recorder>>, mut starts: Starts) {
    let mut connection = None;
    let mut number = 0u64;
    while let Some(intended) = starts.next().await {
        let begun = recorder.borrow_mut().start(intended, Instant::now());
        number += 1;
        let result = timeout(shape.limit, request(shape, &mut connection, number)).await;
        let result = result.unwrap_or(Err(Failure::Timeout));
        if result.is_err() {
            // Its answer could still come, and would pass for that of the next request.
            connection = None;
        }
        recorder.borrow_mut().end(begun, result, Instant::now());
    }
}

async fn request(
    shape: Shape,
    connection: &mut Option<TcpStream>,
    number: u64,
) -> Result<(), Failure> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(shape.target).await?;
            stream.set_nodelay(true)?;
            connection.insert(stream)
        }
    };
    let sent = payload(shape.size, number);
    let mut received = vec![0; shape.size];
    stream.write_all(&sent).await?;
    stream.read_exact(&mut received).await?;
    match received == sent {
        true => Ok(()),
        false => Err(Failure::Corrupted),
    }
}

/// No two requests in a row are the same. The first byte is no letter: a server that tells protocols
/// apart by their first bytes must take it for none.
fn payload(size: usize, number: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> = number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(size)
        .collect();
    bytes[0] = 0x80 | (number as u8 & 0x7f);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::Ordering;

    use super::*;
    use crate::testing::Fake;

    fn latency(fake: &Fake, connections: usize, rate: Option<f64>, ms: u64) -> Recorder {
        let shape = Shape {
            target: fake.address,
            size: 64,
            connections,
            rate,
            limit: Duration::from_secs(5),
        };
        let run = Run::new(Duration::from_millis(ms));
        let recorder = Rc::new(RefCell::new(Recorder::new(run.begin).unwrap()));
        run.block_on(String::new, measure(&run, &recorder, shape))
            .unwrap();
        drop(run);
        Rc::into_inner(recorder).unwrap().into_inner()
    }

    #[test]
    fn a_stall_counts_for_each_request_that_was_due_meanwhile() {
        let stall = || Fake::stalling(Duration::from_millis(100), Duration::from_millis(500));
        let ms = |times: &crate::recorder::Times, q| times.value_at_quantile(q) / 1_000_000;
        let open = latency(&stall(), 2, Some(1_000.0), 1_000);
        assert_eq!((open.succeeded(), open.failures()), (1_000, 0));
        // 400 of 1,000 were due during a stall of 400 ms.
        assert!(ms(&open.response, 0.9) >= 250);
        // Wide bounds: the machine may be busy.
        assert!(ms(&open.service, 0.8) < 50);
        // The naive measurement: no percentile that people look at sees the stall.
        let closed = latency(&stall(), 2, None, 1_000);
        assert!(ms(&closed.service, 0.8) < 50);
    }

    #[test]
    fn a_wrong_answer_is_a_failure_and_the_connection_is_made_anew() {
        let fake = Fake::flipping(70);
        let recorder = latency(&fake, 1, Some(100.0), 200);
        // The second request of each connection hits byte 70.
        assert_eq!(
            (recorder.succeeded(), recorder.failed[&Failure::Corrupted]),
            (10, 10)
        );
        assert_eq!(fake.answered.load(Ordering::Relaxed), 20);
    }

    #[test]
    fn payloads_differ_and_start_with_no_letter() {
        for size in [1, 5, 64] {
            let [a, b] = [7, 8].map(|number| payload(size, number));
            assert!(a != b && a.len() == size && !a[0].is_ascii());
        }
    }
}
