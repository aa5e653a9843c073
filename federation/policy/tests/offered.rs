//! What a peer is told that may meet only some pods: it decides on those as the whole does, and names
//! no others.
#![allow(clippy::unwrap_used)]

mod common;

use common::{generate, *};
use identity::{ClaimLimits, Claims, Labels};
use landbridge_policy::{model::*, *};
use proptest::{collection::vec, option, prelude::*, sample};

const NAME: &str = "kubernetes.io/metadata.name";

fn offer(json: &str) -> ClaimLimits {
    serde_json::from_str(json).unwrap()
}

/// A policy that is told to everybody: it admits web of east, to the pods of `subject`.
fn told(name: &str, subject: WorkloadSelector) -> Policy {
    let mut policy = federation_policy("any", name, 1, vec![]);
    policy.kind = PolicyKind::ClusterFederationPolicy;
    policy.namespace = None;
    policy.subject = subject;
    policy.isolates = vec![(Direction::Ingress, Scope::Remote)];
    policy.rules = vec![Rule {
        scopes: vec![Scope::Remote],
        peers: vec![PeerMatch::Workload(remote("east", "shop", "app=web"))],
        ..rule("in", Direction::Ingress, Action::Allow)
    }];
    policy
}

fn part(policies: Vec<Policy>, offer: &ClaimLimits) -> OfferedPart {
    let whole = compile(&set("west", policies)).unwrap().digest_part();
    OfferedPart::new(&whole, offer, None, None)
}

fn subjects(told: &OfferedPart) -> Vec<WorkloadSelector> {
    let policies = told.part().policies.iter();
    policies.map(|policy| policy.subject.clone()).collect()
}

/// What `subject` comes to under the offer `json`, if anything.
#[track_caller]
fn narrows(json: &str, subject: WorkloadSelector, to: Option<WorkloadSelector>) {
    let told = part(vec![told("p", subject)], &offer(json));
    assert_eq!(subjects(&told), Vec::from_iter(to), "{json}");
}

fn names(namespaces: &[&str]) -> WorkloadSelector {
    let names = namespaces.iter().map(|n| (*n).to_owned());
    WorkloadSelector {
        namespaces: NamespaceMatch::Names(names.collect()),
        ..own("x", "")
    }
}

fn accounts(namespaces: NamespaceMatch, accounts: &[&str]) -> WorkloadSelector {
    WorkloadSelector {
        namespaces,
        service_accounts: accounts.iter().map(|a| (*a).to_owned()).collect(),
        ..own("x", "")
    }
}

fn pods(terms: &str) -> WorkloadSelector {
    WorkloadSelector {
        namespaces: NamespaceMatch::Any,
        ..own("x", terms)
    }
}

fn of_namespaces(terms: &str) -> WorkloadSelector {
    WorkloadSelector {
        namespaces: NamespaceMatch::Labels(selector(terms)),
        ..own("x", "")
    }
}

#[test]
fn namespaces_that_are_not_offered_are_not_named() {
    let public = r#"{"namespaces":["public","shared-*"]}"#;
    narrows(public, names(&["secret"]), None);
    let some = names(&["public", "secret", "shared-a"]);
    narrows(public, some, Some(names(&["public", "shared-a"])));
    narrows(public, pods(""), Some(pods("")));
    // By the label that every namespace has.
    narrows(public, of_namespaces(&format!("{NAME}=secret")), None);
    let some = of_namespaces(&format!("{NAME}=public,secret"));
    let left = of_namespaces(&format!("{NAME}=public"));
    narrows(public, some, Some(left));
    let all_but = of_namespaces(&format!("team=a {NAME}!=secret"));
    narrows(public, all_but, Some(of_namespaces("team=a")));
    // Nothing of it is a pod's label.
    let label = pods(&format!("{NAME}=secret"));
    narrows(public, label.clone(), Some(label));
}

