//! The responder's side: HELLO judged on the SYN, REPLY on the SYN-ACK, CONFIRM before the first
//! ACK reaches the socket.

use std::sync::Arc;

use identity::{
    Claims, CredentialHash, Now,
    fault::{self, Fault},
};
use policy::{DropReason, RuleRef, model::Direction};
use wire::{flow::FlowKey, hello::HelloHeader, marker::MARKER, reply::Reply};

use super::{
    Ends, Fate, FlowRecord, HALF_OPEN_LIFE, Handled, Mark, Node, RemoteEnd, Transmit,
    decide::{Other, decide},
    live::Live,
};
use crate::{
    judge::{self, Judge, Judged, Standing, Vouched},
    keys::{Role, Tag, tags_equal},
    packet::{Parsed, Tcp},
    transcript::Transcript,
};

/// A connection that is being opened to a pod of this node.
#[derive(Debug)]
pub(super) struct Responding {
    header: HelloHeader,
    proven: bool,
    /// What the initiator proves, once CONFIRM holds: its key makes the MAC.
    claims: Arc<Claims>,
    /// Its credential as it came.
    credential: Arc<[u8]>,
    allowed: Allowed,
    /// One for each HELLO.
    nonce: [u8; 16],
    /// REPLY's MAC and the CONFIRM to expect, for the SYN-ACK's sequence number.
    sent: Option<Sent>,
    confirmed: bool,
}

/// What policy said on the SYN.
#[derive(Debug)]
struct Allowed {
    /// The snapshot that was asked; see [`Node::snapshots`].
    snapshot: u64,
    /// What the initiator's pod was by then.
    remote: Arc<Claims>,
    rule: Option<RuleRef>,
}

#[derive(Debug)]
struct Sent {
    isn: u32,
    responder: CredentialHash,
    mac: Tag,
    confirm: Tag,
}

impl Responding {
    /// Whether CONFIRM was seen.
    pub fn confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether a RST from our pod refuses this connection (a closed port).
    pub fn refused_by(&self, tcp: &Tcp<'_>) -> bool {
        !self.confirmed && tcp.ack_number() == self.header.isn.wrapping_add(1)
    }
}

impl Node {
    /// A SYN from an identity network for a pod of this node.
    pub(super) fn network_syn(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>, now: Now) -> Fate {
        let snapshot = self.snapshot.clone();
        let issuer = snapshot
            .identity_owner(p.key.src)
            .ok_or(DropReason::NoIdentity)?;
        let pod = snapshot.pods.get(&p.key.dst).ok_or(DropReason::NoRoute)?;
        let identity = pod.identity.as_ref().ok_or(DropReason::NoCredential)?;
        let mut judge = Judge {
            verifier: &mut self.verifier,
            bundles: &snapshot.bundles,
            admission: &snapshot.admission,
            issuer,
        };
        let vouched = Vouched::BySegment(&snapshot.segment_keys, &mut self.unproven);
        let standing = |nonce: &[u8; 16], seen| Standing {
            crossing: self.initiating.entry(&p.key.reversed()).is_some()
                && self.live.flow(&p.key.reversed()).is_none(),
            nonce: self.replay.lookup(nonce, seen, now.mono),
            half: self.responding.entry(&p.key).map(|half| judge::Half {
                header: &half.header,
                proven: half.proven,
                confirmed: half.confirmed,
            }),
        };
        let believed = match judge.hello((p, tcp), &snapshot.networks, vouched, now, standing)? {
            Judged::Repeated(_) => return strip(p),
            Judged::Believed(believed) => believed,
        };
        let remote = believed.newest;
        let judgement = decide(
            &snapshot,
            Direction::Ingress,
            &identity.claims,
            Other::Proven(&remote),
            &p.key,
        );
        let rule = match self.heed(p.key, judgement) {
            Ok(rule) => rule,
            Err(refusal) => {
                if refusal.reject
                    && let Some(packet) = p.reset()
                {
                    self.send(Transmit {
                        packet,
                        to_pod: false,
                    });
                }
                return Err(self.refuse(p.key, &refusal));
            }
        };
        let packet = strip(p)?;
        let header = believed.hello.header;
        self.replay
            .remember(header.nonce, believed.seen, now.mono)?;
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let half = Responding {
            header,
            proven: believed.proven,
            credential: (believed.credential.bytes)
                .unwrap_or_else(|| believed.hello.credential.into()),
            claims: believed.credential.claims,
            allowed: Allowed {
                snapshot: self.snapshots,
                remote,
                rule,
            },
            nonce,
            sent: None,
            confirmed: false,
        };
        self.responding
            .insert(p.key, half, now.mono.after(HALF_OPEN_LIFE));
        Ok(packet)
    }

