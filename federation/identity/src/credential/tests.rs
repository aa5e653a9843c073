#![allow(clippy::unwrap_used)]

use ciborium::value::Value;
use coset::{CborSerializable, CoseSign1, TaggedCborSerializable, cwt::ClaimsSet};
use proptest::prelude::*;

use super::*;
use crate::{
    Assurance, NamedPort, SpiffeId,
    testing::{NOW, bundle, claims, domain, key, labels},
};

fn east() -> TrustBundle {
    bundle("east.example", &[&key(1)])
}

/// A claims set that no `issue` would write, under a signature that holds.
fn signed(payload: &[u8]) -> Vec<u8> {
    cose::sign1(&key(1).signing, key(1).id, NO_AAD, payload)
}

fn verify_payload(payload: &[u8]) -> Result<Claims, VerifyError> {
    verify_credential(&signed(payload), &east(), NOW)
}

/// The claims set of [`claims`] as a value of an independent CBOR implementation, changed by `edit`
/// and put into the deterministic order again.
fn edited(edit: impl FnOnce(&mut Vec<(Value, Value)>)) -> Vec<u8> {
    let payload = claims_cbor::encode(&claims()).unwrap();
    let Value::Map(mut map) = ciborium::from_reader(payload.as_slice()).unwrap() else {
        panic!("a claims set is a map");
    };
    edit(&mut map);
    encoded(&Value::Map(map))
}

fn encoded(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn int(number: i64) -> Value {
    Value::Integer(number.into())
}

fn set(map: &mut Vec<(Value, Value)>, key: i64, value: Value) {
    map.retain(|(k, _)| *k != int(key));
    map.push((int(key), value));
    map.sort_by_key(|(k, _)| encoded(k));
}

fn workload(map: &mut [(Value, Value)]) -> &mut Vec<(Value, Value)> {
    map.iter_mut()
        .find(|(k, _)| *k == int(-70_000))
        .and_then(|(_, v)| v.as_map_mut())
        .unwrap()
}

fn malformed(result: Result<Claims, VerifyError>) -> &'static str {
    match result {
        Err(VerifyError::Malformed(why)) => why,
        other => panic!("not malformed: {other:?}"),
    }
}

#[test]
fn what_was_issued_is_verified() {
    let credential = key(1).issue(&claims()).unwrap();
    assert_eq!(
        verify_credential(credential.bytes(), &east(), NOW),
        Ok(claims())
    );
    assert_eq!(
        claimed_issuer(credential.bytes()),
        Ok(domain("east.example"))
    );
    assert_eq!(credential.hash(), CredentialHash::of(credential.bytes()));
}

/// docs/spec/credential.md, section 4: the bytes of the format, so that they cannot change
/// unnoticed.
#[test]
fn the_bytes_are_those_of_the_specification() {
    let credential = key(1).issue(&claims()).unwrap();
    let expected: String = include_str!("../../../../docs/spec/credential.md")
        .lines()
        .skip_while(|line| *line != "```hex")
        .skip(1)
        .take_while(|line| *line != "```")
        .map(|line| line.split('#').next().unwrap_or_default().replace(' ', ""))
        .collect();
    assert_eq!(hex::encode(credential.bytes()), expected);
}

/// An independent COSE and CWT implementation reads it as what RFC 8392 and RFC 8747 say.
#[test]
fn an_independent_implementation_reads_the_claims() {
    let credential = key(1).issue(&claims()).unwrap();
    let object = CoseSign1::from_tagged_slice(credential.bytes()).unwrap();
    let set = ClaimsSet::from_slice(object.payload.as_deref().unwrap()).unwrap();
    assert_eq!(set.issuer.as_deref(), Some("east.example"));
    assert_eq!(
        set.subject.as_deref(),
        Some("spiffe://east.example/ns/shop/sa/frontend")
    );
    assert_eq!(set.cwt_id, Some(vec![3; 16]));
    assert_eq!(
        set.issued_at,
        Some(coset::cwt::Timestamp::WholeSeconds(1_800_000_000))
    );
    assert_eq!(
        set.expiration_time,
        Some(coset::cwt::Timestamp::WholeSeconds(1_800_000_600))
    );
    let (_, cnf) = set
        .rest
        .iter()
        .find(|(name, _)| *name == coset::iana::CwtClaimName::Cnf.into())
        .unwrap();
    let Some([(_, cose_key)]) = cnf.as_map().map(Vec::as_slice) else {
        panic!("cnf holds one member");
    };
    let cose_key = coset::CoseKey::from_slice(&encoded(cose_key)).unwrap();
    assert_eq!(cose_key.kty, coset::iana::KeyType::OKP.into());
    assert!(
        cose_key
            .params
            .contains(&(coset::Label::Int(-2), Value::Bytes(vec![9; 32])))
    );
}

