//! The initiator's side: HELLO on the SYN, REPLY judged on the SYN-ACK, CONFIRM until the server
//! was heard.

use std::{sync::Arc, time::Duration};

use identity::{
    Mono, Now,
    fault::{self, Fault},
};
use policy::{DropReason, model::Direction};
use wire::{
    confirm::{self, Confirm},
    flow::FlowKey,
    hello::{self, HelloHeader, SegmentProof},
    marker::MARKER,
};

use super::{
    ESTABLISHED, Ends, Event, Fate, FlowRecord, HALF_OPEN_LIFE, Handled, Mark, Node, ONCE,
    RemoteEnd, Transmit,
    decide::{Other, decide},
    live::Live,
};
use crate::{
    judge::{Answer, Judge},
    keys::{AgentSecret, Role, Tag, tags_equal},
    packet::{Parsed, Tcp},
    transcript::Transcript,
};

/// A retransmitted SYN carries the same HELLO until it is this old.
const HELLO_LIFE: Duration = Duration::from_secs(15);
/// What CONFIRM takes from each client segment, and so from the server's advertised MSS.
const CONFIRM_ROOM: u16 = confirm::LEN as u16;

/// A connection that a pod of this node is opening.
#[derive(Debug)]
pub(super) struct Initiating {
    /// HELLO's fixed header, which the transcript covers.
    header: HelloHeader,
    /// As it was sent, for retransmissions.
    proof: SegmentProof,
    made: Mono,
    /// The key in the credential that HELLO carries.
    secret: AgentSecret,
    /// Policy refused what the REPLY proved, in this epoch.
    refused: Option<(u64, DropReason)>,
}

impl Node {
    /// A pod opens a connection to an identity network.
    pub(super) fn pod_syn(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>, now: Now) -> Fate {
        let snapshot = self.snapshot.clone();
        let pod = snapshot
            .pods
            .get(&p.key.src)
            .ok_or(DropReason::SpoofedSource)?;
        let identity = pod.identity.as_ref().ok_or(DropReason::NoCredential)?;
        if identity.claims.expires_at <= now.unix {
            return Err(DropReason::NoCredential);
        }
        snapshot.admission.check(&identity.claims)?;
        if self
            .responding
            .entry(&p.key.reversed())
            .is_some_and(|half| !half.confirmed())
        {
            return Err(DropReason::SimultaneousOpen);
        }
        let hash = identity.credential.hash();
        if let Some(half) = self.initiating.entry(&p.key)
            && half.header.isn == tcp.seq()
            && half.header.credential_hash == hash.0
        {
            if let Some((epoch, reason)) = half.refused
                && epoch == snapshot.epoch
            {
                return Err(reason);
            }
            if now.mono.since(half.made) < HELLO_LIFE {
                let head = hello::head(&half.header.to_bytes(), &half.proof);
                return attach_hello(p, &head, identity.credential.bytes());
            }
        }
        let destination = p.destination(&snapshot.networks, p.key.dst, p.key.dport)?;
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let credential = identity.credential.bytes();
        let header = HelloHeader {
            credential_len: u16::try_from(credential.len())
                .map_err(|_| DropReason::NoCredential)?,
            nonce,
            timestamp: now.unix.0,
            isn: tcp.seq(),
            destination,
            credential_hash: hash.0,
        };
        let header_bytes = header.to_bytes();
        let (key_id, mac) = snapshot.segment_keys.prove(&header_bytes);
        let proof = SegmentProof { key_id, mac };
        let head = hello::head(&header_bytes, &proof);
        let packet = attach_hello(p, &head, credential)?;
        let secret = identity.secret.clone();
        let half = Initiating {
            header,
            proof,
            made: now.mono,
            secret,
            refused: None,
        };
        self.initiating
            .insert(p.key, half, now.mono.after(HALF_OPEN_LIFE));
        Ok(packet)
    }

