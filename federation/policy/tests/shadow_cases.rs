//! Which rules are found that can never decide, and which are not: case by case. That none is told wrongly is
//! `shadow.rs`.
#![allow(clippy::unwrap_used)]

extern crate landbridge_policy as policy;

mod common;

use std::collections::BTreeSet;

use common::*;
use identity::Assurance;
use policy::{KnownKeys, Shadowed, compile, model::*};

fn told(set: &PolicySet) -> Vec<String> {
    let table = compile(set).unwrap();
    let line = |one: Shadowed| {
        let by: BTreeSet<String> = one.by.iter().map(|r| r.rule.clone()).collect();
        let by: Vec<String> = by.into_iter().collect();
        format!("{} by {}", one.rule.rule, by.join(" "))
    };
    table
        .shadowed(&KnownKeys::all())
        .into_iter()
        .map(line)
        .collect()
}

fn early_and_late(early: Rule, late: Rule) -> Vec<String> {
    let early = federation_policy("shop", "early", 10, vec![early]);
    let late = federation_policy("shop", "late", 20, vec![late]);
    told(&set("west", vec![early, late]))
}

fn named(name: &str, change: impl FnOnce(&mut Rule)) -> Rule {
    let mut rule = rule(name, Direction::Ingress, Action::Allow);
    change(&mut rule);
    rule
}

fn from(selector: WorkloadSelector) -> Vec<PeerMatch> {
    vec![PeerMatch::Workload(selector)]
}

fn net(cidr: &str, except: &[&str]) -> Vec<PeerMatch> {
    vec![PeerMatch::Net {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|e| e.parse().unwrap()).collect(),
    }]
}

#[test]
fn peers_are_compared_by_what_they_select() {
    let of = |selector: WorkloadSelector| from(selector);
    let accounts = |names: &[&str]| WorkloadSelector {
        service_accounts: names.iter().map(|n| (*n).to_owned()).collect(),
        ..own("shop", "")
    };
    let labelled = |labels: &str| WorkloadSelector {
        namespaces: NamespaceMatch::Labels(selector(labels)),
        ..own("shop", "")
    };
    for (wide, narrow, expected) in [
        (vec![], of(own("shop", "app=a")), true),
        (of(own("shop", "")), vec![], false),
        (of(own("shop", "app")), of(own("shop", "app=a")), true),
        (of(own("shop", "app=a,b")), of(own("shop", "app=a")), true),
        (of(own("shop", "app=a")), of(own("shop", "app=a,b")), false),
        (
            of(own("shop", "app=a")),
            of(own("shop", "app=a env=x")),
            true,
        ),
        (
            of(own("shop", "app=a env=x")),
            of(own("shop", "app=a")),
            false,
        ),
        (of(own("shop", "app!=a")), of(own("shop", "app=b")), true),
        (of(own("shop", "app!=a")), of(own("shop", "!app")), true),
        (of(own("shop", "app!=a")), of(own("shop", "app!=a,b")), true),
        (
            of(own("shop", "app!=a,b")),
            of(own("shop", "app!=a")),
            false,
        ),
        (of(own("shop", "app")), of(own("shop", "app!=a")), false),
        (
            of(own("shop", "app=b")),
            of(own("shop", "app=a,b app!=a")),
            true,
        ),
        (of(own("shop", "")), of(own("db", "")), false),
        (of(labelled("")), of(own("db", "")), true),
        (of(labelled("team")), of(labelled("team=x")), true),
        (of(labelled("team=x")), of(own("shop", "")), false),
        (of(own("shop", "")), of(accounts(&["a"])), true),
        (of(accounts(&["a", "b"])), of(accounts(&["a"])), true),
        (of(accounts(&["a"])), of(own("shop", "")), false),
        (of(any_workload()), of(own("db", "app=a")), true),
        (net("10.0.0.0/8", &[]), net("10.1.0.0/16", &[]), true),
        (net("10.1.0.0/16", &[]), net("10.0.0.0/8", &[]), false),
        (
            net("10.0.0.0/8", &["10.1.0.0/16"]),
            net("10.1.2.0/24", &[]),
            false,
        ),
        (
            net("10.0.0.0/8", &["10.1.0.0/16"]),
            net("10.2.0.0/16", &[]),
            true,
        ),
        (
            net("10.0.0.0/8", &["10.1.2.0/24"]),
            net("10.0.0.0/8", &["10.1.0.0/16"]),
            true,
        ),
        (net("0.0.0.0/0", &[]), net("fd00::/8", &[]), false),
        // An identity counts by its address too, an address never as a workload.
        (of(any_workload()), net("10.0.0.0/8", &[]), false),
        (net("0.0.0.0/0", &[]), of(own("shop", "")), false),
        (
            [of(any_workload()), net("0.0.0.0/0", &[]), net("::/0", &[])].concat(),
            vec![],
            false,
        ),
        (
            [of(any_workload()), net("0.0.0.0/0", &[])].concat(),
            vec![],
            false,
        ),
    ] {
        let told = early_and_late(
            named("wide", |r| r.peers = wide.clone()),
            named("narrow", |r| r.peers = narrow.clone()),
        );
        let words: &[&str] = if expected { &["narrow by wide"] } else { &[] };
        assert_eq!(told, words, "{wide:?} {narrow:?}");
    }
}