#[test]
fn service_accounts_that_are_not_offered_are_not_named() {
    let api = r#"{"serviceAccounts":["shop/api"]}"#;
    let any = || NamespaceMatch::Any;
    narrows(api, accounts(any(), &["db"]), None);
    let some = accounts(any(), &["api", "db"]);
    narrows(api, some, Some(accounts(any(), &["api"])));
    narrows(api, names(&["shop", "secret"]), Some(names(&["shop"])));
    narrows(api, names(&["secret"]), None);
    let shop = || names(&["shop"]).namespaces;
    for (json, account, is_told) in [
        (r#"["*/api"]"#, "api", true),
        (r#"["*/api"]"#, "db", false),
        (r#"["shop/*"]"#, "db", true),
        (r#"["store/*"]"#, "db", false),
        (r#"["sh*pi"]"#, "api", true),
        (r#"["sh*pi"]"#, "db", false),
        (r#"["shop/a*i"]"#, "api", true),
        (r#"["shop/ap*pi"]"#, "api", false),
        (r#"["*op/api"]"#, "api", true),
        (r#"["sho*hop/api"]"#, "api", false),
    ] {
        for namespaces in [shop(), any()] {
            let subject = accounts(namespaces.clone(), &[account]);
            // Of any namespace the last one could be.
            let is_told = is_told
                || namespaces == any() && matches!(json, r#"["store/*"]"# | r#"["sho*hop/api"]"#);
            let json = format!(r#"{{"serviceAccounts":{json}}}"#);
            narrows(&json, subject.clone(), is_told.then_some(subject));
        }
    }
}

#[test]
fn values_of_labels_that_are_not_offered_are_not_named() {
    let env = r#"{"labels":[{"key":"env","values":["prod","stage-*"]},{"key":"secret-*"}]}"#;
    for (terms, left) in [
        ("app=x", Some("app=x")),
        ("env=test", None),
        ("env=prod,test", Some("env=prod")),
        ("env=stage-1,test", Some("env=stage-1")),
        ("env!=test", Some("")),
        ("env!=prod,test", Some("env!=prod")),
        ("env", Some("env")),
        ("!env", Some("!env")),
        ("secret-a", None),
        ("!secret-a", Some("")),
        ("secret-a=1", None),
        ("app=x secret-a!=1", Some("app=x")),
    ] {
        narrows(env, pods(terms), left.map(pods));
        narrows(env, of_namespaces(terms), left.map(of_namespaces));
    }
    let like = |operator: fn(Part) -> Operator, part| {
        let mut subject = pods("");
        let requirement = Requirement {
            key: "env".into(),
            operator: operator(part),
        };
        subject.pods = LabelSelector(vec![requirement.into()]);
        subject
    };
    let text = String::from;
    for (part, may_be) in [
        (Part::StartsWith(text("pro")), true),
        (Part::StartsWith(text("st")), true),
        (Part::StartsWith(text("stage-1")), true),
        (Part::StartsWith(text("test")), false),
        (Part::Contains(text("x")), true),
    ] {
        let yes = like(Operator::Like, part.clone());
        narrows(env, yes.clone(), may_be.then_some(yes));
        let no = like(Operator::NotLike, part);
        let left = if may_be { no.clone() } else { pods("") };
        narrows(env, no, Some(left));
    }
    let prod = r#"{"labels":[{"key":"env","values":["*-prod"]}]}"#;
    narrows(
        prod,
        like(Operator::Like, Part::EndsWith(text("-test"))),
        None,
    );
    let choice = |choices: &[&str]| {
        let mut subject = pods("");
        let choices = choices.iter().map(|terms| selector(terms)).collect();
        subject.pods = LabelSelector(vec![Term::AnyOf(choices)]);
        subject
    };
    narrows(env, choice(&["env=test", "secret-a"]), None);
    narrows(env, choice(&["env=test", "app=x"]), Some(pods("app=x")));
    narrows(env, choice(&["env!=test", "app=x"]), Some(pods("")));
}

#[test]
fn a_label_that_is_not_carried_hides_nobody() {
    let whole = compile(&set("west", vec![told("p", pods("env=test"))])).unwrap();
    let offer = offer(r#"{"labels":[{"key":"env","values":["prod"]}]}"#);
    let carried = ["app".to_owned()];
    let part = OfferedPart::new(&whole.digest_part(), &offer, Some(&carried), None);
    assert_eq!(subjects(&part), [pods("env=test")]);
}

#[test]
fn what_is_not_told_does_not_even_change_the_hash() {
    let public = offer(r#"{"namespaces":["public"]}"#);
    let of = |secret: &str| {
        let policies = vec![
            told("open", names(&["public"])),
            told(
                "shut",
                WorkloadSelector {
                    pods: selector(secret),
                    ..names(&["secret"])
                },
            ),
        ];
        part(policies, &public)
    };
    let (one, other) = (of("app=a"), of("app=b"));
    assert_eq!((one.hash(), one.part()), (other.hash(), other.part()));
    let nothing = part(vec![], &public);
    assert_ne!(one.hash(), nothing.hash());
    assert_eq!(one.hash(), compile(one.part()).unwrap().hash());
}

fn pattern(list: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    let text = |picked: Vec<&str>| picked.into_iter().map(str::to_owned).collect();
    option::weighted(0.5, vec(sample::select(list), 1..3))
        .prop_map(move |picked| text(picked.unwrap_or_default()))
}

fn any_offer() -> impl Strategy<Value = ClaimLimits> {
    let limit = (
        sample::select(&["app", "env", "t*", "kubernetes.io/*"][..]),
        vec(
            sample::select(&["a", "b", "c*", "*b", "shop", "*"][..]),
            0..3,
        ),
    );
    let limit = limit.prop_map(|(key, values)| serde_json::json!({"key": key, "values": values}));
    (
        pattern(&["shop", "db", "s*", "*b", "none"]),
        pattern(&[
            "shop/*",
            "*/robot",
            "db/default",
            "s*t",
            "*p/robot",
            "d*b/robot",
            "shop/r*",
        ]),
        vec(limit, 0..3),
    )
        .prop_map(|(namespaces, accounts, labels)| {
            let json = serde_json::json!({
                "namespaces": namespaces, "serviceAccounts": accounts, "labels": labels,
            });
            serde_json::from_value(json).unwrap()
        })
}

/// Namespaces are often chosen by the label that has their name.
fn by_name(mut set: PolicySet) -> PolicySet {
    for policy in &mut set.policies {
        let policy = std::sync::Arc::make_mut(policy);
        if let NamespaceMatch::Labels(labels) = &mut policy.subject.namespaces {
            rename(labels);
        }
    }
    set
}

fn rename(selector: &mut LabelSelector) {
    for term in &mut selector.0 {
        match term {
            Term::AnyOf(choices) => choices.iter_mut().for_each(rename),
            Term::Label(of) if of.key == "tier" => {
                of.key = NAME.into();
                if let Operator::In(values) | Operator::NotIn(values) = &mut of.operator {
                    for value in values {
                        *value = if value == "a" { "shop" } else { "db" }.into();
                    }
                }
            }
            Term::Label(_) => {}
        }
    }
}

/// As its credential is issued.
fn issued(claims: &Claims, carried: Option<&[String]>) -> Claims {
    let only = |labels: &Labels| {
        let kept = labels
            .into_iter()
            .filter(|(key, _)| carried.is_none_or(|c| c.iter().any(|kept| kept == key)));
        let kept: std::collections::BTreeMap<_, _> = kept
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        Labels::try_from(kept).unwrap()
    };
    Claims {
        labels: only(&claims.labels),
        namespace_labels: only(&claims.namespace_labels),
        ..claims.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn it_decides_as_the_whole_does(
        set in generate::policy_set().prop_map(by_name),
        next in generate::policy_set().prop_map(by_name),
        offer in any_offer(),
        carried in generate::carried(),
        asks in vec(
            (generate::claims(&["west"]), generate::claims(&["east", "north"]), generate::protocol(), generate::port()),
            30..32,
        ),
    ) {
        let mut known = KnownKeys::all();
        let carried: Option<Vec<String>> = carried.map(|keys| {
            known.narrow(td("west"), keys.clone());
            keys.into_iter().collect()
        });
        let whole = compile(&set).unwrap().digest_part();
        let part = OfferedPart::new(&whole, &offer, carried.as_deref(), None);
        let (whole_table, table) = (compile(&whole).unwrap(), compile(part.part()).unwrap());
        // In the form in which it is told.
        prop_assert_eq!(&table.digest_part(), &**part.part());
        prop_assert_eq!(table.hash(), part.hash());
        for (subject, peer, protocol, port) in &asks {
            let subject = issued(subject, carried.as_deref());
            if offer.check(&subject).is_err() {
                continue;
            }
            let query = Query {
                direction: Direction::Ingress,
                subject: &subject,
                peer: Peer::Identity { claims: peer, address: None },
                protocol: *protocol,
                port: *port,
                known: &known,
            };
            let (told, expected) = (table.decide(&query), whole_table.decide(&query));
            prop_assert_eq!(told.decision, expected.decision);
            prop_assert_eq!(&told.rule, &expected.rule);
            if told.is_allowed() {
                prop_assert!(table.may_admit(peer, *protocol, *port));
            }
        }
        // What is known of the one before makes no other.
        let mut both = set.clone();
        both.policies.extend(next.policies.into_iter().take(2));
        let later = compile(&set).unwrap().update(&both).unwrap().digest_part();
        let again = OfferedPart::new(&later, &offer, carried.as_deref(), Some(&part));
        let fresh = OfferedPart::new(&later, &offer, carried.as_deref(), None);
        prop_assert_eq!(again.part(), fresh.part());
        prop_assert_eq!(again.hash(), fresh.hash());
    }
}
