//! What happens by chance: people, pods, machines.

use std::net::{IpAddr, SocketAddr};

use gateway_core::Side;
use wire::flow::FlowKey;

use super::{Event, HEARD_WITHIN, Place, World};
use crate::{
    lines::Line,
    objects::{Cluster, NODES, PORTS, Pod},
    plan::Transition,
    sockets::Sockets,
};

impl World {
    pub(super) fn act(&mut self, what: Transition) {
        match what {
            Transition::Connect => self.connect_somewhere(),
            Transition::Relabel => self.relabel(),
            Transition::Rewrite => self.rewrite_policies(),
            Transition::Replace => self.replace_pod(),
            Transition::Revoke => self.revoke(),
            Transition::Offer => self.offer(),
            Transition::Rotate => self.rotate(),
            Transition::CrashAgent => self.crash_agent(),
            Transition::KillGateway => self.kill_gateway(),
            Transition::Partition => self.partition(),
            Transition::BreakLine => self.break_line(),
            Transition::Repeat => self.repeat_message(),
            Transition::Strike => self.attack(),
            Transition::StrikeTunnel => self.attack_tunnel(),
            Transition::Lie => self.lie(),
            Transition::Forge => self.forge(),
            Transition::Grip => self.grip(),
            Transition::Tamper => self.start_tampering(),
            // They hold from the beginning.
            Transition::Loss(_)
            | Transition::Duplication(_)
            | Transition::Reordering(_)
            | Transition::LaxAgents(_)
            | Transition::LaxGateway(_) => {}
        }
    }

    fn rewrite_policies(&mut self) {
        let number = self.dice.below(self.objects.clusters.len());
        let mut dice = self.dice.split();
        self.change(number, |cluster| cluster.rewrite_policies(&mut dice));
        let policies = &self.objects.clusters[number].policies.policies;
        let names: Vec<_> = policies.iter().map(|policy| &*policy.name).collect();
        self.did = format!("cluster {number} has the policies {names:?}");
    }

    fn revoke(&mut self) {
        let number = self.dice.below(self.objects.clusters.len());
        let mut dice = self.dice.split();
        self.change(number, |cluster| cluster.revoke(&mut dice));
        let revoked = &self.objects.clusters[number].revoked;
        self.did = format!("cluster {number} has revoked {revoked:?}");
    }

    fn offer(&mut self) {
        let number = self.dice.below(self.objects.clusters.len());
        let others = (0..self.objects.clusters.len()).filter(|other| *other != number);
        let other = *self.dice.pick(&others.collect::<Vec<_>>());
        let mut dice = self.dice.split();
        self.change(number, |cluster| cluster.offer_otherwise(other, &mut dice));
        let offers = &self.objects.clusters[number].offers;
        self.did = format!("cluster {number} offers {offers:?}, and all to others");
    }

    fn rotate(&mut self) {
        let number = self.dice.below(self.hubs.len());
        let now = self.time();
        self.hubs[number].rotate(now);
        self.pump_gateway(number);
        self.summary.rotations += 1;
        self.did = format!("of cluster {number}");
    }

    /// Most of the traffic is between clusters.
    fn connect_somewhere(&mut self) {
        let addresses = self.addresses();
        let (from, to) = (*self.dice.pick(&addresses), *self.dice.pick(&addresses));
        let near = self.cluster_of(from) == self.cluster_of(to);
        if from != to && (!near || self.dice.percent(50)) {
            let port = *self.dice.pick(&PORTS);
            let key = self.connect(from, to, port);
            self.did = key.to_string();
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
        self.did = format!("{address} has app={}", self.pod(address).app);
    }

    /// A pod is deleted, and another one gets its address.
    fn replace_pod(&mut self) {
        let address = *self.dice.pick(&self.addresses());
        let place = self.host_of(address);
        let new = Pod::random(place.0, place.1, &mut self.dice.split());
        self.did = format!("{address} is {}, app={}", new.name, new.app);
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
            self.did = format!("clusters {a} and {b} until {:.3} s", later.0.as_secs_f32());
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
