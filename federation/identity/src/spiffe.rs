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
    /// Where the namespace ends in a workload's path. Policy asks often.
    namespace_end: Option<u16>,
}

/// Before the namespace in a workload's path, and between it and the service account.
const NAMESPACE: &str = "/ns/";
const ACCOUNT: &str = "/sa/";

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
        let end = usize::from(self.namespace_end?);
        let namespace = self.path.get(NAMESPACE.len()..end)?;
        Some((namespace, self.path.get(end + ACCOUNT.len()..)?))
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
            namespace_end: namespace_end(path),
        })
    }
}

/// Where the namespace ends in the valid `path`, if that has the form `/ns/<namespace>/sa/<account>`.
fn namespace_end(path: &str) -> Option<u16> {
    let (namespace, rest) = path.strip_prefix(NAMESPACE)?.split_once('/')?;
    let account = rest.strip_prefix(&ACCOUNT[1..])?;
    match account.contains('/') {
        true => None,
        false => u16::try_from(NAMESPACE.len() + namespace.len()).ok(),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    /// The examples that SPIFFE-ID, section 2, gives.
    #[test]
    fn the_examples_of_the_standard_are_ids() {
        for (id, domain, path) in [
            (
                "spiffe://trust-domain-name/path",
                "trust-domain-name",
                "/path",
            ),
            (
                "spiffe://staging.example.com/payments/mysql",
                "staging.example.com",
                "/payments/mysql",
            ),
            (
                "spiffe://staging.example.com/payments/web-fe",
                "staging.example.com",
                "/payments/web-fe",
            ),
            (
                "spiffe://k8s-west.example.com/ns/staging/sa/default",
                "k8s-west.example.com",
                "/ns/staging/sa/default",
            ),
            (
                "spiffe://example.com/9eebccd2-12bf-40a6-b262-65fe0487d453",
                "example.com",
                "/9eebccd2-12bf-40a6-b262-65fe0487d453",
            ),
            ("spiffe://example.com", "example.com", ""),
            ("spiffe://1.2.3.4/a", "1.2.3.4", "/a"),
            ("spiffe://a_b/A.B_C-9", "a_b", "/A.B_C-9"),
            ("spiffe://a/...", "a", "/..."),
        ] {
            let parsed: SpiffeId = id.parse().unwrap();
            assert_eq!(parsed.trust_domain().as_str(), domain);
            assert_eq!(parsed.path(), path);
            assert_eq!(parsed.to_string(), id);
        }
    }

    /// SPIFFE-ID, sections 2 to 2.2: no user, port, query, fragment or percent-encoding, no empty
    /// or relative segment, no trailing slash, lower case up to the path.
    #[test]
    fn what_the_standard_forbids_is_refused() {
        for id in [
            "",
            "spiffe",
            "spiffe:/example.com",
            "SPIFFE://example.com",
            "Spiffe://example.com/a",
            "http://example.com/a",
            " spiffe://example.com",
            "spiffe://",
            "spiffe:///path",
            "spiffe://Example.com",
            "spiffe://example.com:8080/a",
            "spiffe://user@example.com/a",
            "spiffe://[::1]/a",
            "spiffe://exa%6dple.com/a",
            "spiffe://ex\u{e4}mple.com/a",
            "spiffe://example.com/",
            "spiffe://example.com/a/",
            "spiffe://example.com//a",
            "spiffe://example.com/a//b",
            "spiffe://example.com/.",
            "spiffe://example.com/a/./b",
            "spiffe://example.com/..",
            "spiffe://example.com/a/../b",
            "spiffe://example.com/a%2fb",
            "spiffe://example.com/a?query",
            "spiffe://example.com/a#fragment",
            "spiffe://example.com?query",
            "spiffe://example.com#fragment",
            "spiffe://example.com/a b",
            "spiffe://example.com/a\n",
            "spiffe://example.com/\u{fc}",
            "spiffe://example.com/a\0",
        ] {
            assert!(id.parse::<SpiffeId>().is_err(), "{id:?}");
        }
    }

    /// SPIFFE-ID, sections 2.1 and 2.3.
    #[test]
    fn lengths_are_those_of_the_standard() {
        assert!(TrustDomain::new(&"d".repeat(255)).is_ok());
        assert!(TrustDomain::new(&"d".repeat(256)).is_err());
        assert!(TrustDomain::new("").is_err());
        let path = |len: usize| format!("spiffe://d/{}", "p".repeat(len - 11));
        assert_eq!(path(2048).len(), 2048);
        assert!(path(2048).parse::<SpiffeId>().is_ok());
        assert_eq!(
            path(2049).parse::<SpiffeId>(),
            Err(SpiffeError::TooLong(2049))
        );
    }

    #[test]
    fn a_workload_id_cannot_be_steered_by_its_names() {
        let domain = TrustDomain::new("east").unwrap();
        let id = SpiffeId::workload(&domain, "shop", "api").unwrap();
        assert_eq!(id.to_string(), "spiffe://east/ns/shop/sa/api");
        assert_eq!(id.namespace_and_account(), Some(("shop", "api")));
        for name in ["", ".", "..", "a/sa/b", "a%2f", "a b", "a/"] {
            assert!(
                SpiffeId::workload(&domain, name, "api").is_err(),
                "{name:?}"
            );
            assert!(
                SpiffeId::workload(&domain, "shop", name).is_err(),
                "{name:?}"
            );
        }
        for other in [
            "spiffe://east",
            "spiffe://east/ns/shop",
            "spiffe://east/ns/shop/sa/api/x",
            "spiffe://east/sa/api/ns/shop",
            "spiffe://east/x/ns/shop/sa/api",
            "spiffe://east/NS/shop/sa/api",
        ] {
            let id: SpiffeId = other.parse().unwrap();
            assert_eq!(id.namespace_and_account(), None, "{other}");
        }
    }

    #[test]
    fn serde_checks_too() {
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://a/b\"").is_ok());
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://a/b/\"").is_err());
        assert!(serde_json::from_str::<TrustDomain>("\"A\"").is_err());
    }

    proptest! {
        #[test]
        fn any_text_never_panics_and_what_parses_comes_back(text in "\\PC{0,60}|spiffe://[a-z./%A-Z?#:@-]{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
