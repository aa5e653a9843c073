//! SPIFFE IDs, validated exactly as the SPIFFE-ID standard, section 2, says.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest SPIFFE ID in bytes (SPIFFE-ID section 2.3).
const MAX_ID: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID section 2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// Why a string is not a SPIFFE ID or trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// The scheme is not `spiffe://` in lower case.
    #[error("a SPIFFE ID starts with \"spiffe://\"")]
    Scheme,
    /// Empty, longer than 255 bytes, or a byte outside `[a-z0-9._-]`.
    #[error("trust domain {0:?} is not 1-255 bytes of [a-z0-9._-]")]
    TrustDomain(String),
    /// An empty segment, `.`, `..`, a trailing `/`, or a byte outside `[A-Za-z0-9._-]`.
    #[error("path segment {0:?} is empty, \".\", \"..\", or holds a byte outside [A-Za-z0-9._-]")]
    Segment(String),
    /// Longer than 2,048 bytes.
    #[error("{0} bytes, at most 2048 are allowed")]
    TooLong(usize),
}

/// The name of a trust domain, which is also the name of a cluster. 1-255 bytes of `[a-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Checks and takes `name`.
    ///
    /// # Errors
    /// [`SpiffeError::TrustDomain`] when it is empty, too long or holds another byte.
    pub fn new(name: &str) -> Result<Self, SpiffeError> {
        let valid = (1..=MAX_TRUST_DOMAIN).contains(&name.len())
            && name
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
        if valid {
            Ok(Self(name.into()))
        } else {
            Err(SpiffeError::TrustDomain(name.into()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 16 bytes of SHA-256 of the name, as the handshake transcript binds it.
    #[must_use]
    pub fn hash16(&self) -> [u8; 16] {
        let digest = Sha256::digest(self.0.as_bytes());
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        short
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;
    fn from_str(s: &str) -> Result<Self, SpiffeError> {
        Self::new(s)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeError;
    fn try_from(s: String) -> Result<Self, SpiffeError> {
        Self::new(&s)
    }
}

impl From<TrustDomain> for String {
    fn from(td: TrustDomain) -> Self {
        td.0.as_ref().into()
    }
}

/// A SPIFFE ID: `spiffe://<trust domain>/<path>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// With its leading `/`, or empty.
    path: Arc<str>,
}

impl SpiffeId {
    /// The ID of the service account `service_account` in `namespace`:
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// # Errors
    /// When a name is not a path segment.
    pub fn workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        // A name with a slash would shift the meaning of the segments after it.
        for name in [namespace, service_account] {
            check_segment(name)?;
        }
        format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading `/`; empty for the ID of the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Namespace and service account, if the path has the form `/ns/<namespace>/sa/<account>`.
    #[must_use]
    pub fn namespace_and_account(&self) -> Option<(&str, &str)> {
        let mut segments = self.path.split('/').skip(1);
        let parts = [(); 4].map(|()| segments.next());
        match (parts, segments.next()) {
            ([Some("ns"), Some(ns), Some("sa"), Some(sa)], None) => Some((ns, sa)),
            _ => None,
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(s: &str) -> Result<Self, SpiffeError> {
        if s.len() > MAX_ID {
            return Err(SpiffeError::TooLong(s.len()));
        }
        let rest = s.strip_prefix("spiffe://").ok_or(SpiffeError::Scheme)?;
        let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let trust_domain = TrustDomain::new(domain)?;
        if !path.is_empty() {
            path[1..].split('/').try_for_each(check_segment)?;
        }
        Ok(Self {
            trust_domain,
            path: path.into(),
        })
    }
}

/// A path segment by SPIFFE-ID section 2.2.
fn check_segment(segment: &str) -> Result<(), SpiffeError> {
    let valid = !matches!(segment, "" | "." | "..")
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if valid {
        Ok(())
    } else {
        Err(SpiffeError::Segment(segment.into()))
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeError;
    fn try_from(s: String) -> Result<Self, SpiffeError> {
        s.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}{}", self.trust_domain, self.path)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
