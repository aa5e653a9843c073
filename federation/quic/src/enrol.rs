//! How a node comes by its X.509-SVID: one request, one answer, on a connection of its own. The
//! server is proven by its SVID; the node by a one-time secret, or by the SVID it still has.
//!
//! Request: one frame, a CBOR map {"node": text, "secret": bytes, "request": bytes}, the request a
//! PKCS#10 one in DER, the secret empty when the node has an SVID. Answer: one frame, a CBOR map
//! with either {"chain": [bytes]}, DER and leaf first, or {"refused": text}.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use identity::TrustDomain;
use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{
    Asked, Limits, PkiError, Protocol, SessionError, Svid, SvidRequest, Target, Trust, Verified,
    dial, endpoint::transport, error::Code, frame,
};

/// Longest request and answer in bytes.
const MAX_MESSAGE: usize = 16 << 10;
/// How long the server waits for the client to have read the answer.
const LINGER: Duration = Duration::from_secs(3);

/// What a node shows.
#[derive(Clone)]
pub enum Credentials {
    /// A one-time secret, the first time.
    Secret {
        /// The node's name.
        node: String,
        /// The secret's bytes.
        secret: Zeroizing<Vec<u8>>,
    },
    /// The SVID that it still has.
    Svid(Svid),
}

/// Why a node has no SVID.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The gateway could not be asked.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The gateway said no.
    #[error("the gateway refuses to enrol this node: {0}")]
    Refused(String),
    /// What the gateway sent is no SVID for our key.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// No socket.
    #[error("cannot open a socket: {0}")]
    Socket(#[from] std::io::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    node: String,
    #[serde(with = "serde_bytes")]
    secret: Vec<u8>,
    #[serde(with = "serde_bytes")]
    request: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Chain(Vec<ByteBuf>),
    Refused(String),
}