#[test]
fn ports_are_compared_by_what_they_match() {
    let ports = |spec: PortSpec| PortMatch {
        protocol: TCP,
        port: spec,
    };
    let range = |first, last| ports(PortSpec::Range(first, last));
    let name = || ports(PortSpec::Named("http".into()));
    for (wide, narrow, expected) in [
        (vec![], vec![tcp(80)], true),
        (vec![tcp(80)], vec![], false),
        (vec![range(80, 90)], vec![tcp(80), tcp(90)], true),
        (vec![range(80, 90)], vec![tcp(80), tcp(91)], false),
        (
            vec![range(80, 85), range(86, 90)],
            vec![range(80, 90)],
            true,
        ),
        (
            vec![range(80, 85), range(87, 90)],
            vec![range(80, 90)],
            false,
        ),
        (vec![range(1, 65535)], vec![ports(PortSpec::Any)], false),
        (vec![range(0, 65535)], vec![ports(PortSpec::Any)], true),
        (vec![ports(PortSpec::Any)], vec![name()], true),
        (vec![name()], vec![name()], true),
        (vec![name()], vec![tcp(80)], false),
        (vec![tcp(80)], vec![name()], false),
        (
            vec![tcp(80)],
            vec![PortMatch {
                protocol: UDP,
                port: PortSpec::Range(80, 80),
            }],
            false,
        ),
    ] {
        let told = early_and_late(
            named("wide", |r| r.ports = wide.clone()),
            named("narrow", |r| r.ports = narrow.clone()),
        );
        assert_eq!(!told.is_empty(), expected, "{wide:?} {narrow:?}");
    }
}

#[test]
fn choices_of_labels_are_compared() {
    let choice = |parts: &[&str]| {
        let parts = parts.iter().map(|p| selector(p)).collect();
        LabelSelector(vec![Term::AnyOf(parts)])
    };
    let like = |part: Part| -> LabelSelector {
        let operator = Operator::Like(part);
        let key = "app".to_owned();
        [Requirement { key, operator }].into_iter().collect()
    };
    let starts = |text: &str| like(Part::StartsWith(text.to_owned()));
    for (wide, narrow, expected) in [
        (choice(&["app=a env=x", "tier"]), selector("tier=b"), true),
        (choice(&["app=a env=x", "tier"]), selector("app=a"), false),
        (
            selector("app"),
            choice(&["app=a env=x", "app=b tier"]),
            true,
        ),
        (selector("app"), choice(&["app=a env=x", "tier"]), false),
        (
            choice(&["app=a env=x", "tier"]),
            choice(&["app=a env=x", "tier=b env"]),
            true,
        ),
        (
            choice(&["app=a env=x", "tier"]),
            choice(&["app=a env=x", "env tier!=b"]),
            false,
        ),
        (starts("ap"), selector("app=api,apo"), true),
        (starts("ap"), selector("app=api,web"), false),
        (starts("ap"), starts("ap"), true),
        (starts("ap"), starts("api"), false),
        (selector("app"), starts("ap"), true),
        (selector("app!=web"), starts("ap"), true),
        (selector("app!=api"), starts("ap"), false),
    ] {
        let of = |pods: &LabelSelector| {
            from(WorkloadSelector {
                pods: pods.clone(),
                ..own("shop", "")
            })
        };
        let told = early_and_late(
            named("wide", |r| r.peers = of(&wide)),
            named("narrow", |r| r.peers = of(&narrow)),
        );
        assert_eq!(!told.is_empty(), expected, "{wide:?} {narrow:?}");
    }
}

