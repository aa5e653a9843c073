//! Certificates that a root would never sign, against the rules of the X.509-SVID standard.
#![allow(clippy::unwrap_used)]

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use std::{slice, sync::LazyLock};

use super::*;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const HOUR: u64 = 3600;

/// A root of `west` under our control, so that it signs anything.
struct Ca {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn west() -> TrustDomain {
    TrustDomain::new("west").unwrap()
}

fn dated(params: &mut CertificateParams, from: u64, to: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(from);
    params.not_after = epoch + Duration::from_secs(to);
}

fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().unwrap())
}

fn ca(change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.subject_alt_names = vec![uri("spiffe://west")];
    dated(&mut params, NOW.as_secs() - HOUR, NOW.as_secs() + HOUR);
    change(&mut params);
    let der = params.self_signed(&key).unwrap().der().clone();
    let issuer = Issuer::new(params, key);
    Ca { der, issuer }
}

/// A leaf that holds, but for what `change` does to it.
fn leaf(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![uri("spiffe://west/landbridge/gateway/gw1")];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    dated(&mut params, NOW.as_secs() - 60, NOW.as_secs() + 60);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.signed_by(&key, &ca.issuer).unwrap().der().clone()
}

fn roots(cas: &[&Ca]) -> Vec<Vec<u8>> {
    cas.iter().map(|ca| ca.der.to_vec()).collect()
}

/// The judgement of what a client sent, by `roots`.
fn by(
    roots: &[Vec<u8>],
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
) -> Result<Verified, VerifyError> {
    Chain::read(leaf, rest)?.verify(roots, Usage::Client, NOW)
}

/// The judgement of a leaf as a client's, where `ca` is the root of the bundle and is sent too.
fn judge(ca: &Ca, leaf: &CertificateDer<'_>) -> Result<Verified, VerifyError> {
    by(&roots(&[ca]), leaf, slice::from_ref(&ca.der))
}

fn refused(change: impl FnOnce(&mut CertificateParams)) -> String {
    let ca = ca(|_| {});
    judge(&ca, &leaf(&ca, change)).unwrap_err().to_string()
}

#[test]
fn a_leaf_that_keeps_the_rules_is_believed() {
    let ca = ca(|_| {});
    let leaf = leaf(&ca, |_| {});
    let verified = judge(&ca, &leaf).unwrap();
    assert_eq!(
        verified.id.to_string(),
        "spiffe://west/landbridge/gateway/gw1"
    );
    assert_eq!(verified.root, Pin::of(&ca.der));
    let served = Chain::read(&leaf, &[]).unwrap();
    assert_eq!(
        served.verify(&roots(&[&ca]), Usage::Server, NOW),
        Ok(verified)
    );
}

#[test]
fn exactly_one_uri_san_which_is_a_spiffe_id_with_a_path() {
    let ids = |uris: &[&str]| {
        let names = uris.iter().map(|id| uri(id)).collect();
        refused(|p| p.subject_alt_names = names)
    };
    assert_eq!(
        ids(&[]),
        "the certificate holds 0 URI SANs, an X.509-SVID holds exactly one"
    );
    assert_eq!(
        ids(&["spiffe://west/a", "spiffe://west/b"]),
        "the certificate holds 2 URI SANs, an X.509-SVID holds exactly one"
    );
    assert!(ids(&["https://west/a"]).contains("is no SPIFFE ID"));
    assert!(ids(&["spiffe://west:1/a"]).contains("is no SPIFFE ID"));
    assert!(ids(&["spiffe://west"]).contains("has no path"));
}

#[test]
fn a_leaf_is_no_ca_and_signs_no_certificates() {
    let ca_leaf = refused(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(ca_leaf.contains("is a CA"), "{ca_leaf}");
    for (usages, said) in [
        (vec![], "lacks digitalSignature"),
        (
            vec![KeyUsagePurpose::KeyEncipherment],
            "lacks digitalSignature",
        ),
        (
            vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
            ],
            "holds keyCertSign or cRLSign",
        ),
        (
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign],
            "holds keyCertSign or cRLSign",
        ),
    ] {
        let error = refused(|p| p.key_usages = usages);
        assert!(error.contains(said), "{error}");
    }
    let server_only =
        refused(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(server_only.contains("does not hold"), "{server_only}");
}

