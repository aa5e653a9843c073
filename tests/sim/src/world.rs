//! Clusters, network, time, and what must be true after each step.

mod act;
mod attack;
mod carry;
mod check;
#[cfg(test)]
mod checker_tests;
mod control;
mod tamper;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use gateway_core::Side;
use identity::{Mono, Now, UnixMillis};
use policy::model::{Action, PolicySet};
use wire::flow::FlowKey;

use crate::{
    agent::Agent,
    attacker::Attacker,
    dice::Dice,
    gateway::Gateway,
    history::{History, PolicyVersion},
    host::Host,
    hub::Hub,
    lines::{End, Line, Lines},
    network::Weather,
    objects::{NODES, Objects, Pod, everybody},
    onpath::OnPath,
    plan::{self, Plan, Transition},
};
use tamper::Tamper;
use watch::{Nonces, Sealed, Sealing, Watch};

/// A change reaches every machine's source within this time.
const HEARD_WITHIN: (u64, u64) = (10, 300);
/// Everybody has met, and every pod its credential.
const BEGUN: Duration = Duration::from_secs(1);
/// Whatever broke is whole again.
const HEALED: Duration = Duration::from_secs(6);
/// Each step has a port of its own, whatever else happens; after them come those of the end.
const PORTS_OF_STEPS: u16 = 1024;
const PORTS_AT_END: u16 = 4096;
const WALL: u64 = 1_800_000_000_000;

/// A place that packets arrive at. Of a gateway, the side of its cluster stands for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Node of a cluster.
    Host(usize, usize),
    /// One side of the gateway of a cluster.
    Gateway(usize, Side),
}

#[derive(Clone, Debug)]
enum Event {
    Arrives(Place, Vec<u8>),
    /// A node or gateway hears of the newest objects.
    Hears(Place),
    /// An agent that died starts again.
    Restarts(usize, usize),
    /// A gateway that died starts again.
    GatewayStarts(usize),
    /// Two ends meet again.
    Meets(Line),
    /// A message of the control plane arrives.
    Message {
        line: Line,
        session: u64,
        end: End,
        bytes: Vec<u8>,
    },
    Heals(usize, usize),
}

/// What a run did, so that a test can tell a busy world from an idle one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Connections that pods opened.
    pub connects: u64,
    /// Payloads that sockets read from pods of their own cluster.
    pub near: u64,
    /// Payloads that sockets read from pods of other clusters.
    pub far: u64,
    /// Packets that somebody on a link dropped, delayed or altered.
    pub tampered: u64,
    /// Packets that the attacker injected.
    pub injected: u64,
    /// Segments that it forged on connections that it stole.
    pub forged: u64,
    /// Tokens that a pod sent.
    pub forgeries: u64,
    /// Changes of policies, labels and pods.
    pub changes: u64,
    /// Sessions of the control plane that broke.
    pub broken: u64,
    /// Messages between gateways that were said again.
    pub repeated: u64,
    /// Agents that died.
    pub crashes: u64,
    /// Gateways that died.
    pub restarts: u64,
    /// Bundles that took the place of others.
    pub bundles: u64,
    /// Exchanges of issuer keys that were begun.
    pub rotations: u64,
    /// Packets that gateways let pass, each held against the naive model.
    pub judged: u64,
    /// Frames that the attacker put between gateways.
    pub struck: u64,
    /// Frames in which a gateway lied to another.
    pub lies: u64,
    /// Pairs that the naive model allows at the end, all of which talked.
    pub allowed_at_end: u64,
    /// Pairs that it denies, none of which did.
    pub denied_at_end: u64,
}

/// Who lets everything pass, cluster by cluster, because its source tells it so: then the others on
/// the way must do it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lax {
    agents: Vec<bool>,
    gateways: Vec<bool>,
}

impl Lax {
    fn nobody(clusters: usize) -> Self {
        Self {
            agents: vec![false; clusters],
            gateways: vec![false; clusters],
        }
    }
}

