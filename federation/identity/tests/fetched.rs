//! Bundles of other implementations: SPIFFE Trust Domain and Bundle, section 4; X.509-SVID, section
//! 6.2; SPIFFE Federation, section 4.2.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use landbridge_identity::{
    AcceptError, Accepted, BundleChange, BundleError, FetchedBundle, FetchedMark, IssuerKey,
    TrustBundle, TrustDomain, UnixMillis,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const P256: &[u8] = include_bytes!("data/p256.der");
const P384: &[u8] = include_bytes!("data/p384.der");
const LEAF: &[u8] = include_bytes!("data/leaf.der");
const LATER: UnixMillis = UnixMillis(1_900_000_000_000);

fn example() -> TrustDomain {
    TrustDomain::new("example.com").unwrap()
}

fn read(json: &Value) -> FetchedBundle {
    FetchedBundle::from_jwks(example(), &json.to_string()).unwrap()
}

fn root(der: &[u8]) -> Value {
    json!({"kty": "EC", "use": "x509-svid", "x5c": [STANDARD.encode(der)]})
}

/// What SPIRE serves: X.509 and JWT authorities, and nothing of ours.
fn spire(sequence: Option<u64>, roots: &[&[u8]]) -> FetchedBundle {
    let mut keys: Vec<_> = roots.iter().map(|der| root(der)).collect();
    keys.push(
        json!({"kty": "EC", "use": "jwt-svid", "kid": "k", "crv": "P-256", "x": "AA", "y": "AA"}),
    );
    keys.push(json!({"kty": "EC", "use": "wit-svid", "kid": "k"}));
    let mut set = json!({"keys": keys, "spiffe_refresh_hint": 60});
    if let Some(sequence) = sequence {
        set["spiffe_sequence"] = json!(sequence);
    }
    read(&set)
}

fn accept(held: Option<&FetchedMark>, bundle: FetchedBundle) -> Result<Accepted, AcceptError> {
    bundle.accept(held, LATER)
}

#[test]
fn a_bundle_without_anything_of_ours_is_read() {
    let bundle = spire(None, &[P256]);
    assert_eq!(*bundle.trust_domain(), example());
    assert_eq!(bundle.x509_roots(), [P256]);
    assert_eq!(bundle.sequence(), None);
    assert_eq!(bundle.refresh_after(), Duration::from_secs(60));
    assert_eq!(spire(Some(7), &[]).sequence(), Some(7));
    let accepted = accept(None, bundle).unwrap();
    assert_eq!(accepted.bundle.expires_at, LATER);
    let within = UnixMillis(LATER.0 + 999);
    let accepted = spire(None, &[P256]).accept(None, within).unwrap();
    assert_eq!(accepted.bundle.expires_at, LATER, "in whole seconds");
    assert!(accepted.bundle.issuer_keys.is_empty());
    // Section 4.1.2 leaves the hint out, and SPIFFE Federation, section 4.1, says what then.
    let bare = read(&json!({"keys": []}));
    assert_eq!(bare.refresh_after(), Duration::from_secs(300));
}

/// X.509-SVID, section 6.2.
#[test]
fn a_key_without_certificate_is_ignored_and_of_several_the_first_counts() {
    let x5c = |x5c: Value| json!({"kty": "EC", "use": "x509-svid", "x5c": x5c});
    let bundle = read(&json!({"keys": [
        {"kty": "EC", "use": "x509-svid"},
        x5c(json!([])),
        x5c(json!([STANDARD.encode(P256), STANDARD.encode(P384)])),
        root(P256),
    ]}));
    assert_eq!(bundle.x509_roots(), [P256]);
}