/// Asks the gateway at `address` of `trust_domain`, which `trust` must believe, to sign `request`.
///
/// # Errors
/// [`EnrolError`] says why there is no SVID.
pub async fn enrol(
    address: SocketAddr,
    trust_domain: &TrustDomain,
    trust: &Trust,
    credentials: Credentials,
    request: SvidRequest,
    limits: &Limits,
) -> Result<Svid, EnrolError> {
    let any = match address.ip() {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        IpAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let endpoint = quinn::Endpoint::client(any)?;
    let target = Target {
        address,
        trust_domain: trust_domain.clone(),
        protocol: Protocol::Enrol,
    };
    let limit = limits.handshake_timeout;
    let asking = ask(&endpoint, limits, trust, &target, credentials, &request);
    let answer = timeout(limit, asking)
        .await
        .unwrap_or(Err(SessionError::Timeout(limit.as_secs())))?;
    match answer {
        Answer::Refused(why) => Err(EnrolError::Refused(why.chars().take(300).collect())),
        Answer::Chain(chain) => {
            Ok(request.finish(chain.into_iter().map(ByteBuf::into_vec).collect())?)
        }
    }
}

async fn ask(
    endpoint: &quinn::Endpoint,
    limits: &Limits,
    trust: &Trust,
    target: &Target,
    credentials: Credentials,
    request: &SvidRequest,
) -> Result<Answer, SessionError> {
    let (own, node, secret) = match credentials {
        Credentials::Secret { node, secret } => (None, node, secret),
        Credentials::Svid(svid) => (Some(svid.certified), String::new(), Zeroizing::default()),
    };
    let from = (endpoint, &transport(limits));
    let (connection, peer) = dial::connect(from, own, trust, target).await?;
    target
        .protocol
        .check(&target.trust_domain, &peer.id, true)?;
    let message = encode(&Request {
        node,
        secret: secret.to_vec(),
        request: request.der().to_vec(),
    });
    let (mut send, mut receive) = connection.open_bi().await.map_err(SessionError::before)?;
    let cut = |_| match connection.close_reason() {
        Some(reason) => SessionError::before(reason),
        None => SessionError::Protocol("the stream was cut"),
    };
    frame::write(&mut send, &message).await.map_err(cut)?;
    let answer = read(&mut receive, &connection).await;
    connection.close(Code::Done.into_var(), b"done");
    answer
}

/// Somebody who asks for an SVID. Dropped unanswered, it is refused without a word.
pub struct Enrolling {
    request: Request,
    peer: Option<Verified>,
    connection: Connection,
    send: SendStream,
}

impl Enrolling {
    pub(crate) async fn begin(
        connection: Connection,
        (send, mut receive): (SendStream, RecvStream),
        peer: Option<Verified>,
    ) -> Result<Self, SessionError> {
        let request = read(&mut receive, &connection).await?;
        Ok(Self {
            request,
            peer,
            connection,
            send,
        })
    }

    /// From where.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// What [`crate::EnrolGate`] judges.
    #[must_use]
    pub fn asked(&self) -> Asked<'_> {
        Asked {
            source: self.remote().ip(),
            node: &self.request.node,
            secret: &self.request.secret,
            request: &self.request.request,
            peer: self.peer.as_ref().map(|peer| &peer.id),
        }
    }

    /// The PKCS#10 request in DER, for [`crate::ClusterRoot::sign_request`].
    #[must_use]
    pub fn request(&self) -> &[u8] {
        &self.request.request
    }

    /// Hands over the signed chain, DER and leaf first.
    pub async fn grant(self, chain: Vec<Vec<u8>>) {
        self.answer(&Answer::Chain(
            chain.into_iter().map(ByteBuf::from).collect(),
        ))
        .await;
    }

    /// Says no. The node's operator reads `why`.
    pub async fn refuse(self, why: &str) {
        self.answer(&Answer::Refused(why.into())).await;
    }

    async fn answer(mut self, answer: &Answer) {
        // The node asks again when this is lost.
        let answered = async {
            frame::write(&mut self.send, &encode(answer)).await?;
            let _ = self.send.finish();
            self.connection.closed().await;
            std::io::Result::Ok(())
        };
        let _ = timeout(LINGER, answered).await;
        self.connection.close(Code::Done.into_var(), b"done");
    }
}

impl fmt::Debug for Enrolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enrolling({} from {})", self.request.node, self.remote())
    }
}

async fn read<T: DeserializeOwned>(
    receive: &mut RecvStream,
    connection: &Connection,
) -> Result<T, SessionError> {
    match frame::read(receive, MAX_MESSAGE).await {
        Ok(Some(bytes)) => decode(&bytes).ok_or(SessionError::Protocol("not an enrolment message")),
        Ok(None) => Err(SessionError::Protocol("the stream is empty")),
        Err(frame::FrameError::TooLarge(length)) => Err(SessionError::FrameTooLarge(length)),
        Err(_) => Err(match connection.close_reason() {
            Some(reason) => SessionError::before(reason),
            None => SessionError::Protocol("the stream was cut"),
        }),
    }
}

fn encode(message: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_MESSAGE));
    // Writing to memory cannot fail, and the types have no map with keys that could.
    if ciborium::into_writer(message, &mut *bytes).is_err() {
        bytes.clear();
    }
    bytes
}

fn decode<T: DeserializeOwned>(mut bytes: &[u8]) -> Option<T> {
    // Two levels are all there is; bytes after the message are somebody's error.
    let message = ciborium::de::from_reader_with_recursion_limit(&mut bytes, 8).ok()?;
    bytes.is_empty().then_some(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Answer>(&bytes);
        }

        #[test]
        fn a_request_survives_the_wire(node: String, secret: Vec<u8>, request: Vec<u8>) {
            let sent = Request { node, secret, request };
            let read: Option<Request> = decode(&encode(&sent));
            let read = read.map(|read| (read.node, read.secret, read.request));
            prop_assert_eq!(read, Some((sent.node, sent.secret, sent.request)));
        }
    }
}
