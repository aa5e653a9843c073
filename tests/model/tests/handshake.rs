//! The handshake holds against the attacker, and would not without any of its parts.

use std::collections::BTreeSet;

use landbridge_model::{
    AGREEMENT, Bounds, FRESH_HELLO, Handshake, MISBINDING, Mutation, ONE_RUN, OPENS,
    OPENS_AFTER_RESTART, OPENS_REMADE, OPENS_TWICE, Pod,
};
use stateright::{Checker, HasDiscoveries, Model};

use Pod::{EastOne, EastTwo, Thief, WestOne, WestTwo};

/// Beside the first session, which is always the same, each of these.
const SECOND: [(Pod, Pod); 5] = [
    (EastOne, WestOne),
    (EastTwo, WestOne),
    (EastOne, WestTwo),
    (EastOne, Thief),
    (WestOne, EastOne),
];

fn model(mutation: Mutation, bounds: Bounds, second: &[(Pod, Pod)]) -> Handshake {
    let sessions = second.iter().map(|second| [(EastOne, WestOne), *second]);
    Handshake {
        mutation,
        bounds,
        sessions: sessions.collect(),
    }
}

const PLAIN: Bounds = Bounds {
    openings: 2,
    remade: 0,
    restarts: 0,
};

/// Searches everything.
fn holds(bounds: Bounds, second: &[(Pod, Pod)], reachable: &[&'static str], states: usize) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = model(Mutation::Intact, bounds, second).checker();
    let checked = checker.threads(threads).spawn_bfs().join();
    let count = checked.unique_state_count();
    println!("{bounds:?}: {count} states, {} deep", checked.max_depth());
    for property in [AGREEMENT, MISBINDING, ONE_RUN, FRESH_HELLO] {
        checked.assert_no_discovery(property);
    }
    // A search that went nowhere proves nothing.
    for property in reachable {
        checked.assert_any_discovery(property);
    }
    assert!(count > states, "{count} states");
}

#[test]
fn it_holds_between_two_sessions() {
    holds(PLAIN, &SECOND, &[OPENS, OPENS_TWICE], 50_000);
}

#[test]
fn it_holds_when_the_attacker_opens_one_more() {
    let bounds = Bounds {
        openings: 3,
        ..PLAIN
    };
    holds(bounds, &SECOND[1..2], &[OPENS, OPENS_TWICE], 500_000);
}

#[test]
fn it_holds_when_hellos_are_remade() {
    let bounds = Bounds { remade: 1, ..PLAIN };
    holds(bounds, &SECOND[..1], &[OPENS, OPENS_REMADE], 10_000);
}

#[test]
fn it_holds_when_a_responder_forgets() {
    let bounds = Bounds {
        restarts: 1,
        ..PLAIN
    };
    holds(bounds, &SECOND[..1], &[OPENS, OPENS_AFTER_RESTART], 10_000);
}

/// Without a part of it, the attacker wins; the shortest way is printed.
fn falls(mutation: Mutation, property: &'static str) {
    let bounds = Bounds {
        restarts: 1,
        ..PLAIN
    };
    let checked = model(mutation, bounds, &SECOND)
        .checker()
        .finish_when(HasDiscoveries::AllOf(BTreeSet::from([property])))
        .spawn_bfs()
        .join();
    let path = checked.assert_any_discovery(property);
    println!("{mutation:?} breaks: {property}");
    for action in path.into_actions() {
        println!("    {action:?}");
    }
}

#[test]
fn without_the_destination_a_connection_is_relayed() {
    falls(Mutation::NoDestination, AGREEMENT);
}

#[test]
fn without_roles_a_proof_is_sent_back() {
    falls(Mutation::NoRole, AGREEMENT);
}

#[test]
fn without_credentials_one_pod_of_a_node_is_taken_for_another() {
    falls(Mutation::NoCredentials, MISBINDING);
}

#[test]
fn without_the_initiators_nonce_the_ends_mean_other_hellos() {
    falls(Mutation::NoHelloNonce, AGREEMENT);
}

#[test]
fn without_an_echo_of_the_responders_nonce_a_run_is_replayed() {
    falls(Mutation::NoReplyNonce, ONE_RUN);
}

#[test]
fn without_a_replay_cache_a_hello_opens_two_connections() {
    falls(Mutation::NoReplayCache, FRESH_HELLO);
}