/// Threat row 1 and the seam to the handshake: no byte of a credential can be changed, and none
/// left out or added.
#[test]
fn every_flipped_bit_and_every_other_length_is_refused() {
    let credential = key(1).issue(&claims()).unwrap();
    let bundle = east();
    let mut bytes = credential.bytes().to_vec();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            assert!(
                verify_credential(&bytes, &bundle, NOW).is_err(),
                "byte {at} bit {bit}"
            );
            bytes[at] ^= 1 << bit;
        }
    }
    for len in 0..bytes.len() {
        assert!(
            verify_credential(&bytes[..len], &bundle, NOW).is_err(),
            "{len} bytes"
        );
    }
    bytes.push(0);
    assert!(verify_credential(&bytes, &bundle, NOW).is_err());
}

/// Threat row 18: whatever a cluster signs, it speaks for its own trust domain only.
#[test]
fn a_cluster_speaks_only_for_its_own_trust_domain() {
    let (east_key, west_key) = (key(1), key(2));
    let of_east = claims();
    let forged = west_key.issue(&of_east).unwrap();
    let west = bundle("west.example", &[&west_key]);
    assert_eq!(
        verify_credential(forged.bytes(), &west, NOW),
        Err(VerifyError::WrongTrustDomain(domain("west.example")))
    );
    assert_eq!(
        verify_credential(forged.bytes(), &east(), NOW),
        Err(VerifyError::UnknownKey(west_key.public().id()))
    );
    // West puts the key of east into its own bundle: a credential of east is still none of west.
    let genuine = east_key.issue(&of_east).unwrap();
    let borrowed = bundle("west.example", &[&west_key, &east_key]);
    assert_eq!(
        verify_credential(genuine.bytes(), &borrowed, NOW),
        Err(VerifyError::WrongTrustDomain(domain("west.example")))
    );
    // iss and sub must both be of the domain.
    for (claim, text) in [(1, "west.example"), (2, "spiffe://west.example/ns/a/sa/b")] {
        let payload = edited(|map| set(map, claim, Value::Text(text.into())));
        assert_eq!(
            verify_payload(&payload),
            Err(VerifyError::WrongTrustDomain(domain("east.example")))
        );
    }
}

#[test]
fn an_empty_and_an_expired_bundle_verify_nothing() {
    let credential = key(1).issue(&claims()).unwrap();
    let empty = bundle("east.example", &[]);
    assert_eq!(
        verify_credential(credential.bytes(), &empty, NOW),
        Err(VerifyError::BundleEmpty(domain("east.example")))
    );
    let mut expired = east();
    expired.expires_at = NOW.after(Duration::from_secs(60));
    let verify = |at| verify_credential(credential.bytes(), &expired, at);
    assert!(verify(NOW.after(Duration::from_millis(59_999))).is_ok());
    assert_eq!(
        verify(NOW.after(Duration::from_secs(60))),
        Err(VerifyError::BundleExpired(domain("east.example")))
    );
}

/// Threat row 26.
#[test]
fn time_is_judged_to_the_millisecond_with_ten_seconds_before() {
    let credential = key(1).issue(&claims()).unwrap();
    let verify = |at: u64| verify_credential(credential.bytes(), &east(), UnixMillis(at));
    let (from, to) = (claims().issued_at, claims().expires_at);
    assert!(verify(from.0 - 10_000).is_ok());
    assert_eq!(
        verify(from.0 - 10_001),
        Err(VerifyError::NotYetValid {
            at: from,
            now: UnixMillis(from.0 - 10_001)
        })
    );
    assert!(verify(to.0 - 1).is_ok());
    assert_eq!(verify(to.0), Err(VerifyError::Expired { at: to, now: to }));
    assert!(
        verify(to.0)
            .unwrap_err()
            .to_string()
            .contains("the clock here says 2027-01-15T08:10:00Z"),
        "both clocks are named"
    );
}

#[test]
fn a_lifetime_of_more_than_an_hour_is_refused_at_both_ends() {
    let mut hour = claims();
    hour.expires_at = NOW.after(Duration::from_hours(1));
    assert!(verify_credential(key(1).issue(&hour).unwrap().bytes(), &east(), NOW).is_ok());
    let now = NOW.as_secs();
    for (exp, why) in [
        (now + 3601, "valid for more than an hour"),
        (u64::MAX, "valid for more than an hour"),
        (now, "exp is not after iat"),
        (0, "exp is not after iat"),
    ] {
        let mut wrong = claims();
        wrong.expires_at = UnixMillis::from_secs(exp);
        let error = key(1).issue(&wrong).unwrap_err();
        assert!(error.to_string().ends_with(why), "{error}");
        let payload = edited(|map| set(map, 4, Value::Integer(exp.into())));
        assert_eq!(malformed(verify_payload(&payload)), why);
    }
}

