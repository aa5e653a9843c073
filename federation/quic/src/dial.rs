//! Whom we dial.

use std::{net::SocketAddr, sync::Arc};

use identity::TrustDomain;
use quinn::{Connection, TransportConfig};
use rustls::sign::CertifiedKey;
use tokio::time::timeout;

use crate::{
    Endpoint, Protocol, Session, SessionError, Trust, Verified,
    endpoint::Shared,
    tls,
    verifier::{Outcome, ServerVerifier},
};

/// TLS wants a name; none is sent, and who answered is proven by its SPIFFE ID.
const NO_NAME: &str = "landbridge.invalid";

/// Somebody to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub address: SocketAddr,
    /// Who must answer.
    pub trust_domain: TrustDomain,
    /// For what.
    pub protocol: Protocol,
}

impl Endpoint {
    /// Dials `target` once. A session is there when both ends agree on it: a server that refuses
    /// our certificate does so before this returns.
    ///
    /// # Errors
    /// [`SessionError`] says why there is none.
    pub async fn dial(&self, target: &Target) -> Result<Session, SessionError> {
        let limit = self.shared.limits.handshake_timeout;
        timeout(limit, dial(&self.shared, target))
            .await
            .unwrap_or(Err(SessionError::Timeout(limit.as_secs())))
    }
}

async fn dial(shared: &Shared, target: &Target) -> Result<Session, SessionError> {
    let own = Some(shared.identity.certified());
    let from = (&shared.quinn, &shared.transport);
    let (connection, peer) = connect(from, own, &shared.trust, target).await?;
    let begun = async {
        target
            .protocol
            .check(&shared.identity.trust_domain(), &peer.id, true)?;
        let streams = connection.open_bi().await.map_err(SessionError::before)?;
        Session::begin(
            connection.clone(),
            streams,
            shared.instance,
            (peer, target.protocol, true),
            None,
        )
        .await
    }
    .await;
    if let Err(e) = &begun {
        connection.close(e.code().into_var(), e.to_string().as_bytes());
    }
    begun
}

/// A connection whose server is proven to be of the target's trust domain.
pub(crate) async fn connect(
    (quinn, transport): (&quinn::Endpoint, &Arc<TransportConfig>),
    own: Option<Arc<CertifiedKey>>,
    trust: &Trust,
    target: &Target,
) -> Result<(Connection, Verified), SessionError> {
    let outcome = Outcome::default();
    let verifier = ServerVerifier {
        trust: trust.clone(),
        expected: target.trust_domain.clone(),
        outcome: outcome.clone(),
    };
    let local = |e: &dyn std::fmt::Display| SessionError::Local(e.to_string());
    let crypto = tls::client(own, target.protocol, verifier).map_err(|e| local(&e))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(transport.clone());
    let connecting = quinn
        .connect_with(config, target.address, NO_NAME)
        .map_err(|e| local(&e))?;
    match (connecting.await, outcome.take()) {
        (Ok(connection), Some(Ok(peer))) => Ok((connection, peer)),
        (_, Some(Err(refused))) => Err(SessionError::Untrusted(refused)),
        (Err(e), _) => Err(SessionError::before(e)),
        (Ok(_), None) => Err(SessionError::Local("the server was not verified".into())),
    }
}
