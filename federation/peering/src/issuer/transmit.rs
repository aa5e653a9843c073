//! Messages to nodes, made when they are asked for from what the node has not seen.

use std::collections::BTreeMap;

use super::{Issuer, Retained, nodes::Sent};
use crate::node_messages::{GrantedCredential, NODE_PROTOCOL, Numbered, RelayedRecord, ToNode};

/// Most records, and most credentials, in one message: about 100 KiB.
const BATCH: usize = 64;
/// Most addresses in one message about the registry, give or take one node.
const BATCH_ADDRESSES: usize = 4096;
/// Most nodes in one message about the registry.
const BATCH_NODES: usize = 512;

impl Issuer {
    /// The next message, and the node whose session it is for.
    pub fn poll_transmit(&mut self) -> Option<(String, Vec<u8>)> {
        if std::mem::take(&mut self.all_dirty) {
            let listening = self.nodes.iter().filter(|(_, node)| node.sent.is_some());
            self.dirty.extend(listening.map(|(name, _)| name.clone()));
        }
        while let Some(name) = self.dirty.first().cloned() {
            if let Some(message) = self.next_message(&name) {
                return Some((name, message.encode()));
            }
            self.dirty.remove(&name);
        }
        // Whoever is connected has seen who left, and whoever comes sees who is there.
        self.registry.forget_removed();
        self.records.forget_removed();
        self.restricted.forget_removed();
        self.clusters.forget_removed();
        None
    }

    /// What `name` has not seen, the things that others depend on first.
    fn next_message(&mut self, name: &str) -> Option<Numbered> {
        let mut sent = self.nodes.get(name)?.sent.clone()?;
        let message = self
            .welcome(&sent)
            .or_else(|| self.segment_message(&mut sent))
            // What may not be believed comes before the keys by which the rest is.
            .or_else(|| self.restrictions_message(&mut sent))
            .or_else(|| self.bundle_message(&mut sent))
            .or_else(|| self.signing_root_message(&mut sent))
            .or_else(|| self.cluster_message(&mut sent))
            .or_else(|| self.ranges_message(&mut sent))
            .or_else(|| self.records_message(&mut sent))
            .or_else(|| self.credentials_message(name))
            .or_else(|| self.registry_message(&mut sent))
            .or_else(|| {
                let first = !std::mem::replace(&mut sent.synced, true);
                first.then_some(ToNode::Synced)
            });
        let number = sent.count;
        sent.count += u64::from(message.is_some());
        self.nodes.get_mut(name)?.sent = Some(sent);
        Some(Numbered(number, message?))
    }

    fn welcome(&self, sent: &Sent) -> Option<ToNode> {
        (sent.count == 0).then(|| ToNode::Welcome {
            version: NODE_PROTOCOL,
            trust_domain: self.press.trust_domain.clone(),
            boot: self.boot,
            clock: self.now.unix,
        })
    }

    fn segment_message(&self, sent: &mut Sent) -> Option<ToNode> {
        if sent.segment_keys == self.segment.version {
            return None;
        }
        sent.segment_keys = self.segment.version;
        let keys = self.segment.keys().map(Clone::clone);
        Some(ToNode::SegmentKeys(keys.to_vec()))
    }

    fn bundle_message(&self, sent: &mut Sent) -> Option<ToNode> {
        let (version, domain, jwks) = self.bundles.since(sent.bundles).next()?;
        sent.bundles = version;
        Some(ToNode::Bundle {
            trust_domain: domain.clone(),
            jwks: jwks.map(|jwks| String::from(&**jwks)),
        })
    }

    fn signing_root_message(&self, sent: &mut Sent) -> Option<ToNode> {
        let (version, root) = self.signing_root;
        let known = std::mem::replace(&mut sent.signing_root, version) == version;
        (!known).then_some(ToNode::SigningRoot(root))
    }

    fn restrictions_message(&self, sent: &mut Sent) -> Option<ToNode> {
        let (version, domain, restricted) = self.restricted.since(sent.restricted).next()?;
        sent.restricted = version;
        let restrictions = restricted.map(|restricted| restricted.restrictions().clone());
        Some(ToNode::Restrictions {
            trust_domain: domain.clone(),
            restrictions: restrictions.unwrap_or_default(),
        })
    }

    fn cluster_message(&self, sent: &mut Sent) -> Option<ToNode> {
        let (version, domain, cluster) = self.clusters.since(sent.clusters).next()?;
        sent.clusters = version;
        Some(ToNode::Cluster {
            trust_domain: domain.clone(),
            cluster: cluster.cloned(),
        })
    }

    fn ranges_message(&self, sent: &mut Sent) -> Option<ToNode> {
        if sent.ranges == self.ranges.0 {
            return None;
        }
        sent.ranges = self.ranges.0;
        Some(ToNode::Ranges(self.ranges.1.clone()))
    }

    fn records_message(&self, sent: &mut Sent) -> Option<ToNode> {
        let missed = sent.records < self.records.forgotten();
        let mut records = Vec::new();
        let mut position = self.records.version();
        for (version, (domain, _), record) in self.records.since(sent.records) {
            let Some(Retained { bytes, .. }) = record else {
                continue;
            };
            records.push(RelayedRecord {
                trust_domain: domain.clone(),
                record: bytes.to_vec(),
            });
            if records.len() == BATCH {
                position = version;
                break;
            }
        }
        let first = !std::mem::replace(&mut sent.records_said, true);
        sent.records = position;
        (first || !records.is_empty()).then_some(ToNode::Records {
            position,
            missed,
            records,
        })
    }

    fn credentials_message(&mut self, name: &str) -> Option<ToNode> {
        let node = self.nodes.get_mut(name)?;
        let mut granted = Vec::new();
        while granted.len() < BATCH
            && let Some(((pod_uid, _), ready)) = node.ready.pop_first()
        {
            let left = ready.expires.since(self.now.mono).as_secs();
            granted.push(GrantedCredential {
                pod_uid,
                credential: ready.credential,
                valid_for: u32::try_from(left).unwrap_or(u32::MAX),
            });
        }
        (!granted.is_empty()).then_some(ToNode::Credentials(granted))
    }

    fn registry_message(&self, sent: &mut Sent) -> Option<ToNode> {
        let mut changed = BTreeMap::new();
        let mut addresses = 0;
        for (version, name, entry) in self.registry.since(sent.registry).take(BATCH_NODES) {
            sent.registry = version;
            changed.insert(name.clone(), entry.cloned());
            addresses += entry.map_or(0, |entry| entry.addresses.len() + entry.unprotected.len());
            if addresses >= BATCH_ADDRESSES {
                break;
            }
        }
        if changed.is_empty() {
            return None;
        }
        let (nodes, removed): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|(_, entry)| entry.is_some());
        Some(ToNode::Registry {
            nodes: nodes.into_iter().filter_map(|(_, entry)| entry).collect(),
            removed: removed.into_iter().map(|(name, _)| name).collect(),
        })
    }
}
