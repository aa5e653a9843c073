//! The bundle of a trust domain at one path: SPIFFE Federation, sections 5.2.1.3 and 5.2.2.3. Anybody
//! may ask, so everything that a client can make us hold or wait for is bounded.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::{
    Certificate,
    places::{Place, Places},
    tls,
};

/// Longest head of a request in bytes, and most of its headers.
const HEAD: (usize, usize) = (8 << 10, 64);

/// What clients may take of a server.
#[derive(Clone, Copy, Debug)]
pub struct ServeLimits {
    /// Connections at once.
    pub connections: usize,
    /// Of them from one IPv4 address or IPv6 /64.
    pub per_source: usize,
    /// For the handshake of TLS.
    pub handshake: Duration,
    /// For the head of the request.
    pub head: Duration,
    /// For all of a connection.
    pub whole: Duration,
    /// How often the files of a [`crate::WebCertificate`] are looked at.
    pub files: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            per_source: 16,
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(5),
            whole: Duration::from_secs(20),
            files: Duration::from_secs(10),
        }
    }
}

/// What became of the connections of a server.
#[derive(Debug, Default)]
pub struct Counters {
    /// Answered with the bundle.
    pub served: AtomicU64,
    /// Answered with something else.
    pub refused: AtomicU64,
    /// Closed at once, for want of a place.
    pub no_place: AtomicU64,
    /// Cut off: no handshake, no request, or nothing read, in time or at all.
    pub failed: AtomicU64,
}

/// The path of a bundle endpoint's URL: `/bundle`, unless something else is said.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct EndpointPath(String);

/// The text is no [`EndpointPath`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no path of a bundle endpoint: it begins with / and has neither ? nor #")]
pub struct PathError(String);

impl EndpointPath {
    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for EndpointPath {
    fn default() -> Self {
        Self("/bundle".into())
    }
}

impl TryFrom<String> for EndpointPath {
    type Error = PathError;
    fn try_from(path: String) -> Result<Self, PathError> {
        if path.starts_with('/') && !path.contains(['?', '#']) {
            Ok(Self(path))
        } else {
            Err(PathError(path.chars().take(200).collect()))
        }
    }
}

/// A bundle endpoint.
pub struct Server {
    path: EndpointPath,
    bundle: watch::Receiver<Arc<str>>,
    certificate: Certificate,
    limits: ServeLimits,
    counters: Arc<Counters>,
}

impl Server {
    /// Serves the text in `bundle`, which may be replaced at any time, at `path`.
    #[must_use]
    pub fn new(
        path: EndpointPath,
        bundle: watch::Receiver<Arc<str>>,
        certificate: Certificate,
        limits: ServeLimits,
    ) -> Self {
        Self {
            path,
            bundle,
            certificate,
            limits,
            counters: Arc::default(),
        }
    }

    /// What became of its connections.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves on `listener` until it is dropped; connections that stand end within
    /// [`ServeLimits::whole`].
    ///
    /// # Errors
    /// When TLS cannot be configured, which depends on nothing that a client does.
    pub async fn run(self, listener: TcpListener) -> Result<Infallible, rustls::Error> {
        let tls = TlsAcceptor::from(Arc::new(tls::server(self.certificate.resolver())?));
        let places = Places::new(self.limits.connections, self.limits.per_source);
        let (certificate, pause) = (self.certificate.clone(), self.limits.files);
        let this = Arc::new(self);
        let files = async {
            match &certificate {
                Certificate::Web(files) => files.keep_fresh(pause).await,
                Certificate::Svid(_) => std::future::pending().await,
            }
        };
        let accepting = async {
            loop {
                match listener.accept().await {
                    Ok((stream, from)) => this.take(stream, from, &tls, &places),
                    Err(e) => {
                        // Mostly for want of file descriptors, which others give back.
                        warn!("bundle endpoint: accept: {e}");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        };
        tokio::select! {
            never = accepting => never,
            never = files => never,
        }
    }

    fn take(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        tls: &TlsAcceptor,
        places: &Arc<Places>,
    ) {
        let Some(place) = places.take(from.ip()) else {
            self.counters.no_place.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let (this, tls) = (Arc::clone(self), tls.clone());
        tokio::spawn(async move {
            let served = timeout(this.limits.whole, this.connection(stream, tls, place)).await;
            if let Err(why) = served.unwrap_or(Err("it took too long".into())) {
                this.counters.failed.fetch_add(1, Ordering::Relaxed);
                debug!(%from, "bundle endpoint: {why}");
            }
        });
    }

    /// One request.
    async fn connection(
        &self,
        stream: TcpStream,
        tls: TlsAcceptor,
        _place: Place,
    ) -> Result<(), String> {
        let stream = timeout(self.limits.handshake, tls.accept(stream))
            .await
            .map_err(|_| "no handshake in time".to_owned())?
            .map_err(|e| e.to_string())?;
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head)
            .max_buf_size(HEAD.0)
            .max_headers(HEAD.1)
            .keep_alive(false)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(async |request| Ok::<_, Infallible>(self.answer(&request))),
            )
            .await
            .map_err(|e| e.to_string())
    }

    /// A body is sent to HEAD too, and HTTP leaves it out.
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let right_path = request.uri().path() == self.path.as_str();
        let right_method = matches!(*request.method(), Method::GET | Method::HEAD);
        let counter = match (right_path, right_method) {
            (true, true) => &self.counters.served,
            _ => &self.counters.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::default();
        let header = match (right_path, right_method) {
            (true, true) => {
                let text = self.bundle.borrow().as_bytes().to_vec();
                *response.body_mut() = Full::from(text);
                Some((CONTENT_TYPE, "application/json"))
            }
            (true, false) => {
                *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
                Some((ALLOW, "GET, HEAD"))
            }
            (false, _) => {
                *response.status_mut() = StatusCode::NOT_FOUND;
                None
            }
        };
        if let Some((name, value)) = header {
            let headers = response.headers_mut();
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
