//! `throughput`: bulk transfers, each byte checked.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    frames::{Checker, Writer},
    http,
    options::{Common, duration},
    outcome::Failure,
    report::{Better, Report, number},
    run::{Run, raise_descriptor_limit},
    server::{Arrived, BUFFER, GREETING, HELLO},
};

/// Arguments of `throughput`.
#[derive(Clone, Debug, Args)]
pub struct ThroughputArgs {
    /// HOST:PORT, or with --demo also CLUSTER/NAMESPACE/POD:PORT
    target: String,
    /// Which way the bytes go. Upload and download need `landbridge-loadtest server` at the far end, echo
    /// any server that echoes
    #[arg(long, value_enum, default_value = "download")]
    direction: Direction,
    /// Instead: GET this path over HTTP, again and again; compared with the header Repr-Digest if the answer
    /// has one. The pods of the demo serve /bytes/N
    #[arg(long, value_name = "PATH", conflicts_with = "direction")]
    http: Option<String>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// How long connecting may take, and how long what is under way at the end
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    timeout: Duration,
    #[command(flatten)]
    common: Common,
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Direction {
    /// To the target
    Upload,
    /// From the target
    Download,
    /// There and back
    Echo,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Echo => "echo",
        }
    }
}

/// Runs it.
pub fn run(args: &ThroughputArgs) -> Result<ExitCode> {
    let place = args.common.prepare(&args.target)?;
    raise_descriptor_limit();
    let run = Run::new(args.common.duration);
    let transfer = Transfer {
        target: place.target,
        direction: args.direction,
        path: args.http.as_deref().map(Into::into),
        limit: args.timeout,
        moved: Rc::new(Cell::new(0)),
    };
    let line = progress(transfer.moved.clone());
    let streams = run.block_on(line, measure(&run, args.streams, &transfer))?;
    let word = match args.http {
        Some(_) => "http",
        None => args.direction.word(),
    };
    let mut report = Report::new("throughput", &args.target, args.common.place_name(), &run)
        .with("direction", word)
        .with("streams", args.streams);
    streams.tell(&mut report);
    report.drops(&place.watch);
    report.print(args.common.output);
    Ok(run.exit_code())
}

fn progress(moved: Rc<Cell<u64>>) -> impl FnMut() -> String {
    let mut before = 0;
    move || {
        let bytes = moved.get() - std::mem::replace(&mut before, moved.get());
        format!("{} Mbit/s", number(bytes as f64 * 8e-6))
    }
}

/// What all streams have in common.
#[derive(Clone)]
struct Transfer {
    target: SocketAddr,
    direction: Direction,
    path: Option<Rc<str>>,
    limit: Duration,
    /// Bytes that went by so far, for people to look at.
    moved: Rc<Cell<u64>>,
}

/// What came of one stream.
struct Stream {
    /// Bytes that arrived and were checked.
    checked: u64,
    result: Result<(), Failure>,
    /// In words, what a failure alone does not say.
    note: Option<&'static str>,
}

/// What came of all.
struct Streams {
    all: Vec<Stream>,
    /// From the beginning until the last stream was checked.
    time: Duration,
    unfinished: u64,
}

