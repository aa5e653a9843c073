//! Answers to agents.

use std::fmt;

use identity::{PodChange, UnixMillis};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    Issuer, IssuerEvent,
    nodes::{Ready, Sent},
};
use crate::node_messages::{AgentPublicKey, Boot, NODE_PROTOCOL};

/// Two clocks may differ by this many milliseconds before somebody is told.
const SKEW: u64 = 30_000;

impl Issuer {
    pub(super) fn greet(
        &mut self,
        name: &str,
        version: u16,
        boot: Boot,
        position: u64,
        clock: UnixMillis,
    ) {
        if version != NODE_PROTOCOL {
            let what =
                format!("speaks version {version} of the node protocol, not {NODE_PROTOCOL}");
            self.problem(format!("node {name} {what}"));
            return;
        }
        let skew = clock.0.abs_diff(self.now.unix.0);
        if skew > SKEW {
            let here = self.now.unix;
            self.problem(format!(
                "clock of node {name} off by {} s: here it is {here}, there {clock}; more than {} s is not tolerated",
                skew / 1000,
                SKEW / 1000
            ));
        }
        let known = (boot == self.boot).then_some(position.min(self.records.version()));
        if let Some(node) = self.nodes.get_mut(name) {
            node.sent = Some(Sent {
                records: known.unwrap_or(0),
                ..Sent::default()
            });
            self.dirty.insert(name.to_owned());
        }
    }

    pub(super) fn take_keys(&mut self, name: &str, keys: &[AgentPublicKey]) {
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.sent.is_some()) else {
            self.misbehaved(name, &"announced keys before it said Hello");
            return;
        };
        let probe = StaticSecret::random_from_rng(&mut *self.rng);
        let weak = |key: &AgentPublicKey| {
            let shared = probe.diffie_hellman(&PublicKey::from(key.0));
            !shared.was_contributory()
        };
        if keys.iter().any(|key| !node.holds_key(*key) && weak(key)) {
            self.misbehaved(name, &"announced a key of small order");
        } else if node.announce(keys, self.now.mono) {
            self.register(name);
        }
    }

    pub(super) fn answer(&mut self, name: &str, key: AgentPublicKey, uids: &[String]) {
        let node = self.nodes.get(name).filter(|node| node.sent.is_some());
        if !node.is_some_and(|node| node.holds_key(key)) {
            self.misbehaved(
                name,
                &"asked for a key that it does not announce, or that is too old",
            );
            return;
        }
        for uid in uids {
            match self.pods.get(uid) {
                Some(pod) if pod.belongs_to(name) => self.issue(name, uid, key, false),
                Some(pod) if pod.workload.node == name => {}
                Some(_) => self.emit(IssuerEvent::Refused {
                    node: name.to_owned(),
                    pod_uid: uid.clone(),
                }),
                None => {
                    if let Some(node) = self.nodes.get_mut(name) {
                        node.wait_for(uid);
                    }
                }
            }
        }
    }

    pub(super) fn issue_for_all_keys(&mut self, node: &str, uid: &str) {
        let keys: Vec<_> = self
            .nodes
            .get(node)
            .filter(|node| node.sent.is_some())
            .map(|node| node.keys.iter().map(|known| known.key).collect())
            .unwrap_or_default();
        for key in keys {
            self.issue(node, uid, key, true);
        }
    }

    /// Signs a credential of the pod for its node; one that was signed a moment ago is sent again,
    /// unless it is to be made `anew`.
    pub(super) fn issue(&mut self, name: &str, uid: &str, key: AgentPublicKey, anew: bool) {
        let (Some(pod), Some(node)) = (self.pods.get_mut(uid), self.nodes.get_mut(name)) else {
            return;
        };
        if !pod.belongs_to(name) {
            return;
        }
        let now = self.now.mono;
        if !anew && let Some(ready) = node.signed_lately((uid, pod.generation), key, now) {
            node.ready.insert((uid.to_owned(), key), ready);
            self.dirty.insert(name.to_owned());
            return;
        }
        if !node.may_sign(self.now.mono) {
            return;
        }
        let named = pod.last_key.is_some_and(|last| node.holds_key(last));
        let signatures = &mut self.signatures;
        match self
            .press
            .issue(pod, key, self.now, &mut *self.rng, signatures)
        {
            Ok(credential) => {
                // Whoever was told that it is gone has to be told that it is back.
                let back = std::mem::take(&mut pod.withdrawn).then(|| credential.clone());
                pod.relabelled |= back.is_some();
                let generation = pod.generation;
                let back = back.map(|credential| {
                    let about = self.press.about(&pod.workload, generation);
                    (credential, about)
                });
                let expires = self.now.mono.after(self.press.valid_for());
                let ready = Ready {
                    credential,
                    expires,
                };
                node.signed((uid, generation), key, ready, now);
                self.dirty.insert(name.to_owned());
                if !named {
                    pod.last_key = Some(key);
                }
                if !named || back.is_some() {
                    self.emit(IssuerEvent::StateChanged);
                }
                if let Some((credential, about)) = back {
                    self.gone.remove(uid);
                    self.record(
                        uid.to_owned(),
                        generation,
                        PodChange::Relabelled(credential),
                        about,
                    );
                }
            }
            Err(error) => self.complain(uid, &error),
        }
    }

    pub(super) fn misbehaved(&mut self, node: &str, what: &dyn fmt::Display) {
        self.emit(IssuerEvent::Misbehaved {
            node: node.to_owned(),
            what: what.to_string(),
        });
    }
}
