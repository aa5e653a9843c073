//! A gateway seen from outside: each packet that it lets pass is held against the naive model, for
//! what this gateway can know. That the agents behind it would refuse excuses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
};

use gateway_core::Side;
use policy::model::Direction;
use wire::flow::FlowKey;

use super::{World, check::Way};
use crate::{sight::Sight, wires};

/// Where in a tunnel frame PSP begins: after Ethernet, IPv4 and UDP.
const PSP: usize = wires::HEADER + 20 + 8;
/// Where in a tunnel frame the outer source address is.
const OUTER_SOURCE: std::ops::Range<usize> = wires::HEADER + 12..wires::HEADER + 16;

/// Each nonce names one HELLO: one connection, one sequence number.
#[derive(Debug, Default)]
pub(super) struct Nonces(BTreeMap<[u8; 16], (FlowKey, u32)>);

impl Nonces {
    /// A HELLO passed.
    fn pass(&mut self, nonce: [u8; 16], sight: &Sight<'_>, who: &str) {
        let this = (sight.key, sight.tcp.sequence_number);
        let first = *self.0.entry(nonce).or_insert(this);
        assert_eq!(first, this, "{who} lets a HELLO pass twice");
    }
}

/// What a gateway let pass.
#[derive(Debug, Default)]
pub(super) struct Watch {
    flows: BTreeMap<FlowKey, Passing>,
    nonces: Nonces,
    /// Tunnel packets that it opened, by hash.
    opened: BTreeSet<u64>,
    /// Packets that were judged.
    pub judged: u64,
    /// Flows whose responder spoke.
    pub established: u64,
}

/// A connection as its handshakes went through: more than one when somebody lends an address.
#[derive(Debug, Default)]
struct Passing {
    initiators: BTreeSet<String>,
    responders: BTreeSet<String>,
    established: bool,
}

impl World {
    /// What a gateway seals is what its receiver may open, once.
    pub(super) fn note_sealed(&mut self, number: usize, frame: &[u8]) {
        self.sealed.insert(hash(&frame[PSP..]), number);
    }

    /// A gateway took `frame` on `side` and sends `sent` on.
    pub(super) fn watch(&mut self, number: usize, side: Side, frame: &[u8], sent: &[u8]) {
        self.watches[number].judged += 1;
        let (inner, from) = match side {
            Side::Lan => (&frame[wires::HEADER..], number),
            Side::Wan => (&sent[wires::HEADER..], self.opened_by(number, frame)),
        };
        let sight = Sight::of(inner).expect("only TCP passes here");
        let ends = (
            self.cluster_of(sight.key.src),
            self.cluster_of(sight.key.dst),
        );
        match side {
            Side::Lan => assert!(ends.0 == number && ends.1 != number, "{}", sight.key),
            Side::Wan => assert!(
                ends == (from, number) && from != number,
                "{} from the gateway of {from}",
                sight.key
            ),
        }
        match (sight.tcp.syn, sight.tcp.ack) {
            (true, false) => self.watch_syn(number, &sight),
            (true, true) => self.watch_syn_ack(number, &sight),
            (false, _) => self.watch_segment(number, &sight),
        }
    }

    /// The gateway that sealed what this one opened: for this one, and once.
    fn opened_by(&mut self, number: usize, frame: &[u8]) -> usize {
        let sealed = hash(&frame[PSP..]);
        let by = *self
            .sealed
            .get(&sealed)
            .unwrap_or_else(|| panic!("gateway {number} opened what nobody sealed"));
        let source = &frame[OUTER_SOURCE];
        let std::net::IpAddr::V4(expected) = wires::wan_address(by) else {
            panic!("the world is IPv4 so far")
        };
        assert_eq!(source, expected.octets(), "the attacker leaves it alone");
        let new = self.watches[number].opened.insert(sealed);
        assert!(new, "gateway {number} opened a packet twice");
        by
    }

    fn watch_syn(&mut self, number: usize, sight: &Sight<'_>) {
        let key = sight.key;
        let hello = sight
            .hello()
            .unwrap_or_else(|| panic!("gateway {number} let a SYN without HELLO pass: {key}"));
        if let Some(made_for) = self.hellos.get(&hello.nonce) {
            let ends = |key: &FlowKey| (key.dst, key.dport);
            assert_eq!(
                ends(made_for),
                ends(&key),
                "gateway {number}: a HELLO for another pod"
            );
        }
        let who = format!("gateway {number}");
        self.watches[number].nonces.pass(hello.nonce, sight, &who);
        let passing = self.watches[number].flows.entry(key).or_default();
        passing.initiators.insert(hello.pod.clone());
        // Who dials, the HELLO says. Who is dialled, its own source says, and later the REPLY, which
        // it cannot check and an attacker may bring from another pod.
        let is_allowed = match self.cluster_of(key.dst) == number {
            true => {
                let claimed = Claimed {
                    initiator: &hello.pod,
                    responder: None,
                };
                self.gateway_allows(number, Direction::Ingress, &key, &claimed)
                    || self.passing_is_allowed(number, &key)
            }
            // Egress waits for the answer.
            false => self.is_pod_of(number, &hello.pod),
        };
        assert!(
            is_allowed,
            "gateway {number} let a SYN pass: {key} of {}",
            hello.pod
        );
    }

