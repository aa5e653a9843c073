//! Rules that can never decide: found where they are, and never where they are not. A rule that is reported
//! can be taken away, alone or with all others that are, and no verdict changes, not even its reason.
#![allow(clippy::unwrap_used)]

extern crate landbridge_policy as policy;

mod common;

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use common::{generate::*, *};
use identity::Claims;
use policy::{KnownKeys, Peer, Query, Shadowed, compile, model::*};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// Sets of which some rule was reported.
static REPORTED: AtomicUsize = AtomicUsize::new(0);

#[derive(Clone, Debug)]
struct Ask {
    direction: Direction,
    subject: Claims,
    peer: End,
    protocol: u8,
    port: u16,
}

#[derive(Clone, Debug)]
enum End {
    Pod(Box<Claims>, Option<IpAddr>),
    Address(IpAddr),
    Named(Option<IpAddr>, Vec<Arc<str>>),
}

fn ask() -> impl Strategy<Value = Ask> {
    let any = claims(&["west", "east", "north"]);
    let end = prop_oneof![
        4 => (any, option::of(address())).prop_map(|(c, a)| End::Pod(Box::new(c), a)),
        1 => address().prop_map(End::Address),
        1 => (option::of(address()), names()).prop_map(|(a, names)| End::Named(a, names)),
    ];
    let direction = select(&[Direction::Ingress, Direction::Egress]);
    (direction, claims(&["west"]), end, protocol(), port()).prop_map(
        |(direction, subject, peer, protocol, port)| Ask {
            direction,
            subject,
            peer,
            protocol,
            port,
        },
    )
}

impl Ask {
    fn query<'a>(&'a self, known: &'a KnownKeys) -> Query<'a> {
        Query {
            direction: self.direction,
            subject: &self.subject,
            peer: match &self.peer {
                End::Pod(claims, address) => Peer::Identity {
                    claims,
                    address: *address,
                },
                End::Address(address) => Peer::Address(*address),
                End::Named(address, names) => Peer::Named {
                    address: *address,
                    names,
                },
            },
            protocol: self.protocol,
            port: self.port,
            known,
        }
    }
}

/// `set` without the rules of `gone`.
fn without(set: &PolicySet, gone: &[Shadowed]) -> PolicySet {
    let is_gone = |policy: &Policy, rule: &Rule| {
        gone.iter().any(|g| {
            g.rule.policy == policy.name
                && g.rule.rule == rule.name
                && g.direction == rule.direction
        })
    };
    let mut set = set.clone();
    for policy in &mut set.policies {
        let whole = policy.clone();
        Arc::make_mut(policy)
            .rules
            .retain(|rule| !is_gone(&whole, rule));
    }
    set
}

/// Random rules seldom cover each other: some are made of those before them, narrowed or widened.
fn related(mut set: PolicySet, seeds: &[(usize, usize, u8)]) -> PolicySet {
    let count = set.policies.len();
    if count == 0 {
        return set;
    }
    for (number, (from, to, how)) in seeds.iter().enumerate() {
        let source = set.policies[from % count].clone();
        let target = Arc::make_mut(&mut set.policies[to % count]);
        let Some(mut rule) = source.rules.first().cloned() else {
            continue;
        };
        rule.name = format!("related{number}");
        match how % 4 {
            0 => rule.peers.clear(),
            1 => rule.ports.clear(),
            2 => {
                rule.action = Action::Deny;
                // Which may name no name of the DNS.
                rule.peers.retain(|p| !matches!(p, PeerMatch::Domain(_)));
            }
            _ => target.subject = source.subject.clone(),
        }
        target.rules.push(rule);
    }
    set
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    fn shadowed_rules_decide_nothing(
        set in policy_set(), seeds in vec((0_usize..6, 0_usize..6, any::<u8>()), 0..6),
        carried in carried(), asks in vec(ask(), 16),
    ) {
        let set = related(set, &seeds);
        let mut known = KnownKeys::all();
        if let Some(keys) = carried {
            known.narrow(td("east"), keys.clone());
            known.narrow(td("west"), keys);
        }
        let table = compile(&set).unwrap();
        let shadowed = table.shadowed(&known);
        REPORTED.fetch_add(usize::from(!shadowed.is_empty()), Ordering::Relaxed);
        let mut others: Vec<PolicySet> = shadowed.iter().map(|one| without(&set, std::slice::from_ref(one))).collect();
        others.push(without(&set, &shadowed));
        for other in others {
            let other = compile(&other).unwrap();
            for ask in &asks {
                let query = ask.query(&known);
                prop_assert_eq!(table.decide(&query), other.decide(&query), "{:?}", shadowed);
            }
        }
    }
}

#[test]
fn what_is_reported_is_so() {
    shadowed_rules_decide_nothing();
    let reported = REPORTED.load(Ordering::Relaxed);
    assert!(reported > 2_000, "only {reported} sets had such a rule");
}
