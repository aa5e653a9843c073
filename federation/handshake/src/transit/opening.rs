//! A flow that is being opened through a gateway: how it begins, is answered and ends.

use std::sync::Arc;

use identity::{
    Claims, Now, TrustDomain,
    fault::{self, Fault},
};
use policy::DropReason;
use wire::{
    flow::FlowKey,
    hello::{self, Hello, HelloHeader, SegmentProof},
};

use super::{
    Ends, Fate, Origin, Passed, Refused, Transit, TransitSnapshot, lock, newest,
    policies::{decide_pair, decide_syn},
};
use crate::{
    judge::{self, Judge, Judged, Standing, Vouched},
    packet::{Parsed, Tcp},
    replay::NONCE_LIFE,
};

/// A half-open flow.
#[derive(Debug)]
pub(super) struct Half {
    header: HelloHeader,
    proven: bool,
    pub(super) initiator: Arc<Claims>,
    /// Known once a REPLY passed.
    pub(super) responder: Option<Arc<Claims>>,
    /// Of the snapshot that decided.
    epoch: u64,
}

impl Half {
    /// Decides again, if that was by an older snapshot: a change reaches a flow that is being opened
    /// as it reaches a live one.
    fn decide_again(&mut self, key: &FlowKey, snapshot: &TransitSnapshot) -> Result<(), Refused> {
        if self.epoch == snapshot.epoch || fault::is(Fault::GatewayIgnoresEpoch) {
            return Ok(());
        }
        self.initiator = newest(snapshot, &self.initiator)?;
        match &self.responder {
            Some(responder) => {
                let ends = Ends {
                    key: *key,
                    initiator: self.initiator.clone(),
                    responder: newest(snapshot, responder)?,
                };
                decide_pair(snapshot, &ends)?;
                self.responder = Some(ends.responder);
            }
            None => decide_syn(snapshot, &self.initiator, key)?,
        }
        self.epoch = snapshot.epoch;
        Ok(())
    }
}

impl Origin<'_> {
    /// Whose credentials may come from there.
    pub(super) fn issuer<'a>(&'a self, snapshot: &'a TransitSnapshot) -> &'a TrustDomain {
        match self {
            Self::Own => &snapshot.own,
            Self::Peer(peer) => peer,
        }
    }
}

impl Transit {
    pub(super) fn syn(
        &mut self,
        origin: Origin<'_>,
        p: &Parsed<'_>,
        tcp: &Tcp<'_>,
        snapshot: &TransitSnapshot,
        now: Now,
    ) -> Fate {
        let vouched = match origin {
            Origin::Peer(_) => Vouched::ByTunnel,
            Origin::Own => Vouched::BySegment(&snapshot.segment_keys, &mut self.unproven),
        };
        let mut judge = Judge {
            verifier: &mut self.verifier,
            bundles: &snapshot.bundles,
            admission: &snapshot.admission,
            issuer: origin.issuer(snapshot),
        };
        let standing = |nonce: &[u8; 16], seen| Standing {
            crossing: (self.half.entry(&p.key.reversed()))
                .is_some_and(|half| half.responder.is_none()),
            nonce: lock(&self.replay).lookup(nonce, seen, now.mono),
            // CONFIRM proves nothing here, and an established flow is kept elsewhere.
            half: self.half.entry(&p.key).map(|half| judge::Half {
                header: &half.header,
                proven: half.proven,
                confirmed: false,
            }),
        };
        let believed = match judge.hello((p, tcp), &snapshot.networks, vouched, now, standing)? {
            Judged::Repeated(hello) => {
                self.reconsider(&p.key, snapshot)?;
                return Ok(Passed::Rewrite(with_proof(p, &hello, origin, snapshot)?));
            }
            Judged::Believed(believed) => believed,
        };
        let (hello, initiator) = (believed.hello, believed.newest);
        decide_syn(snapshot, &initiator, &p.key)?;
        let packet = with_proof(p, &hello, origin, snapshot)?;
        let header = hello.header;
        lock(&self.replay).remember(header.nonce, believed.seen, now.mono)?;
        let half = Half {
            header,
            proven: believed.proven,
            initiator,
            responder: None,
            epoch: snapshot.epoch,
        };
        self.half.insert(p.key, half, now.mono.after(NONCE_LIFE));
        Ok(Passed::Rewrite(packet))
    }

