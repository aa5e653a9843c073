//! The few lines of HTTP that the demo speaks as a client. Every call has a limit of its own, and
//! opens its socket in the namespace of the calling thread.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// Most bytes of an answer that is kept whole.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// All after the head.
    pub body: String,
}

/// What came of an attempt to connect.
#[derive(Debug)]
pub enum Connected {
    /// The handshake was completed.
    Yes(TcpStream),
    /// A RST or an ICMP error came back.
    Refused(ErrorKind),
    /// Nothing came back.
    Silence,
}

/// Connects within `limit`.
pub fn connect(address: SocketAddr, limit: Duration) -> Connected {
    match TcpStream::connect_timeout(&address, limit) {
        Ok(stream) => Connected::Yes(stream),
        Err(e) => e.into(),
    }
}

impl From<io::Error> for Connected {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silence,
            kind => Self::Refused(kind),
        }
    }
}

/// `GET path`, with `limit` for the connection and for every read.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, limit)
        .with_context(|| format!("cannot connect to {address}"))?;
    get_on(&mut stream, path, limit)
}

/// `GET path` on a connection that stands; the server closes it.
pub fn get_on(stream: &mut TcpStream, path: &str, limit: Duration) -> Result<Answer> {
    send_get(stream, path, limit)?;
    let mut bytes = Vec::new();
    stream
        .take(MAX_ANSWER)
        .read_to_end(&mut bytes)
        .with_context(|| format!("no whole answer to GET {path}"))?;
    parse(&bytes).with_context(|| format!("the answer to GET {path} is not HTTP"))
}

/// Sends the request and leaves the answer to be read.
pub fn send_get(stream: &mut TcpStream, path: &str, limit: Duration) -> Result<()> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .with_context(|| format!("cannot send GET {path}"))
}

/// What the server sends back, because no request begins so.
const PING: &[u8; 5] = b"\0ping";

/// Sends a few bytes and waits for them to come back.
pub fn echo(stream: &mut TcpStream) -> io::Result<()> {
    ping(stream)?;
    pong(stream)
}

/// Sends a few bytes that the server sends back.
pub fn ping(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(PING)
}

/// Waits for what [`ping`] sent.
pub fn pong(stream: &mut TcpStream) -> io::Result<()> {
    let mut came = [0; PING.len()];
    stream.read_exact(&mut came)?;
    if came != *PING {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some(Answer {
        status,
        body: body.into(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn status_and_body_are_read() {
        let answer = parse(b"HTTP/1.1 503 Not Ready\r\nA: b\r\n\r\npeer west\r\n\r\nmore").unwrap();
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (503, "peer west\r\n\r\nmore")
        );
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_none());
        assert!(parse(b"").is_none());
    }
}
