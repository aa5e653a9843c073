//! `connect`: new TCP connections per second.

use std::{cell::RefCell, net::SocketAddr, process::ExitCode, rc::Rc, time::Duration};

use anyhow::Result;
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    closing::Closing,
    drive::{Loop, drive},
    options::{Common, duration, rate},
    outcome::Failure,
    recorder::Recorder,
    report::{Report, number, time},
    run::{Run, raise_descriptor_limit},
};

/// Arguments of `connect`.
#[derive(Clone, Debug, Args)]
pub struct ConnectArgs {
    /// HOST:PORT, or with --demo also CLUSTER/NAMESPACE/POD:PORT
    target: String,
    /// Connections in flight. With --rate: the most, 10,000 unless said otherwise; without: always so
    /// many, 64 unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    in_flight: Option<u32>,
    /// Begin so many in a second, whatever becomes of them (open loop); times count from the moment at which
    /// each should have begun
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// Send so many bytes on each connection and wait until they come back: the far end must echo. A
    /// connection counts when they did
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=65_536))]
    exchange: u32,
    /// How a connection ends
    #[arg(long, value_enum, default_value = "reset")]
    close: Closing,
    /// How long one may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: &ConnectArgs) -> Result<ExitCode> {
    let place = args.common.prepare(&args.target)?;
    raise_descriptor_limit();
    let shape = args.shape();
    let run = Run::new(args.common.duration);
    let recorder = Rc::new(RefCell::new(Recorder::new(run.begin)?));
    let (target, one) = (place.target, args.clone());
    let attempt = move || attempt(target, one.exchange as usize, one.close, one.timeout);
    run.block_on(
        progress(recorder.clone()),
        drive(&run, &recorder, shape, args.timeout, attempt),
    )?;
    let mut report = Report::new("connect", &args.target, args.common.place_name(), &run)
        .with("exchange_bytes", args.exchange);
    report = match shape {
        Loop::Closed { in_flight } => report.with("in_flight", in_flight),
        Loop::Open { rate, in_flight } => {
            report.with("rate", rate).with("in_flight_limit", in_flight)
        }
    };
    let open = matches!(shape, Loop::Open { .. });
    report.attempts(&recorder.borrow(), "connections", open);
    report.drops(&place.watch);
    report.print(args.common.output);
    Ok(run.exit_code())
}

impl ConnectArgs {
    fn shape(&self) -> Loop {
        let in_flight = |otherwise| self.in_flight.map_or(otherwise, |n| n as usize);
        match self.rate {
            Some(rate) => Loop::Open {
                rate,
                in_flight: in_flight(10_000),
            },
            None => Loop::Closed {
                in_flight: in_flight(64),
            },
        }
    }
}

/// What the progress line says.
pub fn progress(recorder: Rc<RefCell<Recorder>>) -> impl FnMut() -> String {
    let mut before = 0;
    move || {
        let mut recorder = recorder.borrow_mut();
        let done = recorder.succeeded();
        let recent = std::mem::replace(&mut before, done);
        let us = |q| recorder.recent.value_at_quantile(q) as f64 / 1e3;
        let line = format!(
            "{}/s  p50 {}  p99 {}  in flight {}  failed {}",
            number((done - recent) as f64),
            time(us(0.5)),
            time(us(0.99)),
            recorder.in_flight,
            recorder.failures()
        );
        recorder.recent.reset();
        line
    }
}

/// One connection, with its exchange if there is one.
pub async fn attempt(
    target: SocketAddr,
    exchange: usize,
    close: Closing,
    limit: Duration,
) -> Result<(), Failure> {
    let whole = async {
        let mut stream = TcpStream::connect(target).await?;
        let result = echoed(&mut stream, exchange).await;
        close.close(stream);
        result
    };
    timeout(limit, whole).await.unwrap_or(Err(Failure::Timeout))
}

