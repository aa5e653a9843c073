//! The issuer, a role of the gateway: it signs credentials for the pods that the source says run on
//! the node that asks, keeps the registry of nodes, makes the segment keys, and says in signed
//! records what became of a pod after its credential was issued.
//!
//! No I/O and no clock. Call `handle_*` and `set_*` with what happened, then [`Issuer::poll_transmit`]
//! and [`Issuer::poll_event`] until they return `None`, and [`Issuer::handle_timeout`] when the time
//! of [`Issuer::poll_timeout`] has come. Messages are made when they are polled, from what the node
//! has not seen yet, so a slow node costs no memory; a message that was polled and not delivered is
//! healed by a new session.

mod change;
mod nodes;
mod pods;
mod rotate;
mod segment_ring;
mod serve;
mod state;
mod told;
mod transmit;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use handshake::admission::{Admission, Restricted};
use identity::{
    ClaimLimits, Claims, IdentityRange, IssuerKey, MAX_LIFETIME, Mono, Now, PodChange,
    SignedRecord, TrustDomain, VerifiedRecord, Workload,
    fault::{self, Fault},
};
use rand_core::CryptoRng;

use crate::{
    delta_log::DeltaLog,
    node_messages::{Boot, JoinedCluster, NodeEntry, SegmentKeyGrant, ToIssuer},
    records::GONE_KEPT,
    signatures::{Signature, Signatures},
};
use nodes::{KEY_AGE, Node};
use pods::{Pod, Press};
use segment_ring::SegmentRing;

pub use pods::NotIssued;
pub use state::{GoneMark, IssuerState, PodMark};

/// Most nodes.
pub const MAX_NODES: usize = 8192;
/// Most pods.
pub const MAX_PODS: usize = 250_000;
/// Most ranges; they go out in one message.
pub const MAX_RANGES: usize = 8192;
/// Most records that are kept for nodes and peers that are away.
pub const MAX_RETAINED: usize = 65_536;
/// Most events that wait; the oldest goes first.
const MAX_EVENTS: usize = 1024;
/// How often things are looked at that only grow old.
const SWEEP: Duration = Duration::from_mins(10);

/// How an issuer is set up.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// Whose issuer it is.
    pub trust_domain: TrustDomain,
    /// How long a credential is valid: a minute to an hour.
    pub lifetime: Duration,
    /// The label keys that credentials carry, as published with the bundle; `None` for all.
    pub carried_labels: Option<Vec<String>>,
}

impl IssuerConfig {
    /// Credentials of ten minutes that carry all labels.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            lifetime: Duration::from_mins(10),
            carried_labels: None,
        }
    }
}

/// What the gateway should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerEvent {
    /// [`Issuer::state`] is to be stored.
    StateChanged,
    /// [`Issuer::registry`] or [`Issuer::addresses`] changed.
    RegistryChanged,
    /// [`Issuer::segment_keys`] changed.
    SegmentKeysChanged,
    /// A pod was relabelled or deleted: [`Issuer::own_records`] has more, for the gateway itself and
    /// for its peers.
    RecordsChanged,
    /// A node asked for a pod of another node, and got nothing. Worth an audit entry.
    Refused {
        /// Who asked.
        node: String,
        /// For whom.
        pod_uid: String,
    },
    /// A node sent what an agent would not send.
    Misbehaved {
        /// Who.
        node: String,
        /// What, in words.
        what: String,
    },
    /// Something that the operator has to put right.
    Problem(String),
}