#[test]
fn names_of_the_dns_are_compared() {
    let name = |below, name: &str| {
        let name = name.to_owned();
        vec![PeerMatch::Domain(DomainPattern { below, name })]
    };
    for (wide, narrow, expected) in [
        (name(false, "a.example"), name(false, "a.example"), true),
        (name(true, "example"), name(false, "a.example"), true),
        (name(true, "example"), name(true, "a.example"), true),
        (name(true, "example"), name(false, "example"), false),
        (name(false, "example"), name(true, "example"), false),
        (net("0.0.0.0/0", &[]), name(false, "example"), false),
        (name(true, "example"), vec![], false),
        (vec![], name(true, "example"), true),
    ] {
        let out = |name: &str, peers: &[PeerMatch]| {
            named(name, |r| {
                (r.direction, r.peers) = (Direction::Egress, peers.to_vec());
            })
        };
        let told = early_and_late(out("wide", &wide), out("narrow", &narrow));
        assert_eq!(!told.is_empty(), expected, "{wide:?} {narrow:?}");
    }
}

#[test]
fn ports_that_are_left_out_count() {
    let of = |name: &str, ports: &[u16], not_ports: &[u16]| {
        let list = |ports: &[u16]| ports.iter().map(|p| tcp(*p)).collect();
        named(name, |r| {
            (r.ports, r.not_ports) = (list(ports), list(not_ports));
        })
    };
    let wide = || of("wide", &[], &[22]);
    for (narrow, expected) in [
        (of("narrow", &[], &[22]), true),
        (of("narrow", &[], &[23]), false),
        (of("narrow", &[80], &[22]), true),
        (of("narrow", &[22], &[]), false),
    ] {
        let told = early_and_late(wide(), narrow.clone());
        assert_eq!(!told.is_empty(), expected, "{narrow:?}");
    }
}

/// A staged policy decides nothing, so it shadows only what is staged too.
#[test]
fn staged_policies_shadow_no_enforced_ones() {
    let of = |name: &str, order, staged| {
        let mut policy = federation_policy("shop", name, order, vec![named(name, |_| {})]);
        policy.staged = staged;
        policy
    };
    for (early, late, expected) in [(true, false, 0), (false, true, 1), (true, true, 1)] {
        let told = told(&set("west", vec![of("e", 1, early), of("l", 2, late)]));
        assert_eq!(told.len(), expected, "{early} {late}");
    }
}

/// Each part of a rule may be decided by another rule before it.
#[test]
fn several_rules_cover_one_together() {
    let early = vec![
        named("eighty", |r| r.ports = vec![tcp(80)]),
        named("tls", |r| r.ports = vec![tcp(443)]),
    ];
    let early = federation_policy("shop", "early", 10, early);
    let late = |ports: &[u16]| {
        let ports = ports.iter().map(|p| tcp(*p)).collect();
        let late = named("late", |r| r.ports = ports);
        federation_policy("shop", "late", 20, vec![late])
    };
    let set_of = |late| set("west", vec![early.clone(), late]);
    assert_eq!(told(&set_of(late(&[80, 443]))), ["late by eighty tls"]);
    assert_eq!(told(&set_of(late(&[80, 8080]))), [""; 0]);
}

/// The order of decision, not that of writing: tier, order, then deny before pass before allow; or the order
/// in the object, where the kind has one.
#[test]
fn only_what_is_asked_before_counts() {
    let action = |name: &str, action| named(name, |r| r.action = action);
    let one = |rules| federation_policy("shop", "one", 10, rules);
    let rules = || vec![action("allow", Action::Allow), action("deny", Action::Deny)];
    let told = self::told(&set("west", vec![one(rules())]));
    assert_eq!(told, ["allow by deny"], "a Deny is asked before an Allow");
    let mut in_order = one(rules());
    in_order.kind = PolicyKind::ClusterNetworkPolicy;
    in_order.namespace = None;
    assert_eq!(self::told(&set("west", vec![in_order])), ["deny by allow"]);
    let told = early_and_late(action("log", Action::Log), action("late", Action::Allow));
    assert_eq!(told, [""; 0], "a Log decides nothing");
    let told = early_and_late(action("pass", Action::Pass), action("log", Action::Log));
    assert_eq!(told, ["log by pass"], "it is never logged");
}