#[test]
fn claims_that_limit_or_contradict_are_refused_and_foreign_ones_ignored() {
    let text = |text: &str| Value::Text(text.into());
    let refused: [(&str, Vec<u8>); 10] = [
        ("aud", edited(|map| set(map, 3, text("somebody")))),
        ("nbf", edited(|map| set(map, 5, int(1)))),
        (
            "an unknown member",
            edited(|map| set(workload(map), 9, int(1))),
        ),
        ("cnf", edited(|map| set(map, 8, Value::Map(vec![])))),
        (
            "/ns/",
            edited(|map| set(map, 2, text("spiffe://east.example/web"))),
        ),
        (
            "pod's name",
            edited(|map| set(workload(map), 1, text("a\nb"))),
        ),
        ("zone", edited(|map| set(workload(map), 5, text("")))),
        ("assurance", edited(|map| set(workload(map), 7, int(2)))),
        (
            "16 bytes",
            edited(|map| set(workload(map), 2, text(&claims().pod_uid))),
        ),
        (
            "empty map",
            edited(|map| set(workload(map), 3, Value::Map(vec![]))),
        ),
    ];
    for (why, payload) in refused {
        let said = malformed(verify_payload(&payload));
        assert!(said.contains(why), "{said:?} does not mention {why:?}");
    }
    let ignored = edited(|map| {
        set(map, 40, Value::Map(vec![(text("x"), Value::Bool(true))]));
        set(map, -70_001, Value::Array(vec![Value::Null]));
        set(workload(map), -1, text("of a later version"));
    });
    assert_eq!(verify_payload(&ignored), Ok(claims()));
}

#[test]
fn a_claim_that_is_missing_or_stands_twice_is_refused() {
    for claim in [1, 2, 4, 6, 7, 8, -70_000] {
        let payload = edited(|map| map.retain(|(key, _)| *key != int(claim)));
        assert!(malformed(verify_payload(&payload)).ends_with("is missing"));
        let payload = edited(|map| {
            let again = map.iter().find(|(key, _)| *key == int(claim)).cloned();
            map.extend(again);
            map.sort_by_key(|(k, _)| encoded(k));
        });
        assert!(malformed(verify_payload(&payload)).contains("stand twice"));
    }
    for member in [1, 2, 7, 8] {
        let payload = edited(|map| workload(map).retain(|(key, _)| *key != int(member)));
        assert!(malformed(verify_payload(&payload)).ends_with("is missing"));
    }
    let mut trailing = edited(|_| ());
    trailing.push(0);
    assert!(malformed(verify_payload(&trailing)).contains("follow"));
}

/// Threat row 23: a label that is none is no label here either, whoever signed it.
#[test]
fn labels_that_kubernetes_would_refuse_are_refused() {
    let with = |key: &str, value: &str| {
        let label = (Value::Text(key.into()), Value::Text(value.into()));
        verify_payload(&edited(|map| {
            set(workload(map), 3, Value::Map(vec![label]));
        }))
    };
    assert!(with(&"k".repeat(63), &"v".repeat(63)).is_ok());
    assert!(with(&"k".repeat(64), "v").is_err());
    assert!(with("k", &"v".repeat(64)).is_err());
    assert!(with(&format!("{}/k", "p".repeat(253)), "v").is_ok());
    assert!(with(&format!("{}/k", "p".repeat(254)), "v").is_err());
    assert!(with("a/b/c", "v").is_err());
    assert!(with("", "v").is_err());
}

#[test]
fn what_does_not_fit_is_refused_at_issue_and_names_the_labels() {
    let mut large = claims();
    let value = "v".repeat(63);
    let pairs: Vec<_> = (0..12)
        .map(|n| (format!("key-{n}"), value.clone()))
        .collect();
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    large.labels = labels(&pairs);
    let error = key(1).issue(&large).unwrap_err();
    let IssueError::TooLarge { bytes, labels, .. } = &error else {
        panic!("{error}");
    };
    assert!(*bytes > MAX_CREDENTIAL);
    assert_eq!(labels.len(), 13);
    let text = error.to_string();
    assert!(text.contains("east.example/shop/frontend-7d9c5"), "{text}");
    assert!(text.contains("key-11 (69 bytes)"), "{text}");
    assert!(
        text.contains("namespace label kubernetes.io/metadata.name (31 bytes)"),
        "{text}"
    );
}

