//! One UDP socket that dials and accepts, under limits.

use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use identity::TrustDomain;
use quinn::{EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt};
use rustls::sign::CertifiedKey;
use tokio::sync::mpsc;

use crate::{
    Arrival, Instance, Protocol, Svid, Trust, accept,
    error::Code,
    tls,
    verifier::{ClientVerifier, Outcome},
};

/// Arrivals that wait for the owner of the endpoint.
const ARRIVALS: usize = 16;

/// First packets that wait for admission: those of one wake-up of the socket.
const BURST: usize = 256;

/// What an endpoint may use. All of it is bounded by this.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Handshakes under way at once; more are refused.
    pub handshakes: usize,
    /// From this many handshakes on, an address must answer a Retry (RFC 9000 section 8.1.2) first.
    pub retry_above: usize,
    /// Handshakes under way per IPv4 address or IPv6 /64; more are ignored.
    pub per_source: usize,
    /// Sessions at once; more are refused.
    pub sessions: usize,
    /// From the first packet to a session that both ends agree on.
    pub handshake_timeout: Duration,
    /// A session is lost when nothing was heard for this long.
    pub idle_timeout: Duration,
    /// How often a silent session is probed.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 64,
            retry_above: 8,
            per_source: 16,
            sessions: 2048,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(2),
        }
    }
}

/// Who an endpoint is. Its owner sets the next SVID; sessions that stand are not touched.
#[derive(Clone, Debug)]
pub struct Identity(Arc<RwLock<Svid>>);

impl Identity {
    /// Begins with `svid`.
    #[must_use]
    pub fn new(svid: Svid) -> Self {
        Self(Arc::new(RwLock::new(svid)))
    }

    /// From now on new sessions use `svid`.
    pub fn set(&self, svid: Svid) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = svid;
    }

    /// The SVID that new sessions use.
    #[must_use]
    pub fn current(&self) -> Svid {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.current().certified
    }

    pub(crate) fn trust_domain(&self) -> TrustDomain {
        self.current().id().trust_domain().clone()
    }
}

/// What an endpoint did, counted since it was bound.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes that were begun for somebody who dialled.
    pub begun: AtomicU64,
    /// Those that became a session or an enrolment.
    pub arrived: AtomicU64,
    /// Those that failed: not trusted, not permitted, too slow, broken.
    pub failed: AtomicU64,
    /// Addresses that were asked to answer a Retry.
    pub retried: AtomicU64,
    /// First packets that were refused or ignored because a limit was reached.
    pub turned_away: AtomicU64,
}

impl Counters {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// A bound endpoint. Clones share the socket.
#[derive(Clone)]
pub struct Endpoint {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub quinn: quinn::Endpoint,
    pub identity: Identity,
    pub trust: Trust,
    pub protocols: Vec<Protocol>,
    pub limits: Limits,
    pub instance: Instance,
    pub counters: Counters,
    pub transport: Arc<TransportConfig>,
}

impl Endpoint {
    /// Binds `address`; else as [`Endpoint::over`].
    ///
    /// # Errors
    /// When the socket cannot be had or there is no randomness.
    pub fn bind(
        address: SocketAddr,
        identity: Identity,
        trust: Trust,
        protocols: &[Protocol],
        limits: Limits,
    ) -> io::Result<(Self, mpsc::Receiver<Arrival>)> {
        let socket = UdpSocket::bind(address)?;
        Self::over(socket, identity, trust, protocols, limits)
    }

    /// Accepts `protocols` on `socket` (none: it only dials). What arrives is received from the
    /// channel; when the owner reads too slowly, new handshakes wait. To be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the socket cannot be used or there is no randomness.
    pub fn over(
        socket: UdpSocket,
        identity: Identity,
        trust: Trust,
        protocols: &[Protocol],
        limits: Limits,
    ) -> io::Result<(Self, mpsc::Receiver<Arrival>)> {
        let mut instance = [0; 16];
        aws_lc_rs::rand::fill(&mut instance).map_err(|_| io::Error::other("no randomness"))?;
        let transport = transport(&limits);
        let config = match protocols {
            [] => None,
            _ => Some(listening(
                &identity, &trust, protocols, &limits, &transport,
            )?),
        };
        let quinn = quinn::Endpoint::new(
            EndpointConfig::default(),
            config,
            socket,
            Arc::new(TokioRuntime),
        )?;
        let shared = Arc::new(Shared {
            quinn,
            identity,
            trust,
            protocols: protocols.to_vec(),
            limits,
            instance: Instance(instance),
            counters: Counters::default(),
            transport,
        });
        let (arrived, arrivals) = mpsc::channel(ARRIVALS);
        if !protocols.is_empty() {
            tokio::spawn(accept::run(shared.clone(), arrived));
        }
        Ok((Self { shared }, arrivals))
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.shared.quinn.local_addr()
    }

    /// This process, as peers see it.
    #[must_use]
    pub fn instance(&self) -> Instance {
        self.shared.instance
    }

    /// Whom it believes.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.shared.trust
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// What it did.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Ends all sessions, tells the other ends `reason`, and accepts nothing more.
    pub async fn close(&self, reason: &str) {
        self.shared
            .quinn
            .close(Code::Done.into_var(), reason.as_bytes());
        self.shared.quinn.wait_idle().await;
    }
}

/// One stream, small windows, no datagrams. Segmentation offload stays off: the gateway's own XDP
/// program sees this traffic on virtual interfaces that do not take it.
pub(crate) fn transport(limits: &Limits) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(256 << 10))
        .receive_window(VarInt::from_u32(256 << 10))
        .send_window(512 << 10)
        .datagram_receive_buffer_size(None)
        .crypto_buffer_size(8 << 10)
        .keep_alive_interval(Some(limits.keep_alive))
        .max_idle_timeout(IdleTimeout::try_from(limits.idle_timeout).ok())
        .enable_segmentation_offload(false);
    Arc::new(config)
}

/// What holds before a handshake is accepted; each handshake then gets a configuration of its own.
fn listening(
    identity: &Identity,
    trust: &Trust,
    protocols: &[Protocol],
    limits: &Limits,
    transport: &Arc<TransportConfig>,
) -> io::Result<quinn::ServerConfig> {
    let verifier = ClientVerifier {
        trust: trust.clone(),
        mandatory: true,
        outcome: Outcome::default(),
    };
    let crypto =
        tls::server(identity.certified(), protocols, verifier).map_err(io::Error::other)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(transport.clone())
        .migration(false)
        .max_incoming(limits.handshakes.max(BURST))
        .incoming_buffer_size(8 << 10)
        .incoming_buffer_size_total(1 << 20);
    Ok(config)
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({:?})", self.local_address())
    }
}
