//! Flows without a handshake on the wire: with addresses outside the identity networks, with the
//! node itself, and between two pods of this node.

use std::sync::Arc;

use identity::{Claims, Now};
use policy::{DropReason, Peer, RuleRef, model::Direction};

use super::{
    ESTABLISHED, Ends, Fate, FlowRecord, Node, RemoteEnd, Transmit,
    decide::{Other, Refusal, decide, decide_local},
    live::Live,
};
use crate::packet::Parsed;

impl Node {
    /// A local socket of this node talks to a pod, or a pod to it.
    pub(super) fn beside_node(&mut self, p: &Parsed<'_>, now: Now) -> Fate {
        let unprotected = &self.snapshot.unprotected;
        if unprotected.contains(&p.key.src) || unprotected.contains(&p.key.dst) {
            return ESTABLISHED;
        }
        let direction = match self.snapshot.pods.contains_key(&p.key.dst) {
            true => Direction::Ingress,
            false => Direction::Egress,
        };
        self.plain(p, direction, RemoteEnd::Node, now)
    }

    /// A pod of this node talks to another: both halves are decided here, and no token is written,
    /// because it would reach the socket.
    pub(super) fn between_pods(&mut self, p: &Parsed<'_>, now: Now) -> Fate {
        if p.has_our_option() {
            return Err(DropReason::SpoofedIdentity);
        }
        let unprotected = &self.snapshot.unprotected;
        match (
            unprotected.contains(&p.key.src),
            unprotected.contains(&p.key.dst),
        ) {
            (true, true) => return ESTABLISHED,
            (true, false) => return self.plain(p, Direction::Ingress, RemoteEnd::Address, now),
            (false, true) => return self.plain(p, Direction::Egress, RemoteEnd::Address, now),
            (false, false) => {}
        }
        if p.tcp.is_none() {
            return self.other_protocol(p);
        }
        if let Some(fate) = self.continues(p, true, now) {
            return fate;
        }
        let snapshot = self.snapshot.clone();
        let local = |address| {
            let pod = snapshot
                .pods
                .get(&address)
                .ok_or(DropReason::SpoofedSource)?;
            let identity = pod.identity.as_ref().ok_or(DropReason::NoCredential)?;
            Ok((pod.uid.clone(), identity.claims.clone()))
        };
        let (initiator_uid, from) = local(p.key.src)?;
        let (responder_uid, to) = local(p.key.dst)?;
        let judgement = decide_local(&snapshot, &from, &to, &p.key);
        match self.heed(p.key, judgement) {
            Ok(rule) => {
                let ends = Ends::Both {
                    initiator_uid,
                    responder_uid,
                };
                self.open_plain(p, ends, rule, now)
            }
            Err(refusal) => Err(self.refuse_plain(p, &refusal, true)),
        }
    }

    /// A flow between a pod and `end`, which proves nothing.
    pub(super) fn plain(
        &mut self,
        p: &Parsed<'_>,
        direction: Direction,
        end: RemoteEnd,
        now: Now,
    ) -> Fate {
        let outgoing = direction == Direction::Egress;
        if let Some(fate) = self.continues(p, outgoing, now) {
            return fate;
        }
        let snapshot = self.snapshot.clone();
        let (own, other) = match outgoing {
            true => (p.key.src, p.key.dst),
            false => (p.key.dst, p.key.src),
        };
        let pod = snapshot.pods.get(&own).ok_or(DropReason::SpoofedSource)?;
        let subject: &Arc<Claims> = match &pod.identity {
            Some(identity) => &identity.claims,
            None => return Err(DropReason::NoCredential),
        };
        let names = match (&end, outgoing) {
            (RemoteEnd::Address, true) => self.names.of(own, other, now.mono),
            _ => Vec::new(),
        };
        let peer = match end {
            RemoteEnd::Node => Peer::Node,
            _ if names.is_empty() => Peer::Address(other),
            _ => Peer::Named {
                address: Some(other),
                names: &names,
            },
        };
        let judgement = decide(&snapshot, direction, subject, Other::Unproven(peer), &p.key);
        match self.heed(p.key, judgement) {
            Ok(rule) => {
                let end = match names.is_empty() {
                    true => end,
                    false => RemoteEnd::Named(telling(names, |names| {
                        let address = Some(other);
                        let peer = Other::Unproven(Peer::Named { address, names });
                        decide(&snapshot, direction, subject, peer, &p.key)
                            .outcome
                            .is_ok()
                    })),
                };
                let pod_uid = pod.uid.clone();
                let ends = match outgoing {
                    true => Ends::Initiator {
                        pod_uid,
                        remote: end,
                    },
                    false => Ends::Responder {
                        pod_uid,
                        remote: end,
                    },
                };
                self.open_plain(p, ends, rule, now)
            }
            Err(refusal) => Err(self.refuse_plain(p, &refusal, outgoing)),
        }
    }

    /// The fate of a packet that does not begin a flow; `None` when it does.
    fn continues(&mut self, p: &Parsed<'_>, from_pod: bool, now: Now) -> Option<Fate> {
        if let Some(quoted) = p.icmp_error() {
            return Some(self.icmp_error(quoted));
        }
        let begins = p.tcp.as_ref().is_some_and(|tcp| tcp.syn() && !tcp.ack());
        if begins {
            return None;
        }
        let known = [p.key, p.key.reversed()]
            .iter()
            .any(|key| self.live.flow(key).is_some());
        match (known, &p.tcp) {
            (true, _) => Some(ESTABLISHED),
            (false, Some(_)) => Some(self.unknown_flow(p, from_pod, now)),
            (false, None) => None,
        }
    }

    fn open_plain(&mut self, p: &Parsed<'_>, ends: Ends, rule: Option<RuleRef>, now: Now) -> Fate {
        let record = FlowRecord {
            key: p.key,
            ends,
            rule: rule.map(|rule| rule.words()).unwrap_or_default(),
            epoch: self.snapshot.epoch,
            opened: now.unix,
        };
        self.open(Live {
            record: Arc::new(record),
            remote: None,
            confirm: None,
            isn: None,
            marked: true,
        })?;
        ESTABLISHED
    }

    fn refuse_plain(&mut self, p: &Parsed<'_>, refusal: &Refusal, to_pod: bool) -> DropReason {
        if refusal.reject
            && let Some(packet) = p.rejection()
        {
            self.send(Transmit { packet, to_pod });
        }
        self.refuse(p.key, refusal)
    }
}

/// The one of `names` that `allows` by itself: an address may have very many, and a flow is remembered for one.
fn telling(mut names: Vec<Arc<str>>, allows: impl Fn(&[Arc<str>]) -> bool) -> Vec<Arc<str>> {
    let alone = names
        .iter()
        .position(|name| allows(std::slice::from_ref(name)));
    vec![names.swap_remove(alone.unwrap_or(0))]
}
