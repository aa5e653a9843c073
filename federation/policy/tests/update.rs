//! A table that was made from the one before answers everything as a table does that was compiled
//! from nothing, whatever was added, changed and removed on the way, and in whatever order.
#![allow(clippy::unwrap_used)]

#[allow(unused)]
mod common;

use std::{net::IpAddr, sync::Arc};

use common::{generate::*, *};
use identity::Claims;
use landbridge_policy::{KnownKeys, Peer, Query, Table, compile, model::*};
use proptest::{collection::vec, option, prelude::*, sample::Index, sample::select};

/// What happens to a set, by places in it and in the pool of all policies.
#[derive(Clone, Debug)]
enum Step {
    Add(Index),
    /// Another policy takes its place.
    Change(Index, Index),
    Remove(Index),
    /// The same policy is read again.
    Reread(Index),
    /// Another order, which means nothing.
    Rotate(Index),
    /// A policy that cannot be meant: nothing changes.
    Break(Index),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    prop_oneof![
        4 => index().prop_map(Step::Add),
        3 => (index(), index()).prop_map(|(a, b)| Step::Change(a, b)),
        3 => index().prop_map(Step::Remove),
        1 => index().prop_map(Step::Reread),
        1 => index().prop_map(Step::Rotate),
        1 => index().prop_map(Step::Break),
    ]
}

#[derive(Clone, Debug)]
struct Ask {
    direction: Direction,
    subject: Claims,
    peer: Claims,
    address: Option<IpAddr>,
    /// The address alone is known of the peer.
    is_unproven: bool,
    protocol: u8,
    port: u16,
}

fn ask() -> impl Strategy<Value = Ask> {
    let direction = select(&[Direction::Ingress, Direction::Egress]);
    let peer = claims(&["west", "east", "north"]);
    let ends = (direction, claims(&["west"]), peer, option::of(address()));
    (ends, any::<bool>(), protocol(), port()).prop_map(
        |((direction, subject, peer, address), is_unproven, protocol, port)| Ask {
            direction,
            subject,
            peer,
            address,
            is_unproven,
            protocol,
            port,
        },
    )
}

impl Ask {
    fn query<'a>(&'a self, known: &'a KnownKeys) -> Query<'a> {
        let claims = &self.peer;
        Query {
            direction: self.direction,
            subject: &self.subject,
            peer: match self.address {
                Some(address) if self.is_unproven => Peer::Address(address),
                address => Peer::Identity { claims, address },
            },
            protocol: self.protocol,
            port: self.port,
            known,
        }
    }
}

impl Step {
    /// Does it to `set`. Whether the set still can be meant.
    fn apply(&self, set: &mut PolicySet, pool: &[Arc<Policy>]) -> bool {
        let policies = &mut set.policies;
        if let Step::Add(which) = self {
            policies.push(Arc::clone(which.get(pool)));
            return true;
        }
        if policies.is_empty() {
            return true;
        }
        let count = policies.len();
        match self {
            Step::Add(_) => {}
            Step::Change(place, which) => {
                policies[place.index(count)] = Arc::clone(which.get(pool))
            }
            Step::Remove(place) => drop(policies.remove(place.index(count))),
            Step::Reread(place) => {
                let place = place.index(count);
                policies[place] = Arc::new(Policy::clone(&policies[place]));
            }
            Step::Rotate(place) => policies.rotate_left(place.index(count)),
            Step::Break(place) => {
                Arc::make_mut(&mut policies[place.index(count)])
                    .name
                    .clear();
                return false;
            }
        }
        true
    }
}

fn check(table: &Table, set: &PolicySet, asks: &[Ask], known: &KnownKeys) {
    let full = compile(set).unwrap();
    assert!(table.policies().eq(full.policies()));
    assert!(table.has_policies_of(&full));
    assert_eq!(table.rule_count(), full.rule_count());
    assert_eq!(table.hash(), full.hash());
    assert_eq!(table.digest_part(), full.digest_part());
    for ask in asks {
        let query = ask.query(known);
        assert_eq!(table.decide(&query), full.decide(&query));
        assert_eq!(table.explain(&query), full.explain(&query));
        // What the index offers is all that `explain`, which asks everything, finds.
        assert_eq!(table.decide(&query), full.explain(&query).verdict);
        assert_eq!(
            table.may_admit(&ask.peer, ask.protocol, ask.port),
            full.may_admit(&ask.peer, ask.protocol, ask.port)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1_500, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn changes_one_by_one_are_a_full_compile(
        pools in vec(policy_set(), 1..4), steps in vec(step(), 1..25),
        asks in vec(ask(), 2..5), carried in carried(), kept in any::<Index>(),
    ) {
        let pool: Vec<_> = pools.into_iter().flat_map(|set| set.policies).collect();
        prop_assume!(!pool.is_empty());
        let mut known = KnownKeys::all();
        for keys in carried.into_iter() {
            known.narrow(td("east"), keys.clone());
            known.narrow(td("west"), keys);
        }
        let mut set = common::set("west", Vec::new());
        let mut table = Table::empty(td("west"));
        let kept = kept.index(steps.len());
        let mut before = (table.clone(), set.clone());
        for (number, step) in steps.iter().enumerate() {
            let good = set.clone();
            if step.apply(&mut set, &pool) {
                table = table.update(&set).unwrap();
                check(&table, &set, &asks, &known);
            } else {
                prop_assert_eq!(table.update(&set).unwrap_err(), compile(&set).unwrap_err());
                set = good;
            }
            if number == kept {
                before = (table.clone(), set.clone());
            }
        }
        // Whoever still holds an older table is answered by that one.
        check(&before.0, &before.1, &asks, &known);
    }
}

#[test]
fn another_cluster_is_another_table() {
    let policy = federation_policy(
        "shop",
        "p",
        1,
        vec![rule("r", Direction::Ingress, Action::Allow)],
    );
    let west = compile(&set("west", vec![policy.clone()])).unwrap();
    let east = west.update(&set("east", vec![policy.clone()])).unwrap();
    assert_eq!(
        east.hash(),
        compile(&set("east", vec![policy])).unwrap().hash()
    );
    assert_eq!(east.cluster(), &td("east"));
}

/// Slots of removed policies are used again, and a table that shrinks has nothing left to offer.
#[test]
fn what_is_removed_is_offered_no_more() {
    let policy = |n: usize| {
        federation_policy(
            "shop",
            &format!("p{n}"),
            1,
            vec![rule("r", Direction::Ingress, Action::Deny)],
        )
    };
    let many = set("west", (0..500).map(policy).collect());
    let full = compile(&many).unwrap();
    let few = PolicySet {
        policies: many.policies[..1].to_vec(),
        ..many.clone()
    };
    let few_table = full.update(&few).unwrap();
    let none = few_table.update(&set("west", Vec::new())).unwrap();
    assert_eq!(none.hash(), Table::empty(td("west")).hash());
    let (pod, known) = (pod("west/shop/a", "app=a"), KnownKeys::all());
    let query = Query {
        direction: Direction::Ingress,
        subject: &pod,
        peer: Peer::Identity {
            claims: &pod,
            address: None,
        },
        protocol: TCP,
        port: 80,
        known: &known,
    };
    assert!(none.decide(&query).is_allowed());
    assert!(!few_table.decide(&query).is_allowed());
    let again = none.update(&many).unwrap();
    assert_eq!(again.decide(&query), full.decide(&query));
}
