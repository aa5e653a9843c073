//! What the unit tests of this crate share.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    Assurance, Claims, IssuerKey, Labels, NamedPort, SpiffeId, TrustBundle, TrustDomain, UnixMillis,
};

pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

pub(crate) fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).expect("a name of the tests")
}

pub(crate) fn key(seed: u8) -> IssuerKey {
    IssuerKey::from_seed(&[seed; 32])
}

pub(crate) fn bundle(name: &str, keys: &[&IssuerKey]) -> TrustBundle {
    TrustBundle {
        trust_domain: domain(name),
        sequence: 1,
        refresh_hint: Duration::from_secs(60),
        x509_roots: Vec::new(),
        issuer_keys: keys.iter().map(|key| key.public()).collect(),
        carried_labels: None,
        expires_at: NOW.after(Duration::from_hours(24)),
    }
}

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    let map: BTreeMap<_, _> = pairs
        .iter()
        .map(|(key, value)| (String::from(*key), String::from(*value)))
        .collect();
    Labels::try_from(map).expect("labels of the tests")
}

pub(crate) fn claims() -> Claims {
    Claims {
        subject: SpiffeId::workload(&domain("east.example"), "shop", "frontend")
            .expect("an ID of the tests"),
        issued_at: NOW,
        expires_at: NOW.after(Duration::from_mins(10)),
        id: [3; 16],
        agent_key: [9; 32],
        pod: "frontend-7d9c5".into(),
        pod_uid: "0f1c2d3e-4b5a-6978-8796-a5b4c3d2e1f0".into(),
        labels: labels(&[("app", "frontend"), ("app.kubernetes.io/part-of", "shop")]),
        namespace_labels: labels(&[("kubernetes.io/metadata.name", "shop")]),
        zone: Some("zone-a".into()),
        named_ports: vec![NamedPort {
            name: "http".into(),
            protocol: 6,
            port: 8080,
        }],
        assurance: Assurance::Agent,
        generation: 4,
    }
}