    /// Our pod accepts: the SYN-ACK carries its proof.
    pub(super) fn pod_syn_ack(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>, now: Now) -> Fate {
        let key = p.key.reversed();
        let snapshot = self.snapshot.clone();
        let identity = snapshot
            .pods
            .get(&key.dst)
            .and_then(|pod| pod.identity.as_ref());
        let identity = identity.ok_or(DropReason::NoCredential)?;
        let half = self.responding.entry_mut(&key);
        let half = half.filter(|half| tcp.ack_number() == half.header.isn.wrapping_add(1));
        let Some(half) = half else {
            return self.unknown_flow(p, true, now);
        };
        let responder = identity.credential.hash();
        let reuse = half
            .sent
            .as_ref()
            .filter(|s| s.isn == tcp.seq() && s.responder == responder);
        let mac = match reuse {
            Some(sent) => sent.mac,
            None => {
                let keys =
                    self.pairs
                        .keys(&identity.secret, Role::Responder, &half.claims.agent_key);
                let keys = keys.ok_or(DropReason::BadCredential)?;
                let transcript = Transcript {
                    protocol: key.protocol,
                    hello: half.header.to_bytes(),
                    responder,
                    nonce: half.nonce,
                    isn: tcp.seq(),
                };
                let mac = transcript.tag(keys, Role::Responder);
                let confirm = transcript.tag(keys, Role::Initiator);
                half.sent = Some(Sent {
                    isn: tcp.seq(),
                    responder,
                    mac,
                    confirm,
                });
                mac
            }
        };
        let credential = identity.credential.bytes();
        let reply = Reply {
            nonce: half.nonce,
            credential,
            mac,
        };
        let head = reply.head();
        let edit = p.syn_edit()?.add_option(&MARKER);
        let edit = edit.payload_parts([&head, credential, &mac]);
        let packet = edit.finish().map_err(|_| DropReason::NoOptionSpace)?;
        Ok(Handled::Rewrite {
            packet,
            mark: Mark::Once,
        })
    }

    /// A segment without SYN from an identity network for a pod of this node.
    pub(super) fn network_segment(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>, now: Now) -> Fate {
        if let Some(confirm) = tcp.confirm() {
            return self.confirmed_segment(p, tcp, &confirm, now);
        }
        if let Some(fate) = self.server_segment(p, tcp) {
            return fate;
        }
        if fault::is(Fault::ConfirmSkipped) && self.answered(&p.key) {
            return self.establish(p, now);
        }
        if let Some(fate) = self.before_confirm(&p.key) {
            return fate;
        }
        if self.live.flow(&p.key).is_some() {
            return super::ESTABLISHED;
        }
        if self.responding.entry(&p.key).is_some() {
            return Err(DropReason::NoIdentity);
        }
        self.unknown_flow(p, false, now)
    }

    /// The fate of a segment without SYN and CONFIRM, in either direction, while a connection opens
    /// on `key` and its client has proven nothing. Until our pod answers the SYN, its socket of an
    /// older flow on the tuple may be there still; after that, only the new one is.
    pub(super) fn before_confirm(&self, key: &FlowKey) -> Option<Fate> {
        let half = self.responding.entry(key).filter(|half| !half.confirmed)?;
        Some(match half.sent.is_none() && self.live.flow(key).is_some() {
            true => super::ONCE,
            false => Err(DropReason::NoIdentity),
        })
    }

