//! What the issuer's messages change.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use handshake::admission::{Restricted, Restrictions, Target};
use identity::{
    Assurance, BundleChange, MAX_LIFETIME, Now, PodChange, SignedRecord, TrustBundle, TrustDomain,
    UnixMillis, verify_credential,
};
use rand_core::Rng;

use super::{AgentMember, MAX_REGISTRY, MemberEvent, Named, local_pod::Held};
use crate::node_messages::{
    AgentPublicKey, Boot, GrantedCredential, JoinedCluster, NODE_PROTOCOL, NodeEntry, Numbered,
    RelayedRecord, SegmentKeyGrant, ToNode,
};

/// Two clocks may differ by this much before somebody is told.
const SKEW: i64 = 30_000;

impl AgentMember {
    /// The issuer sent `bytes`.
    pub fn handle_message(&mut self, bytes: &[u8], now: Now) {
        self.now = now;
        if !self.link.connected {
            return;
        }
        let Numbered(number, message) = match Numbered::decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.problem(format!("a message of the issuer: {error}")),
        };
        if let ToNode::Welcome {
            version,
            trust_domain,
            boot,
            clock,
        } = message
        {
            self.link.heard = number;
            return self.welcome(version, &trust_domain, boot, clock);
        }
        if !self.link.welcome {
            // The rest of a conversation that is about to begin anew.
            return;
        }
        if number != self.link.heard.saturating_add(1) {
            self.link.welcome = false;
            return self.hello();
        }
        self.link.heard = number;
        match message {
            ToNode::Welcome { .. } => {}
            ToNode::Bundle { trust_domain, jwks } => self.take_bundle(trust_domain, jwks),
            ToNode::Restrictions {
                trust_domain,
                restrictions,
            } => self.take_restrictions(trust_domain, restrictions),
            ToNode::Cluster {
                trust_domain,
                cluster,
            } => self.take_cluster(trust_domain, cluster),
            ToNode::SigningRoot(root) => self.emit(MemberEvent::SigningRoot(root)),
            ToNode::Ranges(ranges) => {
                if self.ranges != ranges {
                    self.ranges = ranges;
                    self.emit(MemberEvent::Changed);
                }
            }
            ToNode::SegmentKeys(keys) => self.take_segment_keys(keys),
            ToNode::Registry { nodes, removed } => self.take_registry(nodes, &removed),
            ToNode::Records {
                position,
                missed,
                records,
            } => {
                records.iter().for_each(|record| self.take_record(record));
                self.link.position = position;
                if missed {
                    self.emit(MemberEvent::RecordsMissed);
                }
            }
            ToNode::Credentials(granted) => {
                granted.iter().for_each(|grant| self.take_credential(grant));
            }
            ToNode::Synced => self.synced(),
        }
        self.ask();
    }

    fn welcome(&mut self, version: u16, domain: &TrustDomain, boot: Boot, clock: UnixMillis) {
        if version != NODE_PROTOCOL || *domain != self.trust_domain {
            return self.problem(format!(
                "the issuer speaks version {version} for {domain}, and this is an agent of {} \
                 that speaks version {NODE_PROTOCOL}",
                self.trust_domain
            ));
        }
        if boot != self.link.boot {
            self.link.boot = boot;
            self.link.position = 0;
        }
        self.link.clock_offset = signed_difference(clock, self.now.unix);
        if self.link.clock_offset.abs() > SKEW {
            self.problem(format!(
                "clock off by {} s: here it is {}, at the issuer {clock}; more than {} s is not tolerated",
                self.link.clock_offset.unsigned_abs() / 1000,
                self.now.unix,
                SKEW / 1000
            ));
        }
        self.link.welcome = true;
        self.link.named = Some(Named::default());
        self.outbox.keys = true;
        self.ask();
    }

    fn take_bundle(&mut self, domain: TrustDomain, jwks: Option<String>) {
        let Some(jwks) = jwks else {
            return self.drop_domain(&domain);
        };
        if let Some(named) = &mut self.link.named {
            named.domains.insert(domain.clone());
        }
        let bundle = match TrustBundle::from_jwks(domain.clone(), &jwks) {
            Ok(bundle) => bundle,
            Err(error) => return self.problem(format!("the bundle of {domain}: {error}")),
        };
        match self.bundles.insert(bundle) {
            Ok(BundleChange::Unchanged) => {}
            Ok(BundleChange::Taken) => {
                self.emit(MemberEvent::MarksChanged);
                self.emit(MemberEvent::Changed);
                if domain == self.trust_domain {
                    self.end_unbelieved();
                }
            }
            Err(error) => self.problem(error.to_string()),
        }
    }

    /// What a key signed that is believed no more opens nothing: others are asked for at once, and not
    /// when half of its life is over.
    fn end_unbelieved(&mut self) {
        let Some(bundle) = self.bundles.bundle(&self.trust_domain) else {
            return;
        };
        let Now { mono, unix } = self.now;
        for pod in self.pods.values_mut() {
            pod.end_unless(mono, |credential| {
                verify_credential(credential.bytes(), bundle, unix).is_ok()
            });
        }
    }

    fn drop_domain(&mut self, domain: &TrustDomain) {
        if self.bundles.remove(domain).is_some() {
            self.records.remove_domain(domain);
            self.emit(MemberEvent::Changed);
        }
    }

    fn take_restrictions(&mut self, domain: TrustDomain, restrictions: Restrictions) {
        if let Some(named) = &mut self.link.named {
            named.restricted.insert(domain.clone());
        }
        if restrictions.is_empty() {
            if self.restricted.remove(&domain).is_some() {
                self.emit(MemberEvent::Changed);
            }
            return;
        }
        let restricted = match Restricted::new(&domain, restrictions) {
            Ok(restricted) => Arc::new(restricted),
            // Those that were in force stay.
            Err(error) => return self.problem(format!("what restricts {domain}: {error}")),
        };
        if domain == self.trust_domain {
            // The issuer gives another one, unless more than the credential is revoked.
            let revoked = restricted.restrictions().revoked.iter();
            let credentials: BTreeSet<_> = revoked
                .filter_map(|revocation| match revocation.target {
                    Target::Credential(id) => Some(id.0),
                    _ => None,
                })
                .collect();
            for pod in self.pods.values_mut() {
                pod.drop_revoked(&credentials);
            }
        }
        if self.restricted.get(&domain) != Some(&restricted) {
            self.restricted.insert(domain, restricted);
            self.emit(MemberEvent::Changed);
        }
    }

    fn take_cluster(&mut self, domain: TrustDomain, cluster: Option<JoinedCluster>) {
        if let Some(named) = &mut self.link.named {
            named.clusters.insert(domain.clone());
        }
        let before = self.clusters.get(&domain).cloned();
        if before == cluster {
            return;
        }
        match cluster {
            Some(cluster) => self.clusters.insert(domain, cluster),
            None => self.clusters.remove(&domain),
        };
        self.emit(MemberEvent::ClustersChanged);
    }

    fn take_segment_keys(&mut self, keys: Vec<SegmentKeyGrant>) {
        if self.segment_keys != keys {
            self.segment_keys = keys;
            self.segment_keys.truncate(2);
            self.emit(MemberEvent::Changed);
        }
    }

    fn take_registry(&mut self, nodes: Vec<NodeEntry>, removed: &[String]) {
        for node in removed {
            self.registry.remove(node);
        }
        for entry in nodes {
            if let Some(named) = &mut self.link.named {
                named.nodes.insert(entry.node.clone());
            }
            if self.registry.len() < MAX_REGISTRY || self.registry.contains_key(&entry.node) {
                self.registry.insert(entry.node.clone(), entry);
            }
        }
        self.emit(MemberEvent::Changed);
    }

    fn take_record(&mut self, relayed: &RelayedRecord) {
        let domain = &relayed.trust_domain;
        let verified = SignedRecord::from_bytes(&relayed.record)
            .ok_or("too long".to_owned())
            .and_then(|record| {
                let bundle = self.bundles.bundle(domain).ok_or("no bundle")?;
                let verified = record.verify(bundle, self.now.unix);
                verified.map_err(|error| error.to_string())
            });
        let verified = match verified {
            Ok(verified) => verified,
            Err(why) => return self.problem(format!("a record of {domain}: {why}")),
        };
        if !self.records.insert(&verified, self.now.mono) {
            return;
        }
        self.emit(MemberEvent::Changed);
        let record = &verified.record;
        if verified.trust_domain != self.trust_domain {
            return;
        }
        if let Some(pod) = self.pods.get_mut(&record.pod_uid) {
            pod.void(record.generation);
            if let (PodChange::Relabelled(credential), Some(claims)) =
                (&record.change, verified.claims)
            {
                let left = claims.expires_at.0.saturating_sub(self.now.unix.0);
                let left = Duration::from_millis(left);
                self.hold(credential.clone(), claims, left);
            }
        }
    }

    fn take_credential(&mut self, granted: &GrantedCredential) {
        let Some(bundle) = self.bundles.bundle(&self.trust_domain) else {
            return self.problem("a credential came before the bundle of this cluster".into());
        };
        let verified = verify_credential(granted.credential.bytes(), bundle, self.now.unix);
        let claims = match verified {
            Ok(claims) => claims,
            Err(error) => return self.problem(format!("a credential of the issuer: {error}")),
        };
        if claims.pod_uid != granted.pod_uid || claims.assurance != Assurance::Agent {
            return self.problem("a credential of the issuer is of another pod".into());
        }
        let left = Duration::from_secs(granted.valid_for.into());
        self.hold(granted.credential.clone(), claims, left);
    }

    /// Holds a credential that is valid for `left`, if it is for a pod and a key of this agent.
    fn hold(
        &mut self,
        credential: identity::SignedCredential,
        claims: identity::Claims,
        left: Duration,
    ) {
        let key = AgentPublicKey(claims.agent_key);
        let left = left.min(MAX_LIFETIME);
        let now = self.now.mono;
        if self.keys.secret(key).is_none() || left.is_zero() {
            return;
        }
        let Some(pod) = self.pods.get_mut(&claims.pod_uid) else {
            return;
        };
        // Half of the life that is left, and up to a tenth of that sooner, so that a restarted
        // issuer is not asked by all nodes at once.
        let half = left / 2;
        let sooner = half / 10 * (self.rng.next_u32() % 1024) / 1024;
        let expires = now.after(left);
        let held = Held {
            credential,
            claims: Arc::new(claims),
            renew: now.after(half.saturating_sub(sooner)),
            expires,
        };
        if pod.take(key, held) {
            self.keys.named(key, expires);
            self.emit(MemberEvent::Changed);
        }
    }

    /// What was not named since Welcome is no more.
    fn synced(&mut self) {
        if let Some(named) = self.link.named.take() {
            let gone: BTreeSet<_> = self
                .bundles
                .iter()
                .map(|bundle| bundle.trust_domain.clone())
                .filter(|domain| !named.domains.contains(domain))
                .collect();
            for domain in gone {
                self.drop_domain(&domain);
            }
            let before = self.restricted.len();
            self.restricted
                .retain(|domain, _| named.restricted.contains(domain));
            if self.restricted.len() != before {
                self.emit(MemberEvent::Changed);
            }
            let before = self.clusters.len();
            self.clusters
                .retain(|domain, _| named.clusters.contains(domain));
            // Once in each session, so that what was stored of an earlier life is put right too.
            if self.clusters.len() != before || !self.link.complete {
                self.emit(MemberEvent::ClustersChanged);
            }
            let before = self.registry.len();
            self.registry.retain(|node, _| named.nodes.contains(node));
            if self.registry.len() != before {
                self.emit(MemberEvent::Changed);
            }
        }
        if !std::mem::replace(&mut self.link.complete, true) {
            self.emit(MemberEvent::Changed);
        }
    }
}

fn signed_difference(a: UnixMillis, b: UnixMillis) -> i64 {
    let size = i64::try_from(a.0.abs_diff(b.0)).unwrap_or(i64::MAX);
    if a < b { -size } else { size }
}
