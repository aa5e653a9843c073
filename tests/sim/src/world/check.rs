//! What must be true after each step, and at the end.

use std::time::Duration;

use identity::Mono;
use policy::model::Direction;
use wire::flow::FlowKey;

use super::{HEARD_WITHIN, Place, World};
use crate::{
    lines::{Line, Lines},
    objects::PORTS,
    sight::Sight,
    sockets::{self, Delivery},
};

/// Most pairs that are tried at the end: all of a world of four clusters, nearly always.
const PAIRS: usize = 240;

/// How a change comes to a place that decides, and how soon: what was replaced may be in force there
/// until then, and no longer.
pub(super) struct Way {
    /// With every session up.
    lag: Duration,
    /// The sessions that it comes by: a time without one puts it off.
    lines: Vec<Line>,
    /// From a new session until all is told.
    told: Duration,
}

/// From objects to a source.
const HEARD: Duration = Duration::from_millis(HEARD_WITHIN.1);
/// On a session between gateways, and between gateway and agent.
const HOP: Duration = Duration::from_millis(30);
const SHORT_HOP: Duration = Duration::from_millis(2);
/// Both ends of a new session greet each other and ask before they tell: as many hops.
const GREETINGS: u32 = 4;

impl Way {
    /// What a gateway's own source says.
    pub fn gateway_own() -> Self {
        Self {
            lag: HEARD,
            lines: Vec::new(),
            told: Duration::ZERO,
        }
    }

    /// What the gateway `other` says of its pods to the gateway `number`.
    pub fn gateway_far(number: usize, other: usize) -> Self {
        Self {
            lag: HEARD + HOP,
            lines: vec![Line::Gateways(number.min(other), number.max(other))],
            told: HOP * GREETINGS,
        }
    }

    /// What an agent's gateway says of the pods of the cluster `of`.
    pub fn agent(place: (usize, usize), of: usize) -> Self {
        let mut way = match of == place.0 {
            true => Self::gateway_own(),
            false => Self::gateway_far(place.0, of),
        };
        way.lag += SHORT_HOP;
        way.told += SHORT_HOP * GREETINGS;
        way.lines.push(Line::Agent(place.0, place.1));
        way
    }

    /// Whether what was replaced at `replaced` cannot be in force any more at `now`.
    pub fn is_over(&self, lines: &Lines, replaced: Mono, now: Mono) -> bool {
        let mut until = replaced.after(self.lag);
        loop {
            let mut outages = self.lines.iter().flat_map(|line| lines.outages(*line));
            let longer = outages.find_map(|outage| {
                let end = outage.to.map(|to| to.after(self.told));
                let puts_off = outage.from <= until && end.is_none_or(|end| end > until);
                puts_off.then_some(end)
            });
            match longer {
                None => return until < now,
                Some(None) => return false,
                Some(Some(end)) => until = end,
            }
        }
    }
}

impl World {
    pub(super) fn check_every_pair(&mut self) {
        let addresses = self.addresses();
        let mut attempts = Vec::new();
        let pairs = addresses
            .iter()
            .flat_map(|from| addresses.iter().map(move |to| (*from, *to)));
        let mut pairs: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
        while pairs.len() > PAIRS {
            let gone = self.dice.below(pairs.len());
            pairs.swap_remove(gone);
        }
        for (from, to) in pairs {
            let port = *self.dice.pick(&PORTS);
            attempts.push(self.connect(from, to, port));
            self.run_until(self.now.after(Duration::from_millis(5)));
        }
        self.run_until(self.now.after(Duration::from_secs(3)));
        for key in attempts {
            let sockets = &self.hosts[&self.host_of(key.src)].pods[&key.src];
            let answered = sockets.client(&key).expect("a connection").answered;
            if self.should_flow(&key) {
                assert!(answered > 0, "{key} is allowed and does not flow");
                self.summary.allowed_at_end += 1;
            } else {
                assert_eq!(answered, 0, "{key} is denied and flows");
                self.summary.denied_at_end += 1;
            }
        }
    }

    /// Whether all allow the connection who are on its way and are not lax, when everything is known
    /// everywhere.
    fn should_flow(&mut self, key: &FlowKey) -> bool {
        let (from, to) = (self.cluster_of(key.src), self.cluster_of(key.dst));
        let clients = self.history.looks_at(key.src, from, |_| true);
        let servers = self.history.looks_at(key.dst, to, |_| true);
        let halves = [
            (Direction::Egress, from, &clients, &servers),
            (Direction::Ingress, to, &servers, &clients),
        ];
        halves.into_iter().all(|(direction, at, subjects, others)| {
            if !self.history.admits(at, subjects)
                || !self.history.admits(at, others)
                || !self.history.offers(at, (subjects, others))
            {
                return false;
            }
            let gateway = from != to && !self.lax.gateways[at];
            let agent = !self.lax.agents[at];
            (!gateway && !agent)
                || self.history.allows(
                    direction,
                    self.history.newest(at),
                    (subjects, others),
                    key.dport,
                )
        })
    }

