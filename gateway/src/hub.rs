//! The control side's outside: one task that feeds [`gateway_core::Control`] with what happens, and
//! carries out what it says. It decides nothing itself.
//!
//! After every input the same round runs (`Hub::settle`): store what must be stored, act on events
//! until all is quiet, send, and publish the new snapshot for the queue threads, if there is one.

mod commands;
pub mod dial;
pub mod fetched;
mod flow_log;
mod introduced;
mod join;
mod keys;
pub mod links;
pub mod members;
mod nodes;
mod peers;
mod problems;
mod settle;
mod sides;
mod steer;
pub mod view;
mod workloads;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use gateway_core::{Control, context::Event};
use gateway_xdp::Attachment;
use identity::{Mono, Now, TrustDomain};
use ipnet::IpNet;
use observe::{AuditLine, AuditLog};
use peering::{issuer::Issuer, peer_messages::AnnouncedRange, peers::Peering};
use quic::{Arrival, Endpoint, EnrolGate, Identity, Svid, Trust};
use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
use rand_core::Rng;
use sources::{Joined, TokenReviewer, World};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};
use workload_api::Standing;

use crate::{
    clock::Clock,
    config::Config,
    keys::KeyStore,
    nexthops::NextHops,
    pipeline::Shared,
    refusals::Refusals,
    secret::{Keeper, Kept},
    signing::Desk,
    state::State,
};
use commands::Waiting;
use fetched::FetchedBundles;
use flow_log::FlowLog;
use keys::RootWork;
use links::{Input, LinkId};
use members::Members;
use nodes::Nodes;
use peers::Peers;
use settle::ISSUER_STATE;
use view::View;

pub(crate) use steer::steering;

/// How often what nobody announces is looked at: neighbours asked for, pictures for people.
const TICK: Duration = Duration::from_secs(1);
/// How long a neighbour that a packet asked for is kept resolved, and how many are.
const ASKED_FOR: Duration = Duration::from_secs(60);
const MAX_ASKED: usize = 4096;
/// Inputs taken before the machines are settled again.
const BATCH: usize = 64;

/// What the hub is made of.
pub struct HubParts {
    /// The configuration file.
    pub config: Config,
    /// The own cluster.
    pub trust_domain: TrustDomain,
    /// The state directory.
    pub state: State,
    /// Both clocks.
    pub clock: Clock,
    /// The keys by which the cluster is believed.
    pub keys: KeyStore,
    /// Where it signs.
    pub desk: Desk,
    /// The audit log.
    pub audit: AuditLog,
    /// The gateway's own X.509-SVID is to be renewed now: another root signs.
    pub renew_svid: Arc<Notify>,
    /// Who this gateway is on both endpoints.
    pub identity: Identity,
    /// What the Workload API issues, where one does.
    pub issued: Option<watch::Receiver<Standing>>,
    /// Keeps the keys in a Secret too, if they are to be there.
    pub keeper: Option<Keeper>,
    /// Peers, sans-IO.
    pub peering: Peering,
    /// Credentials, sans-IO.
    pub issuer: Issuer,
    /// Who may enrol.
    pub gate: EnrolGate,
    /// Who judges tokens of agents, if they have such.
    pub reviewer: Option<TokenReviewer>,
    /// Dials and accepts gateways.
    pub peer_endpoint: Endpoint,
    /// What arrives there.
    pub peer_arrivals: mpsc::Receiver<Arrival>,
    /// What arrives from nodes.
    pub node_arrivals: mpsc::Receiver<Arrival>,
    /// Who is believed to be a gateway of a peer.
    pub peer_trust: Trust,
    /// Who is believed to be an agent of this cluster.
    pub node_trust: Trust,
    /// The own bundle as a JWK set, for who asks at the bundle endpoint.
    pub own_bundle: watch::Sender<Arc<str>>,
    /// Pods and policies.
    pub world: watch::Receiver<Arc<World>>,
    /// Routes and neighbours.
    pub hops: watch::Receiver<Arc<NextHops>>,
    /// What leads to these addresses is kept resolved.
    pub destinations: watch::Sender<BTreeSet<IpAddr>>,
    /// What the queue threads read.
    pub shared: Arc<Shared>,
    /// What the queue threads say of flows.
    pub events: mpsc::Receiver<Event>,
    /// The steering program on each interface.
    pub attachments: Arc<Mutex<Vec<Attachment>>>,
    /// Tells the source which clusters were joined.
    pub joined: Joined,
    /// For diallers' pauses, and for tokens.
    pub rng: ChaCha20Rng,
}

