//! `/metrics`, `/healthz`, `/readyz`: as much of HTTP/1.1 (RFC 9112) as a scrape and a probe need,
//! one GET per connection.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::ask::{Ask, Asker};

/// Longest request head in bytes.
const MAX_HEAD: usize = 8 << 10;
/// How long a client may take in all.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections served at once.
const MAX_CONNECTIONS: usize = 16;

/// Binds `address`.
///
/// # Errors
/// When it cannot be had.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, asker: Asker) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asker = asker.clone();
                tokio::spawn(async move {
                    // A client that goes away or dawdles is its own affair.
                    let _ = timeout(PATIENCE, answer(stream, &asker)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics endpoint");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, asker: &Asker) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let before = head.len();
        let read = (&mut stream)
            .take((MAX_HEAD - before) as u64)
            .read_buf(&mut head)
            .await?;
        if read == 0 {
            return Ok(());
        }
    }
    let (status, body) = respond(target(&head), asker).await;
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await
}

/// The path of a GET, without its query.
fn target(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let target = std::str::from_utf8(line).ok()?.strip_prefix("GET ")?;
    target.split([' ', '?']).next()
}

async fn respond(target: Option<&str>, asker: &Asker) -> (&'static str, String) {
    let ending = || vec!["the agent is ending".to_owned()];
    let state = |problems: Vec<String>| match problems.is_empty() {
        true => ("200 OK", "ok\n".to_owned()),
        false => ("503 Service Unavailable", problems.join("\n") + "\n"),
    };
    match target {
        Some("/metrics") => match asker.question(Ask::Metrics).await {
            Some(text) => ("200 OK", text),
            None => state(ending()),
        },
        Some("/healthz") => state(asker.question(Ask::Health).await.unwrap_or_else(ending)),
        Some("/readyz") => state(asker.question(Ask::Ready).await.unwrap_or_else(ending)),
        Some(_) => (
            "404 Not Found",
            "here are /metrics, /healthz and /readyz\n".to_owned(),
        ),
        None => ("405 Method Not Allowed", "only GET\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_has_a_target() {
        assert_eq!(
            target(b"GET /readyz?x=1 HTTP/1.1\r\nHost: x\r\n\r\n"),
            Some("/readyz")
        );
        assert_eq!(target(b"GET / HTTP/1.1\r\n\r\n"), Some("/"));
        assert_eq!(target(b"POST /readyz HTTP/1.1\r\n\r\n"), None);
        assert_eq!(target(b"\xff\r\n\r\n"), None);
    }
}