    /// Whether our pod answered the SYN of a client that has proven nothing yet.
    pub(super) fn answered(&self, key: &FlowKey) -> bool {
        let half = self.responding.entry(key);
        half.is_some_and(|half| !half.confirmed && half.sent.is_some())
    }

    /// A client's segment with CONFIRM.
    fn confirmed_segment(
        &mut self,
        p: &Parsed<'_>,
        tcp: &Tcp<'_>,
        confirm: &Tag,
        now: Now,
    ) -> Fate {
        let half = self.responding.entry(&p.key);
        if let Some((half, sent)) = half.and_then(|half| Some((half, half.sent.as_ref()?)))
            && !half.confirmed
        {
            if !tags_equal(&sent.confirm, confirm) {
                return Err(DropReason::BadMac);
            }
            if tcp.rst() {
                // The initiator's policy refused what our REPLY proved.
                self.responding.remove(&p.key);
                return strip(p);
            }
            return self.establish(p, now);
        }
        match self.live.flow(&p.key) {
            // The client has not heard our pod yet, and goes on proving itself.
            Some(Live {
                confirm: Some(expected),
                ..
            }) if tags_equal(expected, confirm) => strip_established(p),
            Some(_) => Err(DropReason::BadMac),
            None => self.unknown_flow(p, false, now),
        }
    }

    /// CONFIRM holds: both ends are proven.
    fn establish(&mut self, p: &Parsed<'_>, now: Now) -> Fate {
        let snapshot = self.snapshot.clone();
        let packet = strip_established(p)?;
        let pod = snapshot.pods.get(&p.key.dst).ok_or(DropReason::NoRoute)?;
        let identity = pod.identity.as_ref().ok_or(DropReason::NoCredential)?;
        let half = self
            .responding
            .entry(&p.key)
            .ok_or(DropReason::UnknownFlow)?;
        let confirm = half.sent.as_ref().map(|sent| sent.confirm);
        let isn = half.header.isn;
        let (claims, credential) = (half.claims.clone(), half.credential.clone());
        let is_newest = half.allowed.snapshot == self.snapshots;
        let (remote, rule) = if is_newest || fault::is(Fault::AgentIgnoresEpoch) {
            (half.allowed.remote.clone(), half.allowed.rule.clone())
        } else {
            // Policy or labels may have changed since the SYN: the newest decide.
            let remote = snapshot.admission.newest(&claims)?;
            let (own, peer) = (&identity.claims, Other::Proven(&remote));
            // Its Log rules spoke on the SYN.
            match decide(&snapshot, Direction::Ingress, own, peer, &p.key).outcome {
                Ok(rule) => (remote, rule),
                Err(refusal) => {
                    self.responding.remove(&p.key);
                    return Err(self.refuse(p.key, &refusal));
                }
            }
        };
        let record = FlowRecord {
            key: p.key,
            ends: Ends::Responder {
                pod_uid: pod.uid.clone(),
                remote: RemoteEnd::Proven(credential),
            },
            rule: rule.map(|rule| rule.words()).unwrap_or_default(),
            epoch: snapshot.epoch,
            opened: now.unix,
        };
        let live = Live {
            record: Arc::new(record),
            remote: Some(remote),
            confirm,
            isn: Some(isn),
            marked: true,
        };
        self.open(live)?;
        if let Some(half) = self.responding.entry_mut(&p.key) {
            half.confirmed = true;
        }
        Ok(packet)
    }
}

/// The SYN or RST as the pod's socket may see it: without our option and payload.
fn strip(p: &Parsed<'_>) -> Fate {
    let packet = p.edit()?.remove_exid().payload(&[]).finish();
    let packet = packet.map_err(|_| DropReason::Malformed)?;
    Ok(Handled::Rewrite {
        packet,
        mark: Mark::Once,
    })
}

/// The segment without our option; its payload is the client's.
fn strip_established(p: &Parsed<'_>) -> Fate {
    let packet = p
        .edit()?
        .remove_exid()
        .finish()
        .map_err(|_| DropReason::Malformed)?;
    Ok(Handled::Rewrite {
        packet,
        mark: Mark::Established,
    })
}
