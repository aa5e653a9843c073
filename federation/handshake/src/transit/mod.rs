//! A gateway's part in a handshake that passes through it: the credential is verified against the
//! bundle of its trust domain, freshness and replay are checked, policy is asked, and the flow is
//! remembered. CONFIRM cannot be checked here, so a flow counts as established only when its
//! responder, whose enforcer lets nothing out before CONFIRM, has sent a segment without SYN.

mod opening;
mod parties;
mod policies;
mod snapshot;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use identity::{
    Claims, Mono, Now, TrustDomain,
    fault::{self, Fault},
};
use policy::{DropReason, RuleRef};
use wire::flow::FlowKey;

pub use parties::{Parties, Party, Standing};
pub use snapshot::TransitSnapshot;

use crate::{
    bucket::Bucket, credentials::Verifier, half_open::HalfOpen, hash::Seed, packet::Parsed,
    replay::ReplayCache,
};
use opening::Half;

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
    /// That rule rejects: the initiator is to be told.
    pub reject: bool,
}

impl From<DropReason> for Refused {
    fn from(reason: DropReason) -> Self {
        Self {
            reason,
            rule: None,
            reject: false,
        }
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

impl Transit {
    /// A shard for at most `half_open` flows; `unproven_per_second` HELLOs without a segment proof
    /// are looked at. `seed` keeps strangers from aiming at one slot.
    #[must_use]
    pub fn new(
        verifier: Verifier,
        replay: Arc<Mutex<ReplayCache>>,
        half_open: usize,
        unproven_per_second: u32,
        seed: &Seed,
    ) -> Self {
        let unproven = Bucket::new(unproven_per_second, unproven_per_second);
        Self {
            verifier,
            replay,
            unproven,
            half: HalfOpen::new(half_open, seed),
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
        let owner = snapshot
            .networks
            .owner(p.key.src)
            .ok_or(DropReason::NoIdentity)?;
        if owner != origin.issuer(snapshot) && !fault::is(Fault::InnerSourceUnchecked) {
            return Err(DropReason::WrongTrustDomain.into());
        }
        match (tcp.syn(), tcp.ack()) {
            (true, false) => self.syn(origin, &p, tcp, snapshot, now),
            (true, true) => self.syn_ack(origin, &p, tcp, snapshot, now),
            (false, _) => self.segment(&p, tcp, snapshot),
        }
    }

    /// Whether an established flow may go on by `snapshot`.
    ///
    /// # Errors
    /// Why it may not.
    pub fn decide_again(ends: &Ends, snapshot: &TransitSnapshot) -> Result<Ends, Refused> {
        let ends = Ends {
            key: ends.key,
            initiator: newest(snapshot, &ends.initiator)?,
            responder: newest(snapshot, &ends.responder)?,
        };
        policies::decide_pair(snapshot, &ends)?;
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
        lock(&self.replay).expire(now.mono);
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
}

/// What a pod is now that proved `claims`.
fn newest(snapshot: &TransitSnapshot, claims: &Arc<Claims>) -> Result<Arc<Claims>, DropReason> {
    let held = snapshot.bundles.bundle(claims.trust_domain());
    held.ok_or(DropReason::Revoked)?;
    snapshot.admission.newest(claims)
}

/// A thread that panicked left whole entries behind.
fn lock(nonces: &Mutex<ReplayCache>) -> MutexGuard<'_, ReplayCache> {
    nonces.lock().unwrap_or_else(PoisonError::into_inner)
}