/// The issuer.
pub struct Issuer {
    press: Press,
    rng: Box<dyn CryptoRng + Send>,
    now: Now,
    boot: Boot,
    counter: u64,
    pods: BTreeMap<String, Pod>,
    /// What the state said of pods before the source was first heard.
    restored: Option<BTreeMap<String, PodMark>>,
    gone: BTreeMap<String, GoneMark>,
    /// The pods' addresses by node.
    addresses: BTreeMap<String, Addresses>,
    nodes: BTreeMap<String, Node>,
    /// Connected nodes that may have something to be told.
    dirty: BTreeSet<String>,
    /// All of them may.
    all_dirty: bool,
    registry: DeltaLog<String, NodeEntry>,
    bundles: DeltaLog<TrustDomain, Arc<str>>,
    restricted: DeltaLog<TrustDomain, Arc<Restricted>>,
    clusters: DeltaLog<TrustDomain, JoinedCluster>,
    records: DeltaLog<(TrustDomain, String), Retained>,
    ranges: (u64, Vec<IdentityRange>),
    /// SHA-256 of the X.509 root that signs SVIDs, and how often it changed.
    signing_root: (u64, [u8; 32]),
    segment: SegmentRing,
    sweep_at: Mono,
    events: VecDeque<IssuerEvent>,
    signatures: Signatures,
}

