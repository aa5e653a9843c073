//! The decision order: tiers, order, deny before allow, pass, log, isolation, defaults.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use landbridge_policy::{Decision, DropReason, KnownKeys, Peer, Query, Verdict, compile, model::*};

const REMOTE: [Scope; 1] = [Scope::Remote];

fn ask(policies: Vec<Policy>, subject: &identity::Claims, peer: &identity::Claims) -> Verdict {
    let known = KnownKeys::all();
    let query = Query {
        direction: Direction::Ingress,
        subject,
        peer: Peer::Identity {
            claims: peer,
            address: None,
        },
        protocol: TCP,
        port: 80,
        known: &known,
    };
    let table = compile(&set("west", policies)).unwrap();
    let verdict = table.decide(&query);
    assert_eq!(table.explain(&query).verdict, verdict);
    verdict
}

fn denied(reason: DropReason) -> Decision {
    Decision::Drop {
        reason,
        reject: false,
    }
}

#[test]
fn without_policies_a_cluster_is_open_inside_and_closed_to_others() {
    let api = pod("west/shop/api", "app=api");
    let inside = ask(vec![], &api, &pod("west/shop/web", "app=web"));
    assert_eq!((inside.decision, inside.rule), (Decision::Allow, None));
    let across = ask(vec![], &api, &pod("east/shop/web", "app=web"));
    assert_eq!(across.decision, denied(DropReason::DeniedByDefault));
}

#[test]
fn a_remote_identity_passes_by_a_rule_for_its_scope_only() {
    let api = pod("west/shop/api", "app=api");
    let web = pod("east/shop/web", "app=web");
    let mut allow = rule("web", Direction::Ingress, Action::Allow);
    allow.peers = vec![PeerMatch::Workload(any_workload())];
    let local = federation_policy("shop", "p", 100, vec![allow.clone()]);
    assert!(!ask(vec![local], &api, &web).is_allowed());
    allow.scopes = REMOTE.to_vec();
    let remote = federation_policy("shop", "p", 100, vec![allow]);
    let verdict = ask(vec![remote], &api, &web);
    assert_eq!(
        verdict.rule.unwrap().to_string(),
        "west: FederationPolicy shop/p rule web"
    );
}
