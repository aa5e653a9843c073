//! When a credential is believed, the second time too.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use handshake::{
    credentials::{SmallCache, Verifier},
    hash::Seed,
};
use identity::{
    BundleStore, CredentialHash, IssuerKey, IssuerPublicKey, SignedCredential, TrustBundle,
    UnixMillis,
};
use policy::DropReason;
use support::*;

fn verifier() -> Verifier {
    Verifier::new(
        Arc::new(SmallCache::new(64, &Seed::new(&[7; 16]))),
        Arc::default(),
    )
}

fn credential() -> SignedCredential {
    local_pod("east", "frontend").identity.unwrap().credential
}

/// What `verifier` says of `bytes` from `issuer` at `ms`.
fn judge(
    verifier: &mut Verifier,
    bytes: &[u8],
    issuer: &str,
    bundles: &BundleStore,
    ms: u64,
) -> Result<(), DropReason> {
    let (hash, issuer) = (credential().hash(), domain(issuer));
    let verified = verifier.verify(bytes, &hash, &issuer, &issuer, bundles, at(ms));
    verified.map(drop)
}

#[test]
fn a_believed_credential_is_not_believed_for_longer_or_from_another() {
    let (mut verifier, bundles) = (verifier(), bundles());
    let credential = credential();
    let bytes = credential.bytes();
    assert_eq!(judge(&mut verifier, bytes, "east", &bundles, 0), Ok(()));
    assert_eq!(
        judge(&mut verifier, bytes, "east", &bundles, 599_999),
        Ok(())
    );
    let late = judge(&mut verifier, bytes, "east", &bundles, 600_000);
    assert_eq!(late, Err(DropReason::CredentialExpired));
    let other = judge(&mut verifier, bytes, "west", &bundles, 1);
    assert_eq!(other, Err(DropReason::WrongTrustDomain));
    let mut changed = bytes.to_vec();
    *changed.last_mut().unwrap() ^= 1;
    let changed = judge(&mut verifier, &changed, "east", &bundles, 1);
    assert_eq!(changed, Err(DropReason::TranscriptMismatch));
}

#[test]
fn an_expired_bundle_vouches_for_nothing_that_it_vouched_for() {
    let mut verifier = verifier();
    let mut bundles = BundleStore::default();
    let bundle = TrustBundle {
        expires_at: UnixMillis(START + 60_000),
        ..(**support::bundles().bundle(&domain("east")).unwrap()).clone()
    };
    bundles.insert(bundle).unwrap();
    let credential = credential();
    let bytes = credential.bytes();
    assert_eq!(judge(&mut verifier, bytes, "east", &bundles, 0), Ok(()));
    let late = judge(&mut verifier, bytes, "east", &bundles, 60_000);
    assert_eq!(late, Err(DropReason::BundleExpired));
}

/// A bundle is refreshed every few minutes: that costs no signature check, and a key that it lacks
/// vouches for nothing any more.
#[test]
fn a_credential_is_believed_for_as_long_as_its_key_is() {
    let mut verifier = verifier();
    let mut bundles = support::bundles();
    let first = (**bundles.bundle(&domain("east")).unwrap()).clone();
    let credential = credential();
    let bytes = credential.bytes();
    let other = IssuerKey::from_seed(&[99; 32]).public();
    let both = [first.issuer_keys[0], other];
    let mut after = |keys: &[IssuerPublicKey], sequence| {
        let bundle = TrustBundle {
            sequence,
            issuer_keys: keys.to_vec(),
            ..first.clone()
        };
        bundles.insert(bundle).unwrap();
        let judged = judge(&mut verifier, bytes, "east", &bundles, 0);
        (judged, verifier.signature_checks())
    };
    assert_eq!(after(&both[..1], 2), (Ok(()), 1));
    assert_eq!(after(&both, 3), (Ok(()), 1), "the key is there");
    let without = (Err(DropReason::UnknownIssuer), 2);
    assert_eq!(after(&[other], 4), without, "and now it is not");
    assert_eq!(after(&both, 5), (Ok(()), 2), "it is the same key as before");
}

/// A quarter of a core for each upstream: a flood of new credentials ends there, and what is
/// believed already is not touched by it.
#[test]
fn signature_checks_have_a_budget() {
    let (mut verifier, bundles) = (verifier(), bundles());
    let credential = credential();
    let known = credential.bytes();
    assert_eq!(judge(&mut verifier, known, "east", &bundles, 0), Ok(()));
    let east = domain("east");
    let mut flood = |ms: u64| {
        let bytes = [7; 300];
        let hash = CredentialHash::of(&bytes);
        let verified = verifier.verify(&bytes, &hash, &east, &east, &bundles, at(ms));
        verified.map(drop).unwrap_err()
    };
    let refused: Vec<_> = (0..600).map(|_| flood(0)).collect();
    let over = |reason: &&DropReason| **reason == DropReason::VerifyBudget;
    assert_eq!(refused.iter().filter(over).count(), 600 - 499);
    assert_eq!(flood(1_000), DropReason::BadCredential);
    assert_eq!(verifier.signature_checks(), 501);
    assert_eq!(judge(&mut verifier, known, "east", &bundles, 1_000), Ok(()));
}
