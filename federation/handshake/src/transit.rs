//! A gateway's part in a handshake that passes through it: the credential is verified against the
//! bundle of its trust domain, freshness and replay are checked, policy is asked, and the flow is
//! remembered. CONFIRM cannot be checked here, so a flow counts as established only when its
//! responder, whose enforcer lets nothing out before CONFIRM, has sent a segment without SYN.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use identity::{BundleStore, Claims, CredentialHash, IdentityNetworks, Mono, Now, TrustDomain};
use policy::{Decision, DropReason, KnownKeys, Peer, Query, RuleRef, model::Direction};
use wire::{
    flow::FlowKey,
    hello::{self, Hello, HelloHeader, SegmentProof},
    reply::Reply,
};

use crate::{
    bucket::Bucket,
    credentials::{PodStates, Verifier},
    freshness,
    half_open::HalfOpen,
    keys::{ProofCheck, SegmentKeys},
    packet::{Parsed, Tcp},
    replay::{Freshness, NONCE_LIFE, ReplayCache, Seen},
};

/// What a gateway judges handshakes by: one immutable value, replaced as a whole.
#[derive(Debug)]
pub struct TransitSnapshot {
    /// Rises with every change.
    pub epoch: u64,
    /// The gateway's cluster.
    pub own: TrustDomain,
    /// Whose addresses are whose.
    pub networks: IdentityNetworks,
    /// The bundles of the own cluster and of its peers.
    pub bundles: BundleStore,
    /// The own cluster's policy.
    pub policy: policy::Table,
    /// What each peer announced that it admits.
    pub digests: BTreeMap<TrustDomain, policy::Table>,
    /// Which label keys the clusters carry.
    pub known: KnownKeys,
    /// The protected pods of the own cluster, as its source describes them.
    pub pods: BTreeMap<IpAddr, Arc<Claims>>,
    /// The own cluster's segment keys.
    pub segment_keys: SegmentKeys,
    /// Pods that were relabelled or deleted since their credential was issued.
    pub changes: PodStates,
}

/// Which side a packet came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin<'a> {
    /// A node of the own cluster.
    Own,
    /// The tunnel from this peer, which authenticates its gateway.
    Peer(&'a TrustDomain),
}

/// What is to be done with a packet that may go on.
#[derive(Clone, Debug)]
pub enum Passed {
    /// It goes on as it is.
    Forward,
    /// These bytes, of the same length, go on in its place.
    Rewrite(Vec<u8>),
    /// It goes on, and its flow is established from here on.
    Established(Box<Ends>),
    /// It goes on, and its half-open flow is over.
    Closed,
}

/// Both ends of an established flow. Its verdict is asked again when the epoch changes.
#[derive(Clone, Debug)]
pub struct Ends {
    /// From initiator to responder.
    pub key: FlowKey,
    /// What the initiator's credential says.
    pub initiator: Arc<Claims>,
    /// What the responder's credential says.
    pub responder: Arc<Claims>,
}

/// A refusal, and the rule behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason to drop the packet.
    pub reason: DropReason,
    /// The rule that decided, where one did: of the peer's digest for `peer-denies`.
    pub rule: Option<RuleRef>,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self { reason, rule: None }
    }
}

type Fate = Result<Passed, Refused>;

/// The half-open flows of one shard. Nonces are shared between shards, because a replay can come
/// on any tuple.
#[derive(Debug)]
pub struct Transit {
    verifier: Verifier,
    replay: Arc<Mutex<ReplayCache>>,
    unproven: Bucket,
    half: HalfOpen<Half>,
}

#[derive(Debug)]
struct Half {
    header: HelloHeader,
    initiator: Arc<Claims>,
    /// Known once a REPLY passed.
    responder: Option<Arc<Claims>>,
}

impl Transit {
    /// A shard for at most `half_open` flows; `unproven_per_second` HELLOs without a segment proof
    /// are looked at.
    #[must_use]
    pub fn new(
        verifier: Verifier,
        replay: Arc<Mutex<ReplayCache>>,
        half_open: usize,
        unproven_per_second: u32,
    ) -> Self {
        let unproven = Bucket::new(unproven_per_second, unproven_per_second);
        Self {
            verifier,
            replay,
            unproven,
            half: HalfOpen::new(half_open),
        }
    }

