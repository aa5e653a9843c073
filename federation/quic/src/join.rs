//! How a cluster that is not known yet asks to become a peer: one request, one answer. The server is
//! proven by its SVID and the pin of the token; whether the client has the token, whoever owns the
//! endpoint judges by what is said here and what binds it to this connection.

use std::{fmt, net::SocketAddr};

use identity::TrustDomain;
use quinn::{Connection, RecvStream, SendStream};

use crate::{Anchor, Limits, MAX_FRAME, Pin, Protocol, SessionError, Target, Trust, exchange};

/// Separates what binds to a connection from any other use of its secrets (RFC 5705).
const LABEL: &[u8] = b"EXPORTER-landbridge-join";

/// Asks the gateway of `trust_domain` at `address`, whose root must have the fingerprint `pin`, with the
/// request that `request` makes of the 32 bytes that bind it to the connection. The answer, and those
/// bytes.
///
/// # Errors
/// [`SessionError`] says why there is no answer.
pub async fn ask_to_join(
    address: SocketAddr,
    trust_domain: &TrustDomain,
    pin: Pin,
    limits: &Limits,
    request: impl FnOnce(&[u8; 32]) -> Vec<u8>,
) -> Result<(Vec<u8>, [u8; 32]), SessionError> {
    // A trust of its own: who is not a peer yet is believed for nothing else.
    let trust = Trust::new(trust_domain.clone());
    trust.set(trust_domain.clone(), Anchor::Pinned(pin));
    let target = Target {
        address,
        trust_domain: trust_domain.clone(),
        protocol: Protocol::Join,
    };
    let mut bound = [0; 32];
    let within = (MAX_FRAME, limits.handshake_timeout);
    let answer = exchange::ask(&target, &trust, None, limits, within, |connection| {
        bound = binding(connection)?;
        Ok(request(&bound))
    })
    .await?;
    Ok((answer, bound))
}

/// Somebody who asks to join. Dropped unanswered, it is refused without a word.
pub struct Joining {
    request: Vec<u8>,
    binding: [u8; 32],
    connection: Connection,
    send: SendStream,
}

impl Joining {
    pub(crate) async fn begin(
        connection: Connection,
        (send, mut receive): (SendStream, RecvStream),
    ) -> Result<Self, SessionError> {
        Ok(Self {
            request: exchange::read(&mut receive, &connection, MAX_FRAME).await?,
            binding: binding(&connection)?,
            connection,
            send,
        })
    }

    /// From where.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// What it says.
    #[must_use]
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// What binds that to this connection.
    #[must_use]
    pub fn binding(&self) -> &[u8; 32] {
        &self.binding
    }

    /// Answers.
    pub async fn answer(self, answer: Vec<u8>) {
        exchange::answer(&self.connection, self.send, &answer).await;
    }
}

impl fmt::Debug for Joining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Joining(from {})", self.remote())
    }
}

fn binding(connection: &Connection) -> Result<[u8; 32], SessionError> {
    let mut bytes = [0; 32];
    connection
        .export_keying_material(&mut bytes, LABEL, b"")
        .map_err(|_| SessionError::Local("TLS exports nothing".into()))?;
    Ok(bytes)
}