    pub(super) fn syn_ack(
        &mut self,
        origin: Origin<'_>,
        p: &Parsed<'_>,
        tcp: &Tcp<'_>,
        snapshot: &TransitSnapshot,
        now: Now,
    ) -> Fate {
        let key = p.key.reversed();
        let half = self.half.entry_mut(&key);
        let half = half.filter(|half| tcp.ack_number() == half.header.isn.wrapping_add(1));
        let half = half.ok_or(DropReason::UnknownFlow)?;
        let mut judge = Judge {
            verifier: &mut self.verifier,
            bundles: &snapshot.bundles,
            admission: &snapshot.admission,
            issuer: origin.issuer(snapshot),
        };
        let answer = judge.reply(tcp, now)?;
        let ends = Ends {
            key,
            initiator: newest(snapshot, &half.initiator)?,
            responder: judge.newest(&answer.credential.claims)?,
        };
        decide_pair(snapshot, &ends)?;
        half.initiator = ends.initiator;
        half.responder = Some(ends.responder);
        half.epoch = snapshot.epoch;
        Ok(Passed::Forward)
    }

    pub(super) fn segment(
        &mut self,
        p: &Parsed<'_>,
        tcp: &Tcp<'_>,
        snapshot: &TransitSnapshot,
    ) -> Fate {
        // From the initiator: only with CONFIRM, and only after a REPLY.
        if let Some(half) = self.half.entry(&p.key) {
            if half.responder.is_none() || tcp.confirm().is_none() {
                return Err(DropReason::NoIdentity.into());
            }
            self.reconsider(&p.key, snapshot)?;
            if tcp.rst() {
                self.half.remove(&p.key);
                return Ok(Passed::Closed);
            }
            return Ok(Passed::Forward);
        }
        let key = p.key.reversed();
        self.reconsider(&key, snapshot)?;
        let half = self.half.entry(&key).ok_or(DropReason::UnknownFlow)?;
        if tcp.rst() {
            let refuses = tcp.ack_number() == half.header.isn.wrapping_add(1);
            if !refuses || !tcp.payload().is_empty() {
                return Err(DropReason::UnknownFlow.into());
            }
            self.half.remove(&key);
            return Ok(Passed::Closed);
        }
        let (initiator, responder) = (half.initiator.clone(), half.responder.clone());
        let responder = responder.ok_or(DropReason::NoIdentity)?;
        self.half.remove(&key);
        let ends = Ends {
            key,
            initiator,
            responder,
        };
        Ok(Passed::Established(Box::new(ends)))
    }

    /// A half-open flow that may not go on by `snapshot` is forgotten.
    fn reconsider(&mut self, key: &FlowKey, snapshot: &TransitSnapshot) -> Result<(), Refused> {
        let Some(half) = self.half.entry_mut(key) else {
            return Ok(());
        };
        let decided = half.decide_again(key, snapshot);
        if decided.is_err() {
            self.half.remove(key);
        }
        decided
    }
}

/// The SYN with the proof that its next receiver looks for: none on the way to a peer, our own
/// cluster's on the way to a node.
fn with_proof(
    p: &Parsed<'_>,
    hello: &Hello<'_>,
    origin: Origin<'_>,
    snapshot: &TransitSnapshot,
) -> Result<Vec<u8>, DropReason> {
    let proof = match origin {
        Origin::Own => SegmentProof::NONE,
        Origin::Peer(_) => {
            let (key_id, mac) = snapshot.segment_keys.prove(hello.header_bytes);
            SegmentProof { key_id, mac }
        }
    };
    let head = hello::head(hello.header_bytes, &proof);
    p.edit()?
        .payload_parts([&head, hello.credential, &[]])
        .finish()
        .map_err(|_| DropReason::Malformed)
}