    /// The server's SYN-ACK arrives: the REPLY must prove who it is.
    pub(super) fn network_syn_ack(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>, now: Now) -> Fate {
        let key = p.key.reversed();
        let snapshot = self.snapshot.clone();
        let half = self.initiating.entry(&key);
        let half = half.filter(|half| tcp.ack_number() == half.header.isn.wrapping_add(1));
        let Some(half) = half else {
            return self.unknown_flow(p, false, now);
        };
        let issuer = snapshot
            .identity_owner(key.dst)
            .ok_or(DropReason::NoIdentity)?;
        let mut judge = Judge {
            verifier: &mut self.verifier,
            bundles: &snapshot.bundles,
            admission: &snapshot.admission,
            issuer,
        };
        let Answer {
            reply,
            hash,
            credential,
        } = judge.reply(tcp, now)?;
        let claims = &credential.claims;
        let transcript = Transcript {
            protocol: key.protocol,
            hello: half.header.to_bytes(),
            responder: hash,
            nonce: reply.nonce,
            isn: tcp.seq(),
        };
        let keys = self
            .pairs
            .keys(&half.secret, Role::Initiator, &claims.agent_key);
        let keys = keys.ok_or(DropReason::BadCredential)?;
        let holds = tags_equal(&transcript.tag(keys, Role::Responder), &reply.mac);
        if !holds && !fault::is(Fault::ReplyUnchecked) {
            return Err(DropReason::BadMac);
        }
        let confirm = transcript.tag(keys, Role::Initiator);
        // The server is proven. Its labels are known only now, so egress is decided only now.
        let claims = judge.newest(claims)?;
        let pod = snapshot
            .pods
            .get(&key.src)
            .ok_or(DropReason::SpoofedSource)?;
        let identity = pod.identity.as_ref().ok_or(DropReason::NoCredential)?;
        let peer = Other::Proven(&claims);
        let judgement = decide(&snapshot, Direction::Egress, &identity.claims, peer, &key);
        let rule = match self.heed(key, judgement) {
            Ok(rule) => rule,
            Err(refusal) => {
                self.reset_server(p, &confirm);
                if refusal.reject {
                    self.reset_client(p);
                }
                if let Some(half) = self.initiating.entry_mut(&key) {
                    half.refused = Some((snapshot.epoch, refusal.reason));
                }
                return Err(self.refuse(key, &refusal));
            }
        };
        let packet = p
            .edit()?
            .remove_exid()
            .payload(&[])
            .reduce_mss_by(CONFIRM_ROOM)
            .finish();
        let packet = packet.map_err(|_| DropReason::Malformed)?;
        let known = self
            .live
            .flow(&key)
            .is_some_and(|live| live.confirm == Some(confirm));
        if !known {
            let bytes = credential.bytes.unwrap_or_else(|| reply.credential.into());
            let record = FlowRecord {
                key,
                ends: Ends::Initiator {
                    pod_uid: pod.uid.clone(),
                    remote: RemoteEnd::Proven(bytes),
                },
                rule: rule.map(|rule| rule.words()).unwrap_or_default(),
                epoch: snapshot.epoch,
                opened: now.unix,
            };
            let (remote, isn) = (Some(claims), Some(tcp.ack_number().wrapping_sub(1)));
            self.open(Live {
                record: Arc::new(record),
                remote,
                confirm: Some(confirm),
                isn,
                marked: false,
            })?;
        }
        Ok(Handled::Rewrite {
            packet,
            mark: Mark::Once,
        })
    }

