//! Clusters, network, time, and what must be true after each step.

mod check;
#[cfg(test)]
mod checker_tests;
mod control;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gateway_core::Side;
use identity::{Mono, Now, UnixMillis};
use wire::{flow::FlowKey, ip};

use crate::{
    agent::Agent,
    attacker::Attacker,
    dice::Dice,
    gateway::Gateway,
    host::Host,
    hub::Hub,
    lines::{End, Line, Lines},
    network::{Link, Weather},
    objects::{NODES, Objects, PORT, Pod},
    sockets::Sockets,
    wires,
};

/// A change reaches every machine within this time.
const HEARD_WITHIN: (u64, u64) = (10, 300);
/// And is in force everywhere within this one: hearing of it, and packets under way.
const SETTLED: Duration = Duration::from_secs(1);
const WALL: u64 = 1_800_000_000_000;

/// A place that packets arrive at.
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
    /// Payloads that sockets read.
    pub deliveries: u64,
    /// Packets that the attacker injected.
    pub injected: u64,
    /// Changes of policies, labels and pods.
    pub changes: u64,
    /// Sessions of the control plane that broke.
    pub broken: u64,
    /// Agents that died.
    pub crashes: u64,
    /// Gateways that died.
    pub restarts: u64,
    /// Frames that gateways sent to each other.
    pub tunnelled: u64,
    /// Frames that the attacker put between gateways.
    pub struck: u64,
    /// Pairs that the naive model allows at the end, all of which talked.
    pub allowed_at_end: u64,
    /// Pairs that it denies, none of which did.
    pub denied_at_end: u64,
}

/// The world.
pub struct World {
    now: Mono,
    objects: Objects,
    /// Earlier objects, with the time at which they were replaced.
    past: Vec<(Mono, Objects)>,
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
    dice: Dice,
    /// Who truly opened each connection.
    initiated: BTreeMap<FlowKey, String>,
    next_port: u16,
    summary: Summary,
}

