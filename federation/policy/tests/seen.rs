//! What a table remembers is what it would decide again: of every question the same, in whatever order and
//! however often they come, and whatever clusters carry meanwhile.
#![allow(clippy::unwrap_used)]

#[allow(unused)]
mod common;

use std::{net::IpAddr, sync::Arc};

use common::{generate::*, *};
use identity::Claims;
use landbridge_policy::{Decision, KnownKeys, Pair, Peer, Query, compile, model::*};
use proptest::{collection::vec, option, prelude::*, sample::Index, sample::select};

/// A question by places in lists, so that the same comes again, and nearly the same.
#[derive(Clone, Debug)]
struct Ask {
    direction: Direction,
    subject: Index,
    peer: Index,
    address: Option<IpAddr>,
    protocol: u8,
    port: u16,
    known: Index,
}

fn ask() -> impl Strategy<Value = Ask> {
    let direction = select(&[Direction::Ingress, Direction::Egress]);
    let address = option::of(select(vec![
        IpAddr::from([10, 0, 0, 1]),
        IpAddr::from([192, 0, 2, 1]),
    ]));
    let places = (any::<Index>(), any::<Index>(), any::<Index>());
    (direction, places, address, protocol(), port()).prop_map(
        |(direction, (subject, peer, known), address, protocol, port)| Ask {
            direction,
            subject,
            peer,
            address,
            protocol,
            port,
            known,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn what_is_remembered_is_what_would_be_decided(
        set in policy_set(),
        subjects in vec(claims(&["west"]), 1..4),
        peers in vec(claims(&["west", "east"]), 1..4),
        carried in carried(),
        asks in vec(ask(), 1..60),
    ) {
        let table = compile(&set).unwrap();
        let arcs = |all: Vec<Claims>| all.into_iter().map(Arc::new).collect::<Vec<_>>();
        let (subjects, peers) = (arcs(subjects), arcs(peers));
        let mut narrowed = KnownKeys::all();
        narrowed.narrow(td("east"), carried.into_iter().flatten());
        let mut less = narrowed.clone();
        less.narrow(td("west"), []);
        let knowns = [KnownKeys::all(), narrowed, less];
        for ask in asks.iter().chain(&asks) {
            let (subject, peer) = (ask.subject.get(&subjects), ask.peer.get(&peers));
            let Ask { direction, address, protocol, port, .. } = *ask;
            let known = ask.known.get(&knowns);
            let pair = Pair { direction, subject, peer, address, protocol, port, known };
            let query = Query {
                direction, subject, peer: Peer::Identity { claims: peer, address }, protocol, port, known,
            };
            prop_assert_eq!(table.decide_pair(&pair), table.decide(&query), "{:?}", ask);
        }
    }
}

/// More pairs than are remembered, each asked twice, and the first ones again at the end.
#[test]
fn many_pairs_push_out_others_and_nothing_else() {
    let mut allow = rule("r", Direction::Ingress, Action::Allow);
    allow.peers = vec![PeerMatch::Workload(own("shop", "app=even"))];
    let policy = Policy {
        isolates: vec![(Direction::Ingress, Scope::Local)],
        ..federation_policy("shop", "p", 1, vec![allow])
    };
    let table = compile(&set("west", vec![policy])).unwrap();
    let (subject, known) = (Arc::new(pod("west/shop/db", "app=db")), KnownKeys::all());
    let peers = (0..6_000).map(|n| {
        let app = if n % 2 == 0 { "even" } else { "odd" };
        Arc::new(pod(&format!("west/shop/p{n}"), &format!("app={app}")))
    });
    let peers: Vec<Arc<Claims>> = peers.collect();
    for n in (0..6_000).chain(0..100).flat_map(|n| [n, n]) {
        let verdict = table.decide_pair(&Pair {
            direction: Direction::Ingress,
            subject: &subject,
            peer: &peers[n],
            address: None,
            protocol: TCP,
            port: 80,
            known: &known,
        });
        assert_eq!(verdict.is_allowed(), n % 2 == 0, "{n}");
    }
    let kept = peers.iter().filter(|peer| Arc::strong_count(peer) > 1);
    let kept = kept.count();
    assert!((1_000..=4_096).contains(&kept), "{kept} are remembered");
}

/// Another pod at the place in memory of one that is gone would be taken for it.
#[test]
fn identities_stay_for_as_long_as_they_are_remembered() {
    let api = WorkloadSelector {
        pods: selector("app=api"),
        ..any_workload()
    };
    let mut allow = rule("r", Direction::Ingress, Action::Allow);
    allow.peers = vec![PeerMatch::Workload(api)];
    let policy = Policy {
        isolates: vec![(Direction::Ingress, Scope::Local)],
        ..federation_policy("shop", "p", 1, vec![allow])
    };
    let table = compile(&set("west", vec![policy])).unwrap();
    let (subject, known) = (Arc::new(pod("west/shop/db", "app=db")), KnownKeys::all());
    let is_allowed = |peer: &Arc<Claims>| {
        let verdict = table.decide_pair(&Pair {
            direction: Direction::Ingress,
            subject: &subject,
            peer,
            address: None,
            protocol: TCP,
            port: 80,
            known: &known,
        });
        verdict.decision == Decision::Allow
    };
    let api = Arc::new(pod("west/shop/api", "app=api"));
    assert!(is_allowed(&api));
    let weak = Arc::downgrade(&api);
    drop(api);
    assert!(weak.upgrade().is_some());
    let next = table.clone();
    drop(table);
    assert!(weak.upgrade().is_none(), "{}", next.rule_count());
    for _ in 0..100 {
        let other = Arc::new(pod("west/shop/web", "app=web"));
        let verdict = next.decide_pair(&Pair {
            direction: Direction::Ingress,
            subject: &subject,
            peer: &other,
            address: None,
            protocol: TCP,
            port: 80,
            known: &known,
        });
        assert!(!verdict.is_allowed());
    }
}
