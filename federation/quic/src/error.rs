//! Why there is no session, or no longer.

use identity::SpiffeId;
use quinn::{ConnectionError, TransportErrorCode};

use crate::{Protocol, VerifyError};

/// Longest text of the other end that is kept.
const MAX_TEXT: usize = 300;

/// Why a session was not made, or ended. The sentences are for operators.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// We refuse the other end's certificate.
    #[error("not trusted: {0}")]
    Untrusted(VerifyError),
    /// The certificate holds and is of somebody who has no business here.
    #[error("{id} may not speak {protocol}: that is for {wanted}")]
    NotPermitted {
        /// Who.
        id: SpiffeId,
        /// What was asked for.
        protocol: Protocol,
        /// Who may.
        wanted: &'static str,
    },
    /// The other end refuses us, in its own words.
    #[error("refused by the other end: {0}")]
    Refused(String),
    /// The other end ended the session, in its own words.
    #[error("ended by the other end: {0}")]
    Ended(String),
    /// Nothing came in time.
    #[error("no answer within {0} s")]
    Timeout(u64),
    /// The session stood and the other end fell silent, or restarted.
    #[error("lost: {0}")]
    Lost(&'static str),
    /// A frame longer than [`crate::MAX_FRAME`] was announced.
    #[error("a frame of {0} bytes, at most 1048576 are allowed")]
    FrameTooLarge(u32),
    /// The other end broke the rules of the stream.
    #[error("the other end broke the protocol: {0}")]
    Protocol(&'static str),
    /// Our own queue towards the other end is full.
    #[error("the other end reads too slowly")]
    TooSlow,
    /// We ended it.
    #[error("ended here: {0}")]
    Here(String),
    /// Something on this machine is wrong.
    #[error("{0}")]
    Local(String),
}

/// Application error codes of CONNECTION_CLOSE (RFC 9000 section 19.19).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Code {
    Done = 0,
    Protocol = 1,
    NotPermitted = 2,
    Timeout = 3,
    TooSlow = 4,
}

impl Code {
    /// For quinn.
    pub(crate) fn into_var(self) -> quinn::VarInt {
        quinn::VarInt::from_u32(self as u32)
    }
}

impl From<VerifyError> for SessionError {
    // By hand: what the message says already is no further cause.
    fn from(error: VerifyError) -> Self {
        Self::Untrusted(error)
    }
}

impl SessionError {
    /// What to tell the other end.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Untrusted(_) | Self::NotPermitted { .. } => Code::NotPermitted,
            Self::Timeout(_) => Code::Timeout,
            Self::FrameTooLarge(_) | Self::Protocol(_) => Code::Protocol,
            Self::TooSlow => Code::TooSlow,
            _ => Code::Done,
        }
    }

    /// The end of a connection before it became a session.
    pub(crate) fn before(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Refused(text(&close.reason)),
            ConnectionError::ConnectionClosed(close) => Self::Refused(match text(&close.reason) {
                reason if reason.is_empty() => close.error_code.to_string(),
                reason => reason,
            }),
            ConnectionError::TransportError(error) if error.code == certificate_required() => {
                Self::Untrusted(VerifyError::NoCertificate)
            }
            ConnectionError::TransportError(error) if error.code == no_application_protocol() => {
                Self::Protocol("no common protocol")
            }
            ConnectionError::TransportError(error) => Self::Local(error.to_string()),
            other => Self::after(other),
        }
    }

    /// The end of a session.
    pub(crate) fn after(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => Self::Ended(text(&close.reason)),
            ConnectionError::ConnectionClosed(close) => Self::Ended(text(&close.reason)),
            ConnectionError::TimedOut => Self::Lost("nothing was heard of the other end"),
            ConnectionError::Reset => Self::Lost("the other end knows nothing of it"),
            ConnectionError::LocallyClosed => Self::Here("closed".into()),
            ConnectionError::VersionMismatch => Self::Protocol("no common version of QUIC"),
            other => Self::Local(other.to_string()),
        }
    }
}

/// TLS alerts (RFC 8446 section 6, RFC 7301 section 3.2) as QUIC carries them.
fn certificate_required() -> TransportErrorCode {
    TransportErrorCode::crypto(116)
}

fn no_application_protocol() -> TransportErrorCode {
    TransportErrorCode::crypto(120)
}

/// What the other end says, made safe for a log.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    // What rustls puts around the sentence of our own verifier.
    text.strip_prefix("invalid peer certificate: Other(OtherError(")
        .and_then(|rest| rest.strip_suffix("))"))
        .unwrap_or(&text)
        .chars()
        .take(MAX_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