impl World {
    /// `clusters` clusters, everything else by `seed`.
    #[must_use]
    pub fn new(clusters: usize, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let objects = Objects::random(clusters, &mut dice);
        let weather = Weather {
            loss: dice.below(6) as u32,
            duplication: dice.below(4) as u32,
            reordering: dice.below(20) as u32,
        };
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
            past: Vec::new(),
            hubs,
            agents,
            lines: Lines::default(),
            hosts,
            gateways,
            queue: BTreeMap::new(),
            sequence: 0,
            weather,
            partitions: BTreeSet::new(),
            attacker: Attacker::default(),
            initiated: BTreeMap::new(),
            next_port: 1024,
            summary: Summary::default(),
            dice,
            objects,
        };
        let addresses = world.addresses();
        addresses
            .into_iter()
            .for_each(|address| world.start_pod(address));
        world.begin();
        world
    }

    /// Lets random things happen for `span`, then heals everything and checks that what the naive
    /// model allows flows, and nothing else.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn run(mut self, span: Duration) -> Summary {
        // Everybody has met, and every pod its credential.
        self.run_until(Mono::default().after(SETTLED));
        let end = self.now.after(span);
        while self.now < end {
            let until = self.now.after(self.dice.millis(1, 250));
            self.run_until(until);
            self.act();
        }
        self.settle();
        self.check_every_pair();
        self.summary
    }

    fn act(&mut self) {
        match self.dice.below(100) {
            0..50 => self.connect_somewhere(),
            50..58 => self.relabel(),
            58..66 => {
                let number = self.dice.below(self.objects.clusters.len());
                let mut dice = self.dice.split();
                self.change(|objects| objects.clusters[number].rewrite_policies(&mut dice));
            }
            66..71 => self.replace_pod(),
            71..74 => self.crash_agent(),
            74..76 => self.partition(),
            76..78 => self.break_line(),
            78..80 => {
                self.kill_gateway();
            }
            _ if self.dice.percent(40) => self.attack_tunnel(),
            _ => self.attack(),
        }
    }

    fn connect_somewhere(&mut self) {
        let addresses = self.addresses();
        let (from, to) = (*self.dice.pick(&addresses), *self.dice.pick(&addresses));
        if from != to {
            self.connect(from, to);
        }
    }

    fn connect(&mut self, from: IpAddr, to: IpAddr) -> FlowKey {
        self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
        let now = self.time();
        let place = self.host_of(from);
        let client = self.pod(from).name.clone();
        let host = self.hosts.get_mut(&place).expect("a node");
        let sockets = host.pods.get_mut(&from).expect("a pod");
        let key = sockets.connect(self.next_port, SocketAddr::new(to, PORT), now.mono);
        self.initiated.insert(key, client);
        self.summary.connects += 1;
        host.drain(now);
        self.collect(place);
        key
    }

    fn relabel(&mut self) {
        let address = *self.dice.pick(&self.addresses());
        let number = self
            .objects
            .cluster_of(address)
            .expect("a pod of a cluster");
        let mut dice = self.dice.split();
        self.change(|objects| {
            let pods = &mut objects.clusters[number].pods;
            pods.get_mut(&address).expect("a pod").relabel(&mut dice);
        });
    }

    /// A pod is deleted, and another one gets its address.
    fn replace_pod(&mut self) {
        let address = *self.dice.pick(&self.addresses());
        let number = self
            .objects
            .cluster_of(address)
            .expect("a pod of a cluster");
        let place = self.host_of(address);
        let new = Pod::random(number, place.1, &mut self.dice.split());
        self.change(|objects| {
            objects.clusters[number].pods.insert(address, new);
        });
        // The agent of the node hears first: before the address is served again.
        self.hosts
            .get_mut(&place)
            .expect("a node")
            .remove_pod(address);
        self.hears(Place::Host(place.0, place.1));
        self.start_pod(address);
    }

    fn partition(&mut self) {
        let (a, b) = (
            self.dice.below(self.gateways.len()),
            self.dice.below(self.gateways.len()),
        );
        if a != b && self.partitions.insert((a.min(b), a.max(b))) {
            let later = self.now.after(self.dice.millis(100, 5000));
            self.schedule(later, Event::Heals(a.min(b), a.max(b)));
            self.part(Line::Gateways(a.min(b), a.max(b)));
        }
    }

    fn attack(&mut self) {
        let addresses = self.addresses();
        let Some(packet) = self.attacker.strike(&addresses, &mut self.dice) else {
            return;
        };
        let Ok(parsed) = ip::Packet::parse(&packet) else {
            return;
        };
        let (src, dst) = (parsed.src(), parsed.dst());
        self.summary.injected += 1;
        // It stands on the segment of a cluster: it reaches nodes and the gateway there.
        let (Some(from), Some(to)) = (self.objects.cluster_of(src), self.objects.cluster_of(dst))
        else {
            return;
        };
        let stands = if self.dice.percent(50) { from } else { to };
        if stands == to {
            let place = Place::Host(to, self.pod(dst).node);
            self.schedule(self.now, Event::Arrives(place, packet));
        } else {
            let station = wires::node_mac(from, self.dice.below(NODES));
            let frame = wires::frame(wires::lan_mac(from), station, &packet);
            let place = Place::Gateway(from, Side::Lan);
            self.schedule(self.now, Event::Arrives(place, frame));
        }
    }

    /// The attacker stands between the clusters, too.
    fn attack_tunnel(&mut self) {
        let clusters = self.gateways.len();
        if let Some(frame) = self.attacker.strike_tunnel(clusters, &mut self.dice)
            && let Some(to) = wires::cluster_of(&frame)
        {
            self.summary.struck += 1;
            self.schedule(
                self.now,
                Event::Arrives(Place::Gateway(to, Side::Wan), frame),
            );
        }
    }

    /// Changes the objects; every machine hears of it a little later.
    fn change(&mut self, change: impl FnOnce(&mut Objects)) {
        self.past.push((self.now, self.objects.clone()));
        change(&mut self.objects);
        self.summary.changes += 1;
        let places = self.places();
        for place in places {
            let later = self
                .now
                .after(self.dice.millis(HEARD_WITHIN.0, HEARD_WITHIN.1));
            self.schedule(later, Event::Hears(place));
        }
    }

    fn places(&self) -> Vec<Place> {
        let hosts = self
            .hosts
            .keys()
            .map(|(number, node)| Place::Host(*number, *node));
        hosts
            .chain((0..self.gateways.len()).map(|number| Place::Gateway(number, Side::Lan)))
            .collect()
    }

    /// Everything works again, and everybody has heard of everything.
    fn settle(&mut self) {
        self.weather = Weather::FAIR;
        self.run_until(self.now.after(Duration::from_secs(10)));
        assert!(self.partitions.is_empty(), "everything heals in time");
        self.past.clear();
        self.check_convergence();
    }

    fn run_until(&mut self, end: Mono) {
        while let Some(next) = self.next_event().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
            self.check();
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
                Event::Arrives(place, packet) => self.arrives(place, &packet),
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

    fn arrives(&mut self, place: Place, packet: &[u8]) {
        let now = self.time();
        match place {
            Place::Host(number, node) => {
                self.attacker.observe(packet, &mut self.dice);
                let host = self.hosts.get_mut(&(number, node)).expect("a node");
                host.handle_network(packet, now);
                self.collect((number, node));
            }
            Place::Gateway(number, side) => {
                let sent = self.gateways[number].handle_frame(side, packet, now);
                match sent {
                    Some((Side::Lan, frame)) => self.send_to_node(number, &frame),
                    Some((Side::Wan, frame)) => self.send_to_gateway(number, &frame),
                    None => {}
                }
            }
        }
    }

    /// Sends what a node has to send, and judges what its pods read.
    fn collect(&mut self, place: (usize, usize)) {
        let host = self.hosts.get_mut(&place).expect("a node");
        let packets = std::mem::take(&mut host.out);
        let deliveries = std::mem::take(&mut host.deliveries);
        for packet in packets {
            self.route(place, packet);
        }
        for delivery in deliveries {
            self.summary.deliveries += 1;
            self.judge(&delivery);
        }
    }

    /// A node sends a packet: to another node of its cluster, or to its gateway.
    fn route(&mut self, (number, node): (usize, usize), packet: Vec<u8>) {
        let Ok(parsed) = ip::Packet::parse(&packet) else {
            return;
        };
        let Some(to) = self.objects.cluster_of(parsed.dst()) else {
            return;
        };
        if to != number {
            let (gateway, station) = (wires::lan_mac(number), wires::node_mac(number, node));
            let frame = wires::frame(gateway, station, &packet);
            self.carry(Link::Access, Place::Gateway(number, Side::Lan), frame);
        } else if let Some(pod) = self.objects.clusters[to].pods.get(&parsed.dst()) {
            self.carry(Link::Nodes, Place::Host(to, pod.node), packet);
        }
    }

    /// A gateway sends a frame to a node.
    fn send_to_node(&mut self, number: usize, frame: &[u8]) {
        let node = wires::node_of(frame).expect("a gateway sends to nodes that exist");
        let packet = frame[wires::HEADER..].to_vec();
        self.carry(Link::Access, Place::Host(number, node), packet);
    }

    /// A gateway sends a frame to another.
    fn send_to_gateway(&mut self, number: usize, frame: &[u8]) {
        self.look_for_clear_text(frame);
        self.summary.tunnelled += 1;
        let to = wires::cluster_of(frame).expect("a gateway sends to gateways that exist");
        self.attacker.observe_tunnel(frame, &mut self.dice);
        if !self.partitions.contains(&(number.min(to), number.max(to))) {
            self.carry(Link::Wan, Place::Gateway(to, Side::Wan), frame.to_vec());
        }
    }

    fn carry(&mut self, link: Link, to: Place, bytes: Vec<u8>) {
        for at in self.weather.arrivals(link, self.now, &mut self.dice) {
            self.schedule(at, Event::Arrives(to, bytes.clone()));
        }
    }

    fn start_pod(&mut self, address: IpAddr) {
        let place = self.host_of(address);
        let isn = u32::from_be_bytes(self.dice.bytes()[..4].try_into().expect("four bytes"));
        let sockets = Sockets::new(address, vec![PORT], isn);
        self.hosts
            .get_mut(&place)
            .expect("a node")
            .pods
            .insert(address, sockets);
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

    fn pod(&self, address: IpAddr) -> &Pod {
        let number = self
            .objects
            .cluster_of(address)
            .expect("an address of a cluster");
        &self.objects.clusters[number].pods[&address]
    }

    fn host_of(&self, address: IpAddr) -> (usize, usize) {
        let number = self
            .objects
            .cluster_of(address)
            .expect("an address of a cluster");
        (number, self.pod(address).node)
    }

    fn time(&self) -> Now {
        let elapsed = u64::try_from(self.now.0.as_millis()).expect("a short run");
        Now {
            mono: self.now,
            unix: UnixMillis(WALL + elapsed),
        }
    }
}
