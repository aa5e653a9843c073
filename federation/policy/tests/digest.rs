//! The canonical form, its hash, the part that peers are told, and what is refused.
#![allow(clippy::unwrap_used)]

#[allow(unused)]
mod common;

use common::{generate::*, *};
use identity::{Assurance, Claims};
use landbridge_policy::{CompileError, Problem, Table, check, compile, model::*};
use proptest::prelude::*;

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn web_to_api() -> Policy {
    let mut policy = federation_policy("shop", "api", 100, vec![]);
    policy.subject.pods = selector("app=api");
    policy.isolates = vec![(Direction::Ingress, Scope::Remote)];
    policy.rules = vec![Rule {
        scopes: vec![Scope::Remote],
        peers: vec![PeerMatch::Workload(remote("east", "shop", "app=web"))],
        ports: vec![tcp(8080)],
        ..rule("web", Direction::Ingress, Action::Allow)
    }];
    policy
}

fn table(policies: Vec<Policy>) -> Table {
    compile(&set("west", policies)).unwrap()
}

/// The example of docs/spec/digest.md, worked out there byte by byte.
#[test]
fn the_hash_is_the_one_of_the_specification() {
    let empty = "fbc5e276e256c7a9b61ccedd4bde228158a5ceb972fa08359339eef555303787";
    assert_eq!(hex(table(vec![]).hash()), empty);
    let example = "21537e0ba1fbfd5ec9bd4edc87683a458e4c9b77e1d55e50d6f80957f41aea6c";
    assert_eq!(hex(table(vec![web_to_api()]).hash()), example);
}

#[test]
fn how_lists_are_ordered_does_not_matter() {
    let mut policy = web_to_api();
    policy.isolates.push((Direction::Ingress, Scope::Local));
    policy.subject.pods = selector("app=api,web env tier!=a,b");
    policy.subject.service_accounts = vec!["a".into(), "b".into()];
    policy.rules[0].ports = vec![tcp(1), tcp(2)];
    policy.rules[0].peers.push(PeerMatch::Net {
        cidr: "10.0.0.0/8".parse().unwrap(),
        except: vec![
            "10.1.0.0/16".parse().unwrap(),
            "10.2.0.0/16".parse().unwrap(),
        ],
    });
    policy
        .rules
        .push(rule("deny", Direction::Egress, Action::Deny));
    let mut other = policy.clone();
    other.isolates.reverse();
    other.isolates.push((Direction::Ingress, Scope::Local));
    other.subject.pods = selector("tier!=b,a,b env app=web,api env");
    other.subject.service_accounts.reverse();
    other.rules[0].ports = vec![tcp(2), tcp(1), tcp(2)];
    other.rules[0].peers.reverse();
    let Some(PeerMatch::Net { cidr, except }) = other.rules[0].peers.first_mut() else {
        unreachable!()
    };
    *cidr = "10.77.1.2/8".parse().unwrap();
    except.reverse();
    other.rules.reverse();
    // Fields that mean nothing there.
    other.rules[0].assurance = Assurance::Gateway;
    other.rules[1].reject = true;
    let second = federation_policy("shop", "second", 5, vec![]);
    let one = table(vec![policy.clone(), second.clone()]);
    assert_eq!(one.hash(), table(vec![second, other, policy]).hash());
}