#[test]
fn longer_than_the_limit_is_refused_unread() {
    let long = vec![0xd2; MAX_CREDENTIAL + 1];
    assert!(SignedCredential::from_bytes(&long).is_none());
    assert_eq!(
        malformed(verify_credential(&long, &east(), NOW)),
        "longer than a credential may be"
    );
}

/// Another kind of object, signed by the same key, is no credential, and the reverse.
#[test]
fn objects_of_other_kinds_do_not_pass() {
    let payload = claims_cbor::encode(&claims()).unwrap();
    for context in ["", "digest", "pod-record"] {
        let object = key(1).sign(context, &payload);
        assert_eq!(
            verify_credential(&object, &east(), NOW),
            Err(VerifyError::Signature(key(1).public().id()))
        );
    }
    let credential = key(1).issue(&claims()).unwrap();
    assert!(east().open("", credential.bytes(), NOW).is_err());
}

#[test]
fn a_credential_survives_cbor_and_json_and_a_long_one_is_refused_there() {
    let credential = key(1).issue(&claims()).unwrap();
    let mut bytes = Vec::new();
    ciborium::into_writer(&credential, &mut bytes).unwrap();
    assert_eq!(bytes.len(), credential.bytes().len() + 3, "a byte string");
    let back: SignedCredential = ciborium::from_reader(bytes.as_slice()).unwrap();
    assert_eq!(back, credential);
    let json = serde_json::to_string(&credential).unwrap();
    assert_eq!(
        serde_json::from_str::<SignedCredential>(&json).unwrap(),
        credential
    );
    let long = encoded(&Value::Bytes(vec![0; MAX_CREDENTIAL + 1]));
    assert!(ciborium::from_reader::<SignedCredential, _>(long.as_slice()).is_err());
}

prop_compose! {
    fn any_labels()(
        map in prop::collection::btree_map("[a-z]([a-z0-9._-]{0,12}[a-z0-9])?", "[A-Za-z0-9]{0,12}", 0..6),
    ) -> crate::Labels {
        crate::Labels::try_from(map).unwrap()
    }
}

prop_compose! {
    fn any_claims()(
        (namespace, account, pod) in ("[a-z0-9-]{1,30}", "[a-z0-9.-]{1,30}", "[a-z0-9.-]{1,60}"),
        uid in prop_oneof!["[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[!-~]{1,36}"],
        (labels, namespace_labels) in (any_labels(), any_labels()),
        zone in prop::option::of("[a-z]{1,20}"),
        ports in prop::collection::btree_map("[a-z-]{1,15}", (any::<u8>(), 1..=u16::MAX), 0..5),
        gateway: bool,
        (id, agent_key, generation) in any::<([u8; 16], [u8; 32], u64)>(),
        lifetime in 1..=3600u64,
    ) -> Claims {
        Claims {
            subject: SpiffeId::workload(&domain("east.example"), &namespace.replace('.', "x"), &format!("a{account}")).unwrap(),
            issued_at: NOW,
            expires_at: NOW.after(Duration::from_secs(lifetime)),
            id,
            agent_key,
            pod,
            pod_uid: uid,
            labels,
            namespace_labels,
            zone,
            named_ports: ports.into_iter().map(|(name, (protocol, port))| NamedPort { name, protocol, port }).collect(),
            assurance: if gateway { Assurance::Gateway } else { Assurance::Agent },
            generation,
        }
    }
}

proptest! {
    #[test]
    fn sign_and_verify_are_inverse(claims in any_claims()) {
        let credential = key(1).issue(&claims).unwrap();
        prop_assert_eq!(verify_credential(credential.bytes(), &east(), NOW), Ok(claims));
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        let _ = verify_credential(&bytes, &east(), NOW);
        let _ = claimed_issuer(&bytes);
        let _ = verify_payload(&bytes);
    }

    /// A peer may sign anything: a changed claims set is refused, or it is the one encoding of what
    /// it says.
    #[test]
    fn a_changed_claims_set_is_refused_or_means_what_it_says(
        claims in any_claims(), at: prop::sample::Index, mask in 1..=255u8, cut: bool,
    ) {
        let mut payload = claims_cbor::encode(&claims).unwrap();
        let at = at.index(payload.len());
        payload[at] ^= mask;
        if cut {
            payload.truncate(at);
        }
        if let Ok(read) = claims_cbor::decode(&payload) {
            let again = claims_cbor::encode(&read.claims).unwrap();
            prop_assert!(again == payload || read.issuer != read.claims.trust_domain().as_str());
        }
    }
}
