//! What clusters sign: believed only as it was signed.

use identity::{
    BundleChange, CredentialHash, FetchedBundle, PodChange, PodRecord, SignedRecord, TrustBundle,
    UnixMillis, verify_credential,
};

use crate::world::support::{START, bundles, domain, issuer, local_pod};

fn now() -> UnixMillis {
    UnixMillis(START + 1000)
}

/// Nothing but the credential that east issued is believed to be east's.
pub fn credential(input: &[u8]) {
    let store = bundles();
    let bundle = store.bundle(&domain("east")).unwrap();
    let _ = CredentialHash::of(input);
    if verify_credential(input, bundle, now()).is_ok() {
        assert!(credential_seeds()[..1].iter().any(|it| it == input));
    }
}

/// A credential of each cluster.
pub fn credential_seeds() -> Vec<Vec<u8>> {
    let of = |cluster: &str, pod: &str| {
        let identity = local_pod(cluster, pod).identity.unwrap();
        identity.credential.bytes().to_vec()
    };
    vec![of("east", "frontend"), of("west", "api")]
}

/// Nothing but what east said of its pods is believed.
pub fn record(input: &[u8]) {
    let store = bundles();
    let bundle = store.bundle(&domain("east")).unwrap();
    let Some(record) = SignedRecord::from_bytes(input) else {
        return;
    };
    if record.verify(bundle, now()).is_ok() {
        assert!(record_seeds().iter().any(|it| it == input));
    }
}

/// A pod that is gone, and one that was relabelled.
pub fn record_seeds() -> Vec<Vec<u8>> {
    let claims = local_pod("east", "frontend").identity.unwrap();
    let changes = [
        PodChange::Gone,
        PodChange::Relabelled(claims.credential.clone()),
    ];
    let sign = |change| {
        let record = PodRecord {
            pod_uid: claims.claims.pod_uid.clone(),
            generation: claims.claims.generation,
            change,
        };
        issuer("east")
            .sign_record(&domain("east"), 1, &record)
            .bytes()
            .to_vec()
    };
    changes.into_iter().map(sign).collect()
}

/// A bundle that is read is written so that it is read the same.
pub fn bundle(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(bundle) = TrustBundle::from_jwks(domain("east"), text) {
        let again = TrustBundle::from_jwks(domain("east"), &bundle.to_jwks()).unwrap();
        assert_eq!(again, bundle);
        // What names its end says the same to the reader of anybody's bundles.
        let fetched = FetchedBundle::from_jwks(domain("east"), text).unwrap();
        if bundle.expires_at != UnixMillis(0) {
            assert_eq!(fetched.accept(None, now()).unwrap().bundle, bundle);
        }
    }
    if let Ok(fetched) = FetchedBundle::from_jwks(domain("east"), text) {
        let accepted = fetched.clone().accept(None, now()).unwrap();
        let text = accepted.bundle.to_jwks();
        assert_eq!(
            TrustBundle::from_jwks(domain("east"), &text).unwrap(),
            accepted.bundle
        );
        // The same again is no news, whoever counts.
        let again = fetched.accept(Some(&accepted.mark), now()).unwrap();
        assert_eq!(
            (again.change, again.mark),
            (BundleChange::Unchanged, accepted.mark)
        );
    }
}

/// East's.
pub fn bundle_seeds() -> Vec<Vec<u8>> {
    let store = bundles();
    vec![
        store
            .bundle(&domain("east"))
            .unwrap()
            .to_jwks()
            .into_bytes(),
    ]
}