    /// Judges an IP packet with a TCP segment that belongs to no established flow, or has SYN.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn handle_packet(
        &mut self,
        origin: Origin<'_>,
        packet: &[u8],
        snapshot: &TransitSnapshot,
        now: Now,
    ) -> Fate {
        let p = Parsed::parse(packet)?;
        let Some(tcp) = &p.tcp else {
            return Err(DropReason::UnsupportedProtocol.into());
        };
        let source = snapshot
            .networks
            .lookup(p.key.src)
            .ok_or(DropReason::NoIdentity)?;
        let expected = match origin {
            Origin::Own => &snapshot.own,
            Origin::Peer(peer) => peer,
        };
        if source.trust_domain != expected {
            return Err(DropReason::WrongTrustDomain.into());
        }
        match (tcp.syn(), tcp.ack()) {
            (true, false) => self.syn(origin, &p, tcp, snapshot, now),
            (true, true) => self.syn_ack(origin, &p, tcp, snapshot, now),
            (false, _) => self.segment(&p, tcp),
        }
    }

    /// Whether an established flow may go on by `snapshot`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn decide_again(ends: &Ends, snapshot: &TransitSnapshot) -> Result<Ends, Refused> {
        let newest = |claims: &Arc<Claims>| {
            let held = snapshot.bundles.bundle(claims.trust_domain()).is_some();
            let claims = snapshot.changes.newest(claims).filter(|_| held);
            claims.ok_or(Refused::from(DropReason::Revoked))
        };
        let ends = Ends {
            key: ends.key,
            initiator: newest(&ends.initiator)?,
            responder: newest(&ends.responder)?,
        };
        decide_pair(snapshot, &ends)?;
        Ok(ends)
    }

    /// When [`Transit::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        self.half.next_deadline()
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Now) {
        self.half.expire(now.mono);
        self.nonces().expire(now.mono);
    }

    /// Half-open flows of this shard.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.half.len()
    }

    /// Whether `key`, in either direction, is being opened.
    #[must_use]
    pub fn knows(&self, key: &FlowKey) -> bool {
        [*key, key.reversed()]
            .iter()
            .any(|key| self.half.entry(key).is_some())
    }

    /// Signature checks made so far.
    #[must_use]
    pub fn signature_checks(&self) -> u64 {
        self.verifier.signature_checks()
    }

    fn nonces(&self) -> std::sync::MutexGuard<'_, ReplayCache> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn syn(
        &mut self,
        origin: Origin<'_>,
        p: &Parsed<'_>,
        tcp: &Tcp<'_>,
        snapshot: &TransitSnapshot,
        now: Now,
    ) -> Fate {
        if !tcp.has_marker() {
            return Err(DropReason::NoIdentity.into());
        }
        let hello = Hello::parse(tcp.payload()).map_err(|_| DropReason::NoIdentity)?;
        let header = hello.header;
        let destination = p.destination(&snapshot.networks, p.key.dst, p.key.dport)?;
        if header.isn != tcp.seq() || header.destination != destination {
            return Err(DropReason::TranscriptMismatch.into());
        }
        let proven = match origin {
            // The tunnel vouches for the peer's gateway, which checked its own cluster's proof.
            Origin::Peer(_) => true,
            Origin::Own => self.check_proof(&hello, snapshot, now)?,
        };
        freshness::check(header.timestamp, now.unix)?;
        if self
            .half
            .entry(&p.key.reversed())
            .is_some_and(|half| half.responder.is_none())
        {
            return Err(DropReason::SimultaneousOpen.into());
        }
        let seen = Seen {
            key: p.key,
            isn: header.isn,
        };
        let fresh = self.nonces().lookup(&header.nonce, seen, now.mono);
        match (fresh, self.half.entry(&p.key)) {
            (Freshness::Replay, _) => return Err(DropReason::Replay.into()),
            (Freshness::Again, Some(half)) if half.header == header => {
                return Ok(Passed::Rewrite(with_proof(p, &hello, origin, snapshot)?));
            }
            (Freshness::Again, _) => return Err(DropReason::Superseded.into()),
            (Freshness::New, Some(half)) if half.header.isn == header.isn => {
                if header.timestamp < half.header.timestamp {
                    return Err(DropReason::Superseded.into());
                }
            }
            (Freshness::New, Some(_)) if !proven => return Err(DropReason::BadProof.into()),
            (Freshness::New, _) => {}
        }
        let issuer = match origin {
            Origin::Own => &snapshot.own,
            Origin::Peer(peer) => peer,
        };
        let hash = CredentialHash(header.credential_hash);
        let claims = self.verifier.verify(
            hello.credential,
            &hash,
            issuer,
            issuer,
            &snapshot.bundles,
            now,
        )?;
        let initiator = snapshot
            .changes
            .newest(&claims)
            .ok_or(DropReason::Revoked)?;
        match origin {
            Origin::Own => refuse_early(snapshot, &initiator, &p.key)?,
            Origin::Peer(_) => {
                let responder = snapshot.pods.get(&p.key.dst).ok_or(DropReason::NoRoute)?;
                decide(
                    snapshot,
                    &snapshot.policy,
                    Direction::Ingress,
                    responder,
                    &initiator,
                    &p.key,
                )?;
            }
        }
        let packet = with_proof(p, &hello, origin, snapshot)?;
        if !self.nonces().remember(header.nonce, seen, now.mono) {
            return Err(DropReason::TableFull.into());
        }
        let half = Half {
            header,
            initiator,
            responder: None,
        };
        self.half.insert(p.key, half, now.mono.after(NONCE_LIFE));
        Ok(Passed::Rewrite(packet))
    }

    fn check_proof(
        &mut self,
        hello: &Hello<'_>,
        snapshot: &TransitSnapshot,
        now: Now,
    ) -> Result<bool, DropReason> {
        let proof = &hello.proof;
        match snapshot
            .segment_keys
            .check(hello.header_bytes, &proof.key_id, &proof.mac)
        {
            ProofCheck::Holds => Ok(true),
            ProofCheck::Broken => Err(DropReason::BadProof),
            ProofCheck::Unknown if self.unproven.take(now.mono) => Ok(false),
            ProofCheck::Unknown => Err(DropReason::RateLimited),
        }
    }

    fn syn_ack(
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
        if !tcp.has_marker() {
            return Err(DropReason::NoIdentity.into());
        }
        let reply = Reply::parse(tcp.payload()).map_err(|_| DropReason::NoIdentity)?;
        let issuer = match origin {
            Origin::Own => &snapshot.own,
            Origin::Peer(peer) => peer,
        };
        let hash = CredentialHash::of(reply.credential);
        let claims = self.verifier.verify(
            reply.credential,
            &hash,
            issuer,
            issuer,
            &snapshot.bundles,
            now,
        )?;
        let responder = snapshot
            .changes
            .newest(&claims)
            .ok_or(DropReason::Revoked)?;
        let ends = Ends {
            key,
            initiator: half.initiator.clone(),
            responder,
        };
        decide_pair(snapshot, &ends)?;
        half.responder = Some(ends.responder);
        Ok(Passed::Forward)
    }

    fn segment(&mut self, p: &Parsed<'_>, tcp: &Tcp<'_>) -> Fate {
        // From the initiator: only with CONFIRM, and only after a REPLY.
        if let Some(half) = self.half.entry(&p.key) {
            if half.responder.is_none() || tcp.confirm().is_none() {
                return Err(DropReason::NoIdentity.into());
            }
            if tcp.rst() {
                self.half.remove(&p.key);
                return Ok(Passed::Closed);
            }
            return Ok(Passed::Forward);
        }
        let key = p.key.reversed();
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
        Ok(Passed::Established(Box::new(Ends {
            key,
            initiator,
            responder,
        })))
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
    let payload = hello::encode(hello.header_bytes, &proof, hello.credential);
    p.edit()?
        .payload(&payload)
        .finish()
        .map_err(|_| DropReason::Malformed)
}

