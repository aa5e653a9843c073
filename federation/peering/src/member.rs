//! An agent's side of the conversation with its issuer: it makes its own X25519 keys, asks for
//! credentials for the pods of its node, renews them, and holds what else the issuer says: bundles,
//! identity networks, segment keys, the registry and records. Together these are what a node decides
//! by, beside policy.
//!
//! No I/O and no clock. Call `handle_*` and `set_*` with what happened, then
//! [`AgentMember::poll_transmit`] and [`AgentMember::poll_event`] until they return `None`, and
//! [`AgentMember::handle_timeout`] when the time of [`AgentMember::poll_timeout`] has come.

mod agent_keys;
mod inbox;
mod local_pod;
mod snapshot;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use handshake::{admission::Restricted, keys::AgentSecret};
use identity::{
    BundleMark, BundleStore, Claims, IdentityRange, Mono, Now, SignedCredential, TrustDomain,
    Workload,
};
use rand_core::CryptoRng;

use crate::{
    node_messages::{
        AgentPublicKey, Boot, JoinedCluster, MAX_WANTED, NODE_PROTOCOL, NodeEntry, SegmentKeyGrant,
        ToIssuer,
    },
    records::RecordBook,
};
use agent_keys::AgentKeys;
use local_pod::{LocalPod, RETRY};

/// Most pods of a node.
pub const MAX_LOCAL_PODS: usize = 4096;
/// Most nodes in the registry.
const MAX_REGISTRY: usize = 16_384;
/// Most events that wait; the oldest goes first.
const MAX_EVENTS: usize = 256;
/// How often things are looked at that only grow old.
const SWEEP: Duration = Duration::from_mins(10);

/// What the agent should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberEvent {
    /// A part of what the node decides by changed.
    Changed,
    /// [`AgentMember::clusters`] changed.
    ClustersChanged,
    /// This X.509 root, by its SHA-256, signs SVIDs now.
    SigningRoot([u8; 32]),
    /// [`AgentMember::bundle_marks`] are to be stored, before the change is acted on.
    MarksChanged,
    /// Records were thrown away before this agent saw them: flows of other nodes' pods that it did
    /// not open itself since may be decided by old labels.
    RecordsMissed,
    /// Something that the operator should know.
    Problem(String),
}

/// A pod of this node and what it proves itself with.
#[derive(Clone, Copy)]
pub struct MemberPod<'a> {
    /// The pod, as the agent's own source describes it.
    pub workload: &'a Workload,
    /// Its identity; none before the issuer gave one, or when it was withdrawn.
    pub identity: Option<MemberIdentity<'a>>,
}

/// A credential, what it says, and the key that it names.
#[derive(Clone, Copy)]
pub struct MemberIdentity<'a> {
    /// The credential. It may have expired, when the issuer was away for long: then it opens no
    /// flow, and still says what the pod is.
    pub credential: &'a SignedCredential,
    /// What it says.
    pub claims: &'a Arc<Claims>,
    /// The private half of its `cnf` key.
    pub secret: &'a AgentSecret,
}

/// The agent's side.
pub struct AgentMember {
    trust_domain: TrustDomain,
    node: String,
    rng: Box<dyn CryptoRng + Send>,
    now: Now,
    keys: AgentKeys,
    pods: BTreeMap<String, LocalPod>,
    bundles: BundleStore,
    restricted: BTreeMap<TrustDomain, Arc<Restricted>>,
    clusters: BTreeMap<TrustDomain, JoinedCluster>,
    ranges: Vec<IdentityRange>,
    segment_keys: Vec<SegmentKeyGrant>,
    registry: BTreeMap<String, NodeEntry>,
    records: RecordBook,
    link: Link,
    /// What is still to be sent in this session.
    outbox: Outbox,
    sweep_at: Mono,
    events: VecDeque<MemberEvent>,
}