    fn watch_syn_ack(&mut self, number: usize, sight: &Sight<'_>) {
        let key = sight.key.reversed();
        let responder = sight
            .reply()
            .unwrap_or_else(|| panic!("gateway {number} let a SYN-ACK without REPLY pass: {key}"));
        let passing = self.watches[number].flows.get_mut(&key);
        let passing = passing
            .unwrap_or_else(|| panic!("gateway {number} let an answer to nothing pass: {key}"));
        passing.responders.insert(responder);
        self.watch_verdict(number, &key);
    }

    fn watch_segment(&mut self, number: usize, sight: &Sight<'_>) {
        let flows = &mut self.watches[number].flows;
        let from_initiator = flows.contains_key(&sight.key);
        let key = match from_initiator {
            true => sight.key,
            false => sight.key.reversed(),
        };
        let Some(passing) = flows.get_mut(&key) else {
            panic!(
                "gateway {number} let a segment of no flow pass: {}",
                sight.key
            )
        };
        if passing.responders.is_empty() {
            let refusal = !from_initiator && sight.tcp.rst && sight.payload.is_empty();
            assert!(
                refusal,
                "gateway {number} let a segment pass too soon: {key}"
            );
            return;
        }
        if !from_initiator && !sight.tcp.rst && !passing.established {
            passing.established = true;
            self.watches[number].established += 1;
        }
        self.watch_verdict(number, &key);
    }

    fn watch_verdict(&mut self, number: usize, key: &FlowKey) {
        let is_allowed = self.passing_is_allowed(number, key);
        let passing = &self.watches[number].flows[key];
        assert!(is_allowed, "gateway {number} let {key} pass: {passing:?}");
    }

    /// Whether the flow may be, for what the gateway knows of both ends.
    fn passing_is_allowed(&mut self, number: usize, key: &FlowKey) -> bool {
        let direction = match self.cluster_of(key.src) == number {
            true => Direction::Egress,
            false => Direction::Ingress,
        };
        let passing = self.watches[number].flows.remove(key).expect("it passes");
        let mut pairs = passing
            .initiators
            .iter()
            .flat_map(|initiator| passing.responders.iter().map(move |r| (initiator, r)));
        let is_allowed = pairs.any(|(initiator, responder)| {
            let claimed = Claimed {
                initiator,
                responder: Some(responder),
            };
            self.gateway_allows(number, direction, key, &claimed)
        });
        self.watches[number].flows.insert(*key, passing);
        is_allowed
    }

    fn gateway_allows(
        &mut self,
        number: usize,
        direction: Direction,
        key: &FlowKey,
        claimed: &Claimed<'_>,
    ) -> bool {
        let (own, far) = (Way::gateway_own(), self.way_to_gateway(number, key));
        let (lines, now) = (&self.lines, self.now);
        let looks = |name: Option<&String>, way: &Way| match name {
            Some(name) => self
                .history
                .looks_of(name, |at| way.is_over(lines, at, now)),
            None => self
                .history
                .looks_at(key.dst, |at| way.is_over(lines, at, now)),
        };
        let (of_initiator, of_responder) = match direction {
            Direction::Egress => (&own, &far),
            Direction::Ingress => (&far, &own),
        };
        let initiators = looks(Some(claimed.initiator), of_initiator);
        let responders = looks(claimed.responder, of_responder);
        if self.lax.gateways[number] {
            // It knows who they are, and lets everybody pass.
            return !initiators.is_empty() && !responders.is_empty();
        }
        let (subjects, others) = match direction {
            Direction::Egress => (initiators, responders),
            Direction::Ingress => (responders, initiators),
        };
        self.history.allows(
            (direction, number),
            |at| own.is_over(lines, at, now),
            (&subjects, &others),
            key.dport,
        )
    }

    /// Whether the gateway's own cluster still has a pod of this name, or it cannot know better.
    fn is_pod_of(&self, number: usize, name: &str) -> bool {
        let way = Way::gateway_own();
        let looks = self
            .history
            .looks_of(name, |at| way.is_over(&self.lines, at, self.now));
        looks
            .iter()
            .any(|look| self.objects.cluster_of(self.history.address(*look)) == Some(number))
    }

    fn way_to_gateway(&self, number: usize, key: &FlowKey) -> Way {
        let ends = [self.cluster_of(key.src), self.cluster_of(key.dst)];
        let far = ends.into_iter().find(|end| *end != number);
        Way::gateway_far(number, far.expect("the ends are of two clusters"))
    }

    /// An agent let a packet from the network pass to its pod: each HELLO opens one connection.
    pub(super) fn check_admitted(&mut self, place: (usize, usize), sight: &Sight<'_>) {
        if sight.is_syn()
            && let Some(hello) = sight.hello()
        {
            let nonces = self.admitted.entry(place).or_default();
            nonces.pass(hello.nonce, sight, &format!("node {place:?}"));
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Whose credentials went by.
struct Claimed<'a> {
    initiator: &'a String,
    /// Unknown on a SYN: whoever has the address.
    responder: Option<&'a String>,
}
