//! Names and labels by the rules of the Kubernetes API.

use std::collections::BTreeMap;

use identity::{Labels, is_dns_subdomain};

use crate::fault::{Faults, FieldPath};

/// What a DNS-1123 label is, for messages.
pub(super) const LABEL: &str =
    "1-63 of a-z, 0-9 and \"-\", beginning and ending with a letter or digit";
/// What a DNS-1123 subdomain is, for messages.
pub(super) const SUBDOMAIN: &str = "at most 253 of a-z, 0-9, \"-\" and \".\", each part beginning and ending with a letter or digit";
const PORT_NAME: &str =
    "1-15 of a-z, 0-9 and \"-\" with a letter among them, no \"-\" at an end or beside another";

/// Whether `name` is a DNS label (RFC 1123 section 2.1, at most 63 bytes).
pub(super) fn is_dns_label(name: &str) -> bool {
    let alphanumeric =
        |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    let bytes = name.as_bytes();
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || *b == b'-')
}

/// Whether `name` is a port's name: an IANA service name in lower case (RFC 6335 section 5.1).
pub(super) fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

pub(super) fn check_label_name(name: &str, path: FieldPath, faults: &mut Faults) {
    if !is_dns_label(name) {
        faults.add(path, format!("{name:?} is not a DNS label"), LABEL);
    }
}

pub(super) fn check_subdomain(name: &str, path: FieldPath, faults: &mut Faults) {
    if !is_dns_subdomain(name) {
        faults.add(path, format!("{name:?} is not a DNS subdomain"), SUBDOMAIN);
    }
}

pub(super) fn check_port_name(name: &str, path: FieldPath, faults: &mut Faults) {
    if !is_port_name(name) {
        faults.add(path, format!("{name:?} is not a port name"), PORT_NAME);
    }
}

/// Names of a list, each checked by `check`, each once.
pub(super) fn check_names(
    names: &[String],
    path: &FieldPath,
    check: fn(&str, FieldPath, &mut Faults),
    faults: &mut Faults,
) {
    for (index, name) in names.iter().enumerate() {
        check(name, path.index(index), faults);
        if names.iter().take(index).any(|n| n == name) {
            faults.add(
                path.index(index),
                format!("{name:?} is listed twice"),
                "each name once",
            );
        }
    }
}

/// Labels, each checked, so that every wrong one is told at its place.
pub(super) fn labels(
    map: &BTreeMap<String, String>,
    path: &FieldPath,
    faults: &mut Faults,
) -> Labels {
    for (key, value) in map {
        if let Err(error) = Labels::try_from(BTreeMap::from([(key.clone(), value.clone())])) {
            faults.add(path.key(key), error.to_string(), "");
        }
    }
    Labels::try_from(map.clone()).unwrap_or_default()
}

/// Whether `key` may be a label's key.
pub(super) fn check_label_key(key: &str, path: FieldPath, faults: &mut Faults) {
    let alone = BTreeMap::from([(key.to_owned(), String::new())]);
    if let Err(error) = Labels::try_from(alone) {
        faults.add(path, error.to_string(), "");
    }
}

/// Whether `value` may be the value of the label `key`.
pub(super) fn check_label_value(value: &str, path: FieldPath, faults: &mut Faults) {
    let alone = BTreeMap::from([("key".to_owned(), value.to_owned())]);
    if Labels::try_from(alone).is_err() {
        faults.add(
            path,
            format!("{value:?} can be no label's value"),
            "at most 63 of A-Z, a-z, 0-9, \"-\", \"_\" and \".\", beginning and ending with a letter or digit",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dns_names() {
        for good in ["a", "node1", "a-b", "0", &"a".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
            assert!(is_dns_subdomain(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
        assert!(is_dns_subdomain("a.b-c.d"));
        for bad in ["", ".", "a.", ".a", "a..b", "a.-b", &"a.".repeat(127)] {
            assert!(!is_dns_subdomain(bad), "{bad}");
        }
    }

    #[test]
    fn port_names() {
        for good in ["http", "a", "8a", "http-alt", "abcdefghijklmno"] {
            assert!(is_port_name(good), "{good}");
        }
        for bad in ["", "80", "-a", "a-", "a--b", "HTTP", "abcdefghijklmnop"] {
            assert!(!is_port_name(bad), "{bad}");
        }
    }
}
