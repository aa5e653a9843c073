//! How a node comes by its X.509-SVID: one request, one answer, on a connection of its own. The
//! server is proven by its SVID; the node by a one-time secret, by the service-account token of the pod that
//! the agent runs in, or by the SVID it still has.
//!
//! Request: one frame, a CBOR map {"node": text, "secret": bytes, "token": text, "request": bytes}, the
//! request a PKCS#10 one in DER. Of secret and token one is empty, and both when the node has an SVID; a token
//! says itself which node it is of. Answer: one frame, a CBOR map
//! with either {"chain": [bytes]}, DER and leaf first, or {"refused": text}.

use std::{fmt, net::SocketAddr, time::Duration};

use identity::TrustDomain;
use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_bytes::ByteBuf;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    Asked, Limits, PkiError, Protocol, SessionError, Svid, SvidRequest, Target, Trust, Verified,
    exchange,
};

/// Longest request and answer in bytes.
const MAX_MESSAGE: usize = 16 << 10;
/// How long an answer may take: the root's private key may be with a signer that takes its time, and
/// others may be before us.
const PATIENCE: Duration = Duration::from_secs(30);
/// What came is something else.
const NO_MESSAGE: SessionError = SessionError::Protocol("not an enrolment message");

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
    /// The token of the agent's service account, made for gateways: good as long as the API server says so.
    Token(Zeroizing<String>),
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
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    node: String,
    #[serde(with = "serde_bytes")]
    secret: Vec<u8>,
    token: String,
    #[serde(with = "serde_bytes")]
    request: Vec<u8>,
}

impl Drop for Request {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.token.zeroize();
    }
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
    let target = Target {
        address,
        trust_domain: trust_domain.clone(),
        protocol: Protocol::Enrol,
    };
    let mut message = Request {
        node: String::new(),
        secret: Vec::new(),
        token: String::new(),
        request: request.der().to_vec(),
    };
    let own = match credentials {
        Credentials::Secret { node, secret } => {
            message.node = node;
            message.secret = secret.to_vec();
            None
        }
        Credentials::Token(token) => {
            message.token.clone_from(&token);
            None
        }
        Credentials::Svid(svid) => Some(svid.certified),
    };
    let message = encode(&message);
    let within = (MAX_MESSAGE, PATIENCE);
    let asking = exchange::ask(
        &target,
        trust,
        own,
        limits,
        within,
        |_| Ok(message.to_vec()),
    );
    let answer = decode(&asking.await?).ok_or(NO_MESSAGE)?;
    match answer {
        Answer::Refused(why) => Err(EnrolError::Refused(why.chars().take(300).collect())),
        Answer::Chain(chain) => {
            Ok(request.finish(chain.into_iter().map(ByteBuf::into_vec).collect())?)
        }
    }
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
        let bytes = exchange::read(&mut receive, &connection, MAX_MESSAGE).await?;
        let request = decode(&bytes).ok_or(NO_MESSAGE)?;
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

    /// Whether it waits no longer for an answer.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.connection.close_reason().is_some()
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

    /// The service-account token that it shows, if it shows one and no SVID.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        let token = &self.request.token;
        (self.peer.is_none() && !token.is_empty()).then_some(token)
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

    async fn answer(self, answer: &Answer) {
        exchange::answer(&self.connection, self.send, &encode(answer)).await;
    }
}

impl fmt::Debug for Enrolling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enrolling({} from {})", self.request.node, self.remote())
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
        fn a_request_survives_the_wire(
            node: String, secret: Vec<u8>, token: String, request: Vec<u8>,
        ) {
            let sent = Request { node, secret, token, request };
            let read: Option<Request> = decode(&encode(&sent));
            let read = read.expect("it can be read");
            prop_assert_eq!(&read.node, &sent.node);
            prop_assert_eq!(&read.secret, &sent.secret);
            prop_assert_eq!(&read.token, &sent.token);
            prop_assert_eq!(&read.request, &sent.request);
        }
    }
}
