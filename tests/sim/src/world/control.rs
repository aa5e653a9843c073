//! The control plane of the world: sessions that come and go, and what follows from each message.

use gateway_core::Side;
use identity::Mono;
use peering::peers::Digest;
use policy::model::{NamespaceMatch, Operator, Requirement, Term};

use super::{Event, Place, World};
use crate::{
    hub::To,
    lines::{End, Line},
    objects::Offer,
};

impl World {
    /// Every session that there may be.
    fn lines(&self) -> Vec<Line> {
        let count = self.gateways.len();
        let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| Line::Gateways(a, b)));
        let agents = self.hosts.keys().map(|(c, node)| Line::Agent(*c, *node));
        pairs.chain(agents).collect()
    }

    fn lines_of_gateway(&self, number: usize) -> Vec<Line> {
        let ends = |line: &Line| match line {
            Line::Gateways(a, b) => *a == number || *b == number,
            Line::Agent(cluster, _) => *cluster == number,
        };
        self.lines().into_iter().filter(ends).collect()
    }

    /// All processes start and meet.
    pub(super) fn begin(&mut self) {
        let now = self.time();
        for number in 0..self.hubs.len() {
            let policies = self.tell(Place::Gateway(number, Side::Lan));
            self.hubs[number].start(&self.objects, &policies, now);
        }
        let places: Vec<_> = self.hosts.keys().copied().collect();
        for place in &places {
            let policies = self.tell(Place::Host(place.0, place.1));
            let agent = self.agents.get_mut(place).expect("a node");
            agent.start(&self.objects, &policies, now);
            let snapshot = agent.take_snapshot().expect("a first snapshot");
            self.hosts
                .get_mut(place)
                .expect("a node")
                .restart(snapshot, now);
        }
        for line in self.lines() {
            self.meet(line);
        }
        for number in 0..self.hubs.len() {
            self.pump_gateway(number);
        }
        places.into_iter().for_each(|place| self.pump_agent(place));
    }

    pub(super) fn kill_gateway(&mut self) {
        let number = self.dice.below(self.gateways.len());
        if !self.gateways[number].is_up() {
            return;
        }
        self.gateways[number].kill();
        self.hubs[number].kill();
        if self.dice.percent(30) {
            self.hubs[number].change_keys();
            self.summary.bundles += 1;
        }
        let watch = std::mem::take(&mut self.watches[number]);
        self.summary.judged += watch.judged;
        self.summary.restarts += 1;
        for line in self.lines_of_gateway(number) {
            self.part(line);
        }
        let later = self.now.after(self.dice.millis(1, 1000));
        self.did = format!("of cluster {number}, until {:.3} s", later.0.as_secs_f32());
        self.schedule(later, Event::GatewayStarts(number));
    }

    pub(super) fn start_gateway(&mut self, number: usize) {
        let now = self.time();
        let policies = self.tell(Place::Gateway(number, Side::Lan));
        self.hubs[number].start(&self.objects, &policies, now);
        self.pump_gateway(number);
        for line in self.lines_of_gateway(number) {
            self.meet_in(line, (5, 60));
        }
    }

    pub(super) fn crash_agent(&mut self) {
        let places: Vec<_> = self.hosts.keys().copied().collect();
        let place = *self.dice.pick(&places);
        let host = self.hosts.get_mut(&place).expect("a node");
        if host.enforcer().is_none() {
            return;
        }
        host.crash();
        self.agents.get_mut(&place).expect("a node").kill();
        self.summary.crashes += 1;
        let line = Line::Agent(place.0, place.1);
        self.part(line);
        let later = self.now.after(self.dice.millis(1, 1500));
        let (cluster, node) = place;
        self.did = format!(
            "of node {node} of cluster {cluster}, until {:.3} s",
            later.0.as_secs_f32()
        );
        self.schedule(later, Event::Restarts(place.0, place.1));
    }

    pub(super) fn restart_agent(&mut self, place: (usize, usize)) {
        let now = self.time();
        let policies = self.tell(Place::Host(place.0, place.1));
        let agent = self.agents.get_mut(&place).expect("a node");
        agent.start(&self.objects, &policies, now);
        self.admitted.remove(&place);
        let snapshot = agent.take_snapshot().expect("a first snapshot");
        let host = self.hosts.get_mut(&place).expect("a node");
        host.restart(snapshot, now);
        self.check_flows(place);
        self.collect(place);
        self.meet_in(Line::Agent(place.0, place.1), (2, 50));
    }

    /// A session breaks for no reason that anybody here knows.
    pub(super) fn break_line(&mut self) {
        let lines = self.lines();
        let line = *self.dice.pick(&lines);
        if self.lines.session(line).is_some() {
            self.did = format!("{line:?}");
            self.part(line);
            self.meet_in(line, (10, 1500));
        }
    }

    /// The session is over. Each end may notice only when another takes its place.
    pub(super) fn part(&mut self, line: Line) {
        if !self.lines.cut(line, self.now) {
            return;
        }
        self.summary.broken += 1;
        for end in [End::First, End::Second] {
            if self.dice.percent(70) {
                self.set_connected(line, end, false);
            }
        }
    }

    pub(super) fn meet_in(&mut self, line: Line, millis: (u64, u64)) {
        let later = self.now.after(self.dice.millis(millis.0, millis.1));
        self.schedule(later, Event::Meets(line));
    }

    /// A session begins, if both ends live and can reach each other.
    pub(super) fn meet(&mut self, line: Line) {
        let possible = match line {
            Line::Gateways(a, b) => {
                self.hubs[a].control().is_some()
                    && self.hubs[b].control().is_some()
                    && !self.partitions.contains(&(a, b))
            }
            Line::Agent(cluster, node) => {
                self.hubs[cluster].control().is_some()
                    && self.agents[&(cluster, node)].held().is_some()
            }
        };
        if possible && self.lines.session(line).is_none() {
            self.lines.connect(line, self.now);
            self.set_connected(line, End::First, true);
            self.set_connected(line, End::Second, true);
        }
    }

    fn set_connected(&mut self, line: Line, end: End, up: bool) {
        let now = self.time();
        match (line, end) {
            (Line::Agent(cluster, node), End::First) => {
                let agent = self.agents.get_mut(&(cluster, node)).expect("a node");
                match (agent.member(), up) {
                    (Some(member), true) => member.handle_connected(now),
                    (Some(member), false) => member.handle_disconnected(now),
                    (None, _) => {}
                }
                self.pump_agent((cluster, node));
            }
            (Line::Agent(cluster, node), End::Second) => {
                self.hubs[cluster].set_connected(To::Node(node), up, now);
                self.pump_gateway(cluster);
            }
            (Line::Gateways(a, b), end) => {
                let (here, there) = if end == End::First { (a, b) } else { (b, a) };
                self.hubs[here].set_connected(To::Peer(there), up, now);
                self.pump_gateway(here);
            }
        }
    }

    /// A message arrives, unless its session is over.
    pub(super) fn message(&mut self, line: Line, session: u64, end: End, bytes: &[u8]) {
        if self.lines.session(line) != Some(session) {
            return;
        }
        let now = self.time();
        match (line, end) {
            (Line::Agent(cluster, node), End::First) => {
                let agent = self.agents.get_mut(&(cluster, node)).expect("a node");
                if let Some(member) = agent.member() {
                    member.handle_message(bytes, now);
                }
                self.pump_agent((cluster, node));
            }
            (Line::Agent(cluster, node), End::Second) => {
                self.hubs[cluster].handle_message(To::Node(node), bytes, now);
                self.pump_gateway(cluster);
            }
            (Line::Gateways(a, b), end) => {
                let (here, there) = if end == End::First { (a, b) } else { (b, a) };
                self.hubs[here].handle_message(To::Peer(there), bytes, now);
                self.pump_gateway(here);
            }
        }
    }

    /// A node or gateway hears what the objects are now.
    pub(super) fn hears(&mut self, place: Place) {
        let now = self.time();
        match place {
            Place::Host(cluster, node) => {
                if self.agents[&(cluster, node)].held().is_none() {
                    return;
                }
                let policies = self.tell(place);
                let agent = self.agents.get_mut(&(cluster, node)).expect("a node");
                agent.hear(&self.objects, &policies, now);
                self.pump_agent((cluster, node));
            }
            Place::Gateway(number, _) => {
                let policies = self.tell(Place::Gateway(number, Side::Lan));
                self.hubs[number].hear(&self.objects, &policies, now);
                self.pump_gateway(number);
            }
        }
    }

    /// Machines of the control plane whose time has come.
    pub(super) fn control_timeouts(&mut self) {
        let now = self.time();
        let is_due = |due: Option<Mono>| due.is_some_and(|due| due <= now.mono);
        for number in 0..self.hubs.len() {
            if is_due(self.hubs[number].next_timeout()) {
                self.hubs[number].handle_timeout(now);
                self.pump_gateway(number);
            }
        }
        let due: Vec<_> = self
            .agents
            .iter()
            .filter(|(_, agent)| is_due(agent.next_timeout()))
            .map(|(place, _)| *place)
            .collect();
        for place in due {
            let agent = self.agents.get_mut(&place).expect("a node");
            agent.member().expect("it is due").handle_timeout(now);
            self.pump_agent(place);
        }
    }

    /// Sends what a gateway's control has to say, and gives its data plane what is new.
    pub(super) fn pump_gateway(&mut self, number: usize) {
        for (to, bytes) in self.hubs[number].pump() {
            let (line, end) = match to {
                To::Peer(other) if number < other => (Line::Gateways(number, other), End::Second),
                To::Peer(other) => (Line::Gateways(other, number), End::First),
                To::Node(node) => (Line::Agent(number, node), End::First),
            };
            if let To::Peer(other) = to {
                self.check_named(number, other, &bytes);
            }
            self.note_said(line, end, &bytes);
            self.send(line, end, bytes);
        }
        for other in self.hubs[number].take_closing() {
            // Both ends hear that a session was closed.
            let line = Line::Gateways(number.min(other), number.max(other));
            self.part(line);
            self.meet_in(line, (5, 60));
        }
        self.check_sequences(number);
        if let Some(snapshot) = self.hubs[number].take_snapshot() {
            let gateway = &mut self.gateways[number];
            match gateway.is_up() {
                true => gateway.set_snapshot(snapshot),
                false => gateway.start(snapshot, self.now),
            }
        }
    }

    /// Sends what an agent has to say, and gives its enforcer what is new.
    fn pump_agent(&mut self, place: (usize, usize)) {
        let now = self.time();
        let agent = self.agents.get_mut(&place).expect("a node");
        let messages = agent.pump();
        let snapshot = agent.take_snapshot();
        for bytes in messages {
            self.send(Line::Agent(place.0, place.1), End::Second, bytes);
        }
        if let Some(snapshot) = snapshot {
            let host = self.hosts.get_mut(&place).expect("a node");
            host.set_snapshot(snapshot, now);
            self.check_flows(place);
            self.collect(place);
        }
    }

    /// What a gateway believes of another never goes back, whatever the other says and whether
    /// itself was restarted.
    fn check_sequences(&mut self, number: usize) {
        let Some(control) = self.hubs[number].control() else {
            return;
        };
        let peering = control.peering();
        for (other, cluster) in self.objects.clusters.iter().enumerate() {
            let bundle = peering.bundles().bundle(&cluster.domain);
            let bundle = bundle.map_or(0, |bundle| bundle.sequence);
            let digest = peering.digest(&cluster.domain);
            let digest = digest.map_or(0, |digest| digest.sequence);
            let highest = self.believed.entry((number, other)).or_default();
            for (now, highest) in [(bundle, &mut highest.0), (digest, &mut highest.1)] {
                // Nothing is believed until it is said again.
                assert!(
                    now == 0 || now >= *highest,
                    "gateway {number} believes {other}'s past"
                );
                *highest = now.max(*highest);
            }
        }
    }

    /// Of what was recorded of the pods of `number`, what `other` hears: of those that are offered to it.
    fn told<'r>(
        &self,
        recorded: &'r [(String, u64)],
        number: usize,
        other: usize,
    ) -> impl Iterator<Item = &'r (String, u64)> {
        let cluster = &self.objects.clusters[number];
        recorded.iter().filter(move |(uid, _)| {
            let pod = cluster.pods.values().find(|pod| pod.name == *uid);
            match pod {
                Some(pod) => cluster.offers(other, pod),
                // What it was last nobody here remembers.
                None => !cluster.offers.contains_key(&other),
            }
        })
    }

    /// A digest names no namespace, and no value of a label, that is not offered to `other`.
    fn check_told(&self, digest: &Digest, number: usize, other: usize) {
        let offer = self.objects.clusters[number].offers.get(&other);
        let part = digest.part.as_ref().expect("a small one");
        for policy in &part.policies {
            let subject = &policy.subject;
            let named: Vec<&String> = match (offer, &subject.namespaces) {
                (Some(Offer::Namespace(_)), NamespaceMatch::Names(names)) => names.iter().collect(),
                (Some(Offer::App(_)), _) => {
                    let terms = subject.pods.0.iter();
                    terms
                        .flat_map(|term| match term {
                            Term::Label(Requirement { operator, .. }) => match operator {
                                Operator::In(values) | Operator::NotIn(values) => values.iter(),
                                _ => [].iter(),
                            },
                            Term::AnyOf(_) => [].iter(),
                        })
                        .collect()
                }
                _ => Vec::new(),
            };
            let offered = |name: &&String| match offer {
                Some(Offer::Namespace(offered) | Offer::App(offered)) => name == offered,
                None => true,
            };
            let all = named.iter().all(offered);
            assert!(all, "{number} tells {other} of {}: {named:?}", policy.name);
        }
    }

    /// Nothing that a gateway says to another names a pod that was never offered to that.
    fn check_named(&self, from: usize, to: usize, bytes: &[u8]) {
        for name in self.history.never_offered(from, to) {
            let named = bytes
                .windows(name.len())
                .any(|part| part == name.as_bytes());
            assert!(!named, "gateway {from} names {name} to {to}");
        }
    }

    fn send(&mut self, line: Line, end: End, bytes: Vec<u8>) {
        // Without a session an end speaks into a dead one.
        if let Some((session, at)) = self.lines.send(line, end, self.now, &mut self.dice) {
            let event = Event::Message {
                line,
                session,
                end,
                bytes,
            };
            self.schedule(at, event);
        }
    }

    /// What each holds of the others is what they say of themselves: bundles, digests, records.
    pub(super) fn check_convergence(&self) {
        let now = self.time();
        for (number, teller) in self.hubs.iter().enumerate() {
            let domain = &self.objects.clusters[number].domain;
            let said = teller.control().expect("all live at the end").peering();
            let hash = policy::compile(&self.policies_of(number, self.lax.gateways[number]))
                .expect("valid policies")
                .hash();
            assert_eq!(said.own_digest().map(|digest| digest.hash), Some(hash));
            let recorded = teller.recorded(&self.objects, now);
            let own = said.bundles().bundle(domain);
            for (other, hearer) in self.hubs.iter().enumerate() {
                let hearer = hearer.control().expect("all live at the end");
                let heard = hearer.peering();
                assert_eq!(heard.bundles().bundle(domain), own, "{other} of {number}");
                for (uid, generation) in self.told(&recorded, number, other) {
                    let held = hearer.records().newest(domain, uid);
                    let held = held.map(|(generation, _)| generation);
                    assert_eq!(held, Some(*generation), "{other} of {uid}");
                }
                if other != number {
                    let digest = heard.digest(domain).map(|digest| &**digest);
                    let its = said.digest_for(&self.objects.clusters[other].domain);
                    assert_eq!(digest, its, "{other} of {number}");
                    self.check_told(digest.expect("it was told one"), number, other);
                    let revoked = said.revoked_here().get(domain);
                    let revoked = revoked.map_or(&[][..], Vec::as_slice);
                    assert_eq!(heard.revoked_by(domain), revoked, "{other} of {number}");
                }
                for peer in heard.status(now.unix).peers {
                    for problem in peer.problems {
                        // Who said again what is old is told of for good.
                        let old = problem.contains(" older than ")
                            // By a key that is retired.
                            || self.summary.rotations > 0 && problem.contains(": no key ");
                        let expected = self.summary.repeated > 0 && old;
                        assert!(expected, "{other}: {problem}");
                    }
                }
            }
            for (place, agent) in &self.agents {
                let member = agent.held().expect("all live at the end");
                assert_eq!(
                    member.bundles().bundle(domain),
                    own,
                    "{place:?} of {number}"
                );
                for (uid, generation) in self.told(&recorded, number, place.0) {
                    let held = member.records().newest(domain, uid);
                    let held = held.map(|(generation, _)| generation);
                    assert_eq!(held, Some(*generation), "{place:?} of {uid}");
                }
            }
        }
    }
}
