//! Clusters, network, time, and what must be true after each step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use identity::{Mono, Now, UnixMillis};
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
    sockets::{Delivery, Sockets},
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
    /// The gateway of a cluster; from the tunnel of another, if given.
    Gateway(usize, Option<usize>),
}

#[derive(Clone, Debug)]
enum Event {
    Arrives(Place, Vec<u8>),
    /// A node or gateway hears of the newest objects.
    Hears(Place),
    /// An agent that died starts again.
    Restarts(usize, usize),
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
            gateways.push(Gateway::new(control.gateway_snapshot(&objects, number)));
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
                let number = self.dice.below(self.gateways.len());
                self.gateways[number].restart();
            }
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
        let place = match stands == to {
            true => Place::Host(to, self.pod(dst).node),
            false => Place::Gateway(from, None),
        };
        self.schedule(self.now, Event::Arrives(place, packet));
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
            .chain((0..self.gateways.len()).map(|number| Place::Gateway(number, None)))
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
                self.gateways[number].set_snapshot(snapshot);
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
            Place::Gateway(number, from) => {
                let peer = from.map(|from| self.objects.clusters[from].domain.clone());
                let passed = self.gateways[number].handle_packet(peer.as_ref(), packet, now);
                if let Some(packet) = passed {
                    self.route(Place::Gateway(number, from), packet);
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
            self.route(Place::Host(place.0, place.1), packet);
        }
        for delivery in deliveries {
            self.summary.deliveries += 1;
            self.judge(&delivery);
        }
    }

    fn route(&mut self, from: Place, packet: Vec<u8>) {
        let Ok(parsed) = ip::Packet::parse(&packet) else {
            return;
        };
        let Some(to) = self.objects.cluster_of(parsed.dst()) else {
            return;
        };
        let (number, on_wan) = match from {
            Place::Host(number, _) | Place::Gateway(number, Some(_)) => (number, false),
            Place::Gateway(number, None) => (number, true),
        };
        let (link, place) = if on_wan {
            if self.partitions.contains(&(number.min(to), number.max(to))) || number == to {
                return;
            }
            (Link::Wan, Place::Gateway(to, Some(number)))
        } else if to == number {
            let Some(pod) = self.objects.clusters[to].pods.get(&parsed.dst()) else {
                return;
            };
            let via = if matches!(from, Place::Host(..)) {
                Link::Nodes
            } else {
                Link::Access
            };
            (via, Place::Host(to, pod.node))
        } else {
            (Link::Access, Place::Gateway(number, None))
        };
        for at in self.weather.arrivals(link, self.now, &mut self.dice) {
            self.schedule(at, Event::Arrives(place, packet.clone()));
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
            let past = self
                .past
                .iter()
                .filter(|(replaced, _)| self.in_force(*replaced, host));
            let mut versions = past.map(|(_, objects)| objects).chain([&self.objects]);
            let may = versions.any(|objects| {
                let same = objects.pod(key.src).is_some_and(|pod| pod.name == *client);
                same && half_allowed(objects, key, direction)
            });
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
        for gateway in &self.gateways {
            let dropped: u64 = gateway.dropped.values().sum();
            assert_eq!(gateway.received, gateway.forwarded + dropped);
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

/// Whether the naive model allows the connection, recomputed from the raw objects.
fn allowed(objects: &Objects, key: &FlowKey) -> bool {
    [Direction::Egress, Direction::Ingress]
        .into_iter()
        .all(|direction| half_allowed(objects, key, direction))
}

fn half_allowed(objects: &Objects, key: &FlowKey, direction: Direction) -> bool {
    let (Some(from), Some(to)) = (objects.claims(key.src), objects.claims(key.dst)) else {
        return false;
    };
    let (subject, other) = match direction {
        Direction::Egress => (&from, Other::Pod(&to, Some(key.dst))),
        Direction::Ingress => (&to, Other::Pod(&from, Some(key.src))),
    };
    let policies = objects
        .clusters
        .iter()
        .map(|c| (c.domain.clone(), c.policies.clone()));
    let oracle = Oracle {
        policies: policies.collect(),
        carried: BTreeMap::new(),
    };
    oracle
        .judge(direction, subject, other, key.protocol, key.dport)
        .is_allowed()
}
