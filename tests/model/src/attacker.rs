//! The attacker is the network: it hears everything that honest nodes send, and every message that
//! reaches one is its own choice. All parts of the messages but the MACs are in clear, so it puts
//! them together as it likes; a MAC it can send if it heard it, or if its own node has the key.

use crate::{
    handshake::{Action, Session, State},
    terms::{Mac, Mutation, Node, Nonce, Pod, Role},
};

/// Ports that it lets connections come on, for each pod.
const TUPLES: u8 = 2;
const HONEST: [Pod; 4] = [Pod::EastOne, Pod::EastTwo, Pod::WestOne, Pod::WestTwo];
/// The pods that it sends HELLOs to.
const RESPONDERS: [Pod; 3] = [Pod::EastOne, Pod::WestOne, Pod::WestTwo];

/// Everything that it may say next.
pub fn actions(state: &State, actions: &mut Vec<Action>) {
    let hellos: Vec<Nonce> = heard_hellos(state).chain([Nonce::Thief]).collect();
    for to in RESPONDERS {
        // A tuple has no meaning but to be the same or another.
        let used = state.openings.iter().filter(|o| o.at == to);
        let fresh = used.map(|o| o.tuple + 1).max().unwrap_or(0);
        for tuple in 0..TUPLES.min(fresh + 1) {
            for nonce in &hellos {
                actions.extend(Pod::ALL.map(|credential| Action::Hello {
                    to,
                    tuple,
                    nonce: *nonce,
                    credential,
                }));
            }
        }
    }
    let answers: Vec<Nonce> = state.openings.iter().map(|o| o.answer).collect();
    for session in 0..2 {
        // As itself it has a nonce of its own: with another's it could do nothing more.
        actions.push(Action::Reply {
            session,
            peer: Pod::Thief,
            answer: Nonce::Thief,
        });
        for answer in answers.iter().chain([&Nonce::Thief]) {
            actions.extend(HONEST.map(|peer| Action::Reply {
                session,
                peer,
                answer: *answer,
            }));
        }
    }
    let openings = (0..).take(state.openings.len());
    actions.extend(openings.map(|opening| Action::Confirm { opening }));
}

/// Whether it has the MAC.
pub fn can_send(mutation: Mutation, state: &State, mac: &Mac) -> bool {
    mac.key.contains(&Node::Thief) || heard(mutation, state).any(|heard| heard == *mac)
}

/// The MACs that honest nodes sent.
fn heard(mutation: Mutation, state: &State) -> impl Iterator<Item = Mac> {
    let replies = (state.openings.iter())
        .map(move |o| mutation.mac(Role::Responder, &o.hello, o.at, o.answer));
    let of = move |session: &Session| -> Vec<Mac> {
        let macs = session.believed.iter().map(|it| {
            let hello = crate::terms::Hello {
                nonce: it.nonce,
                destination: session.to,
                credential: session.from,
            };
            mutation.mac(Role::Initiator, &hello, it.peer, it.answer)
        });
        macs.collect()
    };
    replies.chain(state.sessions.iter().flat_map(of))
}

/// The nonces of the HELLOs that honest initiators sent.
fn heard_hellos(state: &State) -> impl Iterator<Item = Nonce> {
    let sessions = state.sessions.iter().zip(0..);
    sessions.flat_map(|(session, number)| {
        (1..=session.attempts).map(move |attempt| Nonce::Hello {
            session: number,
            attempt,
        })
    })
}
