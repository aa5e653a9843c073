//! The honest parties: what each does with what it gets.

use stateright::{Model, Property};

use crate::{
    attacker,
    properties::properties,
    terms::{Hello, Mutation, Node, Nonce, Pod, Role},
};

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Connections that responders let begin, in all.
    pub openings: usize,
    /// HELLOs that are remade, in all.
    pub remade: u8,
    /// Nodes that forget everything but their keys, in all.
    pub restarts: u8,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Handshake {
    /// What it is without.
    pub mutation: Mutation,
    /// How far it goes.
    pub bounds: Bounds,
    /// Each begins a search of its own: who dials whom.
    pub sessions: Vec<[(Pod, Pod); 2]>,
}

/// Everything that is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the honest initiators did.
    pub sessions: [Session; 2],
    /// What the honest responders did.
    pub openings: Vec<Opening>,
    /// How many HELLOs were remade.
    pub remade: u8,
    /// How many nodes restarted.
    pub restarts: u8,
}

/// An honest pod that opens a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// The pod.
    pub from: Pod,
    /// The pod whose address it dials.
    pub to: Pod,
    /// HELLOs that it made: the newest counts.
    pub attempts: u8,
    /// The REPLYs that it believed. A CONFIRM followed each.
    pub believed: Vec<Believed>,
}

/// A REPLY that an initiator believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Believed {
    /// Of the HELLO.
    pub nonce: Nonce,
    /// Whose credential it had.
    pub peer: Pod,
    /// Its nonce.
    pub answer: Nonce,
}

/// A connection that a responder let begin. Its REPLY was sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Opening {
    /// The pod that is dialled.
    pub at: Pod,
    /// The tuple: addresses and ports, which prove nothing.
    pub tuple: u8,
    pub(crate) hello: Hello,
    /// REPLY's nonce.
    pub answer: Nonce,
    /// How far it came.
    pub stage: Stage,
    /// Its node restarted since.
    pub forgotten: bool,
}

/// How far a connection came at its responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// CONFIRM did not come.
    HalfOpen,
    /// CONFIRM held.
    Accepted,
    /// Another took its place.
    Displaced,
}

/// What happens next: an honest initiator acts, a node dies, or the attacker says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The session of this number sends its HELLO.
    Dials(u8),
    /// It makes another in its place.
    Remakes(u8),
    /// The node forgets its nonces and its half-open connections.
    Restarts(Node),
    /// A SYN with HELLO reaches a pod's node.
    Hello {
        /// The pod; a HELLO that names another is dropped.
        to: Pod,
        /// The tuple that it comes on.
        tuple: u8,
        /// Its nonce.
        nonce: Nonce,
        /// The pod whose credential it has.
        credential: Pod,
    },
    /// A SYN-ACK with REPLY reaches the node of a session's initiator.
    Reply {
        /// The session.
        session: u8,
        /// The pod whose credential it has.
        peer: Pod,
        /// Its nonce.
        answer: Nonce,
    },
    /// A segment with CONFIRM reaches a responder.
    Confirm {
        /// The number of the opening.
        opening: u8,
    },
}

impl Session {
    /// The newest HELLO, once there is one.
    pub(crate) fn hello(&self, number: u8) -> Option<Hello> {
        (self.attempts > 0).then_some(Hello {
            nonce: Nonce::Hello {
                session: number,
                attempt: self.attempts,
            },
            destination: self.to,
            credential: self.from,
        })
    }
}