/// The world.
pub struct World {
    now: Mono,
    objects: Objects,
    history: History,
    lax: Lax,
    hubs: Vec<Hub>,
    agents: BTreeMap<(usize, usize), Agent>,
    lines: Lines,
    hosts: BTreeMap<(usize, usize), Host>,
    gateways: Vec<Gateway>,
    queue: BTreeMap<(Mono, u64), Event>,
    sequence: u64,
    weather: Weather,
    /// Pairs of clusters that cannot reach each other.
    partitions: BTreeSet<(usize, usize)>,
    attacker: Attacker,
    onpath: OnPath,
    tamper: Option<Tamper>,
    /// What was said between gateways, to be said again.
    said: BTreeMap<(Line, End), Vec<Vec<u8>>>,
    dice: Dice,
    /// The policies that each machine was told last, by which it must decide.
    told: BTreeMap<Place, PolicyVersion>,
    /// Who truly opened each connection.
    initiated: BTreeMap<FlowKey, String>,
    /// What each gateway let pass, in the life of its process.
    watches: Vec<Watch>,
    /// What gateways truly sealed.
    sealed: BTreeMap<Sealing, Sealed>,
    /// What each agent took for a HELLO, in the life of its process.
    admitted: BTreeMap<(usize, usize), Nonces>,
    /// The HELLOs that agents made: the connection and the fixed header of each nonce.
    hellos: BTreeMap<[u8; 16], (FlowKey, Vec<u8>)>,
    /// The REPLYs that agents made: connection, sequence and acknowledgment number, and all of it.
    replies: BTreeSet<(FlowKey, u32, u32, Vec<u8>)>,
    /// The CONFIRMs that agents made, each with its connection.
    confirms: BTreeSet<(FlowKey, Vec<u8>)>,
    /// The fixed headers that gateways took from their tunnels, and vouch for.
    vouched: BTreeSet<Vec<u8>>,
    /// The highest sequences that a gateway (first) believed of another: bundle and digest.
    believed: BTreeMap<(usize, usize), (u64, u64)>,
    next_port: u16,
    /// What the transition under way does, in words.
    did: String,
    summary: Summary,
}

impl World {
    /// When pods, people and attackers begin.
    #[must_use]
    pub fn begun() -> Mono {
        Mono::default().after(BEGUN)
    }

