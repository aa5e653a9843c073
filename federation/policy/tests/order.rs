//! The decision order: tiers, order, deny before allow, pass, log, isolation, scope, defaults, and
//! what is unknown or vouched for too weakly.
#![allow(clippy::unwrap_used)]

#[allow(unused)]
mod common;

use common::*;
use identity::{Assurance, Claims};
use landbridge_policy::{Decision, DropReason, KnownKeys, Peer, Query, Verdict, compile, model::*};

use Action::{Allow, Deny, Log, Pass};
use Scope::{Local, Remote};

fn ask_knowing(policies: &[Policy], peer: &Claims, known: &KnownKeys) -> Verdict {
    let subject = pod("west/shop/api", "app=api");
    let query = Query {
        direction: Direction::Ingress,
        subject: &subject,
        peer: Peer::Identity {
            claims: peer,
            address: None,
        },
        protocol: TCP,
        port: 80,
        known,
    };
    compile(&set("west", policies.to_vec()))
        .unwrap()
        .decide(&query)
}

fn ask(policies: &[Policy], peer: &Claims) -> Verdict {
    ask_knowing(policies, peer, &KnownKeys::all())
}

fn local() -> Claims {
    pod("west/shop/web", "app=web")
}

fn remote_web() -> Claims {
    pod("east/shop/web", "app=web")
}

fn denied(reason: DropReason) -> Decision {
    Decision::Drop {
        reason,
        reject: false,
    }
}

/// The policy's name and the action of its only rule, for every peer in both scopes.
fn one(name: &str, tier: Tier, order: u32, action: Action) -> Policy {
    let mut rule = rule(name, Direction::Ingress, action);
    rule.scopes = vec![Local, Remote];
    Policy {
        tier,
        ..federation_policy("shop", name, order, vec![rule])
    }
}

fn for_peers(mut policy: Policy, peers: &str) -> Policy {
    policy.rules[0].peers = vec![PeerMatch::Workload(WorkloadSelector {
        pods: selector(peers),
        ..any_workload()
    })];
    policy
}

fn isolating(mut policy: Policy, scope: Scope) -> Policy {
    policy.isolates.push((Direction::Ingress, scope));
    policy
}

/// What decided: the name of the rule, `allow` or the reason.
fn outcome(verdict: &Verdict) -> String {
    match (&verdict.rule, verdict.decision) {
        (Some(rule), _) => rule.rule.to_string(),
        (None, Decision::Allow) => "allow".to_owned(),
        (None, Decision::Drop { reason, .. }) => reason.to_string(),
    }
}

#[test]
fn tiers_orders_and_actions() {
    use Tier::{Admin, Application, Baseline};
    let nothing: &[Policy] = &[];
    let isolates = || isolating(one("iso", Application, 1000, Log), Local);
    let cases: &[(&str, &[Policy], &str, &str)] = &[
        (
            "the default of each scope",
            nothing,
            "allow",
            "denied-by-default",
        ),
        (
            "admin before application, whatever the order",
            &[one("a", Admin, 900, Deny), one("b", Application, 1, Allow)],
            "a",
            "a",
        ),
        (
            "lower order first",
            &[
                one("a", Application, 10, Allow),
                one("b", Application, 9, Deny),
            ],
            "b",
            "b",
        ),
        (
            "a later deny does not undo an earlier allow",
            &[
                one("a", Application, 9, Allow),
                one("b", Application, 10, Deny),
            ],
            "a",
            "a",
        ),
        (
            "at equal order deny wins, whatever the names",
            &[
                one("a", Application, 10, Allow),
                one("z", Application, 10, Deny),
            ],
            "z",
            "z",
        ),
        (
            "at equal order pass goes before allow",
            &[
                one("a", Application, 10, Allow),
                one("z", Application, 10, Pass),
            ],
            "allow",
            "denied-by-default",
        ),
        (
            "admin pass skips the rest of the tier, not the next one",
            &[
                one("a", Admin, 1, Pass),
                one("b", Admin, 2, Deny),
                one("c", Application, 5, Allow),
            ],
            "c",
            "c",
        ),
        (
            "application pass skips isolation too, and the baseline is asked",
            &[
                one("a", Application, 1, Pass),
                isolates(),
                one("c", Baseline, 5, Deny),
            ],
            "c",
            "c",
        ),
        (
            "baseline pass leaves the default",
            &[one("a", Baseline, 1, Pass), one("b", Baseline, 2, Deny)],
            "allow",
            "denied-by-default",
        ),
        (
            "isolated: denied where no rule matches, and the baseline is not asked",
            &[isolates(), one("b", Baseline, 5, Allow)],
            "denied-by-default",
            "b",
        ),
        (
            "not isolated: the baseline decides",
            &[one("b", Baseline, 5, Deny)],
            "b",
            "b",
        ),
        (
            "admin never isolates",
            &[isolating(one("a", Admin, 5, Log), Local)],
            "allow",
            "denied-by-default",
        ),
        (
            "baseline may isolate",
            &[isolating(one("a", Baseline, 5, Log), Local)],
            "denied-by-default",
            "denied-by-default",
        ),
    ];
    for (case, policies, in_cluster, across) in cases {
        assert_eq!(&outcome(&ask(policies, &local())), in_cluster, "{case}");
        assert_eq!(
            &outcome(&ask(policies, &remote_web())),
            across,
            "{case}, across"
        );
        let reversed: Vec<_> = policies.iter().rev().cloned().collect();
        assert_eq!(
            &outcome(&ask(&reversed, &local())),
            in_cluster,
            "{case}, reversed"
        );
    }
}

