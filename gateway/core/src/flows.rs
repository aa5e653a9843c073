//! All flows of the gateway: shards of established ones, shards of handshakes.
//!
//! The two directions of a flow come in on different queues, so a thread takes the lock of the
//! flow's shard; there are many shards and a packet holds the lock for a lookup only. Handshakes
//! have locks of their own, because checking a signature takes a thousand times longer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use handshake::{
    budget::{SignatureBudget, SignatureLimits},
    credentials::{CredentialCache, Verifier},
    half_open::HalfOpen,
    hash::Seed,
    replay::{NONCE_LIFE, ReplayCache},
    transit::{Origin, Parties, Party, Passed, Refused, Transit, TransitSnapshot},
};
use identity::{
    Mono, Now,
    fault::{self, Fault},
};
use policy::DropReason;
use wire::flow::FlowKey;

use crate::{
    context::FlowView,
    flow_table::{Flow, FlowTable},
    hash::FlowHasher,
    track::{Facts, Sender, Track},
};

/// Entries of a shard that one call of [`Flows::handle_timeout`] looks at.
const SWEEP: usize = 4096;

/// Bounds of memory and work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Established flows, 144 bytes each.
    pub established: u32,
    /// Half-open flows, in all; about 1 KiB each.
    pub half_open: u32,
    /// Nonces that are remembered for 75 s; about 100 bytes each.
    pub nonces: usize,
    /// HELLOs a second without a segment proof that are looked at.
    pub unproven_per_second: u32,
    /// Processor time for signature checks.
    pub signatures: SignatureLimits,
    /// Shards of established flows, rounded up to a power of two.
    pub flow_shards: usize,
    /// Shards of handshakes.
    pub handshake_shards: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            established: 1 << 20,
            half_open: 1 << 16,
            nonces: 1 << 19,
            unproven_per_second: 100,
            signatures: SignatureLimits::default(),
            flow_shards: 64,
            handshake_shards: 4,
        }
    }
}

/// The shards.
#[derive(Debug)]
pub struct Flows {
    hasher: FlowHasher,
    established: Vec<Mutex<FlowTable>>,
    handshakes: Vec<Mutex<Handshakes>>,
    signatures: Arc<SignatureBudget>,
}

/// A shard of flows that are being opened.
#[derive(Debug)]
struct Handshakes {
    transit: Transit,
    /// How far the ends have come, bounded like the half-open flows.
    tracks: HalfOpen<Opening>,
}

/// How far the ends of a connection that is being opened have come.
#[derive(Clone, Copy, Debug)]
struct Opening {
    /// The sequence number of the initiator's SYN.
    isn: u32,
    track: Track,
}

/// A segment that cannot belong to the connection that is being opened.
#[derive(Debug)]
struct OutOfWindow;

impl Handshakes {
    /// The key of the initiator's direction, who sent this segment, and how far the ends will have
    /// come with it. `None` for a track that is not known, or while a RST may be judged by its
    /// acknowledgment alone.
    fn advance(
        &self,
        key: &FlowKey,
        facts: &Facts,
    ) -> Result<(FlowKey, Sender, Option<Opening>), OutOfWindow> {
        let own = self.tracks.entry(key).copied();
        if facts.flags.is_syn() {
            // One that comes again begins nothing anew: the client may have sent more since.
            let known = own.filter(|opening| opening.isn == facts.seq);
            let opening = known.unwrap_or_else(|| Opening {
                isn: facts.seq,
                track: Track::new(facts),
            });
            return Ok((*key, Sender::Initiator, Some(opening)));
        }
        let (forward, sender, mut opening) = match own {
            Some(opening) => (*key, Sender::Initiator, opening),
            None => match self.tracks.entry(&key.reversed()) {
                Some(opening) => (key.reversed(), Sender::Responder, *opening),
                None => return Ok((key.reversed(), Sender::Responder, None)),
            },
        };
        let track = &mut opening.track;
        if facts.flags.is_syn_ack() {
            track.syn_ack(facts);
        } else if track.complete() && !facts.flags.rst() && !track.segment(sender, facts) {
            return Err(OutOfWindow);
        }
        Ok((forward, sender, Some(opening)))
    }
}

