//! Labels as Kubernetes writes them.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

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
    /// More than 4 GiB.
    #[error("labels of more than 4 GiB")]
    TooLong,
}

/// A checked, sorted set of labels, in two pieces of memory however many there are: a gateway remembers a
/// hundred thousand pods. Clones are cheap.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Labels {
    /// Keys and values, one behind the other: `app` `web` `tier` `front`.
    text: Arc<str>,
    /// Where the key of each label ends in it, and where its value.
    ends: Arc<[(u32, u32)]>,
}

impl Labels {
    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            let (found, value) = self.at(middle)?;
            match found.cmp(key) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(value),
            }
        }
        None
    }

    /// All labels, sorted by key.
    #[must_use]
    pub fn iter(&self) -> LabelsIter<'_> {
        LabelsIter {
            labels: self,
            next: 0,
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether clones of it are in use too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.text) > 1
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Of keys that ascend, each with its value.
    ///
    /// # Errors
    /// [`LabelError`] says which is no label.
    pub(crate) fn from_sorted<'a>(
        labels: impl ExactSizeIterator<Item = (&'a str, &'a str)> + Clone,
    ) -> Result<Self, LabelError> {
        let lengths = labels.clone().map(|(key, value)| key.len() + value.len());
        let mut text = String::with_capacity(lengths.sum());
        let mut ends = Vec::with_capacity(labels.len());
        let end = |text: &String| u32::try_from(text.len()).map_err(|_| LabelError::TooLong);
        for (key, value) in labels {
            check_key(key)?;
            if !(value.is_empty() || is_name(value)) {
                return Err(LabelError::Value {
                    key: key.into(),
                    value: value.into(),
                });
            }
            text.push_str(key);
            let key = end(&text)?;
            text.push_str(value);
            ends.push((key, end(&text)?));
        }
        Ok(Self {
            text: text.into(),
            ends: ends.into(),
        })
    }

    fn at(&self, number: usize) -> Option<(&str, &str)> {
        let begin = match number.checked_sub(1) {
            Some(before) => self.ends.get(before)?.1,
            None => 0,
        };
        let (key, value) = *self.ends.get(number)?;
        let (begin, key, value) = (begin as usize, key as usize, value as usize);
        Some((self.text.get(begin..key)?, self.text.get(key..value)?))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

/// Label by label, each as key and value.
#[derive(Clone, Debug)]
pub struct LabelsIter<'a> {
    labels: &'a Labels,
    next: usize,
}

impl<'a> Iterator for LabelsIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.labels.at(self.next)?;
        self.next += 1;
        Some(found)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.labels.len() - self.next;
        (left, Some(left))
    }
}

impl ExactSizeIterator for LabelsIter<'_> {}

impl<'a> IntoIterator for &'a Labels {
    type Item = (&'a str, &'a str);
    type IntoIter = LabelsIter<'a>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Label by label, as maps are compared.
impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = LabelError;

    fn try_from(map: BTreeMap<String, String>) -> Result<Self, LabelError> {
        Self::from_sorted(map.iter().map(|(key, value)| (&**key, &**value)))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        labels.iter().map(owned).collect()
    }
}

pub(crate) fn check_key(key: &str) -> Result<(), LabelError> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let valid = is_name(name) && prefix.is_none_or(is_dns_subdomain);
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

/// Whether `s` is a DNS subdomain (RFC 1123) of at most 253 bytes, as most names in Kubernetes are.
#[must_use]
pub fn is_dns_subdomain(s: &str) -> bool {
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

    fn some() -> impl Strategy<Value = BTreeMap<String, String>> {
        prop::collection::btree_map("[ab]{1,3}(/[ab]{1,2})?", "[ab]{0,3}", 0..8)
    }

    proptest! {
        #[test]
        fn it_is_a_map(one in some(), other in some()) {
            let (these, those) = [&one, &other].map(|map| Labels::try_from(map.clone()).unwrap()).into();
            for key in one.keys().chain(other.keys()).map(String::as_str).chain(["", "b"]) {
                prop_assert_eq!(these.value(key), one.get(key).map(String::as_str));
            }
            let all: Vec<_> = one.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            prop_assert_eq!(these.iter().collect::<Vec<_>>(), all);
            prop_assert_eq!(these.iter().len(), one.len());
            prop_assert_eq!(these == those, one == other);
            prop_assert_eq!(these.cmp(&those), one.cmp(&other));
            prop_assert_eq!(BTreeMap::from(these), one);
        }

        #[test]
        fn any_text_never_panics(key: String, value: String) {
            let _ = take(&key, &value);
        }
    }
}
