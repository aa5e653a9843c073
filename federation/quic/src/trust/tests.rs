//! By which roots a chain is judged. What a chain must be is tested in `svid`.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::ClusterRoot;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const HOUR: Duration = Duration::from_hours(1);

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn root(name: &str) -> ClusterRoot {
    ClusterRoot::generate(&domain(name), NOW, HOUR).unwrap()
}

/// A leaf of `root`, and the root.
fn chain(root: &ClusterRoot) -> Vec<CertificateDer<'static>> {
    let id = format!("spiffe://{}/a", root.trust_domain());
    let svid = root.issue(&id.parse().unwrap(), NOW, HOUR).unwrap();
    svid.chain()
        .map(|der| CertificateDer::from(der.to_vec()))
        .collect()
}

fn roots(root: &ClusterRoot) -> Anchor {
    Anchor::Roots(vec![root.certificate_der().to_vec()])
}

/// What an endpoint of east says that trusts `west` by `anchor`.
fn judge(anchor: Anchor, sent: &[CertificateDer<'_>]) -> Result<Verified, VerifyError> {
    let trust = Trust::new(domain("east"));
    trust.set(domain("west"), anchor);
    trust.verify(&sent[0], &sent[1..], Usage::Server, NOW)
}

#[test]
fn a_bundle_and_a_pin_of_its_root_say_the_same() {
    let west = root("west");
    let sent = chain(&west);
    let verified = judge(roots(&west), &sent).unwrap();
    assert_eq!(verified.root, west.pin());
    assert_eq!(judge(Anchor::Pinned(west.pin()), &sent), Ok(verified));
}

#[test]
fn one_of_several_pins_is_enough_and_none_is_not() {
    let (west, other) = (root("west"), root("west"));
    let sent = chain(&west);
    let pins = |pins: &[Pin]| judge(Anchor::OneOf(pins.to_vec()), &sent);
    assert_eq!(pins(&[other.pin(), west.pin()]).unwrap().root, west.pin());
    let refused = pins(&[other.pin()]);
    assert!(
        matches!(refused, Err(VerifyError::PinMismatch { .. })),
        "{refused:?}"
    );
    assert!(matches!(pins(&[]), Err(VerifyError::UnknownDomain(_))));
    let of_leaf = pins(&[Pin::of(&sent[0])]);
    assert!(
        matches!(of_leaf, Err(VerifyError::PinMismatch { .. })),
        "{of_leaf:?}"
    );
}

#[test]
fn a_pin_is_of_a_root_that_was_sent_and_signed() {
    let west = root("west");
    let sent = chain(&west);
    let alone = judge(Anchor::Pinned(west.pin()), &sent[..1]);
    assert!(
        matches!(alone, Err(VerifyError::PinMismatch { .. })),
        "{alone:?}"
    );
    let of_leaf = Anchor::Pinned(Pin::of(&sent[0]));
    let judged = judge(of_leaf.clone(), &sent);
    assert!(
        matches!(judged, Err(VerifyError::PinMismatch { .. })),
        "{judged:?}"
    );
    let judged = judge(of_leaf, &[sent[0].clone(), sent[0].clone()]);
    assert!(
        matches!(judged, Err(VerifyError::Root { .. })),
        "{judged:?}"
    );
    // The right root, sent along with what another one signed.
    let forged = chain(&root("west"));
    let judged = judge(
        Anchor::Pinned(west.pin()),
        &[forged[0].clone(), sent[1].clone()],
    );
    assert!(
        matches!(judged, Err(VerifyError::UnknownIssuer(_))),
        "{judged:?}"
    );
}

#[test]
fn unknown_domains_our_own_and_empty_bundles_are_named() {
    let west = root("west");
    let east = judge(roots(&west), &chain(&root("east")));
    assert!(matches!(east, Err(VerifyError::OwnDomain(_))), "{east:?}");
    let south = judge(roots(&west), &chain(&root("south")));
    assert!(
        matches!(south, Err(VerifyError::UnknownDomain(_))),
        "{south:?}"
    );
    let empty = judge(Anchor::Roots(vec![]), &chain(&west));
    assert_eq!(empty, Err(VerifyError::NoRoots(domain("west"))));
}
