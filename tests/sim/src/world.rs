//! Clusters, network, time, and what must be true after each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gateway_core::Side;
use identity::{Mono, Now, UnixMillis};
use peering::peers::TunnelState;
use policy::model::Direction;
use wire::{flow::FlowKey, ip};

use crate::{
    attacker::Attacker,
    control::Control,
    dice::Dice,
    gateway::Gateway,
    host::Host,
    naive::{Oracle, Other},
    network::{Link, Weather},
    objects::{Objects, PORT, Pod},
    sockets::{self, Delivery, Sockets},
    wires,
};

/// A change reaches every machine within this time.
const HEARD_WITHIN: (u64, u64) = (10, 300);
/// And is in force everywhere within this one: hearing of it, and packets under way.
const SETTLED: Duration = Duration::from_millis(500);
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
    /// Two gateways meet again.
    Meets(usize, usize),
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
    /// When the agent of a node was last down: established flows go on then, by what it knew.
    down: BTreeMap<(usize, usize), (Mono, Mono)>,
    control: Control,
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
        let mut control = Control::new(&objects, UnixMillis(WALL));
        let weather = Weather {
            loss: dice.below(6) as u32,
            duplication: dice.below(4) as u32,
            reordering: dice.below(20) as u32,
        };
        let mut hosts = BTreeMap::new();
        let mut gateways = Vec::new();
        for number in 0..clusters {
            for node in 0..2 {
                let snapshot = control.node_snapshot(&objects, number, node, UnixMillis(WALL));
                hosts.insert((number, node), Host::new(snapshot, dice.split()));
            }
            let domains = objects.clusters.iter().map(|c| c.domain.clone()).collect();
            let transit = control.gateway_snapshot(&objects, number);
            gateways.push(Gateway::new(number, domains, transit, dice.split()));
        }
        let mut world = Self {
            now: Mono::default(),
            past: Vec::new(),
            down: BTreeMap::new(),
            control,
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
        for (a, b) in world.pairs() {
            world.meet(a, b);
        }
        world
    }

    /// Lets random things happen for `span`, then heals everything and checks that what the naive
    /// model allows flows, and nothing else.
    ///
    /// # Panics
    /// When an invariant is broken.
    pub fn run(mut self, span: Duration) -> Summary {
        let end = Mono::default().after(span);
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
            74..77 => self.partition(),
            77..79 => {
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
        self.control
            .relabelled(self.objects.claims(address).expect("a pod"));
    }

    /// A pod is deleted, and another one gets its address.
    fn replace_pod(&mut self) {
        let address = *self.dice.pick(&self.addresses());
        let number = self
            .objects
            .cluster_of(address)
            .expect("a pod of a cluster");
        let place = self.host_of(address);
        let domain = self.objects.clusters[number].domain.clone();
        self.control.gone(domain, self.pod(address).name.clone());
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

    fn crash_agent(&mut self) {
        let places: Vec<_> = self.hosts.keys().copied().collect();
        let (number, node) = *self.dice.pick(&places);
        let host = self.hosts.get_mut(&(number, node)).expect("a node");
        if host.enforcer().is_some() {
            host.crash();
            self.summary.crashes += 1;
            let later = self.now.after(self.dice.millis(1, 1500));
            self.schedule(later, Event::Restarts(number, node));
            self.down.insert((number, node), (self.now, later));
        }
    }

    fn kill_gateway(&mut self) {
        let number = self.dice.below(self.gateways.len());
        if self.gateways[number].is_up() {
            self.gateways[number].kill();
            self.summary.restarts += 1;
            let later = self.now.after(self.dice.millis(1, 1000));
            self.schedule(later, Event::GatewayStarts(number));
        }
    }

    fn start_gateway(&mut self, number: usize) {
        let transit = self.control.gateway_snapshot(&self.objects, number);
        self.gateways[number].start(transit, self.now);
        for (a, b) in self.pairs() {
            if a == number || b == number {
                let later = self.now.after(self.dice.millis(5, 60));
                self.schedule(later, Event::Meets(a, b));
            }
        }
    }

    /// Two gateways have a new session: associations of the old one are over.
    fn meet(&mut self, a: usize, b: usize) {
        if !self.gateways[a].is_up() || !self.gateways[b].is_up() {
            return;
        }
        let [to_a, to_b] = [(); 2].map(|()| self.control.tunnel_key(&mut self.dice));
        let domain = |number: usize| self.objects.clusters[number].domain.clone();
        for (here, there, receive, send) in [(a, b, &to_a, &to_b), (b, a, &to_b, &to_a)] {
            let state = TunnelState {
                endpoint: None,
                send: vec![send.clone()],
                receive: vec![receive.clone()],
            };
            self.gateways[here].set_tunnel(&domain(there), &state);
        }
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.gateways.len();
        (0..count)
            .flat_map(|a| (a + 1..count).map(move |b| (a, b)))
            .collect()
    }

    fn partition(&mut self) {
        let (a, b) = (
            self.dice.below(self.gateways.len()),
            self.dice.below(self.gateways.len()),
        );
        if a != b && self.partitions.insert((a.min(b), a.max(b))) {
            let later = self.now.after(self.dice.millis(100, 5000));
            self.schedule(later, Event::Heals(a.min(b), a.max(b)));
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
            let station = wires::node_mac(from, self.dice.below(2));
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

    fn hears(&mut self, place: Place) {
        let now = self.time();
        match place {
            Place::Host(number, node) => {
                let snapshot = self
                    .control
                    .node_snapshot(&self.objects, number, node, now.unix);
                self.hosts
                    .get_mut(&(number, node))
                    .expect("a node")
                    .set_snapshot(snapshot, now);
                self.collect((number, node));
            }
            Place::Gateway(number, _) => {
                let snapshot = self.control.gateway_snapshot(&self.objects, number);
                self.gateways[number].set_transit(snapshot);
            }
        }
    }

    /// Everything works again, and everybody has heard of everything.
    fn settle(&mut self) {
        self.weather = Weather::FAIR;
        self.run_until(self.now.after(Duration::from_secs(8)));
        self.partitions.clear();
        self.places()
            .into_iter()
            .for_each(|place| self.hears(place));
        self.past.clear();
    }

    fn check_every_pair(&mut self) {
        let addresses = self.addresses();
        let mut attempts = Vec::new();
        for from in &addresses {
            for to in addresses.iter().filter(|to| *to != from) {
                attempts.push(self.connect(*from, *to));
                self.run_until(self.now.after(Duration::from_millis(5)));
            }
        }
        self.run_until(self.now.after(Duration::from_secs(12)));
        for key in attempts {
            let sockets = &self.hosts[&self.host_of(key.src)].pods[&key.src];
            let answered = sockets.client(&key).expect("a connection").answered;
            if allowed(&self.objects, &key) {
                assert!(answered > 0, "{key} is allowed and does not flow");
                self.summary.allowed_at_end += 1;
            } else {
                assert_eq!(answered, 0, "{key} is denied and flows");
                self.summary.denied_at_end += 1;
            }
        }
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
        hosts.chain(gateways).chain(queued).min()
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
        while let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= now.mono
        {
            match entry.remove() {
                Event::Arrives(place, packet) => self.arrives(place, &packet),
                Event::Hears(place) => self.hears(place),
                Event::Restarts(number, node) => {
                    let snapshot =
                        self.control
                            .node_snapshot(&self.objects, number, node, now.unix);
                    let host = self.hosts.get_mut(&(number, node)).expect("a node");
                    host.restart(snapshot, now);
                    self.collect((number, node));
                }
                Event::GatewayStarts(number) => self.start_gateway(number),
                Event::Meets(a, b) => self.meet(a, b),
                Event::Heals(a, b) => {
                    self.partitions.remove(&(a, b));
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

    /// Between clusters nothing may be read: no payload and no name.
    fn look_for_clear_text(&self, frame: &[u8]) {
        for word in [sockets::WORD, "spiffe://"] {
            let found = frame
                .windows(word.len())
                .any(|part| part == word.as_bytes());
            assert!(!found, "{word:?} in clear between clusters");
        }
    }

    /// A socket read payload: its connection must have been opened by the pod that still has, or a
    /// moment ago had, the client's address, and must have been allowed a moment ago. Who serves
    /// the dialled address may have changed while the connection was opening: it proved itself.
    fn judge(&mut self, delivery: &Delivery) {
        let key = &delivery.key;
        let said = String::from_utf8_lossy(&delivery.bytes);
        let Some(client) = self.initiated.get(key) else {
            panic!("{key} delivered {said:?} and nobody opened it")
        };
        if !delivery.at_server {
            assert_eq!(
                self.pod(key.src).name,
                *client,
                "{key}: {said:?} at a later pod"
            );
        }
        // Each end enforces its own half, and may have heard of another version than the other.
        for (direction, end) in [(Direction::Egress, key.src), (Direction::Ingress, key.dst)] {
            let host = self.host_of(end);
            let past = self.past.iter();
            let past = past.filter(|(replaced, _)| self.in_force(*replaced, host));
            let versions: Vec<&Objects> = past
                .map(|(_, objects)| objects)
                .chain([&self.objects])
                .collect();
            let may = some_mix_allows(&versions, key, direction, client);
            assert!(may, "{key} delivered {said:?}; {direction:?} is denied");
        }
    }

    /// Whether what was replaced at `replaced` may still be in force on `host`.
    fn in_force(&self, replaced: Mono, host: (usize, usize)) -> bool {
        let slow = self.down.get(&host).is_some_and(|(from, to)| {
            *from <= replaced.after(SETTLED) && replaced <= *to && self.now <= to.after(SETTLED)
        });
        slow || self.now <= replaced.after(SETTLED)
    }

    /// Counters are equal, always.
    fn check(&self) {
        for host in self.hosts.values() {
            let Some(node) = host.enforcer() else {
                continue;
            };
            let counters = node.counters();
            let dropped: u64 = counters.dropped.values().sum();
            assert_eq!(counters.received, counters.forwarded + dropped);
            assert_eq!(counters.events_lost, 0);
        }
        self.gateways.iter().for_each(Gateway::check);
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

/// Whether the naive model allows the connection, recomputed from the raw objects.
fn allowed(objects: &Objects, key: &FlowKey) -> bool {
    let client = objects.pod(key.src).map(|pod| pod.name.clone());
    client.is_some_and(|client| {
        [Direction::Egress, Direction::Ingress]
            .into_iter()
            .all(|direction| some_mix_allows(&[objects], key, direction, &client))
    })
}

/// Whether some policy of these versions allows this half of the connection for what the client
/// and the server were in some of them. The three travel by different ways: policy by the source,
/// the own pod by the issuer, the other by the handshake.
fn some_mix_allows(
    versions: &[&Objects],
    key: &FlowKey,
    direction: Direction,
    client: &str,
) -> bool {
    let clients = distinct(versions, |objects| {
        let pod = objects.pod(key.src).filter(|pod| pod.name == client)?;
        Some((pod, objects.claims(key.src)?))
    });
    let servers = distinct(versions, |objects| {
        Some((objects.pod(key.dst)?, objects.claims(key.dst)?))
    });
    let end = match direction {
        Direction::Egress => key.src,
        Direction::Ingress => key.dst,
    };
    let policies = distinct(versions, |objects| {
        let cluster = &objects.clusters[objects.cluster_of(end)?];
        Some((&cluster.policies, &cluster.domain))
    });
    policies.iter().any(|(policies, domain)| {
        let oracle = Oracle {
            policies: BTreeMap::from([((*domain).clone(), (*policies).clone())]),
            carried: BTreeMap::new(),
        };
        clients.iter().any(|(_, from)| {
            servers.iter().any(|(_, to)| {
                let (subject, other) = match direction {
                    Direction::Egress => (from, Other::Pod(to, Some(key.dst))),
                    Direction::Ingress => (to, Other::Pod(from, Some(key.src))),
                };
                oracle
                    .judge(direction, subject, other, key.protocol, key.dport)
                    .is_allowed()
            })
        })
    })
}

/// What `part` finds in each version, newest first, the same only once.
fn distinct<'a, K: PartialEq, T>(
    versions: &[&'a Objects],
    part: impl Fn(&'a Objects) -> Option<(K, T)>,
) -> Vec<(K, T)> {
    let mut found: Vec<(K, T)> = Vec::new();
    for (key, value) in versions.iter().rev().filter_map(|objects| part(objects)) {
        if found.iter().all(|(known, _)| *known != key) {
            found.push((key, value));
        }
    }
    found
}
