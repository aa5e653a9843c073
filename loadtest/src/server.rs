//! `server`: the far end of measurements. It sends back what it gets, and sinks or sends checked
//! streams when asked to.
//!
//! A connection that begins with `LBLT 1 upload` or `LBLT 1 download` and a newline is answered by [`GREETING`].
//! * upload: frames come; after the last, or when the client has ended its half, one line of JSON says
//!   what arrived: `{"bytes": N, "whole": true}`.
//! * download: frames go out until the client ends its half; then the last one.
//!
//! Any other connection is echoed.

use std::{cell::Cell, io, net::SocketAddr, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

use crate::{
    frames::{Checker, Writer},
    netns,
    run::raise_descriptor_limit,
    say::say,
};

/// How a request to this server begins.
pub const HELLO: &[u8] = b"LBLT 1 ";
/// What it answers when it will do as asked.
pub const GREETING: &[u8] = b"LBLT 1 ok\n";
/// The longest request line in bytes.
const MAX_LINE: usize = 64;
/// How much is read at once in bytes.
pub const BUFFER: usize = 256 * 1024;

/// Arguments of `server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// ADDRESS:PORT to listen on; may be repeated. Port 0 takes a free one and prints it
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:5201")]
    listen: Vec<SocketAddr>,
    /// Listen inside this network namespace, as `ip netns` names it (root)
    #[arg(long, value_name = "NAME")]
    netns: Option<String>,
}

/// Serves until the process is ended.
pub fn run(args: &ServerArgs) -> Result<ExitCode> {
    if let Some(name) = &args.netns {
        netns::enter(name)?;
    }
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let mut accepting = Vec::new();
        for address in &args.listen {
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address}"))?;
            say!("listening on {}", listener.local_addr()?);
            accepting.push(spawn_local(accept(listener)));
        }
        for one in accepting {
            one.await.context("a listener ended")?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Serves what comes in.
pub async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            // A client that resets, as `connect` does, is no fault to tell of.
            Ok((stream, _)) => drop(spawn_local(converse(stream))),
            // No descriptor left: others end and free one.
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

async fn converse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut start = Vec::with_capacity(MAX_LINE);
    loop {
        if stream.read_buf(&mut start).await? == 0 {
            return stream.write_all(&start).await;
        }
        if !start.iter().zip(HELLO).all(|(a, b)| a == b) {
            return echo(stream, &start).await;
        }
        if let Some(end) = start.iter().position(|byte| *byte == b'\n') {
            let rest = start.split_off(end + 1);
            stream.write_all(GREETING).await?;
            return match &start[HELLO.len()..end] {
                b"upload" => sink(stream, &rest).await,
                b"download" => source(stream).await,
                _ => Ok(()),
            };
        }
        if start.len() > MAX_LINE {
            return echo(stream, &start).await;
        }
    }
}

async fn echo(mut stream: TcpStream, start: &[u8]) -> io::Result<()> {
    stream.write_all(start).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

/// What arrived of an upload.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrived {
    /// Bytes of payload whose checksums held.
    pub bytes: u64,
    /// Whether all that came was as it was sent, up to the last frame.
    pub whole: bool,
}

async fn sink(mut stream: TcpStream, start: &[u8]) -> io::Result<()> {
    let mut checker = Checker::default();
    let mut result = checker.feed(start);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        // What follows a damage is read and forgotten, so that the answer is not lost in a reset.
        if result.is_ok() {
            result = checker.feed(&buffer[..read]);
        }
    }
    let arrived = Arrived {
        bytes: checker.checked(),
        whole: result.is_ok() && checker.ended(),
    };
    let mut line = serde_json::to_vec(&arrived)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.shutdown().await
}

async fn source(mut stream: TcpStream) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    let enough = Cell::new(false);
    let listen = async {
        let mut byte = [0; 64];
        while read.read(&mut byte).await? > 0 {}
        enough.set(true);
        Ok::<_, io::Error>(())
    };
    let send = async {
        let mut writer = Writer::new();
        while !enough.get() {
            write.write_all(writer.full()).await?;
            // On a fast path writing never waits, and nobody would hear the client.
            tokio::task::yield_now().await;
        }
        write.write_all(writer.end()).await?;
        write.shutdown().await
    };
    tokio::try_join!(listen, send).map(|_| ())
}
