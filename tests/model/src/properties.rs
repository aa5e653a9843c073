//! What must hold in every state that can be reached, and what must be reachable.

use stateright::Property;

use crate::{
    handshake::{Believed, Handshake, Opening, Session, Stage, State},
    terms::Nonce,
};

/// Who accepts an honest peer agrees with it on both identities, both nonces and the destination,
/// and each has the role that the other thinks.
pub const AGREEMENT: &str = "agreement";
/// No two ends of one run believe in other peers than each other (unknown key share).
pub const MISBINDING: &str = "no misbinding";
/// A responder accepts an honest initiator once for each run of it.
pub const ONE_RUN: &str = "each acceptance has a run of its own";
/// A HELLO lets one connection begin in the life of a node.
pub const FRESH_HELLO: &str = "a HELLO opens one connection";
/// The model is not empty: a connection opens.
pub const OPENS: &str = "a connection opens";
/// Both do.
pub const OPENS_TWICE: &str = "both connections open";
/// One opens by a HELLO that was remade.
pub const OPENS_REMADE: &str = "a remade HELLO opens a connection";
/// One opens on a node that restarted.
pub const OPENS_AFTER_RESTART: &str = "a connection opens after a restart";

pub fn properties() -> Vec<Property<Handshake>> {
    vec![
        Property::always(AGREEMENT, |_, state| agreement(state)),
        Property::always(MISBINDING, |_, state| no_misbinding(state)),
        Property::always(ONE_RUN, |_, state| one_run(state)),
        Property::always(FRESH_HELLO, |_, state| fresh_hello(state)),
        Property::sometimes(OPENS, |_, state| open(state).next().is_some()),
        Property::sometimes(OPENS_TWICE, |_, state: &State| {
            let (mut first, mut second) = (false, false);
            for (session, _) in open(state) {
                first |= std::ptr::eq(session, &state.sessions[0]);
                second |= std::ptr::eq(session, &state.sessions[1]);
            }
            first && second
        }),
        Property::sometimes(OPENS_REMADE, |_, state: &State| {
            let remade = |nonce| matches!(nonce, Nonce::Hello { attempt: 2, .. });
            open(state).any(|(_, opening)| remade(opening.hello.nonce))
        }),
        Property::sometimes(OPENS_AFTER_RESTART, |_, state: &State| {
            state.restarts > 0 && open(state).any(|(_, opening)| !opening.forgotten)
        }),
    ]
}

/// Sessions with the connections that are open at both ends.
fn open(state: &State) -> impl Iterator<Item = (&Session, &Opening)> {
    runs(state).flat_map(|(session, believed)| {
        let accepted = accepted(state).filter(move |o| agree(session, believed, o));
        accepted.map(move |opening| (session, opening))
    })
}

fn runs(state: &State) -> impl Iterator<Item = (&Session, &Believed)> {
    let sessions = state.sessions.iter();
    sessions.flat_map(|session| session.believed.iter().map(move |it| (session, it)))
}

fn accepted(state: &State) -> impl Iterator<Item = &Opening> {
    let openings = state.openings.iter();
    openings.filter(|opening| opening.stage == Stage::Accepted)
}

/// Whether both ends mean the same connection, and each other.
fn agree(session: &Session, believed: &Believed, opening: &Opening) -> bool {
    opening.hello.credential == session.from
        && opening.hello.destination == session.to
        && opening.hello.nonce == believed.nonce
        && opening.at == believed.peer
        && opening.answer == believed.answer
}

fn agreement(state: &State) -> bool {
    let of_initiators = runs(state)
        .filter(|(_, believed)| believed.peer.is_honest())
        .all(|(session, believed)| {
            let mut openings = state.openings.iter();
            openings.any(|opening| agree(session, believed, opening))
        });
    let of_responders = accepted(state)
        .filter(|opening| opening.hello.credential.is_honest())
        .all(|opening| runs(state).any(|(session, it)| agree(session, it, opening)));
    of_initiators && of_responders
}

fn no_misbinding(state: &State) -> bool {
    accepted(state).all(|opening| {
        let mut same_run = runs(state).filter(|(_, it)| it.answer == opening.answer);
        same_run
            .all(|(session, it)| session.from == opening.hello.credential && it.peer == opening.at)
    })
}

fn one_run(state: &State) -> bool {
    accepted(state)
        .filter(|opening| opening.hello.credential.is_honest())
        .all(|opening| {
            let alike = |other: &&Opening| other.hello == opening.hello && other.at == opening.at;
            let its_runs = runs(state).filter(|(session, it)| {
                it.nonce == opening.hello.nonce
                    && it.peer == opening.at
                    && session.from == opening.hello.credential
            });
            accepted(state).filter(alike).count() <= its_runs.count()
        })
}

fn fresh_hello(state: &State) -> bool {
    let openings = &state.openings;
    openings.iter().enumerate().all(|(number, opening)| {
        !openings[..number].iter().any(|other| {
            other.hello.nonce == opening.hello.nonce
                && other.at.node() == opening.at.node()
                && other.forgotten == opening.forgotten
        })
    })
}
