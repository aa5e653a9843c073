//! Bundles by SPIFFE Trust Domain and Bundle, section 4 and appendix A, and threat rows 19 and 21.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{fmt::Write as _, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use landbridge_identity::{
    BundleChange, BundleError, BundleParseError, BundleStore, IssuerKey, MAX_BUNDLE, TrustBundle,
    TrustDomain, UnixMillis,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const RSA1: &[u8] = include_bytes!("data/rsa1.der");
const RSA2: &[u8] = include_bytes!("data/rsa2.der");
const P256: &[u8] = include_bytes!("data/p256.der");
const P384: &[u8] = include_bytes!("data/p384.der");
const ED25519: &[u8] = include_bytes!("data/ed25519.der");
const ED448: &[u8] = include_bytes!("data/ed448.der");
const LEAF: &[u8] = include_bytes!("data/leaf.der");

fn example() -> TrustDomain {
    TrustDomain::new("example.com").unwrap()
}

fn parse(json: &Value) -> Result<TrustBundle, BundleParseError> {
    TrustBundle::from_jwks(example(), &json.to_string())
}

/// A key as appendix A shows it.
fn x509(kty: &str, der: &[u8]) -> Value {
    json!({"kty": kty, "use": "x509-svid", "x5c": [STANDARD.encode(der)], "n": "AQAB", "e": "AQAB"})
}

fn full() -> TrustBundle {
    let mut roots: Vec<_> = [RSA1, P256, P384, ED25519].map(<[u8]>::to_vec).to_vec();
    roots.sort();
    let mut keys = [1, 2].map(|seed| IssuerKey::from_seed(&[seed; 32]).public());
    keys.sort_by_key(|key| *key.as_bytes());
    TrustBundle {
        trust_domain: example(),
        sequence: 7,
        refresh_hint: Duration::from_secs(60),
        x509_roots: roots,
        issuer_keys: keys.to_vec(),
        carried_labels: Some(vec!["app".into(), "example.com/team".into()]),
        expires_at: UnixMillis::from_secs(1_800_000_000),
    }
}

/// Appendix A: "Trust bundle #1" and "#2" for example.com.
#[test]
fn the_examples_of_the_standard_are_read() {
    let first = json!({
        "spiffe_sequence": 1,
        "spiffe_refresh_hint": 2_419_200,
        "keys": [x509("RSA", RSA1)],
    });
    let bundle = parse(&first).unwrap();
    assert_eq!(bundle.sequence, 1);
    assert_eq!(bundle.refresh_hint, Duration::from_secs(2_419_200));
    assert_eq!(bundle.x509_roots, [RSA1]);
    let second = json!({
        "spiffe_sequence": 2,
        "spiffe_refresh_hint": 2_419_200,
        "keys": [x509("RSA", RSA1), x509("RSA", RSA2)],
    });
    let bundle = parse(&second).unwrap();
    assert_eq!(bundle.sequence, 2);
    assert_eq!(bundle.x509_roots.len(), 2);
    // What is ours is absent: no label is held back, and the end must be set by who fetched it.
    assert_eq!(bundle.carried_labels, None);
    assert_eq!(bundle.expires_at, UnixMillis(0));
}

#[test]
fn a_bundle_survives_being_written_and_read() {
    let bundle = full();
    let json = bundle.to_jwks();
    let read = TrustBundle::from_jwks(example(), &json).unwrap();
    assert_eq!(read, bundle);
    assert_eq!(read.to_jwks(), json);
    assert_eq!(read.hash(), bundle.hash());
    let mut shuffled = bundle.clone();
    shuffled.x509_roots.reverse();
    shuffled.issuer_keys.reverse();
    assert_eq!(shuffled.to_jwks(), json, "one content, one text");
    assert!(read.carries("app"));
    assert!(!read.carries("pod-template-hash"));
}

/// Section 4.2: other software finds a key type and its parameters (RFC 7518, section 6) in every
/// element, ours too.
#[test]
fn every_key_is_a_whole_jwk() {
    let set: Value = serde_json::from_str(&full().to_jwks()).unwrap();
    let keys = set["keys"].as_array().unwrap();
    let mut seen: Vec<_> = keys
        .iter()
        .map(|key| {
            let size = |member: &str| {
                key[member].as_str().map(|text| {
                    let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
                    engine.decode(text).unwrap().len()
                })
            };
            let kind = format!(
                "{} {} {}",
                key["use"].as_str().unwrap(),
                key["kty"].as_str().unwrap(),
                key["crv"].as_str().unwrap_or("-"),
            );
            (kind, [size("x"), size("y"), size("n"), size("e")])
        })
        .collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            (
                "landbridge-issuer OKP Ed25519".into(),
                [Some(32), None, None, None]
            ),
            (
                "landbridge-issuer OKP Ed25519".into(),
                [Some(32), None, None, None]
            ),
            (
                "x509-svid EC P-256".into(),
                [Some(32), Some(32), None, None]
            ),
            (
                "x509-svid EC P-384".into(),
                [Some(48), Some(48), None, None]
            ),
            ("x509-svid OKP Ed25519".into(), [Some(32), None, None, None]),
            (
                "x509-svid RSA -".to_string(),
                [None, None, Some(256), Some(3)]
            ),
        ]
    );
}

