//! Trust bundles: the keys by which one trust domain is believed, in the SPIFFE bundle format
//! (SPIFFE Trust Domain and Bundle, section 4). docs/spec/bundle.md says what we add.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::{IssuerPublicKey, TrustDomain, UnixMillis, jwks};

/// Longest bundle in bytes of JSON.
pub const MAX_BUNDLE: usize = 256 << 10;
/// Most X.509 roots in a bundle, and most issuer keys.
pub const MAX_KEYS: usize = 32;
/// Most label keys in the list of carried labels.
pub const MAX_CARRIED_LABELS: usize = 512;

/// How soon, at the earliest and at the latest, a bundle is asked for again, whatever its hint.
const REFRESH: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(24));

/// Everything by which one trust domain is believed. Never mixed with another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// Whose bundle it is. Not part of the JSON: it is known from where the bundle came from.
    pub trust_domain: TrustDomain,
    /// `spiffe_sequence`: rises with every change.
    pub sequence: u64,
    /// `spiffe_refresh_hint`, in whole seconds.
    pub refresh_hint: Duration,
    /// X.509 roots in DER, for QUIC.
    pub x509_roots: Vec<Vec<u8>>,
    /// Keys that sign credentials, records and digests.
    pub issuer_keys: Vec<IssuerPublicKey>,
    /// The label keys that credentials of this domain carry; `None` when they carry all.
    pub carried_labels: Option<Vec<String>>,
    /// From here on nothing of this domain is believed any more. In whole seconds.
    pub expires_at: UnixMillis,
}

/// Why JSON is not a bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleParseError {
    /// More than [`MAX_BUNDLE`] bytes.
    #[error("{0} bytes, at most {MAX_BUNDLE} are allowed")]
    TooLarge(usize),
    /// Not JSON, or not an object, or a member stands twice.
    #[error("not a JWK set: {0}")]
    Json(String),
    /// A member of the set is absent or of another kind.
    #[error("{member:?} is not {expected}")]
    Member {
        /// Its name.
        member: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// An element of `keys` whose use and type we know is broken. None of the bundle is taken then.
    #[error("key {index}: {problem}")]
    Key {
        /// Its place in `keys`.
        index: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// More than [`MAX_KEYS`] of a kind, or more than [`MAX_CARRIED_LABELS`].
    #[error("too many {0}")]
    TooMany(&'static str),
}

impl TrustBundle {
    /// The bundle as a JWK set, always the same bytes for the same content: keys sorted, members
    /// in one order, no spaces. A root whose key is none of RSA, EC and Ed25519 is left out, since
    /// no JWK can describe it.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        jwks::write(self)
    }

    /// Reads a JWK set as the bundle of `trust_domain`: all of it or nothing.
    ///
    /// Keys of a use or type that we do not know are ignored, as the standard demands. Without
    /// `landbridge_expires_at`, which is ours, the bundle is born expired and the caller, who knows
    /// where it came from, sets the end.
    ///
    /// # Errors
    /// [`BundleParseError`] says what is wrong.
    pub fn from_jwks(trust_domain: TrustDomain, json: &str) -> Result<Self, BundleParseError> {
        jwks::read(trust_domain, json)
    }

    /// SHA-256 of [`Self::to_jwks`].
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.to_jwks()).into()
    }

    /// Whether credentials of this domain carry labels of the name `key`. A key that is not carried
    /// is unknown, which is not the same as absent.
    #[must_use]
    pub fn carries(&self, key: &str) -> bool {
        self.carried_labels
            .as_ref()
            .is_none_or(|keys| keys.iter().any(|carried| carried == key))
    }

    /// No key at all: the domain withdrew every key and is invalid.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuer_keys.is_empty() && self.x509_roots.is_empty()
    }

    /// When to ask for it again: the hint, within 5 s and a day.
    #[must_use]
    pub fn refresh_after(&self) -> Duration {
        self.refresh_hint.clamp(REFRESH.0, REFRESH.1)
    }
}