impl Handshake {
    /// A responder's rules for a HELLO that its node reads: `None` when nothing comes of it.
    fn open(&self, state: &State, to: Pod, tuple: u8, hello: Hello) -> Option<State> {
        let here = |o: &Opening| o.at.node() == to.node() && !o.forgotten;
        // Section 5.6: a nonce belongs to one connection. Again on its own it is a
        // retransmission, or superseded: nothing new comes of either.
        let seen = |o: &Opening| here(o) && o.hello.nonce == hello.nonce;
        let same = |o: &Opening| seen(o) && o.at == to && o.tuple == tuple;
        let known = match self.mutation {
            Mutation::NoReplayCache => state.openings.iter().any(same),
            _ => state.openings.iter().any(seen),
        };
        if known || state.openings.len() >= self.bounds.openings {
            return None;
        }
        let mut next = state.clone();
        let held = (next.openings.iter_mut())
            .find(|o| here(o) && o.at == to && o.tuple == tuple && o.stage != Stage::Displaced);
        match held {
            // An established connection is told by its numbers from a new one on its ports: that is
            // left out.
            Some(held) if held.stage == Stage::Accepted => return None,
            Some(held) => held.stage = Stage::Displaced,
            None => {}
        }
        let number = u8::try_from(state.openings.len()).ok()?;
        next.openings.push(Opening {
            at: to,
            tuple,
            hello,
            answer: Nonce::Reply(number),
            stage: Stage::HalfOpen,
            forgotten: false,
        });
        Some(next)
    }

    /// An initiator's rules for a REPLY.
    fn believe(&self, state: &State, number: u8, peer: Pod, answer: Nonce) -> Option<State> {
        let session = &state.sessions[usize::from(number)];
        let hello = session.hello(number)?;
        // Section 6.3: only the owner of the dialled range has issued what is believed.
        if !peer.shares_domain(session.to) {
            return None;
        }
        let mac = self.mutation.mac(Role::Responder, &hello, peer, answer);
        let believed = Believed {
            nonce: hello.nonce,
            peer,
            answer,
        };
        if session.believed.contains(&believed) || !attacker::can_send(self.mutation, state, &mac) {
            return None;
        }
        let mut next = state.clone();
        let list = &mut next.sessions[usize::from(number)].believed;
        list.push(believed);
        // In which order does not matter.
        list.sort();
        Some(next)
    }

    /// A responder's rules for a CONFIRM.
    fn accept(&self, state: &State, number: u8) -> Option<State> {
        let opening = state.openings.get(usize::from(number))?;
        if opening.stage != Stage::HalfOpen || opening.forgotten {
            return None;
        }
        let (hello, answer) = (&opening.hello, opening.answer);
        let mac = (self.mutation).mac(Role::Initiator, hello, opening.at, answer);
        if !attacker::can_send(self.mutation, state, &mac) {
            return None;
        }
        let mut next = state.clone();
        next.openings[usize::from(number)].stage = Stage::Accepted;
        Some(next)
    }
}

impl Model for Handshake {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let session = |(from, to): (Pod, Pod)| Session {
            from,
            to,
            attempts: 0,
            believed: Vec::new(),
        };
        let state = |pairs: &[(Pod, Pod); 2]| State {
            sessions: pairs.map(session),
            openings: Vec::new(),
            remade: 0,
            restarts: 0,
        };
        self.sessions.iter().map(state).collect()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (session, number) in state.sessions.iter().zip(0..) {
            match session.attempts {
                0 => actions.push(Action::Dials(number)),
                1 if state.remade < self.bounds.remade => actions.push(Action::Remakes(number)),
                _ => {}
            }
        }
        if state.restarts < self.bounds.restarts {
            let mut nodes: Vec<_> = state.openings.iter().map(|o| o.at.node()).collect();
            nodes.sort();
            nodes.dedup();
            actions.extend(nodes.into_iter().map(Action::Restarts));
        }
        attacker::actions(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        match action {
            Action::Dials(number) => {
                let mut next = state.clone();
                next.sessions[usize::from(number)].attempts = 1;
                Some(next)
            }
            Action::Remakes(number) => {
                let mut next = state.clone();
                next.sessions[usize::from(number)].attempts = 2;
                next.remade += 1;
                Some(next)
            }
            Action::Restarts(node) => {
                let mut next = state.clone();
                next.restarts += 1;
                let of_node = next.openings.iter_mut().filter(|o| o.at.node() == node);
                of_node.for_each(|o| o.forgotten = true);
                Some(next)
            }
            Action::Hello {
                to,
                tuple,
                nonce,
                credential,
            } => {
                let hello = Hello {
                    nonce,
                    destination: to,
                    credential,
                };
                self.open(state, to, tuple, hello)
            }
            Action::Reply {
                session,
                peer,
                answer,
            } => self.believe(state, session, peer, answer),
            Action::Confirm { opening } => self.accept(state, opening),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties()
    }
}