#[test]
fn isolation_is_for_one_direction_and_scope() {
    let policy = isolating(one("p", Tier::Application, 1000, Log), Remote);
    assert!(ask(std::slice::from_ref(&policy), &local()).is_allowed());
    let mut egress = policy;
    egress.isolates = vec![(Direction::Egress, Local)];
    assert!(ask(&[egress], &local()).is_allowed());
}

#[test]
fn the_first_rule_of_one_action_is_named() {
    let mut policy = one("first", Tier::Application, 10, Allow);
    let second = Rule {
        name: "second".to_owned(),
        ..policy.rules[0].clone()
    };
    policy.rules.push(second);
    let verdict = ask(&[policy], &local());
    let name = verdict.rule.unwrap().to_string();
    assert_eq!(name, "west: FederationPolicy shop/first rule first");
}

#[test]
fn log_reports_and_goes_on() {
    let logs = |policies: &[Policy]| {
        let verdict = ask(policies, &local());
        let names = verdict.logs.iter().map(|l| l.rule.to_string());
        (names.collect::<Vec<_>>(), outcome(&verdict))
    };
    let log = |name, order| one(name, Tier::Application, order, Log);
    let deny = one("deny", Tier::Application, 10, Deny);
    let found = logs(&[
        deny.clone(),
        log("same", 10),
        log("before", 9),
        log("after", 11),
    ]);
    assert_eq!(found, (vec!["before".into(), "same".into()], "deny".into()));
    assert_eq!(
        logs(&[log("alone", 1)]),
        (vec!["alone".into()], "allow".into())
    );
    let other = for_peers(log("other", 1), "app=db");
    assert_eq!(logs(&[other]), (vec![], "allow".into()));
}

#[test]
fn reject_is_said_by_the_rule() {
    let mut policy = one("p", Tier::Application, 10, Deny);
    policy.rules[0].reject = true;
    let decision = Decision::Drop {
        reason: DropReason::DeniedByRule,
        reject: true,
    };
    assert_eq!(ask(&[policy], &local()).decision, decision);
}

#[test]
fn a_rule_matches_in_its_scopes_only() {
    for (scopes, in_cluster, across) in [
        (vec![Local], "p", "denied-by-default"),
        (vec![Remote], "allow", "p"),
        (vec![Local, Remote], "p", "p"),
    ] {
        let mut policy = one("p", Tier::Application, 10, Allow);
        policy.rules[0].scopes = scopes;
        assert_eq!(
            outcome(&ask(std::slice::from_ref(&policy), &local())),
            in_cluster
        );
        assert_eq!(outcome(&ask(&[policy], &remote_web())), across);
    }
}

#[test]
fn an_unknown_label_never_helps_the_peer() {
    let mut known = KnownKeys::all();
    known.narrow(td("east"), ["app".to_owned()]);
    let rule = |action, peers: &str| for_peers(one("p", Tier::Application, 10, action), peers);
    // The credential happens to hold the key or not: it says nothing.
    for peer in [remote_web(), pod("east/shop/web", "app=web env=prod")] {
        for requirement in ["env=prod", "env!=prod", "env", "!env"] {
            let verdict = |policies: &[Policy]| ask_knowing(policies, &peer, &known);
            let allow = verdict(&[rule(Allow, requirement)]);
            assert_eq!(allow.decision, denied(DropReason::LabelNotCarried));
            let everyone = one("q", Tier::Application, 20, Allow);
            let deny = verdict(&[rule(Deny, requirement), everyone.clone()]);
            assert_eq!(outcome(&deny), "p");
            assert_eq!(deny.decision, denied(DropReason::LabelNotCarried));
            // What a known label excludes is excluded.
            let both = format!("{requirement} app=db");
            let other = verdict(&[rule(Deny, &both), everyone]);
            assert_eq!(outcome(&other), "q");
        }
    }
    // The own cluster carries everything.
    assert!(ask_knowing(&[rule(Deny, "env")], &local(), &known).is_allowed());
}