async fn measure(run: &Rc<Run>, streams: u32, transfer: &Transfer) -> Result<Streams> {
    let mut tasks = JoinSet::new();
    let done = Rc::new(RefCell::new(Vec::new()));
    for _ in 0..streams {
        let (run, transfer, done) = (run.clone(), transfer.clone(), done.clone());
        tasks.spawn_local(async move {
            let stream = transfer.one(&run).await;
            done.borrow_mut().push(stream);
        });
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::pin!(all);
    tokio::select! {
        () = &mut all => {}
        () = run.over() => {
            let _ = timeout(run.patience(transfer.limit), &mut all).await;
        }
    }
    let time = run.begin.elapsed();
    run.finish();
    let all = done.take();
    Ok(Streams {
        unfinished: u64::from(streams) - all.len() as u64,
        all,
        time,
    })
}

impl Streams {
    fn tell(&self, report: &mut Report) {
        let bytes: u64 = self.all.iter().map(|s| s.checked).sum();
        let rate = bytes as f64 * 8.0 / self.time.as_secs_f64();
        report.figure("throughput", "bit/s", rate, Better::Higher);
        report.checked_bytes = Some(bytes);
        let mut fail =
            |kind: Failure, n| *report.failed.entry(kind.word().into()).or_default() += n;
        if self.unfinished > 0 {
            fail(Failure::Unfinished, self.unfinished);
        }
        for stream in &self.all {
            match stream.result {
                Ok(()) => report.succeeded += 1,
                Err(kind) => fail(kind, 1),
            }
        }
        let mut notes: Vec<_> = self.all.iter().filter_map(|s| s.note).collect();
        notes.sort_unstable();
        notes.dedup();
        report.notes.extend(notes.into_iter().map(Into::into));
        let streams = self.all.len() as u64 + self.unfinished;
        let failed = 100.0 * (streams - report.succeeded) as f64 / streams.max(1) as f64;
        report.figure("failed", "%", failed, Better::Lower);
    }
}

impl Transfer {
    async fn one(&self, run: &Run) -> Stream {
        if let Some(path) = &self.path {
            return self.download_http(run, path).await;
        }
        let mut note = None;
        let mut checked = 0;
        let result = async {
            let mut stream = timeout(self.limit, self.greeted(&mut note))
                .await
                .unwrap_or(Err(Failure::Timeout))?;
            match self.direction {
                Direction::Upload => self.upload(run, &mut stream, &mut checked).await,
                Direction::Download => self.download(run, &mut stream, &mut checked).await,
                Direction::Echo => self.echo(run, &mut stream, &mut checked).await,
            }
        };
        let result = result.await;
        Stream {
            checked,
            result,
            note,
        }
    }

    /// A connection to somebody who will do as asked.
    async fn greeted(&self, note: &mut Option<&'static str>) -> Result<TcpStream, Failure> {
        let mut stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        if self.direction == Direction::Echo {
            return Ok(stream);
        }
        let request = [HELLO, self.direction.word().as_bytes(), b"\n"].concat();
        stream.write_all(&request).await?;
        let mut answer = [0; GREETING.len()];
        stream.read_exact(&mut answer).await?;
        if answer == GREETING {
            return Ok(stream);
        }
        *note = Some(match request.starts_with(&answer) {
            true => {
                "the far end echoes: use --direction echo, or start landbridge-loadtest server there"
            }
            false => {
                "the far end is no landbridge-loadtest server: start one there, or use --http PATH"
            }
        });
        Err(Failure::Other)
    }

    fn count(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }

    async fn send(
        &self,
        run: &Run,
        write: &mut (impl AsyncWriteExt + Unpin),
    ) -> Result<(), Failure> {
        let mut writer = Writer::new();
        while !run.is_over() {
            let frame = writer.full();
            write.write_all(frame).await?;
            let length = frame.len();
            if self.direction == Direction::Upload {
                self.count(length);
            }
            // On a fast path writing never waits, and nobody would see the end of the run.
            tokio::task::yield_now().await;
        }
        write.write_all(writer.end()).await?;
        Ok(write.shutdown().await?)
    }

    /// Reads frames until the last one.
    async fn check(
        &self,
        read: &mut (impl AsyncReadExt + Unpin),
        checked: &mut u64,
    ) -> Result<(), Failure> {
        let mut checker = Checker::default();
        let mut buffer = vec![0; BUFFER];
        while !checker.ended() {
            let length = read.read(&mut buffer).await?;
            if length == 0 {
                return Err(Failure::Closed);
            }
            self.count(length);
            let fed = checker.feed(&buffer[..length]);
            *checked = checker.checked();
            fed?;
        }
        Ok(())
    }

    async fn upload(
        &self,
        run: &Run,
        stream: &mut TcpStream,
        checked: &mut u64,
    ) -> Result<(), Failure> {
        self.send(run, stream).await?;
        let mut line = Vec::new();
        stream.take(1024).read_to_end(&mut line).await?;
        let arrived: Arrived = serde_json::from_slice(&line).map_err(|_| Failure::Closed)?;
        *checked = arrived.bytes;
        match arrived.whole {
            true => Ok(()),
            false => Err(Failure::Corrupted),
        }
    }

    async fn download(
        &self,
        run: &Run,
        stream: &mut TcpStream,
        checked: &mut u64,
    ) -> Result<(), Failure> {
        let (mut read, mut write) = stream.split();
        let stop = async {
            run.over().await;
            // A far end that is gone shows when reading.
            let _ = write.shutdown().await;
            std::future::pending().await
        };
        tokio::select! {
            result = self.check(&mut read, checked) => result,
            never = stop => never,
        }
    }

    async fn echo(
        &self,
        run: &Run,
        stream: &mut TcpStream,
        checked: &mut u64,
    ) -> Result<(), Failure> {
        let (mut read, mut write) = stream.split();
        tokio::try_join!(self.send(run, &mut write), self.check(&mut read, checked)).map(|_| ())
    }

    /// Whole answers, until the time is over. The last one is given up, and its bytes do not count.
    async fn download_http(&self, run: &Run, path: &str) -> Stream {
        let mut stream = Stream {
            checked: 0,
            result: Ok(()),
            note: None,
        };
        while !run.is_over() {
            let answer = http::download(self.target, path, self.limit, |bytes| self.count(bytes));
            let answer = tokio::select! {
                answer = answer => answer,
                () = run.over() => break,
            };
            match answer {
                Ok(answer) => {
                    stream.checked += answer.length;
                    if !answer.compared {
                        stream.note =
                            Some("the server sends no Repr-Digest: only lengths were checked");
                    }
                }
                Err((failure, note)) => {
                    stream.result = Err(failure);
                    stream.note = note;
                    break;
                }
            }
        }
        if stream.checked == 0 && stream.result.is_ok() {
            stream.note =
                Some("no whole answer came in time: ask for less, or measure longer with -d");
        }
        stream
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        server,
        testing::{Fake, Way, relay},
    };

    /// A whole run against `target`; without one, against a server of ours, over a relay that changes the byte at
    /// that offset.
    fn transfer(
        direction: Direction,
        path: Option<&str>,
        target: Option<SocketAddr>,
        flip: Option<(Way, u64)>,
    ) -> Streams {
        let run = Run::new(Duration::from_millis(600));
        let work = async {
            let target = match target {
                Some(target) => target,
                None => {
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
                    let address = listener.local_addr()?;
                    tokio::task::spawn_local(server::accept(listener));
                    relay(address, flip)
                }
            };
            let transfer = Transfer {
                target,
                direction,
                path: path.map(Into::into),
                limit: Duration::from_secs(5),
                moved: Rc::default(),
            };
            measure(&run, 3, &transfer).await
        };
        run.block_on(String::new, work).unwrap()
    }

    #[test]
    fn what_arrives_whole_is_counted_at_the_end_where_it_arrives() {
        for direction in [Direction::Upload, Direction::Download, Direction::Echo] {
            let streams = transfer(direction, None, None, None);
            assert_eq!(streams.all.len(), 3);
            for stream in &streams.all {
                assert_eq!(stream.result, Ok(()), "{direction:?}");
                assert!(stream.checked >= 65_000, "{direction:?} {}", stream.checked);
            }
        }
    }

    #[test]
    fn one_flipped_byte_is_caught() {
        for (direction, way) in [
            (Direction::Upload, Way::There),
            (Direction::Download, Way::Back),
            (Direction::Echo, Way::There),
            (Direction::Echo, Way::Back),
        ] {
            let streams = transfer(direction, None, None, Some((way, 70_000)));
            for stream in &streams.all {
                assert_eq!(
                    stream.result,
                    Err(Failure::Corrupted),
                    "{direction:?} {way:?}"
                );
                // One frame came whole before.
                assert_eq!(stream.checked, crate::frames::PAYLOAD as u64);
            }
        }
    }

    #[test]
    fn a_far_end_that_is_no_server_of_ours_is_named() {
        let echo = Fake::echo();
        let streams = transfer(Direction::Upload, None, Some(echo.address), None);
        for stream in &streams.all {
            assert_eq!(stream.result, Err(Failure::Other));
            assert!(stream.note.unwrap().contains("--direction echo"));
        }
    }

    #[test]
    fn http_is_compared_with_its_digest() {
        use base64::{Engine, engine::general_purpose::STANDARD};
        use sha2::{Digest, Sha256};
        let digest = STANDARD.encode(Sha256::digest("0123456789"));
        let answer = |digest: &str, body: &str| {
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nRepr-Digest: sha-256=:{digest}:\r\n\r\n{body}"
            )
        };
        let result = |answer: String| {
            let fake = Fake::answering(answer);
            let mut streams = transfer(
                Direction::Download,
                Some("/bytes/10"),
                Some(fake.address),
                None,
            );
            let stream = streams.all.pop().unwrap();
            (stream.result, stream.checked > 0)
        };
        assert_eq!(result(answer(&digest, "0123456789")), (Ok(()), true));
        assert_eq!(
            result(answer(&digest, "0123456780")),
            (Err(Failure::Corrupted), false)
        );
        assert_eq!(
            result(answer(&digest, "012345678")),
            (Err(Failure::Closed), false)
        );
        assert_eq!(
            result("HTTP/1.1 404 Not Found\r\n\r\n".into()),
            (Err(Failure::Other), false)
        );
    }
}