/// A refusal, and whether the sender may be told.
#[derive(Debug)]
pub struct Rejected {
    /// Why, and by which rule.
    pub refused: Refused,
    /// No flow that lives could be harmed by an answer.
    pub answer: bool,
}

impl Rejected {
    fn silently(reason: DropReason) -> Self {
        Self {
            refused: reason.into(),
            answer: false,
        }
    }
}

/// What an established flow says of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// It belongs to the flow and was counted.
    Fits,
    /// It cannot belong to the flow: an injection or a stray. It must not be answered.
    OutOfWindow,
    /// The flow was allowed by an older snapshot.
    Stale,
    /// There is no such flow, or another is being opened on its tuple.
    Unknown,
}

impl Flows {
    /// Empty shards. `key` is 16 secret, random bytes.
    #[must_use]
    pub fn new(limits: &Limits, key: &[u8; 16], cache: &Arc<dyn CredentialCache>) -> Self {
        let flow_shards = limits.flow_shards.clamp(1, 1 << 16).next_power_of_two();
        let handshake_shards = limits.handshake_shards.clamp(1, 1 << 10);
        let per = |total: u32, shards: usize| total.div_ceil(shards as u32).max(1);
        let seed = Seed::new(key);
        let nonces = Arc::new(Mutex::new(ReplayCache::new(limits.nonces, &seed)));
        let signatures = Arc::new(SignatureBudget::new(limits.signatures));
        let half_open = per(limits.half_open, handshake_shards) as usize;
        let unproven = per(limits.unproven_per_second, handshake_shards);
        let handshakes = || {
            let verifier = Verifier::new(cache.clone(), signatures.clone());
            Mutex::new(Handshakes {
                transit: Transit::new(verifier, nonces.clone(), half_open, unproven, &seed),
                tracks: HalfOpen::new(half_open, &seed),
            })
        };
        let table = || Mutex::new(FlowTable::new(per(limits.established, flow_shards)));
        Self {
            hasher: FlowHasher::new(key),
            established: (0..flow_shards).map(|_| table()).collect(),
            handshakes: (0..handshake_shards).map(|_| handshakes()).collect(),
            signatures,
        }
    }

    /// Looks a segment without SYN up among the established flows and, when it fits, counts it.
    pub fn find(&self, key: &FlowKey, facts: &Facts, length: usize, epoch: u64, now: Now) -> Found {
        let hash = self.hasher.hash(key);
        let mut table = self.table(hash);
        let Some((flow, sender)) = table.find(hash, key) else {
            return Found::Unknown;
        };
        if flow.succeeding {
            return Found::Unknown;
        }
        if flow.epoch != epoch && !fault::is(Fault::GatewayIgnoresEpoch) {
            return Found::Stale;
        }
        if !flow.track.segment(sender, facts) {
            return Found::OutOfWindow;
        }
        flow.count(sender, length, now.mono);
        Found::Fits
    }

    /// Decides the flow of `key` again by `snapshot`. A flow that may go on is marked so; one that
    /// may not is gone, and its end and the reason are returned. `Ok(false)` when there is none.
    ///
    /// Policy is asked without the shard's lock. A flow that is replaced meanwhile keeps its own,
    /// newer verdict.
    ///
    /// # Errors
    /// The flow's key and why it is cut.
    pub fn decide_again(
        &self,
        key: &FlowKey,
        snapshot: &TransitSnapshot,
    ) -> Result<bool, (FlowKey, Refused)> {
        let hash = self.hasher.hash(key);
        let Some(ends) = self
            .table(hash)
            .find(hash, key)
            .map(|(flow, _)| flow.ends())
        else {
            return Ok(false);
        };
        let decided = Transit::decide_again(&ends, snapshot);
        let mut table = self.table(hash);
        let Some((flow, _)) = table.find(hash, key) else {
            return Ok(false);
        };
        if !Arc::ptr_eq(&flow.initiator, &ends.initiator) || flow.epoch == snapshot.epoch {
            return Ok(true);
        }
        match decided {
            Ok(newest) => {
                (flow.initiator, flow.responder) = (newest.initiator, newest.responder);
                flow.epoch = snapshot.epoch;
                Ok(true)
            }
            Err(refused) => {
                let flow = table.remove(hash, key);
                Err((flow.map_or(*key, |flow| flow.key), refused))
            }
        }
    }