/// The session with the issuer.
#[derive(Default)]
struct Link {
    connected: bool,
    /// Welcome came: whose issuer it is was checked.
    welcome: bool,
    /// Synced came at least once: the agent has all that it needs to decide.
    complete: bool,
    /// The number of the last message of the issuer.
    heard: u64,
    /// When Hello is said again, if no Welcome came.
    hello_again: Option<Mono>,
    boot: Boot,
    position: u64,
    /// What was named since Welcome: the rest goes at Synced.
    named: Option<Named>,
    /// The issuer's clock minus this one, in milliseconds, at Welcome.
    clock_offset: i64,
}

#[derive(Default)]
struct Named {
    domains: BTreeSet<TrustDomain>,
    restricted: BTreeSet<TrustDomain>,
    clusters: BTreeSet<TrustDomain>,
    nodes: BTreeSet<String>,
}

#[derive(Default)]
struct Outbox {
    hello: bool,
    keys: bool,
    wants: BTreeSet<(AgentPublicKey, String)>,
}

impl fmt::Debug for AgentMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentMember")
            .field("node", &self.node)
            .field("connected", &self.link.connected)
            .field("complete", &self.link.complete)
            .field("pods", &self.pods.len())
            .finish_non_exhaustive()
    }
}

impl AgentMember {
    /// The agent of `node`, which knows of its former life which bundles it had seen. `rng` makes
    /// the keys: it must be seeded from the system's randomness.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        node: &str,
        marks: BTreeMap<TrustDomain, BundleMark>,
        mut rng: Box<dyn CryptoRng + Send>,
        now: Now,
    ) -> Self {
        Self {
            trust_domain,
            node: node.to_owned(),
            keys: AgentKeys::new(now.mono, &mut *rng),
            rng,
            now,
            pods: BTreeMap::new(),
            bundles: BundleStore::with_marks(marks),
            restricted: BTreeMap::new(),
            clusters: BTreeMap::new(),
            ranges: Vec::new(),
            segment_keys: Vec::new(),
            registry: BTreeMap::new(),
            records: RecordBook::default(),
            link: Link::default(),
            outbox: Outbox::default(),
            sweep_at: now.mono.after(SWEEP),
            events: VecDeque::new(),
        }
    }

    /// Takes the pods that the agent's own source names; those of other nodes are left out.
    pub fn set_pods(&mut self, workloads: Vec<Workload>, now: Now) {
        self.now = now;
        let mut named: BTreeMap<String, Workload> = workloads
            .into_iter()
            .filter(|workload| workload.node == self.node)
            .map(|workload| (workload.uid.clone(), workload))
            .collect();
        if named.len() > MAX_LOCAL_PODS {
            self.problem(format!(
                "{} pods on this node, at most {MAX_LOCAL_PODS} are served",
                named.len()
            ));
        }
        let mut changed = false;
        self.pods.retain(|uid, _| {
            let keep = named.contains_key(uid);
            changed |= !keep;
            keep
        });
        while let Some((uid, workload)) = named.pop_first() {
            let full = self.pods.len() >= MAX_LOCAL_PODS;
            match self.pods.get_mut(&uid) {
                Some(pod) if pod.workload == workload => {}
                Some(pod) => {
                    pod.workload = workload;
                    changed = true;
                }
                None if full => {}
                None => {
                    let mut pod = LocalPod::new(workload);
                    if let Some((generation, _)) = self.records.newest(&self.trust_domain, &uid) {
                        pod.void(generation);
                    }
                    self.pods.insert(uid, pod);
                    changed = true;
                }
            }
        }
        if changed {
            self.emit(MemberEvent::Changed);
        }
        self.ask();
    }

    /// A session with the issuer is up; the transport authenticated it.
    pub fn handle_connected(&mut self, now: Now) {
        self.now = now;
        self.link.connected = true;
        self.link.welcome = false;
        self.link.named = None;
        self.outbox = Outbox::default();
        self.hello();
        self.pods.values_mut().for_each(LocalPod::forget_asked);
    }

    /// The session ended. What is held stays in force until it expires by itself.
    pub fn handle_disconnected(&mut self, now: Now) {
        self.now = now;
        self.link.connected = false;
        self.link.welcome = false;
        self.link.named = None;
        self.outbox = Outbox::default();
    }

    /// When [`Self::handle_timeout`] is to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Mono> {
        let now = self.now.mono;
        let asking = self.link.welcome.then(|| self.keys.announced(now));
        let asks = asking.into_iter().flatten().flat_map(|key| {
            let pods = self.protected();
            pods.map(move |(_, pod)| pod.ask_at(key))
        });
        let ends = self.pods.values().filter_map(|pod| pod.next_end(now));
        let hello = self.link.hello_again.filter(|_| self.waits_for_welcome());
        asks.chain(ends)
            .chain(hello)
            .chain(self.keys.next_change())
            .chain(self.keys.next_use(now))
            .chain([self.sweep_at])
            .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Now) {
        let before = self.now.mono;
        self.now = now;
        if self.waits_for_welcome() && self.link.hello_again.is_some_and(|at| at <= now.mono) {
            self.hello();
        }
        let turned = self
            .keys
            .next_use(before)
            .is_some_and(|turn| turn <= now.mono);
        let others = self.keys.advance(now.mono, &mut *self.rng);
        if turned || others {
            self.outbox.keys = self.link.welcome;
            let keys = &self.keys;
            for pod in self.pods.values_mut() {
                pod.keep_keys(|key| keys.secret(key).is_some());
            }
        }
        let ended = |pod: &LocalPod| pod.next_end(before).is_some_and(|end| end <= now.mono);
        if turned || others || self.pods.values().any(ended) {
            self.emit(MemberEvent::Changed);
        }
        if now.mono >= self.sweep_at {
            self.sweep_at = now.mono.after(SWEEP);
            self.records.forget_old(now.mono);
        }
        self.ask();
    }

    /// The next message to the issuer.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if !self.link.connected {
            return None;
        }
        if std::mem::take(&mut self.outbox.hello) {
            let hello = ToIssuer::Hello {
                version: NODE_PROTOCOL,
                boot: self.link.boot,
                position: self.link.position,
                clock: self.now.unix,
            };
            return Some(hello.encode());
        }
        if !self.link.welcome {
            return None;
        }
        if std::mem::take(&mut self.outbox.keys) {
            let keys = self.keys.announced(self.now.mono);
            return Some(ToIssuer::Keys(keys).encode());
        }
        let key = self.outbox.wants.first()?.0;
        let mut pods = Vec::new();
        while pods.len() < MAX_WANTED
            && let Some(want) = self.outbox.wants.first()
            && want.0 == key
            && let Some((_, uid)) = self.outbox.wants.pop_first()
        {
            pods.push(uid);
        }
        Some(ToIssuer::Want { key, pods }.encode())
    }

    /// What the agent should know next.
    pub fn poll_event(&mut self) -> Option<MemberEvent> {
        self.events.pop_front()
    }

    /// The pods of this node that must prove who they are. An address that two of them claim
    /// belongs to neither: both are without identity.
    pub fn pods(&self) -> impl Iterator<Item = MemberPod<'_>> {
        let mut claimed: BTreeMap<IpAddr, u32> = BTreeMap::new();
        for (_, pod) in self.protected() {
            if let Some(address) = pod.workload.address {
                *claimed.entry(address).or_default() += 1;
            }
        }
        self.protected().map(move |(_, pod)| {
            let alone = pod
                .workload
                .address
                .is_none_or(|address| claimed.get(&address) == Some(&1));
            MemberPod {
                workload: &pod.workload,
                identity: self.identity(pod).filter(|_| alone),
            }
        })
    }

    /// The bundles of the own cluster and of its peers.
    #[must_use]
    pub fn bundles(&self) -> &BundleStore {
        &self.bundles
    }

    /// What has to survive a restart.
    #[must_use]
    pub fn bundle_marks(&self) -> &BTreeMap<TrustDomain, BundleMark> {
        self.bundles.marks()
    }

    /// The identity networks.
    #[must_use]
    pub fn ranges(&self) -> &[IdentityRange] {
        &self.ranges
    }

    /// The clusters that this one has joined, which no configuration names.
    #[must_use]
    pub fn clusters(&self) -> &BTreeMap<TrustDomain, JoinedCluster> {
        &self.clusters
    }

    /// What restricts each trust domain.
    #[must_use]
    pub fn restrictions(&self) -> &BTreeMap<TrustDomain, Arc<Restricted>> {
        &self.restricted
    }

    /// The valid segment keys, the one that makes proofs first.
    #[must_use]
    pub fn segment_keys(&self) -> &[SegmentKeyGrant] {
        &self.segment_keys
    }

    /// The nodes of this cluster.
    pub fn registry(&self) -> impl Iterator<Item = &NodeEntry> {
        self.registry.values()
    }

    /// Addresses of pods in `unprotected` namespaces: of the cluster as the issuer says, of this
    /// node as its own source says.
    pub fn unprotected(&self) -> impl Iterator<Item = IpAddr> {
        let others = self
            .registry
            .values()
            .filter(|entry| entry.node != self.node);
        let others = others.flat_map(|entry| entry.unprotected.iter().copied());
        let own = self.pods.values().filter(|pod| pod.workload.unprotected);
        others.chain(own.filter_map(|pod| pod.workload.address))
    }

    /// What became of pods after their credentials were issued.
    #[must_use]
    pub fn records(&self) -> &RecordBook {
        &self.records
    }

    /// Whether the issuer ever said all that it has: before that, nothing can be decided.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.link.complete
    }

    /// Whether a session is up and the issuer has answered.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.welcome
    }

    /// The issuer's clock minus this one, in milliseconds, when the session began.
    #[must_use]
    pub fn clock_offset(&self) -> i64 {
        self.link.clock_offset
    }

    fn identity<'a>(&'a self, pod: &'a LocalPod) -> Option<MemberIdentity<'a>> {
        let now = self.now.mono;
        let (key, held) = pod.best(now, |key| self.keys.preference(key, now))?;
        Some(MemberIdentity {
            credential: &held.credential,
            claims: &held.claims,
            secret: self.keys.secret(key)?,
        })
    }

    fn protected(&self) -> impl Iterator<Item = (&String, &LocalPod)> {
        self.pods
            .iter()
            .filter(|(_, pod)| !pod.workload.unprotected)
    }

    /// Begins the conversation, or begins it anew.
    fn hello(&mut self) {
        self.outbox.hello = true;
        self.link.named = None;
        self.link.hello_again = Some(self.now.mono.after(RETRY));
    }

    fn waits_for_welcome(&self) -> bool {
        self.link.connected && !self.link.welcome
    }

    /// Asks for every credential that is missing or due.
    fn ask(&mut self) {
        if !self.link.welcome {
            return;
        }
        let now = self.now.mono;
        for key in self.keys.announced(now) {
            let pods = self.pods.iter_mut();
            for (uid, pod) in pods.filter(|(_, pod)| !pod.workload.unprotected) {
                if pod.ask_at(key) > now {
                    continue;
                }
                // A key that the issuer does not know is announced again with the question.
                self.outbox.keys |= pod.was_asked(key);
                pod.asked(key, now);
                self.outbox.wants.insert((key, uid.clone()));
            }
        }
    }

    fn problem(&mut self, words: String) {
        self.emit(MemberEvent::Problem(words));
    }

    fn emit(&mut self, event: MemberEvent) {
        if self.events.contains(&event) {
            return;
        }
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}