#[test]
fn what_is_broken_refuses_the_whole_bundle() {
    for (keys, why) in [
        (
            json!([root(P384), {"kty": "EC", "use": "x509-svid", "x5c": "A"}]),
            "not an array",
        ),
        (
            json!([root(P384), {"kty": "EC", "use": "x509-svid", "x5c": [5]}]),
            "not an array of",
        ),
        (json!([root(P384), root(&P256[1..])]), "not a certificate"),
        (json!([root(P384), root(LEAF)]), "not one of an authority"),
    ] {
        let text = json!({"keys": keys}).to_string();
        let error = FetchedBundle::from_jwks(example(), &text).unwrap_err();
        assert!(error.to_string().contains(why), "{error}: {why:?}");
    }
    for (text, why) in [
        (r#"{"keys": [], "keys": []}"#, "stands twice"),
        (
            r#"{"keys": [{"use": "a", "use": "x509-svid"}]}"#,
            "stands twice",
        ),
        (r#"{"keys": [], "spiffe_sequence": -1}"#, "spiffe_sequence"),
        (r#"{"keys": {}}"#, "keys"),
        ("<html>", "JWK set"),
    ] {
        let error = FetchedBundle::from_jwks(example(), text).unwrap_err();
        assert!(error.to_string().contains(why), "{error}: {why:?}");
    }
}

/// SPIFFE Federation, section 4.2: without a number the most recently fetched one is up to date.
#[test]
fn without_a_sequence_the_newest_counts_and_only_news_gets_a_new_number() {
    let first = accept(None, spire(None, &[P256])).unwrap();
    assert_eq!(
        (first.mark.sequence, first.change),
        (1, BundleChange::Taken)
    );
    let again = spire(None, &[P256])
        .accept(Some(&first.mark), LATER.after(Duration::from_secs(9)))
        .unwrap();
    assert_eq!(
        (again.mark, again.change),
        (first.mark, BundleChange::Unchanged)
    );
    assert!(again.bundle.expires_at > LATER, "it is believed for longer");
    let second = accept(Some(&first.mark), spire(None, &[P384])).unwrap();
    assert_eq!(
        (second.bundle.sequence, second.change),
        (2, BundleChange::Taken)
    );
    assert_eq!(second.mark.sequence, 2);
    let back = accept(Some(&second.mark), spire(None, &[P256])).unwrap();
    assert_eq!((back.mark.sequence, back.change), (3, BundleChange::Taken));
}

#[test]
fn where_there_is_a_sequence_nothing_older_is_taken() {
    let held = accept(None, spire(Some(5), &[P256])).unwrap().mark;
    let stored: FetchedMark = serde_json::from_str(&serde_json::to_string(&held).unwrap()).unwrap();
    let held = Some(&stored);
    let same = accept(held, spire(Some(5), &[P256])).unwrap();
    assert_eq!((same.mark, same.change), (stored, BundleChange::Unchanged));
    let domain = example();
    assert_eq!(
        accept(held, spire(Some(4), &[P256])),
        Err(AcceptError::Numbered(BundleError::Older {
            domain: domain.clone(),
            offered: 4,
            held: 5
        }))
    );
    assert_eq!(
        accept(held, spire(Some(5), &[P384])),
        Err(AcceptError::Numbered(BundleError::Equivocation {
            domain: domain.clone(),
            sequence: 5
        }))
    );
    // An old bundle whose number was taken off.
    assert_eq!(
        accept(held, spire(None, &[P384])),
        Err(AcceptError::Unnumbered { domain, held: 5 })
    );
    let next = accept(held, spire(Some(6), &[P384])).unwrap();
    assert_eq!((next.mark.sequence, next.change), (6, BundleChange::Taken));
}

#[test]
fn a_domain_that_begins_to_count_is_held_to_it() {
    let first = accept(None, spire(None, &[P256])).unwrap();
    let second = accept(Some(&first.mark), spire(None, &[P384])).unwrap();
    let numbered = accept(Some(&second.mark), spire(Some(1), &[P384])).unwrap();
    assert_eq!(
        (numbered.mark.sequence, numbered.mark.counted_here),
        (1, false)
    );
    assert!(accept(Some(&numbered.mark), spire(None, &[P384])).is_err());
    assert!(accept(Some(&numbered.mark), spire(Some(0), &[P384])).is_err());
}

#[test]
fn a_bundle_of_ours_is_taken_as_it_was_written() {
    let ours = TrustBundle {
        trust_domain: example(),
        sequence: 7,
        refresh_hint: Duration::from_secs(60),
        x509_roots: vec![P256.to_vec()],
        issuer_keys: vec![IssuerKey::from_seed(&[1; 32]).public()],
        carried_labels: Some(vec!["app".into()]),
        expires_at: UnixMillis(0),
    };
    let fetched = FetchedBundle::from_jwks(example(), &ours.to_jwks()).unwrap();
    let accepted = accept(None, fetched).unwrap();
    assert_eq!(accepted.mark.hash, ours.hash());
    // Its end too, even when that says that it is void.
    assert_eq!(accepted.bundle, ours);
}

proptest! {
    #[test]
    fn any_text_never_panics(text: String) {
        let _ = FetchedBundle::from_jwks(example(), &text);
    }

    /// Whatever is read can be written and read again as a bundle of ours, and both readers agree on
    /// what one of them reads strictly.
    #[test]
    fn mutated_json_is_refused_or_means_one_thing(at: prop::sample::Index, byte: u8, cut in 0..3usize) {
        let set = json!({"keys": [root(P256), root(P384)], "spiffe_sequence": 3, "spiffe_refresh_hint": 9});
        let mut bytes = set.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.drain(at..(at + cut).min(bytes.len()));
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        let fetched = FetchedBundle::from_jwks(example(), &text);
        if let Ok(strict) = TrustBundle::from_jwks(example(), &text) {
            let lenient = fetched.clone().unwrap();
            prop_assert_eq!(lenient.sequence(), Some(strict.sequence));
            prop_assert_eq!(lenient.x509_roots(), strict.x509_roots);
        }
        if let Ok(fetched) = fetched {
            let bundle = fetched.accept(None, LATER).unwrap().bundle;
            prop_assert_eq!(TrustBundle::from_jwks(example(), &bundle.to_jwks()), Ok(bundle));
        }
    }
}