    /// Has the handshake of `key` judged, and keeps what comes of it.
    ///
    /// # Errors
    /// Why the packet is dropped.
    pub fn judge(
        &self,
        (key, facts): (&FlowKey, &Facts),
        origin: Origin<'_>,
        packet: &[u8],
        snapshot: &TransitSnapshot,
        now: Now,
    ) -> Result<Passed, Rejected> {
        let hash = self.hasher.hash(key);
        let mut guard = self.handshake(hash);
        let handshakes = &mut *guard;
        let (forward, sender, opening) = match handshakes.advance(key, facts) {
            Ok(advanced) => advanced,
            Err(OutOfWindow) => return Err(Rejected::silently(DropReason::UnknownFlow)),
        };
        let passed = match handshakes
            .transit
            .handle_packet(origin, packet, snapshot, now)
        {
            Ok(passed) => passed,
            Err(refused) => {
                let is_opening = handshakes.transit.knows(key);
                drop(guard);
                let older = self.fall_back(hash, key, facts, is_opening, snapshot.epoch, refused);
                return older.inspect(|_| {
                    self.count(hash, key, packet.len(), now.mono);
                });
            }
        };
        let deadline = now.mono.after(NONCE_LIFE);
        match (&passed, opening) {
            (Passed::Established(_) | Passed::Closed, _) | (_, None) => {
                handshakes.tracks.remove(&forward);
            }
            (_, Some(opening)) => {
                handshakes.tracks.insert(forward, opening, deadline);
            }
        }
        drop(guard);
        if facts.flags.is_syn() {
            self.succeed(hash, key);
        }
        if let Passed::Established(ends) = &passed {
            let seen = opening.map(|opening| opening.track);
            let track = seen.unwrap_or_else(|| Track::midstream(sender, facts));
            let mut flow = Flow::new((**ends).clone(), track, snapshot.epoch, now.mono);
            flow.count(sender, packet.len(), now.mono);
            self.insert(hash, flow, now.mono)
                .map_err(Rejected::silently)?;
        }
        Ok(passed)
    }

    /// Who sent the packet that an ICMP error quotes, if it belongs to an established flow and its
    /// sequence number may be in flight.
    #[must_use]
    pub fn quoted(&self, about: &FlowKey, seq: Option<u32>, epoch: u64) -> Found {
        let hash = self.hasher.hash(about);
        let mut table = self.table(hash);
        let Some((flow, sender)) = table.find(hash, about) else {
            return Found::Unknown;
        };
        match seq {
            _ if flow.epoch != epoch => Found::Stale,
            Some(seq) if flow.track.in_flight(sender, seq) => Found::Fits,
            _ => Found::OutOfWindow,
        }
    }

    /// The ends of `packet`, which `key` is read from, as far as they are known. A SYN or SYN-ACK (`opens`)
    /// belongs to a flow only once it was accepted.
    #[must_use]
    pub fn parties(&self, key: &FlowKey, packet: &[u8], opens: bool, accepted: bool) -> Parties {
        let hash = self.hasher.hash(key);
        let of_flow = |(flow, sender): (&mut Flow, Sender)| {
            let [initiator, responder] =
                [&flow.initiator, &flow.responder].map(|c| Some(Party::of_flow(c.clone())));
            match sender {
                Sender::Initiator => [initiator, responder],
                Sender::Responder => [responder, initiator],
            }
        };
        let established = match opens {
            true => None,
            false => self.table(hash).find(hash, key).map(of_flow),
        };
        if let Some(parties) = established {
            return parties;
        }
        let transit = &self.handshake(hash).transit;
        let [sender, receiver] = transit.parties(key);
        let sender = sender.filter(|_| accepted || !opens);
        [sender.or_else(|| transit.presented(packet)), receiver]
    }