#[test]
fn after_an_unknown_pass_both_ways_must_allow() {
    let mut known = KnownKeys::all();
    known.narrow(td("east"), ["app".to_owned()]);
    let pass = for_peers(one("pass", Tier::Admin, 1, Pass), "env=test");
    let allow = one("admin", Tier::Admin, 2, Allow);
    let verdict = |rest: &[Policy]| {
        let mut policies = vec![pass.clone(), allow.clone()];
        policies.extend_from_slice(rest);
        ask_knowing(&policies, &remote_web(), &known)
    };
    assert_eq!(verdict(&[]).decision, denied(DropReason::LabelNotCarried));
    assert_eq!(
        outcome(&verdict(&[one("no", Tier::Application, 1, Deny)])),
        "no"
    );
    assert_eq!(
        outcome(&verdict(&[one("yes", Tier::Application, 1, Allow)])),
        "admin"
    );
    assert_eq!(
        outcome(&verdict(&[one("yes", Tier::Baseline, 1, Allow)])),
        "admin"
    );
}

#[test]
fn an_unknown_subject_is_isolated_and_denied_but_not_allowed() {
    let mut known = KnownKeys::all();
    known.narrow(td("west"), ["app".to_owned()]);
    let select = |mut policy: Policy| {
        policy.subject.pods = selector("quarantine=yes");
        policy
    };
    let deny = select(one("p", Tier::Application, 1, Deny));
    let reason = denied(DropReason::LabelNotCarried);
    assert_eq!(ask_knowing(&[deny], &local(), &known).decision, reason);
    let isolate = select(isolating(one("p", Tier::Application, 1, Log), Local));
    assert_eq!(ask_knowing(&[isolate], &local(), &known).decision, reason);
    let allow = select(one("p", Tier::Application, 1, Allow));
    let closed = isolating(one("q", Tier::Application, 1, Log), Local);
    assert_eq!(
        ask_knowing(&[allow, closed], &local(), &known).decision,
        reason
    );
}

#[test]
fn an_allow_asks_for_assurance_of_another_clusters_pods() {
    let attested = |claims| with_assurance(claims, Assurance::Gateway);
    let allow = |assurance| {
        let mut policy = one("p", Tier::Application, 10, Allow);
        policy.rules[0].assurance = assurance;
        policy
    };
    let strict = ask(&[allow(Assurance::Agent)], &attested(remote_web()));
    assert_eq!(strict.decision, denied(DropReason::AssuranceTooLow));
    assert!(ask(&[allow(Assurance::Agent)], &remote_web()).is_allowed());
    assert!(ask(&[allow(Assurance::Gateway)], &attested(remote_web())).is_allowed());
    let inside = isolating(allow(Assurance::Agent), Local);
    assert!(ask(&[inside], &attested(local())).is_allowed());
    // A Deny asks for nothing.
    let deny = one("d", Tier::Application, 1, Deny);
    let policies = [deny, allow(Assurance::Gateway)];
    assert_eq!(outcome(&ask(&policies, &attested(remote_web()))), "d");
}

#[test]
fn selectors_look_at_cluster_namespace_and_account() {
    let peers = [
        local(),
        remote_web(),
        pod("north/db/web", "app=web"),
        with_account(remote_web(), "robot"),
    ];
    let cases: &[(WorkloadSelector, [bool; 4])] = &[
        (any_workload(), [true, true, true, true]),
        (own("shop", ""), [true, false, false, false]),
        (remote("east", "shop", ""), [false, true, false, true]),
        (
            WorkloadSelector {
                clusters: ClusterMatch::Remote,
                ..any_workload()
            },
            [false, true, true, true],
        ),
        (
            WorkloadSelector {
                namespaces: NamespaceMatch::Names(vec!["db".into(), "shop".into()]),
                clusters: ClusterMatch::Listed(vec![td("west"), td("north")]),
                ..any_workload()
            },
            [true, false, true, false],
        ),
        (
            WorkloadSelector {
                service_accounts: vec!["robot".into(), "none".into()],
                ..any_workload()
            },
            [false, false, false, true],
        ),
        (
            // A name is not a label: nothing proves this one.
            WorkloadSelector {
                namespaces: NamespaceMatch::Labels(selector("name=shop")),
                ..any_workload()
            },
            [false; 4],
        ),
    ];
    for (selector, expected) in cases {
        let mut policy = isolating(one("p", Tier::Application, 10, Allow), Local);
        policy.rules[0].peers = vec![PeerMatch::Workload(selector.clone())];
        let found = peers
            .each_ref()
            .map(|p| ask(std::slice::from_ref(&policy), p).is_allowed());
        assert_eq!(found, *expected, "{selector:?}");
    }
}

#[test]
fn a_pod_of_another_cluster_is_no_subject() {
    let (subject, peer, known) = (remote_web(), local(), KnownKeys::all());
    let query = Query {
        direction: Direction::Egress,
        subject: &subject,
        peer: Peer::Identity {
            claims: &peer,
            address: None,
        },
        protocol: TCP,
        port: 80,
        known: &known,
    };
    let table = compile(&set("west", vec![one("p", Tier::Admin, 1, Allow)])).unwrap();
    assert_eq!(
        table.decide(&query).decision,
        denied(DropReason::WrongTrustDomain)
    );
}
