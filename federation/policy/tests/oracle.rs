//! `decide` against the simulator's oracle, which reads the raw policies afresh for each question,
//! and the laws that tables, digests and explanations must keep: 20,000 policy sets, about
//! a million questions. ORACLE_SETS asks for another number of sets.
#![allow(clippy::unwrap_used)]

extern crate landbridge_policy as policy;

mod common;
#[path = "../../../tests/sim/src/naive.rs"]
#[allow(dead_code)]
mod naive;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use common::{generate::*, td};
use identity::Claims;
use naive::{Oracle, Other};
use policy::{
    Decision, DropReason, KnownKeys, Peer, Query, RuleRef, Table, Verdict, compile, model::*,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// One question to a table of `west`.
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
    Node,
}

fn end() -> impl Strategy<Value = End> {
    let any = claims(&["west", "east", "north"]);
    prop_oneof![
        8 => (any, option::of(address())).prop_map(|(c, a)| End::Pod(Box::new(c), a)),
        2 => address().prop_map(End::Address),
        2 => (option::of(address()), names()).prop_map(|(a, names)| End::Named(a, names)),
        1 => Just(End::Node),
    ]
}

fn ask() -> impl Strategy<Value = Ask> {
    let direction = select(&[Direction::Ingress, Direction::Egress]);
    (direction, claims(&["west"]), end(), protocol(), port()).prop_map(
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
                End::Node => Peer::Node,
            },
            protocol: self.protocol,
            port: self.port,
            known,
        }
    }

    fn other(&self) -> Other<'_> {
        match &self.peer {
            End::Pod(claims, address) => Other::Pod(claims, *address),
            End::Address(address) => Other::Address(*address),
            End::Named(address, names) => Other::Named(*address, names),
            End::Node => Other::Node,
        }
    }
}

/// The oracle's way to name a rule.
fn name(rule: &RuleRef) -> String {
    match &rule.namespace {
        Some(namespace) => format!("{namespace}/{} {}", rule.policy, rule.rule),
        None => format!("{} {}", rule.policy, rule.rule),
    }
}

fn dropped(decision: Decision) -> Option<(DropReason, bool)> {
    match decision {
        Decision::Allow => None,
        Decision::Drop { reason, reject } => Some((reason, reject)),
    }
}

fn judgement(verdict: &Verdict) -> naive::Judgement {
    naive::Judgement {
        dropped: dropped(verdict.decision),
        rule: verdict.rule.as_ref().map(name),
        logs: verdict.logs.iter().map(name).collect(),
    }
}

/// A digest's part gives the same decision and rule for every identity of another cluster.
fn check_digest(full: &Table, part: &Table, ask: &Ask, verdict: &Verdict, known: &KnownKeys) {
    let End::Pod(peer, _) = &ask.peer else { return };
    if ask.direction != Direction::Ingress || peer.trust_domain() == full.cluster() {
        return;
    }
    let announced = part.decide(&ask.query(known));
    assert_eq!(announced.decision, verdict.decision);
    assert_eq!(announced.rule, verdict.rule);
    // The source knows its own pod's labels: it refuses early only what is refused in any case.
    if verdict.is_allowed() {
        assert!(part.may_admit(peer, ask.protocol, ask.port));
    }
}

/// How many sets of policies are generated.
fn sets() -> u32 {
    // Set when this is compiled: a pure crate reads no environment.
    let wanted = option_env!("ORACLE_SETS");
    wanted.map_or(20_000, |text| {
        text.parse().expect("ORACLE_SETS is a number")
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: sets(), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn decide_agrees_with_the_oracle(
        set in policy_set(), carried in carried(), asks in vec(ask(), 50..54),
    ) {
        let mut known = KnownKeys::all();
        let mut oracle = Oracle { policies: BTreeMap::from([(td("west"), set.clone())]), ..Oracle::default() };
        if let Some(keys) = carried {
            for cluster in ["east", "west"] {
                known.narrow(td(cluster), keys.clone());
                oracle.carried.insert(td(cluster), keys.clone());
            }
        }
        let table = compile(&set).unwrap();
        let part = compile(&table.digest_part()).unwrap();
        for ask in &asks {
            let query = ask.query(&known);
            let verdict = table.decide(&query);
            let judge = |staged| {
                oracle.judge_as_if(staged, ask.direction, &ask.subject, ask.other(), ask.protocol, ask.port)
            };
            let (expected, preview) = (judge(false), judge(true));
            let told = verdict.staged.as_ref().map(|s| (dropped(s.decision), s.rule.as_ref().map(name)));
            let differs = (&preview.dropped, &preview.rule) != (&expected.dropped, &expected.rule);
            prop_assert_eq!(told, differs.then_some((preview.dropped, preview.rule)));
            prop_assert_eq!(judgement(&verdict), expected);
            let explanation = table.explain(&query);
            prop_assert_eq!(&explanation.verdict, &verdict);
            check_digest(&table, &part, ask, &verdict, &known);
        }
    }
}
