//! Packets on their way, and those who look at them.

use gateway_core::Side;

use super::{Event, Place, World};
use crate::{gateway::Sent, network::Link, sight::Sight, wires};

impl World {
    pub(super) fn arrives(&mut self, place: Place, packet: Vec<u8>) {
        match place {
            Place::Host(number, node) => self.arrives_at_node((number, node), packet),
            Place::Gateway(number, side) => self.arrives_at_gateway(number, side, &packet),
        }
    }

    fn arrives_at_node(&mut self, place: (usize, usize), packet: Vec<u8>) {
        self.attacker.observe(&packet, &mut self.dice);
        let neighbours: Vec<_> = self.objects.clusters[place.0]
            .pods
            .keys()
            .copied()
            .collect();
        let packet = self.onpath.arrives(packet, &neighbours, &mut self.dice);
        let sight = Sight::of(&packet);
        // It may have been sent on to a pod of another node.
        let place = match &sight {
            Some(sight) if self.objects.pod(sight.key.dst).is_some() => self.host_of(sight.key.dst),
            _ => place,
        };
        let now = self.time();
        let host = self.hosts.get_mut(&place).expect("a node");
        let passed = host.handle_network(&packet, now);
        if let Some(sight) = sight.filter(|_| passed) {
            self.check_admitted(place, &sight);
        }
        self.collect(place);
    }

    fn arrives_at_gateway(&mut self, number: usize, side: Side, frame: &[u8]) {
        let now = self.time();
        let sent = self.gateways[number].handle_frame(side, frame, now);
        if let Some(sent) = sent.as_ref().filter(|sent| !sent.answer) {
            self.watch(number, side, frame, &sent.frame);
        }
        self.check_gateway(number);
        let Some(Sent {
            side: out,
            frame: sent,
            ..
        }) = sent
        else {
            return;
        };
        match out {
            Side::Lan => self.send_to_node(number, &sent),
            Side::Wan => self.send_to_gateway(number, &sent),
        }
    }

    /// Sends what a node has to send, and judges it and what its pods read.
    pub(super) fn collect(&mut self, place: (usize, usize)) {
        let host = self.hosts.get_mut(&place).expect("a node");
        host.check();
        let packets = std::mem::take(&mut host.out);
        let deliveries = std::mem::take(&mut host.deliveries);
        for packet in packets {
            self.check_left(place, &packet);
            let (packet, forged) = self.onpath.leaves(packet, &mut self.dice);
            for forged in forged {
                self.summary.forged += 1;
                self.carry(Link::Nodes, Place::Host(place.0, place.1), forged);
            }
            self.route(place, packet);
        }
        for delivery in deliveries {
            let same = self.cluster_of(delivery.key.src) == self.cluster_of(delivery.key.dst);
            match same {
                true => self.summary.near += 1,
                false => self.summary.far += 1,
            }
            self.judge(&delivery);
        }
    }

    /// A node sends a packet: to another node of its cluster, or to its gateway.
    fn route(&mut self, (number, node): (usize, usize), packet: Vec<u8>) {
        let Some(sight) = Sight::of(&packet) else {
            return;
        };
        let to = self.cluster_of(sight.key.dst);
        if to != number {
            let (gateway, station) = (wires::lan_mac(number), wires::node_mac(number, node));
            let frame = wires::frame(gateway, station, &packet);
            self.carry(Link::Access, Place::Gateway(number, Side::Lan), frame);
        } else if let Some(pod) = self.objects.pod(sight.key.dst) {
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
        let to = wires::cluster_of(frame).expect("a gateway sends to gateways that exist");
        self.note_sealed(number, to, frame);
        self.attacker.observe_tunnel(frame, &mut self.dice);
        if !self.partitions.contains(&(number.min(to), number.max(to))) {
            self.carry(Link::Wan, Place::Gateway(to, Side::Wan), frame.to_vec());
        }
    }

    fn carry(&mut self, link: Link, to: Place, bytes: Vec<u8>) {
        let Some((bytes, later)) = self.tampered(to, &bytes) else {
            return;
        };
        for at in self.weather.arrivals(link, self.now, &mut self.dice) {
            self.schedule(at.after(later), Event::Arrives(to, bytes.clone()));
        }
    }
}
