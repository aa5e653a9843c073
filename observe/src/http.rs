//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.
//!
//! The exporter's own listener knows no readiness and answers every path with the metrics, so this
//! small server says them itself. It speaks as much HTTP/1.1 as a scrape needs (RFC 9112): GET, one
//! request per connection.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{Observed, connections};

/// The longest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// How long a client may take for its request and for the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves on `listener` until the task is dropped.
///
/// # Errors
/// When the runtime does not take `listener`.
pub async fn serve(
    listener: std::net::TcpListener,
    observed: Arc<impl Observed>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let talk = |stream| timeout(PATIENCE, answer(stream, Arc::clone(&observed)));
    connections::serve(&listener, talk).await;
    Ok(())
}

async fn answer(mut stream: TcpStream, observed: Arc<impl Observed>) -> io::Result<()> {
    let Some(head) = read_head(&mut stream).await? else {
        return Ok(());
    };
    let (status, body) = respond(target(&head), &*observed).await;
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The request up to its empty line; `None` when it is too long or ends before.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        let read = stream.read(&mut chunk).await?;
        if read == 0 || head.len() + read > MAX_HEAD {
            return Ok(None);
        }
        head.extend_from_slice(&chunk[..read]);
    }
    Ok(Some(head))
}

/// The path of a GET, without its query.
fn target(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let target = std::str::from_utf8(line).ok()?.strip_prefix("GET ")?;
    target.split([' ', '?']).next()
}

async fn respond(target: Option<&str>, observed: &impl Observed) -> (&'static str, String) {
    let state = |problems: Vec<String>| match problems.is_empty() {
        true => ("200 OK", "ok\n".to_owned()),
        false => ("503 Service Unavailable", problems.join("\n") + "\n"),
    };
    match target {
        Some("/metrics") => ("200 OK", observed.metrics().await),
        Some("/healthz") => state(observed.unhealthy().await),
        Some("/readyz") => state(observed.unready().await),
        Some(_) => (
            "404 Not Found",
            "/metrics, /healthz and /readyz are here\n".into(),
        ),
        None => ("405 Method Not Allowed", "only GET\n".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use super::*;
    use crate::{Caller, Reply, Request};

    struct Half;

    impl Observed for Half {
        async fn answer(&self, _: Request, _: Caller) -> Result<Reply, String> {
            Err("not asked here".into())
        }
        async fn metrics(&self) -> String {
            "landbridge_test_total 3\n".into()
        }
        async fn unhealthy(&self) -> Vec<String> {
            Vec::new()
        }
        async fn unready(&self) -> Vec<String> {
            vec!["no peer yet".into(), "no policy yet".into()]
        }
    }

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn paths_are_told_apart() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Half)));

        let metrics = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(
            metrics.ends_with("\nlandbridge_test_total 3\n"),
            "{metrics}"
        );
        let healthy = ask(address, b"GET /healthz?x=1 HTTP/1.1\r\n\r\n").await;
        assert!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
        let ready = ask(address, b"GET /readyz HTTP/1.1\r\n\r\n").await;
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.ends_with("no peer yet\nno policy yet\n"), "{ready}");
        let nothing = ask(address, b"GET / HTTP/1.1\r\n\r\n").await;
        assert!(nothing.starts_with("HTTP/1.1 404"), "{nothing}");
        for other in [&b"POST /metrics HTTP/1.1\r\n\r\n"[..], b"\xff\r\n\r\n"] {
            let refused = ask(address, other).await;
            assert!(refused.starts_with("HTTP/1.1 405"), "{refused}");
        }
        assert_eq!(
            ask(address, &[b'x'; MAX_HEAD + 1]).await,
            "",
            "closed, not answered"
        );
        server.abort();
    }
}