/// Sections 4.1.3, 4.2.1 and 4.2.2: "Clients encountering unknown key types or uses MUST ignore the
/// corresponding JWK element", whatever else stands in it.
#[test]
fn foreign_uses_and_key_types_are_ignored() {
    let bundle = parse(&json!({
        "spiffe_sequence": 1,
        "future_parameter": {"a": [1, 2]},
        "keys": [
            {"kty": "EC", "use": "jwt-svid", "kid": "k", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "EC", "use": "X509-SVID", "x5c": "not even an array"},
            {"kty": "EC", "x5c": []},
            {"use": "x509-svid", "x5c": []},
            {"kty": "MLDSA", "use": "x509-svid", "x5c": ["!"]},
            {"kty": "EC", "use": "landbridge-issuer", "crv": "P-256", "x": "!"},
            {"kty": 5, "use": 7},
            {},
            x509("OKP", ED448),
            x509("EC", P256),
        ],
    }))
    .unwrap();
    assert_eq!(bundle.x509_roots, [P256]);
    assert!(bundle.issuer_keys.is_empty());
}

#[test]
fn an_empty_set_is_a_bundle_and_makes_the_domain_invalid() {
    let bundle = parse(&json!({"spiffe_sequence": 3, "keys": []})).unwrap();
    assert!(bundle.is_empty());
    assert_eq!(
        TrustBundle::from_jwks(example(), &bundle.to_jwks()),
        Ok(bundle)
    );
}

#[test]
fn a_broken_element_refuses_the_whole_bundle() {
    let issuer = |x: &str, kid: &str| json!({"kty": "OKP", "crv": "Ed25519", "use": "landbridge-issuer", "kid": kid, "x": x});
    let public = IssuerKey::from_seed(&[1; 32]).public();
    let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(public.as_bytes());
    let kid = public.id().to_string();
    let zero = "A".repeat(43);
    let mut cut = P256.to_vec();
    cut.pop();
    let longer = [P256, &[0]].concat();
    let x5c = |x5c: Value| json!({"kty": "EC", "use": "x509-svid", "x5c": x5c});
    for (keys, why) in [
        (
            json!([x509("EC", P256), x5c(json!([]))]),
            "array of one certificate",
        ),
        (
            json!([x5c(json!([STANDARD.encode(P256), STANDARD.encode(P384)]))]),
            "array of one certificate",
        ),
        (json!([x5c(json!([5]))]), "array of one certificate"),
        (
            json!([{"kty": "EC", "use": "x509-svid"}]),
            "array of one certificate",
        ),
        (json!([x5c(json!(["%"]))]), "not base64"),
        (json!([x509("EC", &cut)]), "not a certificate"),
        (json!([x509("EC", &longer)]), "bytes follow"),
        (json!([x509("EC", LEAF)]), "not one of an authority"),
        (json!([x509("EC", P256), x509("EC", P256)]), "stands twice"),
        (json!([issuer("AAAA", &kid)]), "32 bytes"),
        (json!([issuer(&zero, &kid)]), "small order"),
        (json!([issuer(&x, "0000000000000000")]), "kid is not"),
        (json!([issuer(&x, &kid), issuer(&x, &kid)]), "same id"),
        (json!(["text"]), "expected an object"),
        (json!({}), "\"keys\" is not an array"),
    ] {
        let error = parse(&json!({"spiffe_sequence": 1, "keys": keys})).unwrap_err();
        assert!(
            error.to_string().contains(why),
            "{error} does not say {why:?}"
        );
    }
}