    /// Forgets what is too old, a part of the table at a time. Call it a few times a second.
    pub fn handle_timeout(&self, now: Now) {
        for shard in &self.established {
            let mut table = lock(shard);
            table.sweep(SWEEP, now.mono, |key| self.hasher.hash(key));
        }
        for shard in &self.handshakes {
            let mut handshakes = lock(shard);
            handshakes.transit.handle_timeout(now);
            handshakes.tracks.expire(now.mono);
        }
    }

    /// Established flows.
    #[must_use]
    pub fn established(&self) -> usize {
        self.established.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Half-open flows.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.handshakes
            .iter()
            .map(|shard| lock(shard).transit.half_open())
            .sum()
    }

    /// Signature checks made so far.
    #[must_use]
    pub fn signature_checks(&self) -> u64 {
        self.handshakes
            .iter()
            .map(|shard| lock(shard).transit.signature_checks())
            .sum()
    }

    /// Processor time that they took.
    #[must_use]
    pub fn signature_time(&self) -> Duration {
        self.signatures.spent()
    }

    /// At most `limit` established flows, for people.
    #[must_use]
    pub fn list(&self, limit: usize) -> Vec<FlowView> {
        let mut views = Vec::new();
        for shard in &self.established {
            let table = lock(shard);
            let room = limit.saturating_sub(views.len());
            views.extend(table.iter().take(room).map(|flow| FlowView {
                ends: flow.ends(),
                epoch: flow.epoch,
                bytes: flow.bytes,
                packets: flow.packets,
                over: flow.track.over(),
            }));
        }
        views.sort_by_key(|view| view.ends.key);
        views
    }

    /// A segment that the handshake on its tuple refuses may still be one of the older flow there:
    /// a challenge ACK, or the RST that answers it. While there is one, nothing is answered: an answer
    /// could reset it.
    fn fall_back(
        &self,
        hash: u64,
        key: &FlowKey,
        facts: &Facts,
        is_opening: bool,
        epoch: u64,
        refused: Refused,
    ) -> Result<Passed, Rejected> {
        let mut table = self.table(hash);
        let Some((flow, sender)) = table.find(hash, key) else {
            return Err(Rejected {
                refused,
                answer: true,
            });
        };
        if facts.flags.syn() {
            return Err(Rejected {
                refused,
                answer: false,
            });
        }
        if !is_opening {
            flow.succeeding = false;
        }
        let live = flow.epoch == epoch && !flow.track.over();
        if live && flow.track.segment(sender, facts) {
            return Ok(Passed::Forward);
        }
        Err(Rejected::silently(DropReason::UnknownFlow))
    }

    fn count(&self, hash: u64, key: &FlowKey, length: usize, now: Mono) {
        if let Some((flow, sender)) = self.table(hash).find(hash, key) {
            flow.count(sender, length, now);
        }
    }

    /// From now on segments of the tuple are first shown to the handshake.
    fn succeed(&self, hash: u64, key: &FlowKey) {
        if let Some((flow, _)) = self.table(hash).find(hash, key) {
            flow.succeeding = true;
        }
    }

    fn insert(&self, hash: u64, flow: Flow, now: Mono) -> Result<(), DropReason> {
        let rehash = |key: &FlowKey| self.hasher.hash(key);
        self.table(hash)
            .insert(hash, flow, now, rehash)
            .map_err(|_| DropReason::TableFull)
    }

    /// The shard takes the high bits of the hash, the slot in it the low ones.
    fn table(&self, hash: u64) -> MutexGuard<'_, FlowTable> {
        let shard = (hash >> 48) as usize & (self.established.len() - 1);
        lock(&self.established[shard])
    }

    fn handshake(&self, hash: u64) -> MutexGuard<'_, Handshakes> {
        let shard = (hash >> 32) as usize % self.handshakes.len();
        lock(&self.handshakes[shard])
    }
}

/// A thread that panicked left a value behind that is whole: each change is one assignment or one
/// call that cannot panic half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