/// See the module.
pub struct Hub {
    config: Config,
    own: TrustDomain,
    state: State,
    clock: Clock,
    control: Control,
    peers: Peers,
    fetched: FetchedBundles,
    own_bundle: watch::Sender<Arc<str>>,
    nodes: Nodes,
    keys: KeyStore,
    roots: RootWork,
    desk: Desk,
    renew_svid: Arc<Notify>,
    identity: Identity,
    issued: Option<watch::Receiver<Standing>>,
    /// The Secret that has the keys too, if there is to be one.
    kept: Option<Kept>,
    /// What was issued last, and peers have heard the roots of: to be used next.
    next_svid: Option<Svid>,
    world: watch::Receiver<Arc<World>>,
    hops: watch::Receiver<Arc<NextHops>>,
    destinations: watch::Sender<BTreeSet<IpAddr>>,
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
    attachments: Arc<Mutex<Vec<Attachment>>>,
    steered: Vec<IpNet>,
    inputs: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    peer_arrivals: mpsc::Receiver<Arrival>,
    node_arrivals: mpsc::Receiver<Arrival>,
    next_link: u64,
    /// Neighbours that packets asked for, and when last.
    asked: BTreeMap<IpAddr, Mono>,
    view: Arc<ArcSwap<View>>,
    /// Problems by their origin, newest words only.
    problems: BTreeMap<String, String>,
    refusals: Refusals,
    flow_log: FlowLog,
    audit: AuditLog,
    members: Members,
    rng: ChaCha20Rng,
    /// What was signed and is not in the audit log yet.
    unaudited: Vec<AuditLine>,
    /// Answers that wait until what they say is stored.
    waiting: Waiting,
}

impl Hub {
    /// A hub that has heard nothing yet.
    ///
    /// # Errors
    /// When what was stored of members is damaged.
    pub fn new(parts: HubParts) -> anyhow::Result<Self> {
        let (sender, inputs) = mpsc::channel(256);
        let mut rng = parts.rng;
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let peers = Peers::new(
            parts.peer_endpoint,
            parts.peer_trust,
            sender.clone(),
            ChaCha20Rng::from_seed(seed),
        );
        let fetched = FetchedBundles::new(parts.state.clone(), parts.clock, sender.clone());
        let members = Members::load(&parts.state, parts.joined)?;
        let control = Control::new(
            parts.trust_domain.clone(),
            parts.config.wan.psp_port,
            parts.peering,
            parts.issuer,
            parts.clock.now(),
        );
        Ok(Self {
            control,
            peers,
            fetched,
            own_bundle: parts.own_bundle,
            nodes: Nodes::new(parts.gate, parts.node_trust, parts.reviewer),
            keys: parts.keys,
            roots: RootWork::default(),
            desk: parts.desk,
            renew_svid: parts.renew_svid,
            identity: parts.identity,
            issued: parts.issued,
            kept: parts
                .keeper
                .map(|keeper| Kept::start(keeper, sender.clone())),
            next_svid: None,
            config: parts.config,
            own: parts.trust_domain,
            state: parts.state,
            clock: parts.clock,
            world: parts.world,
            hops: parts.hops,
            destinations: parts.destinations,
            shared: parts.shared,
            events: parts.events,
            attachments: parts.attachments,
            steered: Vec::new(),
            inputs,
            sender,
            peer_arrivals: parts.peer_arrivals,
            node_arrivals: parts.node_arrivals,
            next_link: 0,
            asked: BTreeMap::new(),
            view: Arc::default(),
            problems: BTreeMap::new(),
            refusals: Refusals::default(),
            flow_log: FlowLog::default(),
            audit: parts.audit,
            members,
            rng,
            unaudited: Vec::new(),
            waiting: Waiting::new(),
        })
    }