    /// Between clusters nothing may be read: no payload and no name.
    pub(super) fn look_for_clear_text(&self, frame: &[u8]) {
        for word in [sockets::WORD, "spiffe://"] {
            let found = frame
                .windows(word.len())
                .any(|part| part == word.as_bytes());
            assert!(!found, "{word:?} in clear between clusters");
        }
    }

    /// A socket read payload: its connection must have been opened by the pod that still has the
    /// client's address, and the agent of this end must allow it. The agent of the other end was
    /// judged when the payload left it.
    pub(super) fn judge(&mut self, delivery: &Delivery) {
        let key = delivery.key;
        let said = String::from_utf8_lossy(&delivery.bytes);
        let Some(client) = self.initiated.get(&key).cloned() else {
            panic!("{key} delivered {said:?} and nobody opened it")
        };
        let (client_at, server_at) = (self.host_of(key.src), self.host_of(key.dst));
        if !delivery.at_server {
            let reader = &self.pod(key.src).name;
            assert_eq!(*reader, client, "{key}: {said:?} at a later pod");
        }
        // Between two pods of one node nothing leaves.
        let both = client_at == server_at;
        for (direction, place, asked) in [
            (Direction::Egress, client_at, !delivery.at_server || both),
            (Direction::Ingress, server_at, delivery.at_server || both),
        ] {
            let may = !asked || self.agent_allows(place, direction, &key, &client);
            assert!(may, "{key} delivered {said:?}; {direction:?} is denied");
        }
    }

    /// A node sent a packet: payload leaves only on a connection that its pod opened or serves, and
    /// that its agent allows.
    pub(super) fn check_left(&mut self, place: (usize, usize), packet: &[u8]) {
        let Some(sight) = Sight::of(packet) else {
            return;
        };
        if let Some(hello) = sight.hello().filter(|_| sight.is_syn()) {
            let this = (sight.key, hello.header);
            let made = self.hellos.entry(hello.nonce).or_insert(this.clone());
            assert_eq!(*made, this, "one nonce for two connections");
        }
        self.note_proofs(&sight);
        if sight.tcp.syn || sight.payload.is_empty() {
            return;
        }
        let (direction, key) = match self.initiated.contains_key(&sight.key) {
            true => (Direction::Egress, sight.key),
            false => (Direction::Ingress, sight.key.reversed()),
        };
        let Some(client) = self.initiated.get(&key).cloned() else {
            panic!("{} sends payload and nobody opened it", sight.key)
        };
        let may = self.agent_allows(place, direction, &key, &client);
        assert!(
            may,
            "{} leaves its node; {direction:?} is denied",
            sight.key
        );
    }

    /// An agent was told something: no flow lives on there that this denies.
    pub(super) fn check_flows(&mut self, place: (usize, usize)) {
        let Some(node) = self.hosts[&place].enforcer() else {
            return;
        };
        let flows: Vec<_> = node.flows().map(|record| record.key).collect();
        for key in flows {
            let client = self.initiated.get(&key).cloned();
            let client = client.unwrap_or_else(|| panic!("{key} lives and nobody opened it"));
            for (direction, end) in [(Direction::Egress, key.src), (Direction::Ingress, key.dst)] {
                let may = self.host_of(end) != place
                    || self.agent_allows(place, direction, &key, &client);
                assert!(may, "{key} lives on; {direction:?} is denied");
            }
        }
    }

    /// Whether the naive model allows this half of a connection, for what the agent can know.
    fn agent_allows(
        &mut self,
        place: (usize, usize),
        direction: Direction,
        key: &FlowKey,
        client: &str,
    ) -> bool {
        let (lines, now) = (&self.lines, self.now);
        let way_to = |address| Way::agent(place, self.cluster_of(address));
        let (to_client, to_server) = (way_to(key.src), way_to(key.dst));
        let clients = self
            .history
            .looks_of(client, place.0, |at| to_client.is_over(lines, at, now));
        // Who serves the address may have changed while the connection was opening: it proved
        // itself.
        let servers = self
            .history
            .looks_at(key.dst, place.0, |at| to_server.is_over(lines, at, now));
        let (subjects, others) = match direction {
            Direction::Egress => (&clients, &servers),
            Direction::Ingress => (&servers, &clients),
        };
        if self.lax.agents[place.0] {
            // By their policies, and by nothing else.
            let looks = [subjects, others];
            return self.history.offers(place.0, (subjects, others))
                && looks
                    .iter()
                    .all(|looks| self.history.admits(place.0, looks));
        }
        let policy = self.told[&Place::Host(place.0, place.1)];
        self.history
            .allows(direction, policy, (subjects, others), key.dport)
    }

    /// Counters are equal, always: those of a gateway that has just taken a packet.
    pub(super) fn check_gateway(&self, number: usize) {
        let (gateway, watch) = (&self.gateways[number], &self.watches[number]);
        gateway.check();
        if let Some(totals) = gateway.totals() {
            assert_eq!(totals.forwarded, watch.judged, "a packet was not judged");
            assert_eq!(gateway.opened(), Some(watch.established), "flows opened");
        }
    }
}