#[test]
fn a_pass_opens_later_tiers_only() {
    let of = |name: &str, tier, order, action| {
        let mut policy = federation_policy(
            "shop",
            name,
            order,
            vec![named(name, |r| r.action = action)],
        );
        policy.tier = tier;
        policy
    };
    let late = || of("late", Tier::Application, 1, Action::Allow);
    let deny = |order| of("deny", Tier::Admin, order, Action::Deny);
    let pass = |order| of("pass", Tier::Admin, order, Action::Pass);
    let told = |policies| self::told(&set("west", policies));
    assert_eq!(told(vec![deny(1), late()]), ["late by deny"]);
    assert_eq!(told(vec![pass(1), late()]), [""; 0]);
    assert_eq!(told(vec![pass(1), deny(2), late()]), ["deny by pass"]);
    assert_eq!(
        told(vec![deny(1), pass(2), late()]),
        ["pass by deny", "late by deny"]
    );
}

/// A rule is shadowed in every scope that it speaks in, or not at all.
#[test]
fn scopes_count_each() {
    let both = || vec![Scope::Local, Scope::Remote];
    let local = named("early", |r| r.scopes = vec![Scope::Local]);
    let late = || named("late", |r| r.scopes = both());
    assert_eq!(early_and_late(local, late()), [""; 0]);
    let early = named("early", |r| r.scopes = both());
    assert_eq!(early_and_late(early, late()), ["late by early"]);
    let wide = named("wide", |r| {
        (r.scopes, r.peers) = (both(), from(remote("east", "shop", "")));
    });
    let narrow = named("narrow", |r| {
        (r.scopes, r.peers) = (both(), from(remote("east", "shop", "app=a")));
    });
    assert_eq!(early_and_late(wide, narrow), ["narrow by wide"]);
}

/// An Allow that asks for more does not decide of who offers less.
#[test]
fn assurance_counts_across_clusters() {
    let allow = |name: &str, assurance| {
        named(name, |r| {
            (r.scopes, r.assurance) = (vec![Scope::Remote], assurance)
        })
    };
    let (agent, gateway) = (Assurance::Agent, Assurance::Gateway);
    assert_eq!(
        early_and_late(allow("e", agent), allow("l", gateway)),
        [""; 0]
    );
    assert_eq!(
        early_and_late(allow("e", gateway), allow("l", agent)),
        ["l by e"]
    );
    let deny = named("deny", |r| {
        (r.scopes, r.action) = (vec![Scope::Remote], Action::Deny)
    });
    assert_eq!(early_and_late(allow("e", agent), deny), [""; 0]);
}

/// What is not carried is unknown: an Allow that depends on it decides nothing then, a Deny does.
#[test]
fn unknown_labels_are_no_proof() {
    let of_a = |name: &str, action| {
        named(name, |r| {
            (r.scopes, r.action) = (vec![Scope::Remote], action);
            r.assurance = Assurance::Gateway;
            r.peers = from(remote("east", "shop", "app=a"));
        })
    };
    let mut known = KnownKeys::all();
    known.narrow(td("east"), ["env".to_owned()]);
    for (early, late, expected) in [
        (Action::Allow, Action::Deny, 0),
        (Action::Pass, Action::Allow, 0),
        (Action::Allow, Action::Allow, 1),
        (Action::Deny, Action::Allow, 1),
    ] {
        let early = federation_policy("shop", "early", 10, vec![of_a("early", early)]);
        let late = federation_policy("shop", "late", 20, vec![of_a("late", late)]);
        let table = compile(&set("west", vec![early, late])).unwrap();
        assert_eq!(table.shadowed(&KnownKeys::all()).len(), 1);
        assert_eq!(table.shadowed(&known).len(), expected);
    }
}

/// Subjects count as well, and so do namespaces by the name.
#[test]
fn subjects_are_compared() {
    let of = |name: &str, order, subject: WorkloadSelector| {
        let mut policy = federation_policy("shop", name, order, vec![named(name, |_| {})]);
        policy.subject = subject;
        policy
    };
    let both = || WorkloadSelector {
        namespaces: NamespaceMatch::Names(vec!["db".into(), "shop".into()]),
        ..own("shop", "")
    };
    for (early, late, expected) in [
        (own("shop", ""), own("shop", "app=a"), 1),
        (own("shop", "app=a"), own("shop", ""), 0),
        (own("db", ""), own("shop", ""), 0),
        (both(), own("shop", ""), 1),
        (own("shop", ""), both(), 0),
        (any_workload(), both(), 1),
    ] {
        let told = self::told(&set("west", vec![of("e", 1, early), of("l", 2, late)]));
        assert_eq!(told.len(), expected, "{told:?}");
    }
}