    /// The world that a plan begins with.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let mut weather = Weather::FAIR;
        let mut lax = Lax::nobody(plan.clusters);
        for step in &plan.steps {
            match step.what {
                Transition::Loss(of_100) => weather.loss = of_100,
                Transition::Duplication(of_100) => weather.duplication = of_100,
                Transition::Reordering(of_100) => weather.reordering = of_100,
                Transition::LaxAgents(number) => lax.agents[number] = true,
                Transition::LaxGateway(number) => lax.gateways[number] = true,
                _ => {}
            }
        }
        let mut dice = Dice::new(plan.seed);
        let clusters = plan.clusters;
        let objects = Objects::random(clusters, &mut dice);
        let mut hosts = BTreeMap::new();
        let (mut gateways, mut hubs) = (Vec::new(), Vec::new());
        let mut agents = BTreeMap::new();
        for number in 0..clusters {
            for node in 0..NODES {
                agents.insert((number, node), Agent::new(number, node, dice.split()));
                hosts.insert((number, node), Host::new(dice.split()));
            }
            gateways.push(Gateway::new(dice.split()));
            hubs.push(Hub::new(number, dice.split()));
        }
        let mut world = Self {
            now: Mono::default(),
            history: History::default(),
            lax,
            hubs,
            agents,
            lines: Lines::default(),
            hosts,
            watches: gateways.iter().map(|_| Watch::default()).collect(),
            gateways,
            queue: BTreeMap::new(),
            sequence: 0,
            weather,
            partitions: BTreeSet::new(),
            attacker: Attacker::default(),
            onpath: OnPath::default(),
            tamper: None,
            did: String::new(),
            said: BTreeMap::new(),
            told: BTreeMap::new(),
            initiated: BTreeMap::new(),
            sealed: BTreeMap::new(),
            admitted: BTreeMap::new(),
            hellos: BTreeMap::new(),
            replies: BTreeSet::new(),
            confirms: BTreeSet::new(),
            vouched: BTreeSet::new(),
            believed: BTreeMap::new(),
            next_port: PORTS_OF_STEPS,
            summary: Summary::default(),
            dice,
            objects,
        };
        world.history.take(&world.objects, world.now);
        let addresses = world.addresses();
        addresses
            .into_iter()
            .for_each(|address| world.start_pod(address));
        world.begin();
        world
    }

    /// Lets everything of `plan` happen, then heals everything and checks that what the naive model
    /// allows flows, and nothing else. What happened is written into `log`.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn run(mut self, plan: &Plan, log: &mut Vec<String>) -> Summary {
        for step in &plan.steps {
            self.run_until(step.at);
            let number = step.number;
            let seconds = step.at.0.as_secs_f32();
            log.push(format!("{number:>3} {seconds:>7.3} s  {:?}", step.what));
            // Its own dice: what it does depends on no other step.
            let network = std::mem::replace(&mut self.dice, Dice::new(step.seed));
            self.next_port = PORTS_OF_STEPS + u16::try_from(number).expect("a short list");
            self.act(step.what);
            self.dice = network;
            if let (Some(line), false) = (log.last_mut(), self.did.is_empty()) {
                line.push_str(": ");
                line.push_str(&std::mem::take(&mut self.did));
            }
        }
        self.run_until(plan::end(Self::begun()));
        self.next_port = PORTS_AT_END;
        log.push("            everything heals, and every pair is tried".into());
        self.settle();
        self.check_every_pair();
        let judged = self.watches.iter().map(|watch| watch.judged);
        self.summary.judged += judged.sum::<u64>();
        self.summary
    }

    /// Everything works again, and everybody has heard of everything.
    fn settle(&mut self) {
        self.weather = Weather::FAIR;
        self.onpath.let_go();
        self.tamper = None;
        self.run_until(self.now.after(HEALED));
        assert!(self.partitions.is_empty(), "everything heals in time");
        self.check_convergence();
    }

    fn run_until(&mut self, end: Mono) {
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = self.now.max(end);
    }

    fn next_event(&self) -> Option<Mono> {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let hosts = self.hosts.values().filter_map(Host::next_timeout);
        let gateways = self.gateways.iter().filter_map(Gateway::next_timeout);
        let hubs = self.hubs.iter().filter_map(Hub::next_timeout);
        let agents = self.agents.values().filter_map(Agent::next_timeout);
        let control = hubs.chain(agents);
        hosts.chain(gateways).chain(control).chain(queued).min()
    }

    fn step(&mut self) {
        let now = self.time();
        let due: Vec<_> = self
            .hosts
            .iter()
            .filter(|(_, host)| host.next_timeout().is_some_and(|at| at <= now.mono))
            .map(|(place, _)| *place)
            .collect();
        for place in due {
            self.hosts
                .get_mut(&place)
                .expect("a node")
                .handle_timeout(now);
            self.collect(place);
        }
        self.gateways
            .iter_mut()
            .for_each(|gateway| gateway.handle_timeout(now));
        self.control_timeouts();
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= now.mono
        {
            match entry.remove() {
                Event::Arrives(place, packet) => self.arrives(place, packet),
                Event::Hears(place) => self.hears(place),
                Event::Restarts(number, node) => self.restart_agent((number, node)),
                Event::GatewayStarts(number) => self.start_gateway(number),
                Event::Meets(line) => self.meet(line),
                Event::Message {
                    line,
                    session,
                    end,
                    bytes,
                } => self.message(line, session, end, &bytes),
                Event::Heals(a, b) => {
                    self.partitions.remove(&(a, b));
                    self.meet_in(Line::Gateways(a, b), (5, 60));
                }
            }
        }
    }

    fn schedule(&mut self, at: Mono, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.objects
            .clusters
            .iter()
            .flat_map(|cluster| cluster.pods.keys().copied())
            .collect()
    }

    fn cluster_of(&self, address: IpAddr) -> usize {
        let number = self.objects.cluster_of(address);
        number.expect("an address of a cluster")
    }

    fn pod(&self, address: IpAddr) -> &Pod {
        &self.objects.clusters[self.cluster_of(address)].pods[&address]
    }

    fn host_of(&self, address: IpAddr) -> (usize, usize) {
        (self.cluster_of(address), self.pod(address).node)
    }

    /// What the source of an agent or gateway tells it that the policies are.
    fn tell(&mut self, place: Place) -> PolicySet {
        let (number, is_lax) = match place {
            Place::Host(number, _) => (number, self.lax.agents[number]),
            Place::Gateway(number, _) => (number, self.lax.gateways[number]),
        };
        self.told.insert(place, self.history.newest(number));
        self.policies_of(number, is_lax)
    }

    fn policies_of(&self, number: usize, is_lax: bool) -> PolicySet {
        let mut policies = self.objects.clusters[number].policies.clone();
        if is_lax {
            policies.policies = vec![everybody(Action::Allow).into()];
        }
        policies
    }

    fn time(&self) -> Now {
        let elapsed = u64::try_from(self.now.0.as_millis()).expect("a short run");
        Now {
            mono: self.now,
            unix: UnixMillis(WALL + elapsed),
        }
    }
}
