//! The enforcer of one node: what the agent and the simulator ask about every packet of a pod.
//!
//! One contract, as for every state machine here: [`Node::handle_packet`] and its siblings take
//! input and the time; afterwards [`Node::poll_transmit`] and [`Node::poll_event`] are drained, and
//! [`Node::poll_timeout`] says when [`Node::handle_timeout`] is due. Nothing else moves it.
//!
//! A packet is judged in one pass and by one of four paths: it leaves a pod for the network, it
//! came from the network for a pod, it stays between two pods of the node, or a local socket of
//! the node sent it.

mod decide;
mod initiator;
mod interface;
mod live;
mod pairs;
mod plain;
mod responder;
mod snapshot;
mod touched;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use identity::{
    Mono, Now,
    fault::{self, Fault},
};
use policy::{Decision, DropReason, RuleRef, Staged, model::Direction};
use rand_core::CryptoRng;
use wire::flow::FlowKey;

pub use interface::{Counters, Event, Handled, Mark, NodeLimits, Path, Transmit};
pub use live::{Ends, FlowRecord, RemoteEnd};
pub use snapshot::{LocalIdentity, LocalPod, NodeSnapshot};
pub use touched::Touched;

use crate::{
    bucket::Bucket,
    budget::SignatureBudget,
    credentials::{SmallCache, Verifier},
    half_open::HalfOpen,
    hash::Seed,
    names::Names,
    packet::{Parsed, Quoted},
    replay::ReplayCache,
};
use decide::{Judgement, Refusal};
use initiator::Initiating;
use live::{Live, LiveTable};
use pairs::PairCache;
use responder::Responding;

/// How long a half-open connection is kept after its HELLO was made: as long as its nonce.
const HALF_OPEN_LIFE: Duration = crate::replay::NONCE_LIFE;
/// How many events and packets to send may wait; beyond it the oldest event goes, counted.
const QUEUE: usize = 4096;

