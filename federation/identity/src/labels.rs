//! Labels as Kubernetes writes them.

use std::collections::{BTreeMap, btree_map};

use serde::{Deserialize, Serialize};

/// Why a label cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// The key is not `[prefix/]name` by the Kubernetes API conventions.
    #[error("label key {0:?} is not [DNS-1123 subdomain/]name of at most 63 bytes")]
    Key(String),
    /// The value is not empty nor 1-63 bytes of `[A-Za-z0-9._-]` between alphanumerics.
    #[error("value {value:?} of label {key:?} is not at most 63 bytes of [A-Za-z0-9._-]")]
    Value {
        /// The label's key.
        key: String,
        /// What stood there.
        value: String,
    },
}

/// A checked, sorted set of labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All labels, sorted by key.
    pub fn iter(&self) -> btree_map::Iter<'_, String, String> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a String, &'a String);
    type IntoIter = btree_map::Iter<'a, String, String>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, LabelError> {
        for (key, value) in &map {
            check_key(key)?;
            if !(value.is_empty() || is_name(value)) {
                return Err(LabelError::Value {
                    key: key.clone(),
                    value: value.clone(),
                });
            }
        }
        Ok(Self(map))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

pub(crate) fn check_key(key: &str) -> Result<(), LabelError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let valid = is_name(name) && prefix.is_none_or(is_subdomain);
    if valid {
        Ok(())
    } else {
        Err(LabelError::Key(key.into()))
    }
}

/// 1-63 bytes of `[A-Za-z0-9._-]`, first and last alphanumeric.
pub(crate) fn is_name(s: &str) -> bool {
    let alnum = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = s.as_bytes();
    bytes.len() <= 63
        && alnum(bytes.first())
        && alnum(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// An RFC 1123 subdomain of at most 253 bytes.
fn is_subdomain(s: &str) -> bool {
    s.len() <= 253
        && s.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part
                    .bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        })
}
