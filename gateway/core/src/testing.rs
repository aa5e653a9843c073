//! What the unit tests share.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use handshake::{admission::Admission, keys::SegmentKeys, transit::TransitSnapshot};
use identity::{
    Assurance, BundleStore, Claims, IdentityNetworks, Labels, SpiffeId, TrustDomain, UnixMillis,
};
use policy::{KnownKeys, model::PolicySet};
use wire::{flow::FlowKey, ip};

pub fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

pub fn claims(domain: &TrustDomain, pod: &str) -> Claims {
    Claims {
        subject: SpiffeId::workload(domain, "shop", pod).unwrap(),
        issued_at: UnixMillis(0),
        expires_at: UnixMillis(600_000),
        id: [1; 16],
        agent_key: [2; 32],
        pod: pod.into(),
        pod_uid: format!("uid-{pod}"),
        labels: Labels::default(),
        namespace_labels: Labels::default(),
        zone: None,
        named_ports: Vec::new(),
        assurance: Assurance::Agent,
        generation: 1,
    }
}

/// A TCP flow from 10.1.0.0/16 to 10.2.1.10; different numbers, different flows.
pub fn key(number: u32) -> FlowKey {
    let [_, high, low, port] = number.to_be_bytes();
    FlowKey {
        protocol: ip::TCP,
        src: Ipv4Addr::new(10, 1, high, low).into(),
        dst: Ipv4Addr::new(10, 2, 1, 10).into(),
        sport: 40_000 + u16::from(port),
        dport: 8080,
    }
}

/// Judges nothing: no networks, no bundles, no policies.
pub fn transit_snapshot() -> TransitSnapshot {
    let set = PolicySet {
        cluster: domain("east"),
        policies: Vec::new(),
    };
    TransitSnapshot {
        epoch: 1,
        own: domain("east"),
        networks: IdentityNetworks::default(),
        bundles: BundleStore::default(),
        policy: Arc::new(policy::compile(&set).unwrap()),
        digests: BTreeMap::new(),
        known: KnownKeys::all(),
        pods: BTreeMap::new(),
        segment_keys: SegmentKeys::default(),
        admission: Admission::default(),
    }
}
