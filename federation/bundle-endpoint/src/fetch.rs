//! One bundle from one endpoint: a GET by HTTP/1.1 over TLS, bounded in time and size.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use identity::MAX_BUNDLE;
use tokio::{
    net::{TcpStream, lookup_host},
    task::{JoinHandle, spawn_blocking},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{EndpointUrl, FetchError, Problem, Profile, tls};

/// Longest head of an answer in bytes, and most of its headers.
const HEAD: (usize, usize) = (16 << 10, 64);

/// How long a fetch may take.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// To connect to one address of the host.
    pub connect: Duration,
    /// For all of a fetch.
    pub whole: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            whole: Duration::from_secs(20),
        }
    }
}

/// Fetches what is at `url` from a server that is believed by `profile`, at most
/// [`identity::MAX_BUNDLE`] bytes of text. Redirects are not followed.
///
/// # Errors
/// [`FetchError`], a sentence that says where, what, and what to do.
pub async fn fetch(
    url: &EndpointUrl,
    profile: &Profile,
    limits: FetchLimits,
) -> Result<String, FetchError> {
    let slow = Problem::Slow("the fetch", limits.whole.as_secs());
    timeout(limits.whole, get(url, profile, limits))
        .await
        .unwrap_or(Err(slow))
        .map_err(|problem| FetchError {
            url: url.to_string(),
            profile: profile.name(),
            problem: problem.into(),
        })
}

async fn get(url: &EndpointUrl, profile: &Profile, limits: FetchLimits) -> Result<String, Problem> {
    let stream = connect(url, profile, limits.connect).await?;
    let http = |e: hyper::Error| Problem::Http(e.to_string());
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD.0)
        .max_headers(HEAD.1)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(http)?;
    let _connection = Driven(tokio::spawn(connection));
    let request = Request::get(&url.target)
        .header(header::HOST, &url.authority)
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Problem::Http(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    text(response).await
}

async fn connect(
    url: &EndpointUrl,
    profile: &Profile,
    patience: Duration,
) -> Result<TlsStream<TcpStream>, Problem> {
    let of_files = profile.clone();
    let config = spawn_blocking(move || tls::client(&of_files))
        .await
        .map_err(|e| Problem::Tls(e.to_string()))??;
    let stream = dial(url, patience).await?;
    TlsConnector::from(Arc::new(config))
        .connect(url.name.clone(), stream)
        .await
        .map_err(|e| tls::problem(&e, profile))
}

/// To the first address of the host that answers.
async fn dial(url: &EndpointUrl, patience: Duration) -> Result<TcpStream, Problem> {
    let addresses = lookup_host((url.host.as_str(), url.port))
        .await
        .map_err(|e| Problem::NoAddress(e.to_string()))?;
    let mut problem = Problem::NoAddress("none was found".into());
    for address in addresses {
        problem = match timeout(patience, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(e)) => Problem::Unreachable(e),
            Err(_) => Problem::Slow("connecting", patience.as_secs()),
        };
    }
    Err(problem)
}

async fn text(response: Response<Incoming>) -> Result<String, Problem> {
    let status = response.status();
    if status.is_redirection() {
        let to = response.headers().get(header::LOCATION);
        return Err(Problem::Redirect {
            status: status.as_u16(),
            to: to
                .map(|to| {
                    String::from_utf8_lossy(to.as_bytes())
                        .chars()
                        .take(200)
                        .collect()
                })
                .unwrap_or_default(),
        });
    }
    if status != StatusCode::OK {
        return Err(Problem::Status(status.as_u16()));
    }
    let body = response.into_body();
    // What says beforehand that it is too long is not read at all.
    if body.size_hint().lower() > MAX_BUNDLE as u64 {
        return Err(Problem::TooLarge);
    }
    let bytes = Limited::new(body, MAX_BUNDLE)
        .collect()
        .await
        .map_err(|e| {
            if e.is::<LengthLimitError>() {
                Problem::TooLarge
            } else {
                Problem::Http(e.to_string())
            }
        })?;
    String::from_utf8(bytes.to_bytes().into()).map_err(|_| Problem::NoText)
}

/// The connection ends with the fetch, however that ends.
struct Driven(JoinHandle<hyper::Result<()>>);

impl Drop for Driven {
    fn drop(&mut self) {
        self.0.abort();
    }
}
