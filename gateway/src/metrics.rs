//! The HTTP endpoint: `/metrics`, `/healthz`, `/readyz`.
//!
//! The exporter's own listener knows no readiness and answers every path with the metrics, so this
//! small server renders them itself. It speaks as much HTTP/1.1 as a scrape needs (RFC 9112): GET,
//! one request per connection.

use std::{io, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

/// The longest request head in bytes.
const MAX_HEAD: usize = 8 * 1024;
/// How long a client may take for its request and for the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections served at once.
const MAX_CONNECTIONS: usize = 16;

/// What the endpoint asks of the gateway.
pub trait Health: Send + Sync + 'static {
    /// Called before every scrape: copy counters into the recorder.
    fn refresh(&self);

    /// Why this gateway does not work, in words; empty when it does.
    fn unhealthy(&self) -> Vec<String>;

    /// Why traffic should not be sent to it yet; empty when it should.
    fn unready(&self) -> Vec<String>;
}

/// Serves until the task is dropped.
///
/// # Errors
/// When the runtime does not take `listener`.
pub async fn serve(
    listener: std::net::TcpListener,
    recorder: PrometheusHandle,
    health: Arc<dyn Health>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        let (stream, _) = match listener.accept().await {
            Ok(connection) => connection,
            Err(e) => {
                // Such as too many open files: it passes, and spinning would not help.
                tracing::warn!("metrics: accept: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (recorder, health) = (recorder.clone(), Arc::clone(&health));
        tokio::spawn(async move {
            let _place = place;
            // A client that goes away or dawdles is its own affair.
            let _ = timeout(PATIENCE, answer(stream, &recorder, &*health)).await;
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    recorder: &PrometheusHandle,
    health: &dyn Health,
) -> io::Result<()> {
    let Some(head) = read_head(&mut stream).await? else {
        return Ok(());
    };
    let (status, body) = respond(&head, recorder, health);
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

fn respond(
    head: &[u8],
    recorder: &PrometheusHandle,
    health: &dyn Health,
) -> (&'static str, String) {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (Some("GET"), Some(target)) = (words.next(), words.next()) else {
        return ("405 Method Not Allowed", "only GET\n".into());
    };
    let state = |problems: Vec<String>| match problems.is_empty() {
        true => ("200 OK", "ok\n".to_owned()),
        false => ("503 Service Unavailable", problems.join("\n") + "\n"),
    };
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => {
            health.refresh();
            ("200 OK", recorder.render())
        }
        "/healthz" => state(health.unhealthy()),
        "/readyz" => state(health.unready()),
        _ => (
            "404 Not Found",
            "/metrics, /healthz and /readyz are here\n".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::SocketAddr;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    struct Half;

    impl Health for Half {
        fn refresh(&self) {
            metrics::counter!("landbridge_test_total").absolute(3);
        }
        fn unhealthy(&self) -> Vec<String> {
            Vec::new()
        }
        fn unready(&self) -> Vec<String> {
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
        let recorder = PrometheusBuilder::new().install_recorder().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, recorder, Arc::new(Half)));

        let metrics = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.contains("landbridge_test_total 3"), "{metrics}");
        let healthy = ask(address, b"GET /healthz?x=1 HTTP/1.1\r\n\r\n").await;
        assert!(healthy.starts_with("HTTP/1.1 200"), "{healthy}");
        let ready = ask(address, b"GET /readyz HTTP/1.1\r\n\r\n").await;
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        assert!(ready.ends_with("no peer yet\nno policy yet\n"), "{ready}");
        let nothing = ask(address, b"GET / HTTP/1.1\r\n\r\n").await;
        assert!(nothing.starts_with("HTTP/1.1 404"), "{nothing}");
        let post = ask(address, b"POST /metrics HTTP/1.1\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405"), "{post}");
        assert_eq!(
            ask(address, &[b'x'; MAX_HEAD + 1]).await,
            "",
            "closed, not answered"
        );
        server.abort();
    }
}
