//! What restricts trust domains reaches every agent, and the issuer signs nothing that is revoked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use handshake::admission::{CredentialId, Restricted, Restrictions, Revocation, Target};
use identity::{ClaimLimits, NamePattern, SpiffeId, TrustDomain};
use peering::issuer::{IssuerEvent, IssuerState};

use crate::{
    own_records, problems,
    world::{START, World, domain, labels, pod},
};

fn revoking(target: Target) -> Restrictions {
    Restrictions {
        revoked: vec![Revocation {
            target,
            reason: "stolen".into(),
            at: START,
        }],
        ..Restrictions::default()
    }
}

fn limiting(namespace: &str) -> Restrictions {
    Restrictions {
        limits: ClaimLimits {
            namespaces: vec![NamePattern::new(namespace).unwrap()],
            ..ClaimLimits::default()
        },
        ..Restrictions::default()
    }
}

type All = BTreeMap<TrustDomain, Arc<Restricted>>;

fn restrict(world: &mut World, all: &[(&str, Restrictions)]) -> All {
    let made = all.iter().map(|(of, restrictions)| {
        let restricted = Restricted::new(&domain(of), restrictions.clone());
        (domain(of), Arc::new(restricted.unwrap()))
    });
    let made: All = made.collect();
    world.issuer.set_restrictions(&made);
    world.settle();
    made
}

fn held(world: &World, node: &str) -> All {
    world.agents[node].member.restrictions().clone()
}

#[test]
fn agents_hold_what_the_issuer_holds_through_every_change_and_loss() {
    let mut world = World::new(&["node1", "node2"]);
    let identity = SpiffeId::workload(&domain("west"), "shop", "api").unwrap();
    let both = [
        ("west", revoking(Target::Identity(identity))),
        ("north", limiting("shop")),
    ];
    let all = restrict(&mut world, &both);
    assert_eq!(held(&world, "node1"), all);
    // One changes and one is lifted, while node2 is away.
    world.disconnect("node2");
    let all = restrict(&mut world, &[("north", limiting("bank"))]);
    assert_eq!(held(&world, "node1"), all);
    assert_eq!(
        held(&world, "node2").len(),
        2,
        "what it heard stays in force"
    );
    world.connect("node2");
    world.settle();
    assert_eq!(held(&world, "node2"), all);
    // Another life of the issuer says all of it again, and what it does not say is no more.
    world.restart_issuer(IssuerState::default());
    assert!(held(&world, "node1").is_empty());
    assert!(problems(&world, "node1").is_empty());
}

#[test]
fn a_revoked_pod_gets_no_credential_until_it_is_taken_back() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    world.put(pod("node1", "b", "api", "10.1.1.11"));
    let before = world.proven("node1", "a").unwrap().id;
    let labels = Target::Labels {
        pods: "app == \"frontend\"".into(),
        namespaces: None,
    };
    restrict(&mut world, &[("east", revoking(labels))]);
    // By the time its credential would have been renewed and was over.
    world.run(Duration::from_mins(11));
    assert!(world.proven("node1", "a").is_none());
    assert!(world.proven("node1", "b").is_some());
    let said = world.issuer_events.iter().any(|event| {
        matches!(event, IssuerEvent::Problem(words)
            if words.contains("no credential for shop/pod-a") && words.contains("stolen"))
    });
    assert!(said, "{:?}", world.issuer_events);
    restrict(&mut world, &[]);
    assert_ne!(world.proven("node1", "a").unwrap().id, before);
}

/// What it is by then counts, though nobody could be told while it was revoked.
#[test]
fn a_pod_that_is_relabelled_while_it_is_revoked_comes_back_as_what_it_is() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let first = world.proven("node1", "a").unwrap();
    restrict(&mut world, &[("east", revoking(Target::Cluster))]);
    let mut relabelled = pod("node1", "a", "frontend", "10.1.1.10");
    relabelled.labels = labels(&[("app", "batch")]);
    world.put(relabelled);
    assert!(
        world.proven("node1", "a").is_none(),
        "nobody believes the old labels"
    );
    restrict(&mut world, &[]);
    let back = world.proven("node1", "a").unwrap();
    assert_eq!(back.labels, labels(&[("app", "batch")]));
    let records = own_records(&world);
    let last = records.last().unwrap();
    assert!(last.claims.is_some() && last.record.generation > first.generation);
}

/// The pod stays what it is: it gets another one at once, though one was signed a moment ago.
#[test]
fn a_revoked_credential_is_replaced() {
    let mut world = World::new(&["node1"]);
    world.put(pod("node1", "a", "frontend", "10.1.1.10"));
    let before = world.proven("node1", "a").unwrap().id;
    let credential = Target::Credential(CredentialId(before));
    restrict(&mut world, &[("east", revoking(credential))]);
    let after = world.proven("node1", "a").unwrap().id;
    assert_ne!(after, before);
}