#[test]
fn members_are_checked_and_stand_once() {
    for (text, why) in [
        ("{}", "\"keys\" is not an array"),
        (r#"{"keys": []}"#, "\"spiffe_sequence\" is not there"),
        (
            r#"{"keys": [], "spiffe_sequence": -1}"#,
            "\"spiffe_sequence\" is not an integer",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": 1.5}"#,
            "\"spiffe_sequence\" is not an integer",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": "1"}"#,
            "\"spiffe_sequence\" is not an integer",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": 1, "spiffe_refresh_hint": []}"#,
            "refresh_hint",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": 1, "spiffe_sequence": 2}"#,
            "stands twice",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": 1, "keys": []}"#,
            "stands twice",
        ),
        (
            r#"{"spiffe_sequence": 1, "keys": [{"use": "x", "use": "x509-svid"}]}"#,
            "stands twice",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": 1, "landbridge_carried_labels": ["a", "a"]}"#,
            "label",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": 1, "landbridge_carried_labels": ["-"]}"#,
            "label",
        ),
        (
            r#"{"keys": [], "spiffe_sequence": 1, "landbridge_carried_labels": "a"}"#,
            "label",
        ),
        (r#"{"keys": [], "spiffe_sequence": 1} x"#, "trailing"),
        ("[]", "expected an object"),
        ("", "EOF"),
    ] {
        let error = TrustBundle::from_jwks(example(), text).unwrap_err();
        assert!(
            error.to_string().contains(why),
            "{error} does not say {why:?}"
        );
    }
    let long = " ".repeat(MAX_BUNDLE + 1);
    assert_eq!(
        TrustBundle::from_jwks(example(), &long),
        Err(BundleParseError::TooLarge(MAX_BUNDLE + 1))
    );
    let mut many = String::from(r#"{"spiffe_sequence": 1, "keys": ["#);
    for seed in 0..33u8 {
        let key = IssuerKey::from_seed(&[seed; 32]).public();
        let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(key.as_bytes());
        let comma = if seed == 0 { "" } else { "," };
        write!(
            many,
            r#"{comma}{{"kty":"OKP","crv":"Ed25519","use":"landbridge-issuer","x":"{x}"}}"#
        )
        .unwrap();
    }
    many.push_str("]}");
    assert_eq!(
        TrustBundle::from_jwks(example(), &many),
        Err(BundleParseError::TooMany("keys"))
    );
}

#[test]
fn the_refresh_is_within_bounds_whatever_the_hint() {
    let mut bundle = full();
    for (hint, asked) in [(0, 5), (60, 60), (u64::MAX, 86_400)] {
        bundle.refresh_hint = Duration::from_secs(hint);
        assert_eq!(bundle.refresh_after(), Duration::from_secs(asked));
    }
}

fn numbered(sequence: u64) -> TrustBundle {
    TrustBundle { sequence, ..full() }
}

/// Threat row 19.
#[test]
fn an_older_bundle_is_refused_also_after_a_restart_and_after_a_removal() {
    let mut store = BundleStore::default();
    assert_eq!(store.insert(numbered(5)), Ok(BundleChange::Taken));
    assert_eq!(store.insert(numbered(5)), Ok(BundleChange::Unchanged));
    assert_eq!(store.insert(numbered(6)), Ok(BundleChange::Taken));
    let older = Err(BundleError::Older {
        domain: example(),
        offered: 5,
        held: 6,
    });
    assert_eq!(store.insert(numbered(5)), older);
    assert_eq!(store.bundle(&example()).unwrap().sequence, 6);

    store.remove(&example());
    assert!(store.bundle(&example()).is_none());
    assert_eq!(store.insert(numbered(5)), older);

    let stored = serde_json::to_string(store.marks()).unwrap();
    let mut restarted = BundleStore::with_marks(serde_json::from_str(&stored).unwrap());
    assert!(
        restarted.bundle(&example()).is_none(),
        "a mark is no bundle"
    );
    assert_eq!(restarted.insert(numbered(5)), older);
    assert_eq!(restarted.insert(numbered(6)), Ok(BundleChange::Taken));
}

/// Threat row 19: "equal seq with different hash => alarm".
#[test]
fn two_bundles_under_one_number_are_an_alarm() {
    let alarm = Err(BundleError::Equivocation {
        domain: example(),
        sequence: 5,
    });
    let mut store = BundleStore::default();
    store.insert(numbered(5)).unwrap();
    let mut other = numbered(5);
    other.issuer_keys.pop();
    assert_eq!(store.insert(other.clone()), alarm);
    assert_eq!(**store.bundle(&example()).unwrap(), numbered(5));
    let mut restarted = BundleStore::with_marks(store.marks().clone());
    assert_eq!(restarted.insert(other), alarm);
}

/// Threat row 18: bundles of two trust domains are never merged.
#[test]
fn each_domain_has_its_own_bundle() {
    let west = TrustDomain::new("west.example").unwrap();
    let mut store = BundleStore::default();
    store.insert(numbered(5)).unwrap();
    let of_west = TrustBundle {
        trust_domain: west.clone(),
        issuer_keys: vec![IssuerKey::from_seed(&[9; 32]).public()],
        ..numbered(1)
    };
    store.insert(of_west.clone()).unwrap();
    assert_eq!(**store.bundle(&example()).unwrap(), numbered(5));
    assert_eq!(**store.bundle(&west).unwrap(), of_west);
    assert_eq!(store.iter().count(), 2);
}

proptest! {
    #[test]
    fn any_text_never_panics(text: String) {
        let _ = TrustBundle::from_jwks(example(), &text);
    }

    /// Threat row 21: "mutated JSON". A changed bundle is refused, or what it says can be written
    /// and read again.
    #[test]
    fn mutated_json_never_panics(at: prop::sample::Index, byte: u8, cut in 0..3usize) {
        let mut bytes = full().to_jwks().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.drain(at..(at + cut).min(bytes.len()));
        if let Ok(text) = String::from_utf8(bytes)
            && let Ok(bundle) = TrustBundle::from_jwks(example(), &text)
        {
            prop_assert_eq!(TrustBundle::from_jwks(example(), &bundle.to_jwks()), Ok(bundle));
        }
    }
}
