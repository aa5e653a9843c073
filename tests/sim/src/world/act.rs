//! What happens by chance: people, pods, machines.

use std::net::{IpAddr, SocketAddr};

use gateway_core::Side;
use wire::flow::FlowKey;

use super::{Event, HEARD_WITHIN, Place, World};
use crate::{
    lines::Line,
    objects::{Cluster, NODES, PORTS, Pod},
    sockets::Sockets,
};

impl World {
    pub(super) fn act(&mut self) {
        match self.dice.below(100) {
            0..50 => self.connect_somewhere(),
            50..57 => self.relabel(),
            57..64 => {
                let number = self.dice.below(self.objects.clusters.len());
                let mut dice = self.dice.split();
                self.change(number, |cluster| cluster.rewrite_policies(&mut dice));
            }
            64..69 => self.replace_pod(),
            69..72 => self.crash_agent(),
            72..74 => self.partition(),
            74..76 => self.break_line(),
            76..78 => self.kill_gateway(),
            78..80 => self.repeat_message(),
            80..90 => self.attack(),
            90..94 => self.attack_tunnel(),
            94..96 => self.lie(),
            96..98 => self.forge(),
            _ => self.grip(),
        }
    }

    /// Most of the traffic is between clusters.
    fn connect_somewhere(&mut self) {
        let addresses = self.addresses();
        let (from, to) = (*self.dice.pick(&addresses), *self.dice.pick(&addresses));
        let near = self.cluster_of(from) == self.cluster_of(to);
        if from != to && (!near || self.dice.percent(50)) {
            let port = *self.dice.pick(&PORTS);
            self.connect(from, to, port);
        }
    }

    pub(super) fn connect(&mut self, from: IpAddr, to: IpAddr, port: u16) -> FlowKey {
        self.next_port += 1;
        // The attacker has the ports above.
        assert!(self.next_port < 0x8000, "too long a run");
        let now = self.time();
        let place = self.host_of(from);
        let client = self.pod(from).name.clone();
        let host = self.hosts.get_mut(&place).expect("a node");
        let sockets = host.pods.get_mut(&from).expect("a pod");
        let key = sockets.connect(self.next_port, SocketAddr::new(to, port), now.mono);
        self.initiated.insert(key, client);
        self.summary.connects += 1;
        host.drain(now);
        self.collect(place);
        key
    }

    fn relabel(&mut self) {
        let address = *self.dice.pick(&self.addresses());
        let number = self.cluster_of(address);
        let mut dice = self.dice.split();
        self.change(number, |cluster| {
            let pod = cluster.pods.get_mut(&address);
            pod.expect("a pod").relabel(&mut dice);
        });
    }

    /// A pod is deleted, and another one gets its address.
    fn replace_pod(&mut self) {
        let address = *self.dice.pick(&self.addresses());
        let place = self.host_of(address);
        let new = Pod::random(place.0, place.1, &mut self.dice.split());
        self.change(place.0, |cluster| {
            cluster.pods.insert(address, new);
        });
        // The agent of the node hears first: before the address is served again.
        self.hosts
            .get_mut(&place)
            .expect("a node")
            .remove_pod(address);
        self.hears(Place::Host(place.0, place.1));
        self.start_pod(address);
    }

    pub(super) fn start_pod(&mut self, address: IpAddr) {
        let place = self.host_of(address);
        let isn = u32::from_be_bytes(self.dice.bytes()[..4].try_into().expect("four bytes"));
        let sockets = Sockets::new(address, PORTS.to_vec(), isn);
        self.hosts
            .get_mut(&place)
            .expect("a node")
            .pods
            .insert(address, sockets);
    }

    fn partition(&mut self) {
        let (a, b) = (
            self.dice.below(self.gateways.len()),
            self.dice.below(self.gateways.len()),
        );
        if a != b && self.partitions.insert((a.min(b), a.max(b))) {
            let later = self.now.after(self.dice.millis(100, 4000));
            self.schedule(later, Event::Heals(a.min(b), a.max(b)));
            self.part(Line::Gateways(a.min(b), a.max(b)));
        }
    }

    /// Changes the objects of a cluster; every machine there hears of it a little later.
    pub(super) fn change(&mut self, number: usize, change: impl FnOnce(&mut Cluster)) {
        change(&mut self.objects.clusters[number]);
        self.history.take(&self.objects, self.now);
        self.summary.changes += 1;
        let nodes = (0..NODES).map(|node| Place::Host(number, node));
        for place in nodes.chain([Place::Gateway(number, Side::Lan)]) {
            let later = self
                .now
                .after(self.dice.millis(HEARD_WITHIN.0, HEARD_WITHIN.1));
            self.schedule(later, Event::Hears(place));
        }
    }
}
