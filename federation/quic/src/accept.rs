//! Who dials us: admission before any cryptography, then the handshake, each under a limit.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use quinn::{Connection, Incoming, crypto::rustls::HandshakeData};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use crate::{
    Counters, Enrolling, Joining, Protocol, Session, SessionError, Verified, VerifyError,
    endpoint::Shared,
    tls,
    verifier::{ClientVerifier, Outcome},
};

/// What came of somebody who dialled.
#[derive(Debug)]
pub enum Arrival {
    /// A session.
    Session(Session),
    /// Somebody asks for an X.509-SVID.
    Enrolling(Enrolling),
    /// A cluster that is not known asks to become a peer.
    Joining(Joining),
    /// Nothing, and why. These are dropped when the owner reads too slowly; the counters are not.
    Refused(Refused),
}

/// Somebody dialled in vain.
#[derive(Clone, Debug)]
pub struct Refused {
    /// From where.
    pub remote: SocketAddr,
    /// Why.
    pub error: SessionError,
}

/// Handshakes under way per source.
type Sources = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// Accepts until the endpoint is closed.
pub(crate) async fn run(shared: Arc<Shared>, arrivals: mpsc::Sender<Arrival>) {
    let handshakes = Arc::new(Semaphore::new(shared.limits.handshakes));
    let sessions = Arc::new(Semaphore::new(shared.limits.sessions));
    let sources = Sources::default();
    while let Some(incoming) = shared.quinn.accept().await {
        let Some((incoming, admitted)) = admit(&shared, &handshakes, &sources, incoming) else {
            continue;
        };
        let (shared, sessions) = (shared.clone(), sessions.clone());
        let arrivals = arrivals.clone();
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            let arrival = within_time(&shared, incoming, sessions).await;
            hand_over(&shared, &arrivals, remote, arrival).await;
            drop(admitted);
        });
    }
}

/// Held while a handshake is under way.
struct Admitted {
    source: IpAddr,
    sources: Sources,
    _handshake: OwnedSemaphorePermit,
}

/// `None` when the packet was answered by a Retry, refused or ignored.
fn admit(
    shared: &Shared,
    handshakes: &Arc<Semaphore>,
    sources: &Sources,
    incoming: Incoming,
) -> Option<(Incoming, Admitted)> {
    let (limits, counters) = (&shared.limits, &shared.counters);
    let under_way = limits.handshakes - handshakes.available_permits();
    if under_way >= limits.retry_above && !incoming.remote_address_validated() {
        Counters::count(&counters.retried);
        // Refused only when it is validated, which it is not.
        let _ = incoming.retry();
        return None;
    }
    let source = source_of(incoming.remote_address().ip());
    let Ok(handshake) = handshakes.clone().try_acquire_owned() else {
        Counters::count(&counters.turned_away);
        incoming.refuse();
        return None;
    };
    let mut held = sources.lock().unwrap_or_else(PoisonError::into_inner);
    let count = held.entry(source).or_insert(0);
    if *count >= limits.per_source {
        Counters::count(&counters.turned_away);
        incoming.ignore();
        return None;
    }
    *count += 1;
    drop(held);
    Counters::count(&counters.begun);
    let admitted = Admitted {
        source,
        sources: sources.clone(),
        _handshake: handshake,
    };
    Some((incoming, admitted))
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut held = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, which one host may have all of.
#[must_use]
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

async fn within_time(
    shared: &Shared,
    incoming: Incoming,
    sessions: Arc<Semaphore>,
) -> Result<Arrival, SessionError> {
    let limit = shared.limits.handshake_timeout;
    timeout(limit, handshake(shared, incoming, sessions))
        .await
        .unwrap_or(Err(SessionError::Timeout(limit.as_secs())))
}

async fn handshake(
    shared: &Shared,
    incoming: Incoming,
    sessions: Arc<Semaphore>,
) -> Result<Arrival, SessionError> {
    let outcome = Outcome::default();
    let connecting = incoming
        .accept_with(Arc::new(configuration(shared, &outcome)?))
        .map_err(SessionError::before)?;
    let connection = connecting.await.map_err(|e| match outcome.take() {
        Some(Err(refused)) => SessionError::Untrusted(refused),
        _ => SessionError::before(e),
    })?;
    let peer = outcome.take().and_then(Result::ok);
    let arrived = serve(shared, &connection, peer, sessions).await;
    if let Err(e) = &arrived {
        connection.close(e.code().into_var(), e.to_string().as_bytes());
    }
    arrived
}

/// TLS with the SVID of this moment and a verifier of this connection's own.
fn configuration(shared: &Shared, outcome: &Outcome) -> Result<quinn::ServerConfig, SessionError> {
    let verifier = ClientVerifier {
        trust: shared.trust.clone(),
        mandatory: !shared.protocols.iter().any(|protocol| protocol.is_open()),
        outcome: outcome.clone(),
    };
    let crypto = tls::server(shared.identity.certified(), &shared.protocols, verifier)
        .map_err(|e| SessionError::Local(e.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(shared.transport.clone())
        .migration(false);
    Ok(config)
}

async fn serve(
    shared: &Shared,
    connection: &Connection,
    peer: Option<Verified>,
    sessions: Arc<Semaphore>,
) -> Result<Arrival, SessionError> {
    let protocol = negotiated(connection)?;
    if let Some(peer) = &peer {
        protocol.check(&shared.identity.trust_domain(), &peer.id, false)?;
    }
    let cut = |e| SessionError::before(e);
    if protocol == Protocol::Enrol {
        let streams = connection.accept_bi().await.map_err(cut)?;
        let enrolling = Enrolling::begin(connection.clone(), streams, peer).await?;
        return Ok(Arrival::Enrolling(enrolling));
    }
    if protocol == Protocol::Join {
        let streams = connection.accept_bi().await.map_err(cut)?;
        let joining = Joining::begin(connection.clone(), streams).await?;
        return Ok(Arrival::Joining(joining));
    }
    let peer = peer.ok_or(VerifyError::NoCertificate)?;
    let slot = sessions
        .try_acquire_owned()
        .map_err(|_| SessionError::Local("too many sessions".into()))?;
    let streams = connection.accept_bi().await.map_err(cut)?;
    Session::begin(
        connection.clone(),
        streams,
        shared.instance,
        (peer, protocol, false),
        Some(slot),
    )
    .await
    .map(Arrival::Session)
}

fn negotiated(connection: &Connection) -> Result<Protocol, SessionError> {
    connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| Protocol::from_alpn(data.protocol.as_deref()?))
        .ok_or(SessionError::Protocol("no common protocol"))
}

async fn hand_over(
    shared: &Shared,
    arrivals: &mpsc::Sender<Arrival>,
    remote: SocketAddr,
    arrival: Result<Arrival, SessionError>,
) {
    match arrival {
        Ok(arrival) => {
            Counters::count(&shared.counters.arrived);
            // When nobody listens any more, the arrival is dropped and thereby closed.
            let _ = arrivals.send(arrival).await;
        }
        Err(error) => {
            Counters::count(&shared.counters.failed);
            let _ = arrivals.try_send(Arrival::Refused(Refused { remote, error }));
        }
    }
}