/// Sends `size` bytes and reads them back.
async fn echoed(stream: &mut TcpStream, size: usize) -> Result<(), Failure> {
    if size == 0 {
        return Ok(());
    }
    stream.set_nodelay(true)?;
    // No letters: a server that tells protocols apart by their first bytes must take it for none.
    let sent = vec![0xa5; size];
    let mut received = vec![0; size];
    stream.write_all(&sent).await?;
    stream.read_exact(&mut received).await?;
    match received == sent {
        true => Ok(()),
        false => Err(Failure::Corrupted),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{cell::Cell, sync::atomic::Ordering};

    use super::*;
    use crate::testing::{Fake, begin_and_end};

    fn connect(fake: &Fake, shape: Loop, ms: u64) -> Recorder {
        let target = fake.address;
        begin_and_end(shape, Duration::from_millis(ms), move || {
            attempt(target, 1, Closing::Reset, Duration::from_secs(5))
        })
    }

    #[test]
    fn a_stall_shows_in_the_open_loop_and_hides_in_the_closed_one() {
        // Every answer waits for 300 ms from the 100th millisecond on.
        let fake = Fake::stalling(Duration::from_millis(100), Duration::from_millis(400));
        let open = Loop::Open {
            rate: 200.0,
            in_flight: 1,
        };
        let recorder = connect(&fake, open, 800);
        let ms = |times: &crate::recorder::Times, q| times.value_at_quantile(q) / 1_000_000;
        assert_eq!((recorder.succeeded(), recorder.failures()), (160, 0));
        // 60 of 160 were due during the stall: a user of the 80th percentile waited long, and the naive
        // number, from the real start, saw one slow connection only. Wide bounds: the machine may be busy.
        let (response, service) = (&recorder.response, &recorder.service);
        assert!(ms(response, 0.8) >= 100, "{}", ms(response, 0.8));
        assert!(ms(service, 0.8) < 50, "{}", ms(service, 0.8));
        assert!(ms(service, 1.0) >= 200);
    }

    #[test]
    fn a_closed_loop_keeps_as_many_in_flight_as_asked() {
        let fake = Fake::echo();
        let (now, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (target, highest) = (fake.address, most.clone());
        let shape = Loop::Closed { in_flight: 7 };
        let recorder = begin_and_end(shape, Duration::from_millis(200), move || {
            let (now, most) = (now.clone(), highest.clone());
            async move {
                now.set(now.get() + 1);
                most.set(most.get().max(now.get()));
                let result = attempt(target, 1, Closing::Reset, Duration::from_secs(5)).await;
                now.set(now.get() - 1);
                result
            }
        });
        assert_eq!((most.get(), recorder.failures()), (7, 0));
        assert!(recorder.succeeded() >= 7);
        assert_eq!(recorder.succeeded(), fake.answered.load(Ordering::Relaxed));
    }

    #[test]
    fn failures_are_told_apart() {
        let failure = |fake: &Fake| {
            let recorder = connect(fake, Loop::Closed { in_flight: 1 }, 50);
            assert_eq!(recorder.succeeded(), 0);
            recorder.failed.into_iter().next().unwrap().0
        };
        assert_eq!(failure(&Fake::flipping(0)), Failure::Corrupted);
        assert_eq!(failure(&Fake::closing()), Failure::Closed);
        assert_eq!(failure(&Fake::absent()), Failure::Refused);
    }

    #[test]
    fn what_never_ends_is_unfinished_or_a_timeout() {
        let fake = Fake::stalling(Duration::ZERO, Duration::from_secs(3600));
        let target = fake.address;
        let shape = Loop::Open {
            rate: 100.0,
            in_flight: 5,
        };
        let limit = Duration::from_millis(50);
        let recorder = begin_and_end(shape, Duration::from_millis(300), move || {
            attempt(target, 1, Closing::Reset, limit)
        });
        // Thirty were due; each is accounted for once.
        assert_eq!((recorder.succeeded(), recorder.failures()), (0, 30));
        assert!(
            recorder.failed[&Failure::Timeout] >= 25,
            "{:?}",
            recorder.failed
        );
    }
}