/// Refuses on the SYN what no rule of the destination's digest admits, whatever the destination.
fn refuse_early(
    snapshot: &TransitSnapshot,
    initiator: &Claims,
    key: &FlowKey,
) -> Result<(), DropReason> {
    let owner = snapshot
        .networks
        .lookup(key.dst)
        .ok_or(DropReason::NoRoute)?
        .trust_domain;
    match snapshot.digests.get(owner) {
        Some(digest) if !digest.may_admit(initiator, key.protocol, key.dport) => {
            Err(DropReason::PeerDenies)
        }
        _ => Ok(()),
    }
}

/// Asks both ends' policies as far as this gateway knows them: its own at its own end, and at the
/// other end the digest.
fn decide_pair(snapshot: &TransitSnapshot, ends: &Ends) -> Result<(), Refused> {
    let Ends {
        key,
        initiator,
        responder,
    } = ends;
    if *initiator.trust_domain() == snapshot.own {
        decide(
            snapshot,
            &snapshot.policy,
            Direction::Egress,
            initiator,
            responder,
            key,
        )?;
        if let Some(digest) = snapshot.digests.get(responder.trust_domain()) {
            decide(
                snapshot,
                digest,
                Direction::Ingress,
                responder,
                initiator,
                key,
            )
            .map_err(|refused| Refused {
                reason: DropReason::PeerDenies,
                ..refused
            })?;
        }
        return Ok(());
    }
    decide(
        snapshot,
        &snapshot.policy,
        Direction::Ingress,
        responder,
        initiator,
        key,
    )
}

fn decide(
    snapshot: &TransitSnapshot,
    table: &policy::Table,
    direction: Direction,
    subject: &Claims,
    peer: &Claims,
    key: &FlowKey,
) -> Result<(), Refused> {
    let address = match direction {
        Direction::Ingress => key.src,
        Direction::Egress => key.dst,
    };
    let verdict = table.decide(&Query {
        direction,
        subject,
        peer: Peer::Identity {
            claims: peer,
            address: Some(address),
        },
        protocol: key.protocol,
        port: key.dport,
        known: &snapshot.known,
    });
    match verdict.decision {
        Decision::Allow => Ok(()),
        Decision::Drop { reason, .. } => Err(Refused {
            reason,
            rule: verdict.rule,
        }),
    }
}
