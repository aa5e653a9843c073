//! The server in every pod of the demo: answers HTTP, and sends everything else back as it came.
//!
//! * `GET /` names the pod and the caller's address as this pod sees it.
//! * `GET /bytes/N` sends N bytes that the caller can compute, with their SHA-256 in the header
//!   `Repr-Digest` (RFC 9530, section 3).
//! * `POST /echo` answers with the body, at most 1 MiB.
//! * A connection whose first bytes are no HTTP request is echoed until it ends.

use std::{io, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::content;
use crate::say::say;

/// Longest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// Longest body of `POST /echo` in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// Most bytes of one `GET /bytes/N`.
const MAX_BYTES: u64 = 1 << 40;

/// Arguments of the hidden subcommand `demo-server`.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// What `GET /` answers, as CLUSTER/NAMESPACE/POD.
    #[arg(long)]
    pod: String,
    /// TCP ports to listen on.
    #[arg(long, value_delimiter = ',')]
    ports: Vec<u16>,
}

/// Serves until the process is ended.
pub fn run(args: &ServerArgs) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(args))
}

async fn serve(args: &ServerArgs) -> Result<()> {
    let pod: Arc<str> = args.pod.as_str().into();
    let mut listeners = JoinSet::new();
    for &port in &args.ports {
        let listener = TcpListener::bind(("0.0.0.0", port))
            .await
            .with_context(|| format!("cannot listen on TCP port {port}"))?;
        say!("{pod} listens on TCP port {port}");
        listeners.spawn(accept(listener, pod.clone()));
    }
    listeners.join_all().await;
    Ok(())
}

async fn accept(listener: TcpListener, pod: Arc<str>) {
    loop {
        // A connection that ended before it was accepted is no reason to stop.
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::task::yield_now().await;
            continue;
        };
        let pod = pod.clone();
        tokio::spawn(async move {
            if let Err(e) = converse(stream, peer, &pod).await {
                say!("{peer}: {e}");
            }
        });
    }
}

async fn converse(mut stream: TcpStream, peer: SocketAddr, pod: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return if looks_like_http(&head) {
                Ok(())
            } else {
                stream.write_all(&head).await
            };
        }
        if !looks_like_http(&head) {
            return echo(stream, &head).await;
        }
        if let Some(end) = find(&head, b"\r\n\r\n") {
            let body = head.split_off(end + 4);
            return answer(stream, peer, pod, &head, body).await;
        }
        if head.len() > MAX_HEAD {
            return respond(&mut stream, "431 Request Header Fields Too Large", "", b"").await;
        }
    }
}

/// What was read so far is the start of a request that this server knows, or could become one.
fn looks_like_http(start: &[u8]) -> bool {
    [&b"GET "[..], b"HEAD ", b"POST "]
        .iter()
        .any(|method| start.iter().zip(*method).all(|(a, b)| a == b))
}

async fn echo(mut stream: TcpStream, start: &[u8]) -> io::Result<()> {
    stream.write_all(start).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn answer(
    mut stream: TcpStream,
    peer: SocketAddr,
    pod: &str,
    head: &[u8],
    body: Vec<u8>,
) -> io::Result<()> {
    let head = String::from_utf8_lossy(head);
    let mut words = head.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    match (method, path) {
        ("GET" | "HEAD", "/") => {
            let text = format!("{pod}\nyou are {}\n", peer.ip());
            let text = if method == "GET" { text } else { String::new() };
            respond(
                &mut stream,
                "200 OK",
                "Content-Type: text/plain\r\n",
                text.as_bytes(),
            )
            .await
        }
        ("GET", _) => match path.strip_prefix("/bytes/").map(str::parse) {
            Some(Ok(length)) if length <= MAX_BYTES => send_bytes(&mut stream, length).await,
            _ => respond(&mut stream, "404 Not Found", "", b"").await,
        },
        ("POST", "/echo") => match content_length(&head) {
            Some(length) if length <= MAX_BODY => {
                let body = read_body(&mut stream, body, length).await?;
                respond(&mut stream, "200 OK", "", &body).await
            }
            Some(_) => respond(&mut stream, "413 Content Too Large", "", b"").await,
            None => respond(&mut stream, "411 Length Required", "", b"").await,
        },
        _ => respond(&mut stream, "404 Not Found", "", b"").await,
    }
}

async fn respond(
    stream: &mut TcpStream,
    status: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    stream.shutdown().await
}

async fn send_bytes(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    use base64::{Engine, engine::general_purpose::STANDARD};

    // Other connections go on meanwhile.
    let checksum = tokio::task::spawn_blocking(move || content::checksum(length)).await?;
    let digest = STANDARD.encode(checksum);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {length}\r\nRepr-Digest: sha-256=:{digest}:\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut buffer = vec![0; 256 * 1024];
    let mut at = 0;
    while at < length {
        let size = buffer
            .len()
            .min(usize::try_from(length - at).unwrap_or(usize::MAX));
        content::fill(at, &mut buffer[..size]);
        stream.write_all(&buffer[..size]).await?;
        at += size as u64;
    }
    stream.shutdown().await
}

/// `body` holds what came with the head; the rest, up to `length` bytes, is still to be read.
async fn read_body(
    stream: &mut TcpStream,
    mut body: Vec<u8>,
    length: usize,
) -> io::Result<Vec<u8>> {
    body.truncate(length);
    let missing = (length - body.len()) as u64;
    stream.take(missing).read_to_end(&mut body).await?;
    Ok(body)
}

fn content_length(head: &str) -> Option<usize> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_it = name.eq_ignore_ascii_case("content-length");
        is_it.then(|| value.trim().parse().ok()).flatten()
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
