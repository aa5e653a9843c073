//! A gateway seen from outside: each packet that it lets pass is held against the naive model, for
//! what this gateway can know. That the agents behind it would refuse excuses nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher},
    ops::Range,
};

use gateway_core::Side;
use policy::model::Direction;
use wire::flow::FlowKey;

use super::{Place, World, check::Way};
use crate::{
    sight::{HelloSight, Sight},
    wires,
};

/// Where in a tunnel frame PSP begins: after Ethernet, IPv4 and UDP.
const PSP: usize = wires::HEADER + 20 + 8;
/// Where in a tunnel frame SPI and IV are.
const COUNTER: Range<usize> = PSP + 4..PSP + 16;

/// The gateway that a tunnel packet is for, its SPI and its IV: one key and one counter.
pub(super) type Sealing = (usize, [u8; 12]);

/// What was sealed so.
#[derive(Debug)]
pub(super) struct Sealed {
    by: usize,
    /// Of header, payload and ICV.
    hash: u64,
}

/// Each nonce names one HELLO: one connection, one sequence number.
#[derive(Debug, Default)]
pub(super) struct Nonces(BTreeMap<[u8; 16], (FlowKey, u32)>);

impl Nonces {
    /// A HELLO passed. Whether it is new.
    fn pass(&mut self, nonce: [u8; 16], sight: &Sight<'_>, who: &str) -> bool {
        let this = (sight.key, sight.tcp.sequence_number);
        let first = self.0.insert(nonce, this);
        assert!(
            first.is_none_or(|first| first == this),
            "{who} lets a HELLO pass twice: {first:?}, {this:?}"
        );
        first.is_none()
    }
}

/// What a gateway let pass.
#[derive(Debug, Default)]
pub(super) struct Watch {
    flows: BTreeMap<FlowKey, Passing>,
    nonces: Nonces,
    /// Tunnel packets that it opened.
    opened: BTreeSet<[u8; 12]>,
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
    /// The newest HELLO was answered.
    answered: bool,
}

impl World {
    /// What a gateway seals is what its receiver may open, once, and no counter serves twice.
    pub(super) fn note_sealed(&mut self, by: usize, to: usize, frame: &[u8]) {
        let sealed = Sealed {
            by,
            hash: hash(&frame[PSP..]),
        };
        let before = self.sealed.insert((to, counter(frame)), sealed);
        assert!(before.is_none(), "gateway {by} uses a counter twice");
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
        let sealed = self.sealed.get(&(number, counter(frame)));
        let sealed = sealed.filter(|sealed| sealed.hash == hash(&frame[PSP..]));
        let sealed =
            sealed.unwrap_or_else(|| panic!("gateway {number} opened what nobody sealed for it"));
        let new = self.watches[number].opened.insert(counter(frame));
        assert!(new, "gateway {number} opened a packet twice");
        sealed.by
    }

    fn watch_syn(&mut self, number: usize, sight: &Sight<'_>) {
        let key = sight.key;
        let hello = sight
            .hello()
            .unwrap_or_else(|| panic!("gateway {number} let a SYN without HELLO pass: {key}"));
        let who = format!("gateway {number}");
        if let Some((made_for, _)) = self.hellos.get(&hello.nonce) {
            let ends = |key: &FlowKey| (key.dst, key.dport);
            assert_eq!(ends(made_for), ends(&key), "{who}: a HELLO for another pod");
        }
        match self.cluster_of(key.dst) == number {
            // The tunnel answers for it: a gateway of a peer may lie of its own pods.
            true => self.vouched.extend([hello.header.clone()]),
            false => self.check_proof(number, &hello, &who),
        }
        let is_new = self.watches[number].nonces.pass(hello.nonce, sight, &who);
        let passing = self.watches[number].flows.entry(key).or_default();
        passing.answered &= !is_new;
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
            // Egress waits for the answer; that there is such a pod, only those hear to whom it is offered.
            false => {
                self.is_pod_of(number, &hello.pod)
                    && self.is_offered(number, &hello.pod, self.cluster_of(key.dst))
            }
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
        passing.answered = true;
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
        // A closed port, whoever is there by now.
        let refusal = !from_initiator && sight.tcp.rst && sight.payload.is_empty();
        if refusal && !passing.answered {
            return;
        }
        assert!(
            !passing.responders.is_empty(),
            "gateway {number} let a segment pass too soon: {key}"
        );
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
        let policy = self.told[&Place::Gateway(number, Side::Lan)];
        let (lines, now) = (&self.lines, self.now);
        let looks = |name: Option<&String>, way: &Way| match name {
            Some(name) => self
                .history
                .looks_of(name, number, |at| way.is_over(lines, at, now)),
            None => self
                .history
                .looks_at(key.dst, number, |at| way.is_over(lines, at, now)),
        };
        let (of_initiator, of_responder) = match direction {
            Direction::Egress => (&own, &far),
            Direction::Ingress => (&far, &own),
        };
        let initiators = looks(Some(claimed.initiator), of_initiator);
        let responders = looks(claimed.responder, of_responder);
        if self.lax.gateways[number] {
            // It knows who they are, and lets everybody pass.
            return self.history.offers(number, (&initiators, &responders));
        }
        let (subjects, others) = match direction {
            Direction::Egress => (initiators, responders),
            Direction::Ingress => (responders, initiators),
        };
        self.history
            .allows(direction, policy, (&subjects, &others), key.dport)
    }

