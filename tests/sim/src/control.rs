//! The control plane of the world: who knows what, and when. Each machine gets its own snapshot of
//! the objects, later than the objects changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use handshake::{
    credentials::{PodState, PodStates},
    keys::{AgentSecret, MacKey, SegmentKey, SegmentKeys},
    node::{LocalIdentity, LocalPod, NodeSnapshot},
    transit::TransitSnapshot,
};
use identity::{BundleStore, Claims, IssuerKey, TrustBundle, TrustDomain, UnixMillis};
use peering::peer_messages::{TunnelKey, TunnelSecret};
use policy::KnownKeys;

use crate::{dice::Dice, objects::Objects};

/// Issuers, agents' keys, and what was signed so far.
#[derive(Debug)]
pub struct Control {
    issuers: Vec<IssuerKey>,
    /// By cluster and node.
    secrets: BTreeMap<(usize, usize), AgentSecret>,
    segment: Vec<SegmentKeys>,
    bundles: BundleStore,
    /// Records of relabelled and deleted pods.
    changes: PodStates,
    epoch: u64,
}

impl Control {
    /// The trust of all clusters of `objects`.
    #[must_use]
    pub fn new(objects: &Objects, now: UnixMillis) -> Self {
        let mut control = Self {
            issuers: Vec::new(),
            secrets: BTreeMap::new(),
            segment: Vec::new(),
            bundles: BundleStore::default(),
            changes: PodStates::default(),
            epoch: 0,
        };
        for (number, cluster) in objects.clusters.iter().enumerate() {
            let byte = u8::try_from(number + 1).expect("a small world");
            let issuer = IssuerKey::from_seed(&[byte; 32]);
            let bundle = TrustBundle {
                trust_domain: cluster.domain.clone(),
                sequence: 1,
                refresh_hint: Duration::from_secs(60),
                x509_roots: Vec::new(),
                issuer_keys: vec![issuer.public()],
                carried_labels: None,
                expires_at: now.after(Duration::from_hours(24)),
            };
            control
                .bundles
                .insert(bundle)
                .expect("one bundle for each domain");
            control.issuers.push(issuer);
            let key = SegmentKey {
                id: [byte; 8],
                key: MacKey::from_bytes([byte; 32]),
            };
            control.segment.push(SegmentKeys::new(vec![key]));
            for node in 0..2_u8 {
                let secret = AgentSecret::from_bytes([byte * 16 + node + 1; 32]);
                control.secrets.insert((number, node.into()), secret);
            }
        }
        control
    }

    /// A pod was relabelled: its new claims are signed as a record.
    pub fn relabelled(&mut self, claims: Claims) {
        let (domain, uid) = (claims.trust_domain().clone(), claims.pod_uid.clone());
        self.changes
            .insert(domain, uid, PodState::Relabelled(Arc::new(claims)));
    }

    /// A pod was deleted.
    pub fn gone(&mut self, domain: TrustDomain, uid: String) {
        self.changes.insert(domain, uid, PodState::Gone);
    }

    /// A new association.
    pub fn tunnel_key(&mut self, dice: &mut Dice) -> TunnelKey {
        self.epoch += 1;
        TunnelKey {
            spi: u32::try_from(self.epoch).expect("a short run"),
            secret: TunnelSecret::from_bytes(dice.bytes()[..16].to_vec()),
        }
    }

    /// What the agent of one node knows once it heard of `objects`.
    pub fn node_snapshot(
        &mut self,
        objects: &Objects,
        number: usize,
        node: usize,
        now: UnixMillis,
    ) -> Arc<NodeSnapshot> {
        self.epoch += 1;
        let cluster = &objects.clusters[number];
        let secret = &self.secrets[&(number, node)];
        let pods = cluster.pods.iter().filter(|(_, pod)| pod.node == node);
        let pods = pods.map(|(address, pod)| {
            let claims = pod.claims(&cluster.domain, secret.public(), now);
            let credential = self.issuers[number].issue(&claims).expect("small claims");
            let (uid, secret) = (claims.pod_uid.clone(), secret.clone());
            let identity = LocalIdentity {
                credential,
                claims: Arc::new(claims),
                secret,
            };
            (
                *address,
                LocalPod {
                    uid,
                    identity: Some(identity),
                },
            )
        });
        Arc::new(NodeSnapshot {
            epoch: self.epoch,
            own: cluster.domain.clone(),
            networks: objects.networks(),
            bundles: self.bundles.clone(),
            policy: policy::compile(&cluster.policies).expect("valid policies"),
            pods: pods.collect(),
            unprotected: BTreeSet::new(),
            known: KnownKeys::all(),
            segment_keys: self.segment[number].clone(),
            changes: self.changes.clone(),
        })
    }

    /// What the gateway of one cluster knows once it heard of `objects`.
    pub fn gateway_snapshot(&mut self, objects: &Objects, number: usize) -> Arc<TransitSnapshot> {
        self.epoch += 1;
        let cluster = &objects.clusters[number];
        let others = objects
            .clusters
            .iter()
            .filter(|other| other.domain != cluster.domain);
        let digests = others.map(|other| {
            let table = policy::compile(&other.policies).expect("valid policies");
            let digest = policy::compile(&table.digest_part()).expect("a digest compiles");
            (other.domain.clone(), digest)
        });
        let pods = cluster.pods.iter().map(|(address, pod)| {
            let secret = &self.secrets[&(number, pod.node)];
            let claims = pod.claims(&cluster.domain, secret.public(), UnixMillis(0));
            (*address, Arc::new(claims))
        });
        Arc::new(TransitSnapshot {
            epoch: self.epoch,
            own: cluster.domain.clone(),
            networks: objects.networks(),
            bundles: self.bundles.clone(),
            policy: policy::compile(&cluster.policies).expect("valid policies"),
            digests: digests.collect(),
            known: KnownKeys::all(),
            pods: pods.collect(),
            segment_keys: self.segment[number].clone(),
            changes: self.changes.clone(),
        })
    }
}