/// The enforcer of one node.
pub struct Node {
    snapshot: Arc<NodeSnapshot>,
    /// How many there were before it.
    snapshots: u64,
    rng: Box<dyn CryptoRng + Send>,
    verifier: Verifier,
    replay: ReplayCache,
    pairs: PairCache,
    unproven: Bucket,
    resets: Bucket,
    /// Ours, by initiator-to-responder key.
    initiating: HalfOpen<Initiating>,
    /// Theirs, by initiator-to-responder key.
    responding: HalfOpen<Responding>,
    live: LiveTable,
    /// Whose answers are believed; see [`Node::trust_name_servers`].
    name_servers: BTreeSet<IpAddr>,
    names: Names,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    counters: Counters,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("epoch", &self.snapshot.epoch)
            .field("live", &self.live.len())
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// The fate of one packet; `Err` is a drop.
type Fate = Result<Handled, DropReason>;

const ONCE: Fate = Ok(Handled::Accept(Mark::Once));
const ESTABLISHED: Fate = Ok(Handled::Accept(Mark::Established));

impl Node {
    /// A node without flows. `rng` makes nonces and seeds tables: it must be seeded from the system's randomness.
    #[must_use]
    pub fn new(
        snapshot: Arc<NodeSnapshot>,
        limits: NodeLimits,
        mut rng: Box<dyn CryptoRng + Send>,
    ) -> Self {
        let mut key = [0; 16];
        rng.fill_bytes(&mut key);
        let seed = Seed::new(&key);
        Self {
            snapshot,
            snapshots: 0,
            rng,
            verifier: Verifier::new(
                Arc::new(SmallCache::new(limits.credentials, &seed)),
                Arc::new(SignatureBudget::new(limits.signatures)),
            ),
            replay: ReplayCache::new(limits.nonces, &seed),
            pairs: PairCache::new(limits.pairs, &seed),
            unproven: Bucket::new(limits.unproven_per_second, limits.unproven_per_second),
            resets: Bucket::new(limits.resets_per_second, limits.resets_per_second),
            initiating: HalfOpen::new(limits.half_open, &seed),
            responding: HalfOpen::new(limits.half_open, &seed),
            name_servers: BTreeSet::new(),
            names: Names::default(),
            live: LiveTable::new(limits.flows, limits.half_open, &seed),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Decides by `snapshot` from now on, and decides every live flow again by it.
    pub fn set_snapshot(&mut self, snapshot: Arc<NodeSnapshot>, _now: Now) {
        let secrets = snapshot
            .pods
            .values()
            .filter_map(|pod| pod.identity.as_ref());
        self.pairs
            .retain(&secrets.map(|identity| identity.secret.public()).collect());
        let again = self.live.decide_again(&snapshot, &self.snapshot);
        for (key, staged) in &again.staged {
            self.emit_staged(*key, staged);
        }
        for (key, reason) in again.cut {
            self.emit(Event::FlowCut { key, reason });
        }
        // A pod that is gone takes its half-open connections with it, also where another has its
        // address by now.
        let old = &self.snapshot.pods;
        let stays = |address: &IpAddr| {
            let uid = |pods: &BTreeMap<IpAddr, LocalPod>| Some(pods.get(address)?.uid.clone());
            snapshot.pods.contains_key(address) && uid(old) == uid(&snapshot.pods)
        };
        self.initiating.retain(|key, _| stays(&key.src));
        self.responding.retain(|key, _| stays(&key.dst));
        self.names.retain(stays);
        self.snapshot = snapshot;
        self.snapshots += 1;
    }

    /// Believes what these name servers tell pods: their answers over UDP make addresses count for the domain names
    /// of policies. Without any, no such name fits. They are named by the addresses that their answers come from.
    pub fn trust_name_servers(&mut self, servers: BTreeSet<IpAddr>) {
        self.name_servers = servers;
    }

    /// Takes a flow that an earlier process recorded and that the kernel still marks.
    ///
    /// # Errors
    /// Why it may not go on; the kernel mark is to be cleared.
    pub fn restore_flow(&mut self, record: FlowRecord) -> Result<(), DropReason> {
        self.live.restore(record, &self.snapshot)
    }

    /// Forgets a flow whose connection the kernel no longer tracks. One that the kernel was not told
    /// of yet is a new connection on the ports of an old one, and stays.
    pub fn handle_flow_gone(&mut self, key: &FlowKey) {
        for key in [*key, key.reversed()] {
            if self.live.flow(&key).is_some_and(|live| live.marked) {
                self.live.remove(&key);
                return;
            }
        }
    }

    /// Judges one IP packet.
    pub fn handle_packet(&mut self, path: Path, packet: &[u8], now: Now) -> Handled {
        self.counters.received += 1;
        let fate = Parsed::parse(packet).and_then(|parsed| {
            let fate = match path {
                Path::FromPod => self.leaves_pod(&parsed, now),
                Path::ToPod => self.reaches_pod(&parsed, now),
                Path::Local => self.between_pods(&parsed, now),
                Path::FromNode => self.beside_node(&parsed, now),
            };
            if fate.is_ok() {
                self.learn_names(&parsed, now);
            }
            fate
        });
        match fate {
            Ok(handled) => {
                self.counters.forwarded += 1;
                handled
            }
            Err(reason) => {
                *self.counters.dropped.entry(reason).or_default() += 1;
                Handled::Drop(reason)
            }
        }
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Node::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        [
            self.initiating.next_deadline(),
            self.responding.next_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Now) {
        self.initiating.expire(now.mono);
        self.responding.expire(now.mono);
        self.replay.expire(now.mono);
    }

    /// Packets by their fate.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The established flows.
    pub fn flows(&self) -> impl Iterator<Item = &FlowRecord> {
        self.live.iter().map(|live| &*live.record)
    }

    /// Signature checks made so far.
    #[must_use]
    pub fn signature_checks(&self) -> u64 {
        self.verifier.signature_checks()
    }

    /// Processor time that they took.
    #[must_use]
    pub fn signature_time(&self) -> Duration {
        self.verifier.signature_time()
    }

    /// Half-open connections: ours and theirs.
    #[must_use]
    pub fn half_open(&self) -> (usize, usize) {
        (self.initiating.len(), self.responding.len())
    }

    /// Remembers what a trusted name server answers a pod that asked it.
    fn learn_names(&mut self, p: &Parsed<'_>, now: Now) {
        const DOMAIN: u16 = 53;
        let Some(answer) = p.udp.filter(|_| p.key.sport == DOMAIN) else {
            return;
        };
        let asked = || self.live.flow(&p.key.reversed()).is_some();
        if self.name_servers.contains(&p.key.src)
            && self.snapshot.pods.contains_key(&p.key.dst)
            && asked()
        {
            self.names.learn(p.key.dst, answer, now.mono);
        }
    }

    /// A packet that leaves a pod for the network.
    fn leaves_pod(&mut self, p: &Parsed<'_>, now: Now) -> Fate {
        if p.has_our_option() && !fault::is(Fault::MarkerOfPodTaken) {
            return Err(DropReason::SpoofedIdentity);
        }
        if self.snapshot.unprotected.contains(&p.key.src) {
            return ESTABLISHED;
        }
        if self.snapshot.identity_owner(p.key.dst).is_none() {
            return self.plain(p, Direction::Egress, RemoteEnd::Address, now);
        }
        let Some(tcp) = &p.tcp else {
            return self.other_protocol(p);
        };
        match (tcp.syn(), tcp.ack()) {
            (true, false) => self.pod_syn(p, tcp, now),
            (true, true) => self.pod_syn_ack(p, tcp, now),
            (false, _) => self.pod_segment(p, tcp, now),
        }
    }

    /// A packet from the network for a pod.
    fn reaches_pod(&mut self, p: &Parsed<'_>, now: Now) -> Fate {
        let unprotected = self.snapshot.unprotected.contains(&p.key.dst);
        if unprotected || self.snapshot.identity_owner(p.key.src).is_none() {
            if p.has_our_option() {
                return Err(DropReason::SpoofedIdentity);
            }
            return match unprotected {
                true => ESTABLISHED,
                false => self.plain(p, Direction::Ingress, RemoteEnd::Address, now),
            };
        }
        let Some(tcp) = &p.tcp else {
            return self.other_protocol(p);
        };
        match (tcp.syn(), tcp.ack()) {
            (true, false) => self.network_syn(p, tcp, now),
            (true, true) => self.network_syn_ack(p, tcp, now),
            (false, _) => self.network_segment(p, tcp, now),
        }
    }

    /// Between identity networks only TCP is carried, and ICMP errors of a live flow.
    fn other_protocol(&self, p: &Parsed<'_>) -> Fate {
        match p.icmp_error() {
            Some(quoted) => self.icmp_error(quoted),
            None => Err(DropReason::UnsupportedProtocol),
        }
    }

    /// An ICMP error follows the flow that it speaks of.
    fn icmp_error(&self, quoted: Quoted) -> Fate {
        match quoted {
            Quoted::Flow(key) if self.knows(&key) => ONCE,
            Quoted::Flow(_) | Quoted::Stranger => Err(DropReason::UnknownFlow),
        }
    }

    /// Whether `key`, in either direction, is a flow or a connection that is being opened.
    fn knows(&self, key: &FlowKey) -> bool {
        [*key, key.reversed()].iter().any(|key| {
            self.live.flow(key).is_some()
                || self.initiating.entry(key).is_some()
                || self.responding.entry(key).is_some()
        })
    }

    /// Adds an established flow and has its record stored.
    fn open(&mut self, live: Live) -> Result<(), DropReason> {
        let opened = live.marked.then(|| Event::FlowOpened(live.record.clone()));
        self.live.insert(live)?;
        if let Some(event) = opened {
            self.emit(event);
        }
        Ok(())
    }

    /// Notes the Log rules that matched a new connection; returns what policy says of it.
    fn heed(&mut self, key: FlowKey, judgement: Judgement) -> Result<Option<RuleRef>, Refusal> {
        for rule in judgement.logs {
            let rule = rule.words();
            self.emit(Event::Logged { key, rule });
        }
        if let Some(staged) = &judgement.staged {
            self.emit_staged(key, staged);
        }
        judgement.outcome
    }

    fn emit_staged(&mut self, key: FlowKey, staged: &Staged) {
        let dropped = match staged.decision {
            Decision::Allow => None,
            Decision::Drop { reason, .. } => Some(reason),
        };
        let rule = staged.rule.as_ref().map(RuleRef::words).unwrap_or_default();
        self.emit(Event::Staged { key, dropped, rule });
    }

    /// Notes a refusal for the flow log; returns its reason.
    fn refuse(&mut self, key: FlowKey, refusal: &Refusal) -> DropReason {
        let rule = refusal
            .rule
            .as_ref()
            .map(RuleRef::words)
            .unwrap_or_default();
        self.emit(Event::Refused {
            key,
            reason: refusal.reason,
            rule,
        });
        refusal.reason
    }

    /// A segment that fits no flow: its sender is told, within a rate.
    fn unknown_flow(&mut self, p: &Parsed<'_>, to_pod: bool, now: Now) -> Fate {
        self.reset_sender(p, to_pod, now);
        Err(DropReason::UnknownFlow)
    }

    fn reset_sender(&mut self, p: &Parsed<'_>, to_pod: bool, now: Now) {
        if self.resets.take(now.mono)
            && let Some(packet) = p.reset()
        {
            self.send(Transmit { packet, to_pod });
        }
    }

    fn send(&mut self, transmit: Transmit) {
        // Every transmit answers a packet and is drained after it: the bound is never met unless
        // the owner forgets to drain, and then a lost RST is the least harm.
        if self.transmits.len() < QUEUE {
            self.transmits.push_back(transmit);
            self.counters.originated += 1;
        }
    }

    fn emit(&mut self, event: Event) {
        // A cut must never be lost: only lines of the flow log may give way.
        if self.events.len() >= QUEUE
            && matches!(
                event,
                Event::Refused { .. } | Event::Logged { .. } | Event::Staged { .. }
            )
        {
            self.counters.events_lost += 1;
            return;
        }
        self.events.push_back(event);
    }
}
