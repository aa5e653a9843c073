//! What a peer's credentials may claim here: which namespaces, service accounts and labels. A
//! cluster that is believed for its own trust domain may still not call a pod of its what means
//! something else on this side.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Claims, Labels};

/// Most patterns of one kind.
pub const MAX_PATTERNS: usize = 256;
/// Longest pattern in bytes: two names of Kubernetes and what is between them.
const MAX_PATTERN: usize = 512;

/// A name, or one with a `*` in it that stands for any text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

/// Text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name of at most {MAX_PATTERN} bytes with at most one *")]
pub struct PatternError(String);

impl NamePattern {
    /// Checks and takes `text`.
    ///
    /// # Errors
    /// When it is empty, too long, holds anything but visible ASCII, or more than one `*`.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
        let stars = text.bytes().filter(|byte| *byte == b'*').count();
        if text.is_empty() || text.len() > MAX_PATTERN || !visible || stars > 1 {
            return Err(PatternError(text.chars().take(MAX_PATTERN).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether `text` fits.
    #[must_use]
    pub fn fits(&self, text: &str) -> bool {
        let Some((before, after)) = self.0.split_once('*') else {
            return self.0 == text;
        };
        text.len() >= before.len() + after.len()
            && text.starts_with(before)
            && text.ends_with(after)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before and after the `*`; without one it is a name.
    #[must_use]
    pub fn around_star(&self) -> Option<(&str, &str)> {
        self.0.split_once('*')
    }
}

impl TryFrom<String> for NamePattern {
    type Error = PatternError;
    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::new(&text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What values labels of some keys may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelLimit {
    /// Which keys.
    pub key: NamePattern,
    /// Which values; with none of them, no label of such a key may be claimed.
    #[serde(default)]
    pub values: Vec<NamePattern>,
}

/// What the credentials of one trust domain may claim. An empty list limits nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClaimLimits {
    /// The namespaces of its pods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<NamePattern>,
    /// The service accounts of its pods, `namespace/name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<NamePattern>,
    /// Its labels, of pods and of namespaces. The first that names a key counts for it; a key that
    /// none names is free.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<LabelLimit>,
}

/// What a credential claims although it may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimViolation {
    /// Its namespace is not accepted.
    #[error("its namespace {0} is not accepted here")]
    Namespace(String),
    /// Its service account is not accepted.
    #[error("its service account {0} is not accepted here")]
    ServiceAccount(String),
    /// A label is not accepted.
    #[error("its label {key}={value} is not accepted here")]
    Label {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
}

impl ClaimLimits {
    /// Whether nothing is limited.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty() && self.service_accounts.is_empty() && self.labels.is_empty()
    }

    /// The same limits, in the same order whoever wrote them. Only the order of `labels` means anything.
    #[must_use]
    pub fn canonical(mut self) -> Self {
        for list in [&mut self.namespaces, &mut self.service_accounts] {
            list.sort();
            list.dedup();
        }
        self
    }

    /// Whether `claims` may be claimed. Without limits it costs three comparisons.
    ///
    /// # Errors
    /// The first claim that may not be.
    pub fn check(&self, claims: &Claims) -> Result<(), ClaimViolation> {
        let fits = |patterns: &[NamePattern], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.fits(text))
        };
        let namespace = claims.namespace();
        if !fits(&self.namespaces, namespace) {
            return Err(ClaimViolation::Namespace(namespace.to_owned()));
        }
        if !self.service_accounts.is_empty() {
            let account = format!("{namespace}/{}", claims.service_account());
            if !fits(&self.service_accounts, &account) {
                return Err(ClaimViolation::ServiceAccount(account));
            }
        }
        self.check_labels(&claims.labels)?;
        self.check_labels(&claims.namespace_labels)
    }

    fn check_labels(&self, labels: &Labels) -> Result<(), ClaimViolation> {
        if self.labels.is_empty() {
            return Ok(());
        }
        for (key, value) in labels {
            let limit = self.labels.iter().find(|limit| limit.key.fits(key));
            // An empty value is one too; no pattern is empty, and only `*` takes it.
            let accepted = |limit: &LabelLimit| limit.values.iter().any(|v| v.fits(value));
            if limit.is_some_and(|limit| !accepted(limit)) {
                return Err(ClaimViolation::Label {
                    key: key.to_owned(),
                    value: value.to_owned(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{claims, labels};

    fn limits(json: &str) -> ClaimLimits {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn without_limits_everything_may_be_claimed() {
        assert_eq!(ClaimLimits::default().check(&claims()), Ok(()));
        assert!(limits("{}").is_empty());
    }

    #[test]
    fn each_kind_of_claim_is_limited_by_itself() {
        // The claims: namespace shop, account frontend, app=frontend, part-of=shop.
        for (json, violation) in [
            (r#"{"namespaces":["shop"]}"#, None),
            (r#"{"namespaces":["store","sh*"]}"#, None),
            (
                r#"{"namespaces":["store"]}"#,
                Some("its namespace shop is not accepted here"),
            ),
            (r#"{"serviceAccounts":["*/frontend"]}"#, None),
            (
                r#"{"serviceAccounts":["frontend"]}"#,
                Some("its service account shop/frontend is not accepted here"),
            ),
            (
                r#"{"labels":[{"key":"app","values":["front*","x"]}]}"#,
                None,
            ),
            (r#"{"labels":[{"key":"env","values":["prod"]}]}"#, None),
            (
                r#"{"labels":[{"key":"app","values":["batch"]}]}"#,
                Some("its label app=frontend is not accepted here"),
            ),
            (
                r#"{"labels":[{"key":"app.kubernetes.io/*"}]}"#,
                Some("its label app.kubernetes.io/part-of=shop is not accepted here"),
            ),
            // The first one that names the key counts.
            (
                r#"{"labels":[{"key":"app*","values":["*"]},{"key":"app","values":["x"]}]}"#,
                None,
            ),
            // Labels of the namespace are claims as well.
            (
                r#"{"labels":[{"key":"kubernetes.io/*","values":["prod"]}]}"#,
                Some("its label kubernetes.io/metadata.name=shop is not accepted here"),
            ),
        ] {
            let checked = limits(json).check(&claims());
            let words = checked.err().map(|violation| violation.to_string());
            assert_eq!(words.as_deref(), violation, "{json}");
        }
    }

    #[test]
    fn an_empty_value_is_taken_by_a_star_alone() {
        let mut claims = claims();
        claims.labels = labels(&[("legacy", "")]);
        let limit = |value| {
            limits(&format!(
                r#"{{"labels":[{{"key":"legacy","values":["{value}"]}}]}}"#
            ))
        };
        assert!(limit("*").check(&claims).is_ok());
        assert!(limit("no").check(&claims).is_err());
    }

    #[test]
    fn patterns_are_read_strictly() {
        for text in ["", "a*b*", "a b", "\u{e4}", "a\n", &"x".repeat(513)] {
            assert!(NamePattern::new(text).is_err(), "{text:?}");
        }
        assert!(serde_json::from_str::<ClaimLimits>(r#"{"namespace":["a"]}"#).is_err());
        assert!(serde_json::from_str::<ClaimLimits>(r#"{"namespaces":["**"]}"#).is_err());
    }

    proptest! {
        /// As a regular expression would say.
        #[test]
        fn a_star_is_any_text(before in "[a-c]{0,3}", after in "[a-c]{0,3}", text in "[a-c]{0,8}") {
            let pattern = NamePattern::new(&format!("{before}*{after}")).unwrap();
            let naive = (0..=text.len()).any(|from| {
                (from..=text.len()).any(|to| text[..from] == before && text[to..] == after)
            });
            prop_assert_eq!(pattern.fits(&text), naive);
        }
    }
}