/// A record of a pod of any cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Retained {
    bytes: Arc<[u8]>,
    /// What the pod of this cluster is, or was last; nobody knows it of one that a former life saw last.
    about: Option<Arc<Claims>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Addresses {
    protected: Vec<IpAddr>,
    unprotected: Vec<IpAddr>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("trust_domain", &self.press.trust_domain)
            .field("counter", &self.counter)
            .field("pods", &self.pods.len())
            .field("nodes", &self.nodes.len())
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// An issuer with the memory `state` of its former life. `rng` makes segment keys and ids: it
    /// must be seeded from the system's randomness.
    #[must_use]
    pub fn new(
        config: IssuerConfig,
        key: IssuerKey,
        state: IssuerState,
        mut rng: Box<dyn CryptoRng + Send>,
        now: Now,
    ) -> Self {
        let mut boot = [0; 8];
        rng.fill_bytes(&mut boot);
        let segment = SegmentRing::new(now.mono, &mut *rng);
        let mut issuer = Self {
            press: Press {
                trust_domain: config.trust_domain,
                key,
                lifetime: config.lifetime.clamp(Duration::from_mins(1), MAX_LIFETIME),
                carried: config.carried_labels,
                admission: Admission::default(),
            },
            rng,
            now,
            boot: Boot(boot),
            // Above what the stored state may have missed, and above what a lost one held.
            counter: state.counter.saturating_add(1 << 10).max(now.unix.0),
            pods: BTreeMap::new(),
            restored: Some(state.pods),
            gone: state.gone,
            addresses: BTreeMap::new(),
            nodes: BTreeMap::new(),
            dirty: BTreeSet::new(),
            all_dirty: false,
            registry: DeltaLog::new(),
            bundles: DeltaLog::new(),
            restricted: DeltaLog::new(),
            clusters: DeltaLog::new(),
            records: DeltaLog::new(),
            ranges: (0, Vec::new()),
            signing_root: (0, [0; 32]),
            segment,
            sweep_at: now.mono.after(SWEEP),
            events: VecDeque::new(),
            signatures: Signatures::default(),
        };
        issuer.forget_old();
        let gone: Vec<_> = issuer
            .gone
            .iter()
            .map(|(uid, mark)| (uid.clone(), mark.generation))
            .collect();
        for (uid, generation) in gone {
            issuer.record(uid, generation, PodChange::Gone, None);
        }
        issuer.emit(IssuerEvent::StateChanged);
        issuer
    }

    /// Takes the pods of the cluster, all of them: whoever is not named any more was deleted. To be
    /// called only with what a source says that has loaded.
    pub fn set_workloads(&mut self, workloads: Vec<Workload>, now: Now) {
        self.now = now;
        let mut named = BTreeMap::new();
        for workload in workloads {
            if named.len() >= MAX_PODS {
                self.problem(format!(
                    "more than {MAX_PODS} pods: the rest has no identity"
                ));
                break;
            }
            let uid = workload.uid.clone();
            if let Some(twin) = named.insert(uid.clone(), workload) {
                self.problem(format!(
                    "two pods have the UID {uid}: {} is ignored",
                    twin.pod
                ));
            }
        }
        let absent: Vec<_> = self
            .pods
            .keys()
            .filter(|uid| !named.contains_key(*uid))
            .cloned()
            .collect();
        for uid in absent {
            self.remove(&uid);
        }
        let mut restored = self.restored.take().unwrap_or_default();
        for (uid, workload) in named {
            self.update(&uid, workload, restored.remove(&uid));
        }
        // Deleted while there was no issuer to see it.
        for uid in restored.into_keys() {
            self.delete(uid, None);
        }
        self.register_addresses();
    }

    /// Takes a peer's record, whose signature the caller checked, for the agents of this cluster.
    pub fn handle_peer_record(&mut self, record: &SignedRecord, verified: &VerifiedRecord) {
        if verified.trust_domain != self.press.trust_domain {
            let key = (
                verified.trust_domain.clone(),
                verified.record.pod_uid.clone(),
            );
            self.retain_record(key, record, None);
        }
    }

    /// A session with the agent of `node` is up; the transport authenticated it.
    pub fn handle_node_connected(&mut self, node: &str, now: Now) {
        self.now = now;
        if !self.nodes.contains_key(node) && self.nodes.len() >= MAX_NODES {
            self.problem(format!("more than {MAX_NODES} nodes: {node} is not served"));
            return;
        }
        let entry = self.nodes.entry(node.to_owned());
        entry.or_insert_with(|| Node::new(now.mono)).reset(true);
    }

    /// The session with the agent of `node` ended.
    pub fn handle_node_disconnected(&mut self, node: &str, now: Now) {
        self.now = now;
        if let Some(node) = self.nodes.get_mut(node) {
            node.reset(false);
        }
        self.dirty.remove(node);
    }

    /// The agent of `node` sent `bytes`.
    pub fn handle_node_message(&mut self, node: &str, bytes: &[u8], now: Now) {
        self.now = now;
        if !self.nodes.get(node).is_some_and(|node| node.connected) {
            return;
        }
        match ToIssuer::decode(bytes) {
            Ok(ToIssuer::Hello {
                version,
                boot,
                position,
                clock,
            }) => self.greet(node, version, boot, position, clock),
            Ok(ToIssuer::Keys(keys)) => self.take_keys(node, &keys),
            Ok(ToIssuer::Want { key, pods }) => self.answer(node, key, &pods),
            Err(error) => self.misbehaved(node, &error),
        }
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let keys = self.nodes.values().flat_map(|node| &node.keys);
        let oldest = keys.map(|key| key.since.after(KEY_AGE)).min();
        let first = self.segment.next_change().min(self.sweep_at);
        Some(oldest.map_or(first, |oldest| oldest.min(first)))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        if self.segment.advance(now.mono, &mut *self.rng) {
            self.emit(IssuerEvent::SegmentKeysChanged);
            self.all_dirty = true;
        }
        let aged: Vec<_> = self
            .nodes
            .iter_mut()
            .filter_map(|(name, node)| node.drop_old_keys(now.mono).then(|| name.clone()))
            .collect();
        for node in aged {
            self.register(&node);
        }
        if now.mono >= self.sweep_at {
            self.sweep_at = now.mono.after(SWEEP);
            self.forget_old();
        }
    }

    /// What the gateway should know next.
    pub fn poll_event(&mut self) -> Option<IssuerEvent> {
        self.events.pop_front()
    }

    /// What was signed since: to be in the audit log before anything is sent.
    pub fn take_signatures(&mut self) -> Vec<Signature> {
        self.signatures.take()
    }

    /// What is to be stored.
    #[must_use]
    pub fn state(&self) -> IssuerState {
        let marks = self.pods.iter().filter_map(|(uid, pod)| {
            let mark = PodMark {
                fingerprint: pod.fingerprint,
                key: pod.last_key?,
                relabelled: pod.relabelled,
            };
            Some((uid.clone(), mark))
        });
        IssuerState {
            counter: self.counter,
            pods: match &self.restored {
                Some(unseen) => unseen.clone(),
                None => marks.collect(),
            },
            gone: self.gone.clone(),
        }
    }

    /// The nodes: their agents' keys and their pods' addresses, sorted by name.
    pub fn registry(&self) -> impl Iterator<Item = &NodeEntry> {
        self.registry.iter().map(|(_, entry)| entry)
    }

    /// The protected pods that have an address, as a credential would describe them now.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Claims)> {
        self.pods.values().filter_map(|pod| {
            let address = pod.workload.address.filter(|_| !pod.workload.unprotected)?;
            let claims = self.press.claims(&pod.workload, pod.generation).ok()?;
            Some((address, claims))
        })
    }

    /// The valid segment keys, the one that makes proofs first.
    #[must_use]
    pub fn segment_keys(&self) -> [&SegmentKeyGrant; 2] {
        self.segment.keys()
    }

    /// This cluster's records after `position`, oldest first, each with its own position: one per
    /// pod, its newest. 0 gives all that are retained, as a peer needs them that was away.
    pub fn own_records(&self, position: u64) -> impl Iterator<Item = (u64, SignedRecord)> {
        let records = self.retained(position);
        records.filter_map(|(position, record)| Some((position, record.signed()?)))
    }

    /// At most so many of [`Self::own_records`] that concern pods which keep to `offer`, and up to which
    /// position there are no others. A pod of which nobody knows any more what it was is told by its UID
    /// to everybody, when it is gone.
    #[must_use]
    pub fn records_for(
        &self,
        offer: &ClaimLimits,
        position: u64,
        most: usize,
    ) -> (Vec<(u64, SignedRecord)>, u64) {
        let is_offered = |record: &Retained| {
            let about = record.about.as_ref();
            about.is_none_or(|about| offer.check(about).is_ok()) || fault::is(Fault::AllRecordsTold)
        };
        let records = self.retained(position);
        let records = records.filter(|(_, record)| offer.is_empty() || is_offered(record));
        let records = records.filter_map(|(position, record)| Some((position, record.signed()?)));
        let records: Vec<_> = records.take(most).collect();
        let through = match records.last() {
            Some((last, _)) if records.len() == most => *last,
            _ => self.records.version(),
        };
        (records, through)
    }

    /// The records of this cluster's pods after `position`.
    fn retained(&self, position: u64) -> impl Iterator<Item = (u64, &Retained)> {
        let records = self.records.since(position);
        let own = records.filter(|(_, (domain, _), _)| *domain == self.press.trust_domain);
        own.filter_map(|(position, _, record)| Some((position, record?)))
    }

    fn forget_old(&mut self) {
        let now = self.now.unix;
        let kept = u64::try_from(GONE_KEPT.as_millis()).unwrap_or(u64::MAX);
        let old: Vec<_> = self
            .gone
            .iter()
            .filter(|(_, mark)| now.0.saturating_sub(mark.at.0) >= kept)
            .map(|(uid, _)| uid.clone())
            .collect();
        if !old.is_empty() {
            self.emit(IssuerEvent::StateChanged);
        }
        for uid in old {
            self.gone.remove(&uid);
            self.records.forget(&(self.press.trust_domain.clone(), uid));
        }
    }

    fn next_number(&mut self) -> u64 {
        self.counter = self.counter.saturating_add(1);
        self.counter
    }

    fn problem(&mut self, words: String) {
        self.emit(IssuerEvent::Problem(words));
    }

    fn emit(&mut self, event: IssuerEvent) {
        // Said once until it is heard.
        if self.events.contains(&event) {
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl Retained {
    fn signed(&self) -> Option<SignedRecord> {
        SignedRecord::from_bytes(&self.bytes)
    }
}