    /// Where commands of operators go.
    #[must_use]
    pub fn commands(&self) -> mpsc::Sender<Input> {
        self.sender.clone()
    }

    /// The picture for people.
    #[must_use]
    pub fn view(&self) -> Arc<ArcSwap<View>> {
        Arc::clone(&self.view)
    }

    /// Runs until `stop` is true.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        self.control
            .set_joined(&self.members.iter().cloned().collect::<Vec<_>>());
        self.take_world();
        self.take_hops();
        let mut stored = self.settle();
        let mut tick = Instant::now() + TICK;
        while !*stop.borrow() {
            self.answer_commands(stored);
            if !stored {
                let _ = timeout(TICK, stop.changed()).await;
                stored = self.settle();
                continue;
            }
            let due = self.due().min(tick);
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                Some(input) = self.inputs.recv() => self.take_inputs(input),
                Some(arrival) = self.peer_arrivals.recv() => self.take_arrival(arrival),
                Some(arrival) = self.node_arrivals.recv() => self.take_arrival(arrival),
                Ok(()) = self.world.changed() => self.take_world(),
                Ok(()) = self.hops.changed() => self.take_hops(),
                Ok(()) = workloads::changed(&mut self.issued) => self.take_issued(),
                Some(event) = self.events.recv() => self.take_events(event),
                () = sleep_until(due) => {}
            }
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                self.tick();
            }
            let now = self.clock.now();
            self.control.handle_timeout(now);
            stored = self.settle();
            if stored {
                self.use_issued();
            }
        }
        self.peers.close("this gateway ends");
        self.nodes.close("this gateway ends");
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn due(&self) -> Instant {
        Instant::now() + self.control.poll_timeout().since(self.now().mono)
    }

    fn take_inputs(&mut self, first: Input) {
        self.take_input(first);
        for _ in 1..BATCH {
            let Ok(input) = self.inputs.try_recv() else {
                return;
            };
            self.take_input(input);
        }
    }

    fn take_input(&mut self, input: Input) {
        let now = self.now();
        match input {
            Input::Peer(session) => self.peer_session(session),
            Input::Node(session) => self.node_session(session),
            Input::Enrolling(enrolling) => self.enrol(enrolling),
            Input::Reviewed(reviewed) => self.reviewed(*reviewed),
            Input::Refused(refused) => self.refused(&refused),
            Input::NotReached { peer, why } => {
                if let Some(peer) = self.peers.name(peer) {
                    debug!(%peer, "not reached: {why}");
                    self.control.handle_peer_refused(&peer, &why, now);
                }
            }
            Input::Signed(signed) => self.signed(*signed),
            Input::RootMade(made) => self.root_made(made),
            Input::RootRetired(number, retired) => self.root_retired(number, retired),
            Input::Kept(kept) => self.keys_kept(kept),
            Input::Command(command) => self.command(command),
            Input::Joining(joining) => self.joining(joining),
            Input::TokenAnswer(said) => self.token_answered(*said),
            Input::Fetched(brought) => self.fetched(*brought),
            Input::Frame(id, bytes) => {
                if let Some(peer) = self.peers.of(id) {
                    self.control.handle_peer_message(&peer, &bytes, now);
                } else if let Some(node) = self.nodes.of(id) {
                    self.control.handle_node_message(&node, &bytes, now);
                }
            }
            Input::Ended(id, why) => {
                if let Some(peer) = self.peers.ended(id) {
                    info!(%peer, "session ended: {why}");
                    self.control.handle_peer_disconnected(&peer, &why, now);
                } else if let Some(node) = self.nodes.ended(id) {
                    info!(node, "session ended: {why}");
                    self.control.handle_node_disconnected(&node, now);
                }
            }
        }
    }

    fn take_arrival(&mut self, arrival: Arrival) {
        let input = match arrival {
            Arrival::Session(session) if session.info.protocol == quic::Protocol::Peer => {
                Input::Peer(session)
            }
            Arrival::Session(session) => Input::Node(session),
            Arrival::Enrolling(enrolling) => Input::Enrolling(enrolling),
            Arrival::Joining(joining) => Input::Joining(joining),
            Arrival::Refused(refused) => Input::Refused(refused),
        };
        self.take_input(input);
    }

    fn link_id(&mut self) -> LinkId {
        self.next_link += 1;
        LinkId(self.next_link)
    }

    /// Takes what the source says now.
    fn take_world(&mut self) {
        let world = Arc::clone(&self.world.borrow_and_update());
        let now = self.now();
        self.problems
            .retain(|origin, _| !origin.starts_with("source "));
        for (number, problem) in world.problems.iter().enumerate() {
            let origin = format!("source {number}");
            self.problems.insert(origin, problem.to_string());
        }
        if world.cluster.trust_domain != self.own {
            // Keys and state are of the old one.
            self.problem(
                "trust domain",
                "the trust domain changed: restart the gateway with a new state directory",
            );
            return;
        }
        let ranges = world.cluster.pod_ranges.iter().map(announced).collect();
        self.control.set_own_ranges(ranges, now);
        self.configure_peers(&world);
        self.control.set_policies(&world.policies, now);
        self.control.set_workloads(world.workloads.clone(), now);
        self.take_nodes(&world);
        self.steer(&world);
        self.want_neighbours();
    }

    fn tick(&mut self) {
        let now = self.now();
        for (source, more) in self.refusals.over(now.mono) {
            match source {
                Some(remote) => warn!(%remote, more, "refused again and again"),
                None => warn!(more, "refused, from many addresses"),
            }
        }
        self.flow_log.say_what_is_missing();
        self.release_held();
        self.advance_keys();
        self.take_issued();
        self.end_introduced();
        if self.fetched.turned() {
            self.trust_bundles();
        }
        if self.problems.contains_key(ISSUER_STATE) {
            self.persist_issuer();
        }
        let before = self.asked.len();
        self.asked.retain(|_, at| now.mono.since(*at) < ASKED_FOR);
        if self.asked.len() != before {
            self.want_neighbours();
        }
        self.show();
    }

    fn take_events(&mut self, first: Event) {
        self.take_event(&first);
        for _ in 1..BATCH {
            let Ok(event) = self.events.try_recv() else {
                return;
            };
            self.take_event(&event);
        }
    }

    fn take_event(&mut self, event: &Event) {
        self.flow_log.write(event, self.clock.now().mono);
        if let Event::Unresolved(_, address) = event {
            self.ask_for(*address);
        }
    }

    /// A packet needs this neighbour: it is kept resolved as long as packets ask for it.
    fn ask_for(&mut self, address: IpAddr) {
        let new = !self.asked.contains_key(&address);
        if new && self.asked.len() >= MAX_ASKED {
            return;
        }
        self.asked.insert(address, self.clock.now().mono);
        if new {
            self.want_neighbours();
        }
    }

    /// Says whose link addresses are needed.
    fn want_neighbours(&self) {
        let peers = self.control.addresses().map(|address| address.ip());
        let nodes = self.config.nodes.iter().map(|node| node.address);
        let world = self.world.borrow();
        let known = world.nodes.iter().flat_map(|node| &node.addresses);
        let nodes = nodes.chain(known.copied());
        let asked = self.asked.keys().copied();
        let wanted = peers.chain(nodes).chain(asked).collect();
        self.destinations.send_if_modified(|old| {
            let differs = *old != wanted;
            *old = wanted;
            differs
        });
    }
}

/// A range as peers hear it.
fn announced(range: &sources::PodRange) -> AnnouncedRange {
    AnnouncedRange {
        range_id: range.id,
        prefix: range.cidr,
    }
}