    /// A segment without SYN leaves a pod: ours as client, or as server.
    pub(super) fn pod_segment(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>, now: Now) -> Fate {
        if let Some(live) = self.live.flow(&p.key) {
            return match live.confirm {
                Some(confirm) if !live.marked => attach_confirm(p, &confirm),
                // The RST that answers a challenge ACK, while a new connection opens.
                _ if self.reopening(&p.key, live) => ONCE,
                _ => ESTABLISHED,
            };
        }
        let key = p.key.reversed();
        // Before CONFIRM the server may only refuse: a closed port.
        let refusing = tcp.rst() && tcp.payload().is_empty();
        if refusing
            && self
                .responding
                .entry(&key)
                .is_some_and(|half| half.refused_by(tcp))
        {
            self.responding.remove(&key);
            return ONCE;
        }
        if let Some(fate) = self.before_confirm(&key) {
            // Before its SYN-ACK only a socket of a connection that was cut speaks here: it answers the SYN of the
            // new one by a challenge ACK (RFC 5961 section 4), would do so until it times out, and ends by the reset
            // that the client would send (RFC 9293 section 3.10.7.3). After its SYN-ACK such an ACK answers a late
            // copy of the SYN, and a reset would end the new connection.
            if fate.is_err() && !self.answered(&key) {
                self.reset_sender(p, true, now);
            }
            return fate;
        }
        if self.live.flow(&key).is_some() {
            return ESTABLISHED;
        }
        self.unknown_flow(p, true, now)
    }

    /// A segment without SYN comes from a server that one of our pods talks to. `None` when no
    /// connection of ours fits it.
    pub(super) fn server_segment(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>) -> Option<Fate> {
        let key = p.key.reversed();
        if let Some(half) = self.initiating.entry(&key)
            && tcp.ack_number() == half.header.isn.wrapping_add(1)
            && tcp.rst()
            && tcp.payload().is_empty()
            && self.live.flow(&key).is_none_or(|live| !live.marked)
        {
            // A closed port, or the far end's `reject`: no MAC protects it, and it carries nothing.
            self.initiating.remove(&key);
            self.live.remove(&key);
            return Some(ONCE);
        }
        let live = self.live.flow(&key)?;
        if live.marked {
            // A challenge ACK of an older flow passes, and the new SYN is not established by it.
            return Some(if self.reopening(&key, live) {
                ONCE
            } else {
                ESTABLISHED
            });
        }
        let record = self.live.hear(&key)?.record.clone();
        self.emit(Event::FlowOpened(record));
        Some(ESTABLISHED)
    }

    /// Whether a new SYN is outstanding on the tuple of the established flow `live`.
    fn reopening(&self, key: &FlowKey, live: &Live) -> bool {
        self.initiating
            .entry(key)
            .is_some_and(|half| Some(half.header.isn) != live.isn)
    }

    /// Tells the server that its connection, proven but not allowed, is over.
    fn reset_server(&mut self, p: &Parsed<'_>, confirm: &Tag) {
        // Without CONFIRM the far enforcer would not believe it.
        let reset = p.reset().and_then(|reset| {
            let parsed = Parsed::parse(&reset).ok()?;
            match attach_confirm(&parsed, confirm).ok()? {
                Handled::Rewrite { packet, .. } => Some(packet),
                _ => None,
            }
        });
        if let Some(packet) = reset {
            self.send(Transmit {
                packet,
                to_pod: false,
            });
        }
    }

    /// Tells our pod that its connection was refused.
    fn reset_client(&mut self, p: &Parsed<'_>) {
        if let Some(packet) = p.refusal() {
            self.send(Transmit {
                packet,
                to_pod: true,
            });
        }
    }
}

/// The SYN with marker and HELLO, and without what could carry data or another subflow.
fn attach_hello(p: &Parsed<'_>, head: &[u8], credential: &[u8]) -> Fate {
    let edit = p.syn_edit()?.add_option(&MARKER);
    let packet = edit.payload_parts([head, credential, &[]]).finish();
    let packet = packet.map_err(|_| DropReason::NoOptionSpace)?;
    Ok(Handled::Rewrite {
        packet,
        mark: Mark::Once,
    })
}

fn attach_confirm(p: &Parsed<'_>, confirm: &Tag) -> Fate {
    let packet = p
        .edit()?
        .add_option(&Confirm { mac: *confirm }.to_bytes())
        .finish();
    let packet = packet.map_err(|_| DropReason::NoOptionSpace)?;
    Ok(Handled::Rewrite {
        packet,
        mark: Mark::Once,
    })
}
