//! What attackers do: on a cluster's segment, between clusters, in a gateway, before a node.

use gateway_core::Side;

use super::{Event, Place, World};
use crate::{
    lines::{End, Line},
    objects::NODES,
    onpath::Grips,
    sight::Sight,
    wires,
};

/// How many messages of a direction are remembered, to be said again.
const SAID: usize = 24;

impl World {
    pub(super) fn attack(&mut self) {
        let addresses = self.addresses();
        let Some(packet) = self.attacker.strike(&addresses, &mut self.dice) else {
            return;
        };
        let Some(sight) = Sight::of(&packet) else {
            return;
        };
        self.summary.injected += 1;
        self.did = describe(&sight);
        // It stands on the segment of a cluster: it reaches nodes and the gateway there.
        let (from, to) = (
            self.cluster_of(sight.key.src),
            self.cluster_of(sight.key.dst),
        );
        let stands = if self.dice.percent(50) { from } else { to };
        if stands == to {
            let place = Place::Host(to, self.pod(sight.key.dst).node);
            self.schedule(self.now, Event::Arrives(place, packet));
        } else {
            let station = wires::node_mac(from, self.dice.below(NODES));
            let frame = wires::frame(wires::lan_mac(from), station, &packet);
            let place = Place::Gateway(from, Side::Lan);
            self.schedule(self.now, Event::Arrives(place, frame));
        }
    }

    /// The attacker stands between the clusters, too.
    pub(super) fn attack_tunnel(&mut self) {
        let clusters = self.gateways.len();
        if let Some(frame) = self.attacker.strike_tunnel(clusters, &mut self.dice)
            && let Some(to) = wires::cluster_of(&frame)
        {
            self.summary.struck += 1;
            self.did = format!("{} bytes to the gateway of {to}", frame.len());
            self.schedule(
                self.now,
                Event::Arrives(Place::Gateway(to, Side::Wan), frame),
            );
        }
    }

    /// A gateway that is not ours any more tells another that something came from its cluster.
    pub(super) fn lie(&mut self) {
        let addresses = self.addresses();
        let Some(packet) = self.attacker.strike(&addresses, &mut self.dice) else {
            return;
        };
        let Some(to) = Sight::of(&packet).map(|sight| self.cluster_of(sight.key.dst)) else {
            return;
        };
        let liar = self.dice.below(self.gateways.len());
        if let Some(frame) = self.gateways[liar].lie(wires::wan_address(to), &packet) {
            self.summary.lies += 1;
            let sight = Sight::of(&packet).expect("it was read before");
            self.did = format!(
                "the gateway of {liar} to that of {to}: {}",
                describe(&sight)
            );
            self.note_sealed(liar, to, &frame);
            self.schedule(
                self.now,
                Event::Arrives(Place::Gateway(to, Side::Wan), frame),
            );
        }
    }

    /// A pod sends a token of somebody: as it was, or as its own.
    pub(super) fn forge(&mut self) {
        let addresses = self.addresses();
        let from = *self.dice.pick(&addresses);
        let own = self.dice.percent(50).then_some(from);
        if let Some(packet) = self.attacker.token(own, &mut self.dice) {
            self.summary.forgeries += 1;
            self.did = format!("from {from}, as its own: {}", own.is_some());
            let now = self.time();
            let host = self.hosts.get_mut(&self.host_of(from)).expect("a node");
            let passed = host.pod_forges(&packet, now);
            assert!(!passed, "a token of a pod passed");
        }
    }

    pub(super) fn grip(&mut self) {
        let how = *self
            .dice
            .pick(&[Grips::Steals, Grips::Relays, Grips::Splices]);
        self.did = format!("it {how:?} the next");
        self.onpath.wait(how);
    }

    /// A gateway says something that it said before: an old bundle, an old policy, an old key.
    pub(super) fn repeat_message(&mut self) {
        let said: Vec<_> = self.said.keys().copied().collect();
        if said.is_empty() {
            return;
        }
        let (line, end) = *self.dice.pick(&said);
        let bytes = self.dice.pick(&self.said[&(line, end)]).clone();
        if let Some((session, at)) = self.lines.send(line, end, self.now, &mut self.dice) {
            self.summary.repeated += 1;
            self.did = format!("{} bytes on {line:?} to {end:?}", bytes.len());
            let event = Event::Message {
                line,
                session,
                end,
                bytes,
            };
            self.schedule(at, event);
        }
    }

    pub(super) fn note_said(&mut self, line: Line, end: End, bytes: &[u8]) {
        if let Line::Agent(..) = line {
            return;
        }
        let said = self.said.entry((line, end)).or_default();
        if said.len() < SAID {
            said.push(bytes.to_vec());
        } else {
            let place = self.dice.below(SAID);
            said[place] = bytes.to_vec();
        }
    }
}

fn describe(sight: &Sight<'_>) -> String {
    let kind = match (sight.tcp.syn, sight.tcp.ack, sight.option()) {
        (true, false, _) => "SYN",
        (true, true, _) => "SYN-ACK",
        (false, _, Some(_)) => "segment with CONFIRM",
        (false, ..) => "segment",
    };
    format!("{kind} {} with {} bytes", sight.key, sight.payload.len())
}