    /// Whether the gateway's own cluster still has a pod of this name, or it cannot know better.
    fn is_pod_of(&self, number: usize, name: &str) -> bool {
        let way = Way::gateway_own();
        let looks = self
            .history
            .looks_of(name, number, |at| way.is_over(&self.lines, at, self.now));
        looks
            .iter()
            .any(|look| self.objects.cluster_of(self.history.address(*look)) == Some(number))
    }

    /// Whether a pod of the gateway's own cluster is offered to another, or it cannot know better.
    fn is_offered(&self, number: usize, name: &str, to: usize) -> bool {
        let (way, history) = (Way::gateway_own(), &self.history);
        let over = |at| way.is_over(&self.lines, at, self.now);
        let looks = history.looks_of(name, number, over);
        history.offered_to(to, &looks)
    }

    fn way_to_gateway(&self, number: usize, key: &FlowKey) -> Way {
        let ends = [self.cluster_of(key.src), self.cluster_of(key.dst)];
        let far = ends.into_iter().find(|end| *end != number);
        Way::gateway_far(number, far.expect("the ends are of two clusters"))
    }

    /// What an agent proves, as it leaves its node.
    pub(super) fn note_proofs(&mut self, sight: &Sight<'_>) {
        if sight.is_syn_ack() && sight.reply().is_some() {
            self.replies.insert(answer(sight));
        }
        if let Some(confirm) = sight.confirm() {
            self.confirms.insert((sight.key, confirm));
        }
    }

    /// An agent let a packet from the network pass to its pod: each HELLO opens one connection, and
    /// both ends mean the same one.
    pub(super) fn check_admitted(&mut self, place: (usize, usize), sight: &Sight<'_>) {
        if sight.is_syn()
            && let Some(hello) = sight.hello()
        {
            let who = format!("node {place:?}");
            self.check_proof(place.0, &hello, &who);
            let nonces = self.admitted.entry(place).or_default();
            nonces.pass(hello.nonce, sight, &who);
        }
        if sight.is_syn_ack() && sight.reply().is_some() {
            let is_genuine = self.replies.contains(&answer(sight));
            assert!(
                is_genuine,
                "node {place:?} believed a REPLY that nobody made: {}",
                sight.key
            );
        }
        if let Some(confirm) = sight.confirm() {
            let is_genuine = self.confirms.contains(&(sight.key, confirm));
            assert!(
                is_genuine,
                "node {place:?} believed a CONFIRM that nobody made: {}",
                sight.key
            );
        }
    }

    /// A HELLO with a proof under a segment key of the cluster is one that an agent or the gateway
    /// proved, whatever an attacker did to it.
    fn check_proof(&self, number: usize, hello: &HelloSight, who: &str) {
        let made = self.hellos.get(&hello.nonce);
        let genuine = made.is_some_and(|(_, header)| *header == hello.header)
            || self.vouched.contains(&hello.header);
        let control = self.hubs[number].control();
        let keys = control.map(|control| control.issuer().segment_keys());
        let claimed = keys.into_iter().flatten().any(|key| key.id == hello.key);
        assert!(genuine || !claimed, "{who} believed a broken proof");
    }
}

/// A REPLY with all that it answers.
fn answer(sight: &Sight<'_>) -> (FlowKey, u32, u32, Vec<u8>) {
    let tcp = &sight.tcp;
    (
        sight.key,
        tcp.sequence_number,
        tcp.acknowledgment_number,
        sight.payload.to_vec(),
    )
}

fn counter(frame: &[u8]) -> [u8; 12] {
    let counter = frame[COUNTER].try_into();
    counter.expect("12 bytes")
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
