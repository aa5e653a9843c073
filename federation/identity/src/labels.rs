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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn take(key: &str, value: &str) -> Result<Labels, LabelError> {
        Labels::try_from(BTreeMap::from([(key.into(), value.into())]))
    }

    /// Kubernetes, "Labels and Selectors", section "Syntax and character set".
    #[test]
    fn keys_are_those_of_kubernetes() {
        let sixty_three = "k".repeat(63);
        let subdomain = |len: usize| {
            [
                "p".repeat(63),
                "q".repeat(63),
                "r".repeat(63),
                "s".repeat(len - 192),
            ]
            .join(".")
        };
        assert_eq!(subdomain(253).len(), 253);
        for key in [
            "a",
            "A",
            "0",
            "app",
            "app.kubernetes.io/name",
            "a.b_c-D.9",
            "x/y",
            &sixty_three,
            &format!("example.com/{sixty_three}"),
            &format!("{}/k", subdomain(253)),
        ] {
            assert!(take(key, "v").is_ok(), "{key:?}");
        }
        for key in [
            "",
            "/",
            "/a",
            "a/",
            "a/b/c",
            "-a",
            "a-",
            ".a",
            "a.",
            "_a",
            "a b",
            "a\n",
            "\u{e4}",
            "example..com/a",
            "-example.com/a",
            "example-.com/a",
            "Example.com/a",
            "exa_mple.com/a",
            ".example.com/a",
            "example.com./a",
            &"k".repeat(64),
            &format!("example.com/{}", "k".repeat(64)),
            &format!("{}/k", subdomain(254)),
        ] {
            assert_eq!(take(key, "v"), Err(LabelError::Key(key.into())), "{key:?}");
        }
    }

    #[test]
    fn values_are_those_of_kubernetes() {
        for value in ["", "a", "0", "A.b_c-9", &"v".repeat(63)] {
            assert!(take("k", value).is_ok(), "{value:?}");
        }
        for value in [
            "-",
            "a-",
            ".a",
            "_",
            "a b",
            "a/b",
            "a\n",
            "\u{e4}",
            &"v".repeat(64),
        ] {
            assert!(take("k", value).is_err(), "{value:?}");
        }
    }

    #[test]
    fn serde_checks_too() {
        let labels: Labels = serde_json::from_str(r#"{"b": "2", "a": "1"}"#).unwrap();
        assert_eq!(
            serde_json::to_string(&labels).unwrap(),
            r#"{"a":"1","b":"2"}"#
        );
        assert_eq!(labels.value("a"), Some("1"));
        assert_eq!(labels.value("c"), None);
        assert_eq!((labels.len(), labels.is_empty()), (2, false));
        assert!(serde_json::from_str::<Labels>(r#"{"-": "2"}"#).is_err());
    }

    proptest! {
        #[test]
        fn any_text_never_panics(key: String, value: String) {
            let _ = take(&key, &value);
        }
    }
}
