//! What changes when the source says something new of the pods: generations, records, the registry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use identity::{Claims, PodChange, PodRecord, SignedRecord, TrustDomain, Workload};

use super::{
    Addresses, GoneMark, Issuer, IssuerEvent, MAX_RETAINED, NotIssued, PodMark, Retained, pods::Pod,
};
use crate::{node_messages::NodeEntry, signatures::Signature};

impl Issuer {
    /// Takes one pod as the source describes it now.
    pub(super) fn update(&mut self, uid: &str, workload: Workload, mark: Option<PodMark>) {
        if let Some(pod) = self.pods.get(uid) {
            if pod.workload == workload {
                return;
            }
            // Credentials of it name the agent of the other node: it begins anew here.
            if pod.workload.node != workload.node {
                self.remove(uid);
            }
        }
        let fingerprint = self.press.fingerprint(&workload);
        let (node, unprotected) = (workload.node.clone(), workload.unprotected);
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.workload = workload;
            if pod.fingerprint != fingerprint {
                pod.fingerprint = fingerprint;
                self.relabel(uid);
            }
        } else {
            let mut pod = Pod::new(workload, fingerprint, self.next_number());
            pod.withdrawn = self.gone.contains_key(uid);
            let mut changed = false;
            if let Some(mark) = mark {
                pod.last_key = Some(mark.key);
                changed = mark.relabelled || mark.fingerprint != fingerprint;
            }
            self.pods.insert(uid.to_owned(), pod);
            if changed {
                self.relabel(uid);
            }
        }
        let waited = self.nodes.get_mut(&node).is_some_and(|n| n.waited_for(uid));
        if waited && !unprotected {
            self.issue_for_all_keys(&node, uid);
        }
    }

    /// The pod is seen differently from here on: a new generation and, if there ever was a
    /// credential of it, a record and new credentials.
    pub(super) fn relabel(&mut self, uid: &str) {
        let generation = self.next_number();
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.generation = generation;
        pod.complained = false;
        let node = pod.workload.node.clone();
        let first = self.nodes.get(&node).and_then(|node| node.keys.first());
        let Some(key) = pod
            .last_key
            .map(|last| first.map_or(last, |first| first.key))
        else {
            return;
        };
        pod.relabelled = true;
        let signatures = &mut self.signatures;
        let about = self.press.about(&pod.workload, generation);
        match self
            .press
            .issue(pod, key, self.now, &mut *self.rng, signatures)
        {
            Ok(credential) => {
                pod.last_key = Some(key);
                pod.withdrawn = false;
                self.gone.remove(uid);
                self.record(
                    uid.to_owned(),
                    generation,
                    PodChange::Relabelled(credential),
                    about,
                );
                self.issue_for_all_keys(&node, uid);
            }
            Err(error) => {
                // Nobody may go on believing the old labels. The pod is cut off until it can have a
                // credential again, which is a record of a higher generation.
                pod.withdrawn = true;
                self.complain(uid, &error);
                self.record(uid.to_owned(), generation, PodChange::Gone, about);
            }
        }
        self.emit(IssuerEvent::StateChanged);
    }

    /// The pod is no more; if there ever was a credential of it, a record says so.
    pub(super) fn remove(&mut self, uid: &str) {
        if let Some(pod) = self.pods.remove(uid)
            && pod.last_key.is_some()
        {
            let about = self.press.about(&pod.workload, pod.generation);
            self.delete(uid.to_owned(), about);
        }
    }

    /// `about`: what the pod was, if that is known.
    pub(super) fn delete(&mut self, uid: String, about: Option<Arc<Claims>>) {
        let generation = self.next_number();
        let at = self.now.unix;
        self.gone.insert(uid.clone(), GoneMark { generation, at });
        self.record(uid, generation, PodChange::Gone, about);
        self.emit(IssuerEvent::StateChanged);
    }

    pub(super) fn record(
        &mut self,
        pod_uid: String,
        generation: u64,
        change: PodChange,
        about: Option<Arc<Claims>>,
    ) {
        let trust_domain = self.press.trust_domain.clone();
        let sequence = self.next_number();
        let record = PodRecord {
            pod_uid: pod_uid.clone(),
            generation,
            change,
        };
        let signed = self.press.key.sign_record(&trust_domain, sequence, &record);
        self.signatures.push(Signature::Record {
            pod_uid: pod_uid.clone(),
            generation,
            sequence,
        });
        self.retain_record((trust_domain, pod_uid), &signed, about);
        self.emit(IssuerEvent::RecordsChanged);
    }

    pub(super) fn retain_record(
        &mut self,
        key: (TrustDomain, String),
        record: &SignedRecord,
        about: Option<Arc<Claims>>,
    ) {
        let bytes = record.bytes().into();
        self.records.set(key, Retained { bytes, about });
        while self.records.len() > MAX_RETAINED {
            let Some((_, oldest, _)) = self.records.since(0).next() else {
                break;
            };
            let oldest = oldest.clone();
            self.records.forget(&oldest);
        }
        self.all_dirty = true;
    }

    /// Brings the registry up to date with the pods.
    pub(super) fn register_addresses(&mut self) {
        let mut addresses: BTreeMap<String, Addresses> = BTreeMap::new();
        for pod in self.pods.values() {
            let Some(address) = pod.workload.address else {
                continue;
            };
            let of_node = addresses.entry(pod.workload.node.clone()).or_default();
            match pod.workload.unprotected {
                true => of_node.unprotected.push(address),
                false => of_node.protected.push(address),
            }
        }
        for of_node in addresses.values_mut() {
            of_node.protected.sort();
            of_node.unprotected.sort();
        }
        let before = std::mem::replace(&mut self.addresses, addresses);
        let nodes: BTreeSet<_> = before
            .keys()
            .chain(self.addresses.keys())
            .cloned()
            .collect();
        for node in nodes {
            if before.get(&node) != self.addresses.get(&node) {
                self.register(&node);
            }
        }
    }

    /// Brings the registry's entry of `node` up to date.
    pub(super) fn register(&mut self, node: &str) {
        let addresses = self.addresses.get(node).cloned().unwrap_or_default();
        let known = self.nodes.get(node);
        let entry = NodeEntry {
            node: node.to_owned(),
            agent_keys: known.map_or_else(Vec::new, |known| {
                known.keys.iter().map(|known| known.key).collect()
            }),
            addresses: addresses.protected,
            unprotected: addresses.unprotected,
        };
        let empty = entry.agent_keys.is_empty()
            && entry.addresses.is_empty()
            && entry.unprotected.is_empty();
        let changed = match empty {
            true => self.registry.remove(node.to_owned()),
            false => self.registry.set(node.to_owned(), entry),
        };
        if changed {
            self.emit(IssuerEvent::RegistryChanged);
            self.all_dirty = true;
        }
    }

    pub(super) fn complain(&mut self, uid: &str, error: &NotIssued) {
        let Some(pod) = self.pods.get_mut(uid) else {
            return;
        };
        pod.refused = matches!(error, NotIssued::Revoked { .. });
        if !std::mem::replace(&mut pod.complained, true) {
            self.problem(error.to_string());
        }
    }
}