#[test]
fn every_field_counts() {
    let base = table(vec![web_to_api()]).hash();
    let changes: &[fn(&mut Policy)] = &[
        |p| p.kind = PolicyKind::NetworkPolicy,
        |p| p.namespace = None,
        |p| p.name = "apj".into(),
        |p| p.tier = Tier::Baseline,
        |p| p.order = 101,
        |p| p.subject.clusters = ClusterMatch::Any,
        |p| p.subject.namespaces = NamespaceMatch::Any,
        |p| p.subject.pods = selector("app!=api"),
        |p| p.subject.pods = selector("app"),
        |p| p.subject.pods = selector("!app"),
        |p| p.subject.service_accounts = vec!["x".into()],
        |p| p.isolates.clear(),
        |p| p.isolates = vec![(Direction::Egress, Scope::Remote)],
        |p| p.isolates = vec![(Direction::Ingress, Scope::Local)],
        |p| p.rules.clear(),
        |p| p.rules[0].name = "wec".into(),
        |p| p.rules[0].direction = Direction::Egress,
        |p| p.rules[0].action = Action::Pass,
        |p| p.rules[0].action = Action::Deny,
        |p| p.rules[0].scopes.push(Scope::Local),
        |p| p.rules[0].peers.clear(),
        |p| p.rules[0].peers = vec![PeerMatch::Workload(remote("north", "shop", "app=web"))],
        |p| p.rules[0].ports.clear(),
        |p| p.rules[0].ports[0].protocol = UDP,
        |p| p.rules[0].ports[0].port = PortSpec::Any,
        |p| p.rules[0].ports[0].port = PortSpec::Named("http".into()),
        |p| p.rules[0].ports[0].port = PortSpec::Range(8080, 8081),
        |p| p.rules[0].assurance = Assurance::Gateway,
    ];
    let mut seen = vec![base];
    for change in changes {
        let mut policy = web_to_api();
        change(&mut policy);
        seen.push(table(vec![policy]).hash());
    }
    let other_cluster = compile(&PolicySet {
        cluster: td("north"),
        policies: vec![],
    });
    seen.push(table(vec![]).hash());
    seen.push(other_cluster.unwrap().hash());
    let count = seen.len();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[test]
fn peers_are_told_what_concerns_them_and_no_more() {
    let mut policy = web_to_api();
    policy.isolates.push((Direction::Egress, Scope::Remote));
    policy.rules[0].scopes.push(Scope::Local);
    policy.rules[0]
        .peers
        .push(PeerMatch::Workload(own("shop", "secret=yes")));
    let told = policy.rules[0].clone();
    let keep_home = [
        rule("local", Direction::Ingress, Action::Allow),
        Rule {
            scopes: vec![Scope::Remote],
            ..rule("egress", Direction::Egress, Action::Allow)
        },
        Rule {
            scopes: vec![Scope::Remote],
            ..rule("log", Direction::Ingress, Action::Log)
        },
        Rule {
            name: "own pods only".into(),
            peers: vec![PeerMatch::Workload(own("shop", ""))],
            ..told
        },
    ];
    policy.rules.extend(keep_home);
    let local = federation_policy(
        "shop",
        "local",
        1,
        vec![rule("r", Direction::Ingress, Action::Deny)],
    );
    let part = table(vec![policy, local]).digest_part();
    assert_eq!(part, set("west", vec![web_to_api()]));
}

#[test]
fn a_source_is_refused_early_only_when_no_rule_could_admit_it() {
    let web = pod("east/shop/web", "app=web");
    let may = |policies: Vec<Policy>, claims: &Claims, protocol, port| {
        let part = table(policies).digest_part();
        compile(&part).unwrap().may_admit(claims, protocol, port)
    };
    assert!(!may(vec![], &web, TCP, 8080));
    let policy = web_to_api();
    assert!(may(vec![policy.clone()], &web, TCP, 8080));
    assert!(!may(vec![policy.clone()], &web, TCP, 8081));
    assert!(!may(vec![policy.clone()], &web, UDP, 8080));
    assert!(!may(
        vec![policy.clone()],
        &pod("east/shop/web", "app=db"),
        TCP,
        8080
    ));
    assert!(!may(
        vec![policy.clone()],
        &pod("north/shop/web", "app=web"),
        TCP,
        8080
    ));
    let attested = with_assurance(web.clone(), Assurance::Gateway);
    assert!(!may(vec![policy.clone()], &attested, TCP, 8080));
    let change = |change: fn(&mut Policy)| {
        let mut policy = policy.clone();
        change(&mut policy);
        vec![policy]
    };
    // What only the destination can tell may be.
    let named = change(|p| p.rules[0].ports[0].port = PortSpec::Named("http".into()));
    assert!(may(named, &web, TCP, 1));
    let block = change(|p| {
        p.rules[0].peers = vec![PeerMatch::Net {
            cidr: "192.0.2.0/24".parse().unwrap(),
            except: vec![],
        }];
    });
    assert!(may(block, &web, TCP, 8080));
    let baseline = change(|p| p.tier = Tier::Baseline);
    assert!(may(baseline, &web, TCP, 8080));
    assert!(!may(
        change(|p| p.rules[0].action = Action::Pass),
        &web,
        TCP,
        8080
    ));
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let long = "x".repeat(254);
    type Change = fn(&mut Policy);
    let cases: &[(Change, Problem)] = &[
        (|p| p.name.clear(), Problem::Name(String::new())),
        (|p| p.name = "a\nb".into(), Problem::Name("a\nb".into())),
        (
            |p| p.namespace = Some(String::new()),
            Problem::Name(String::new()),
        ),
        (
            |p| p.rules[0].name = "\u{1b}[2J".into(),
            Problem::Name("\u{1b}[2J".into()),
        ),
        (
            |p| p.rules[0].name = "x".repeat(254),
            Problem::Name(long[..253].into()),
        ),
        (|p| p.rules[0].scopes.clear(), Problem::NoScope),
        (
            |p| p.rules[0].ports[0].port = PortSpec::Range(9, 8),
            Problem::EmptyRange(9, 8),
        ),
        (|p| p.rules[0].ports[0].protocol = 50, Problem::NoPorts(50)),
        (
            |p| {
                p.rules[0].peers = vec![PeerMatch::Domain(DomainPattern {
                    below: false,
                    name: "a.b".into(),
                })]
            },
            Problem::Domain,
        ),
        (
            |p| p.subject.clusters = ClusterMatch::Remote,
            Problem::ForeignSubject,
        ),
        (
            |p| p.subject.clusters = ClusterMatch::Listed(vec![td("east")]),
            Problem::ForeignSubject,
        ),
    ];
    for (change, expected) in cases {
        let mut policy = web_to_api();
        change(&mut policy);
        let refused = check(&policy, &td("west")).unwrap_err();
        assert_eq!(compile(&set("west", vec![policy])).unwrap_err(), refused);
        let CompileError::Policy { problem, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!(problem, *expected);
    }
    let mut policy = web_to_api();
    policy.rules[0].ports[0].port = PortSpec::Range(9, 8);
    let message = check(&policy, &td("west")).unwrap_err().to_string();
    assert_eq!(
        message,
        "FederationPolicy shop/api rule web: port range 9-8 is empty"
    );
}

#[test]
fn size_is_bounded() {
    let many = vec![rule("r", Direction::Ingress, Action::Allow); 262_145];
    let policies = vec![federation_policy("shop", "p", 1, many)];
    let refused = compile(&set("west", policies)).unwrap_err();
    let expected = CompileError::TooLarge {
        policies: 1,
        rules: 262_145,
    };
    assert_eq!(refused, expected);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn canonical_form_and_digest_are_stable(set in policy_set(), other in policy_set()) {
        let table = compile(&set).unwrap();
        let again = common::set("west", table.policies().cloned().collect());
        let again = compile(&again).unwrap();
        prop_assert!(again.policies().eq(table.policies()));
        let part = table.digest_part();
        let announced = compile(&part).unwrap();
        prop_assert_eq!(announced.digest_part(), part.clone());
        let reversed = PolicySet { policies: set.policies.iter().rev().cloned().collect(), ..set };
        prop_assert_eq!(compile(&reversed).unwrap().hash(), table.hash());
        let mut bytes = Vec::new();
        ciborium::into_writer(&part, &mut bytes).unwrap();
        let read: PolicySet = ciborium::from_reader(bytes.as_slice()).unwrap();
        prop_assert_eq!(&read, &part);
        prop_assert_eq!(compile(&read).unwrap().hash(), announced.hash());
        let other = compile(&other).unwrap();
        prop_assert_eq!(other.hash() == table.hash(), other.policies().eq(table.policies()));
    }

    /// Whatever a peer sends, a digest compiles or is refused.
    #[test]
    fn hostile_digests_never_panic(
        set in policy_set(),
        flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Vec::new();
        ciborium::into_writer(&set, &mut bytes).unwrap();
        for (place, value) in flips {
            *place.get_mut(&mut bytes) = value;
        }
        if let Ok(set) = ciborium::from_reader::<PolicySet, _>(bytes.as_slice())
            && let Ok(table) = compile(&set)
        {
            let _ = compile(&table.digest_part()).map(|part| part.hash());
            let _ = table.may_admit(&pod("east/shop/web", "app=a"), TCP, 80);
        }
    }
}