#[test]
fn outside_its_validity_both_clocks_are_named() {
    let now = NOW.as_secs();
    assert_eq!(
        refused(|p| dated(p, now - 60, now)),
        "the certificate of spiffe://west/landbridge/gateway/gw1 expired at \
         2027-01-15T08:00:00Z, and the clock here says 2027-01-15T08:00:00Z"
    );
    assert!(refused(|p| dated(p, now + 1, now + 60)).contains("begins at"));
}

#[test]
fn a_root_of_another_domain_signs_nothing_for_this_one() {
    let (own, other) = (ca(|_| {}), ca(|_| {}));
    // Signed by another CA, whichever root is sent along.
    let forged = leaf(&other, |_| {});
    for sent in [&own, &other] {
        let judged = by(&roots(&[&own]), &forged, slice::from_ref(&sent.der));
        assert!(
            matches!(judged, Err(VerifyError::UnknownIssuer(_))),
            "{judged:?}"
        );
    }
    // A CA that calls itself a root of another domain is none of west.
    let south = ca(|p| p.subject_alt_names = vec![uri("spiffe://south")]);
    let error = judge(&south, &leaf(&south, |_| {})).unwrap_err();
    assert!(
        error.to_string().contains("names another trust domain"),
        "{error}"
    );
}

#[test]
fn each_of_several_roots_is_tried_and_a_broken_one_spoils_no_other() {
    let (old, new) = (ca(|_| {}), ca(|_| {}));
    let expired = ca(|p| dated(p, 0, NOW.as_secs() - 1));
    let judged = by(&roots(&[&expired, &old, &new]), &leaf(&new, |_| {}), &[]);
    assert_eq!(judged.unwrap().root, Pin::of(&new.der));
}

#[test]
fn a_root_must_be_one_and_be_valid() {
    let now = NOW.as_secs();
    let told = |ca: Ca| judge(&ca, &leaf(&ca, |_| {})).unwrap_err().to_string();
    assert!(told(ca(|p| p.is_ca = IsCa::ExplicitNoCa)).contains("is not a CA"));
    assert!(
        told(ca(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]))
            .contains("may not sign certificates")
    );
    assert!(told(ca(|p| dated(p, 0, now))).contains("expired"));
    assert!(told(ca(|p| dated(p, now + 1, now + 2))).contains("is not valid yet"));
}

#[test]
fn a_leaf_is_no_root_of_its_own() {
    let ca = ca(|_| {});
    let leaf = leaf(&ca, |_| {});
    let judged = by(&[leaf.to_vec()], &leaf, slice::from_ref(&leaf));
    assert!(
        matches!(judged, Err(VerifyError::Root { .. })),
        "{judged:?}"
    );
}

#[test]
fn a_domain_without_roots_is_named() {
    let ca = ca(|_| {});
    assert_eq!(
        by(&[], &leaf(&ca, |_| {}), slice::from_ref(&ca.der)),
        Err(VerifyError::NoRoots(west()))
    );
}

#[test]
fn a_long_chain_and_garbage_are_refused() {
    let ca = ca(|_| {});
    let leaf = leaf(&ca, |_| {});
    let roots = roots(&[&ca]);
    let judged = by(&roots, &leaf, &vec![ca.der.clone(); 4]);
    assert_eq!(judged, Err(VerifyError::ChainTooLong(5)));
    for garbage in [&b""[..], b"\x30\x80", &leaf[..leaf.len() - 1]] {
        let judged = by(&roots, &CertificateDer::from(garbage), &[]);
        assert!(
            matches!(judged, Err(VerifyError::Malformed(_))),
            "{judged:?}"
        );
    }
    let mut longer = leaf.to_vec();
    longer.push(0);
    let judged = by(&roots, &CertificateDer::from(longer), &[]);
    assert!(
        matches!(judged, Err(VerifyError::Malformed(_))),
        "{judged:?}"
    );
}

proptest::proptest! {
    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        let der = CertificateDer::from(bytes.clone());
        let _ = by(&[bytes], &der, slice::from_ref(&der));
    }

    #[test]
    fn a_flipped_bit_is_never_believed(at: usize, bit in 0u8..8) {
        static SIGNED: LazyLock<(Ca, Vec<u8>)> = LazyLock::new(|| {
            let ca = ca(|_| {});
            let leaf = leaf(&ca, |_| {}).to_vec();
            (ca, leaf)
        });
        let (ca, leaf) = &*SIGNED;
        let mut leaf = leaf.clone();
        let at = at % leaf.len();
        leaf[at] ^= 1 << bit;
        proptest::prop_assert!(judge(ca, &CertificateDer::from(leaf)).is_err());
    }
}
