//! Selectors as text: what they mean, where they are wrong, and that equal ones are equal.
#![allow(clippy::unwrap_used)]

mod common;

use common::{generate, labels, own, pod, policy_of, set};
use landbridge_policy::{
    KnownKeys, Peer, Query, compile,
    expression::{Labels, parse},
    model::*,
};
use proptest::prelude::*;

fn read(text: &str) -> LabelSelector {
    parse(text, Labels::OfWorkloads).unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The one form that `selector` has in a table.
fn canonical(selector: LabelSelector) -> LabelSelector {
    let subject = WorkloadSelector {
        pods: selector,
        ..own("shop", "")
    };
    let table = compile(&set("west", vec![policy_of(subject)])).unwrap();
    table.policies().next().unwrap().subject.pods.clone()
}

/// Whether a pod with `labels` is selected, as far as it can be said when only `carried` keys are.
fn selects(selector: &LabelSelector, pod_labels: &str) -> bool {
    let subject = WorkloadSelector {
        pods: selector.clone(),
        ..own("shop", "")
    };
    let table = compile(&set("west", vec![policy_of(subject)])).unwrap();
    let mut pod = pod("west/shop/p", "");
    pod.labels = labels(pod_labels);
    let query = Query {
        direction: Direction::Ingress,
        subject: &pod,
        peer: Peer::Address("192.0.2.1".parse().unwrap()),
        protocol: 6,
        port: 80,
        known: &KnownKeys::all(),
    };
    // The policy isolates what it selects.
    !table.decide(&query).is_allowed()
}

#[test]
fn means_what_it_says() {
    let cases = [
        ("all()", "", true),
        ("!all()", "", false),
        ("app == \"api\"", "app=api", true),
        ("app == 'api'", "app=web", false),
        ("app == 'api'", "", false),
        ("app != 'api'", "app=web", true),
        ("app != 'api'", "", true),
        ("app in {'api', 'web'}", "app=web", true),
        ("app in {}", "app=web", false),
        ("app not in {'api', 'web'}", "app=db", true),
        ("app not in {'api', 'web'}", "", true),
        ("app not in {}", "app=db", true),
        ("has(app)", "app=db", true),
        ("has(app)", "", false),
        ("!has(app)", "", true),
        ("app contains 'p'", "app=api", true),
        ("app contains 'x'", "app=api", false),
        ("app contains ''", "", false),
        ("!(app contains 'x')", "", true),
        ("app starts with 'a'", "app=api", true),
        ("app starts with 'p'", "app=api", false),
        ("app ends with 'pi'", "app=api", true),
        ("!app ends with 'pi'", "app=api", false),
        ("has(a) && has(b)", "a=1", false),
        ("has(a) || has(b)", "a=1", true),
        // And binds more tightly than or.
        ("has(a) || has(b) && has(c)", "a=1", true),
        ("(has(a) || has(b)) && has(c)", "a=1", false),
        ("!(has(a) && has(b))", "a=1", true),
        ("!(has(a) || has(b))", "a=1", false),
        ("!!has(a)", "a=1", true),
        ("  has( a )&&\n has(b) ", "a=1 b=2", true),
        ("in == 'x'", "in=x", true),
        ("kubernetes.io/role in {'x'}", "kubernetes.io/role=x", true),
    ];
    for (text, labels, expected) in cases {
        assert_eq!(
            selects(&read(text), labels),
            expected,
            "{text} of {labels:?}"
        );
    }
}

#[test]
fn wrong_texts_name_the_column() {
    let cases = [
        ("", 1, "found the end, wanted a label"),
        ("app", 4, "found the end, wanted =="),
        ("app = 'x'", 5, "found `=` (it is written `==`)"),
        ("app == x", 8, "found `x`, wanted a value between quotes"),
        ("app == 'x", 8, "the quote is not closed"),
        ("app == 'x' &&", 14, "found the end, wanted a label"),
        (
            "app == 'x' web",
            12,
            "found `web`, wanted `&&`, `||` or the end",
        ),
        ("(app == 'x'", 12, "found the end, wanted `)`"),
        ("app == 'x')", 11, "found `)`, wanted `&&`"),
        ("app in 'x'", 8, "found the value \"x\", wanted `{`"),
        ("app in {'x' 'y'}", 13, "wanted `}`"),
        ("app not 'x'", 9, "wanted `in`"),
        ("app starts 'x'", 12, "wanted `with`"),
        ("app like 'x'", 5, "found `like`, wanted =="),
        (
            "have(app)",
            1,
            "have() is not known; there are has(), all() and global()",
        ),
        ("has('app')", 5, "found the value \"app\", wanted a label"),
        ("global()", 1, "global() is about namespaces"),
        (
            "ä == 'x'",
            1,
            "'ä' stands where nothing like it is understood",
        ),
        // Columns are characters.
        ("a == 'ä' && $", 13, "'$' stands"),
    ];
    for (text, column, message) in cases {
        let error = parse(text, Labels::OfWorkloads).expect_err(text);
        assert_eq!(error.column, column, "{text}: {error}");
        assert!(error.message.contains(message), "{text}: {error}");
    }
}

#[test]
fn limits() {
    let key = |n: usize| format!("has({})", "k".repeat(n));
    assert!(parse(&key(512), Labels::OfWorkloads).is_ok());
    let error = parse(&key(513), Labels::OfWorkloads).expect_err("long");
    assert_eq!(
        (error.column, error.message.contains("512")),
        (5, true),
        "{error}"
    );
    let text = |n: usize| format!("a == '{}'", "v".repeat(n));
    assert!(parse(&text(512), Labels::OfWorkloads).is_ok());
    assert!(parse(&text(513), Labels::OfWorkloads).is_err());
    for (open, close) in [("(", ")"), ("!", "")] {
        let deep = |n: usize| open.repeat(n) + "has(a)" + &close.repeat(n);
        assert!(parse(&deep(31), Labels::OfWorkloads).is_ok());
        let error = parse(&deep(100_000), Labels::OfWorkloads).expect_err("deep");
        assert!(!error.message.is_empty());
        let error = parse(&deep(32), Labels::OfWorkloads).expect_err("deep");
        assert_eq!(
            (error.column, error.message.as_str()),
            (33, "nested more than 32 deep")
        );
    }
}

#[test]
fn equal_selectors_have_one_form() {
    let same = [
        &[
            "app == 'x' || app == 'y'",
            "app in {'y','x','x'}",
            "!(app != 'x' && app != 'y')",
        ][..],
        &[
            "app != 'x' && app != 'y'",
            "app not in {'y','x'}",
            "!(app in {'x','y'})",
        ],
        &[
            "has(a) && has(b)",
            "has(b) && has(a) && has(b)",
            "(has(b)) && (has(a))",
        ],
        &[
            "has(a) || has(b) || has(c)",
            "(has(c) || has(a)) || has(b)",
            "!(!has(a) && !has(b) && !has(c))",
        ],
        &["has(a) && (has(b) && has(c))", "has(c) && has(a) && has(b)"],
        &["all()", "has(a) || all()", "all() && all()", "!!all()"],
        &["!all()", "has(a) && !all() && !all()", "!all() && has(a)"],
        &["has(a) || !all()", "has(a)", "!!has(a)"],
    ];
    for texts in same {
        let forms: Vec<_> = texts.iter().map(|t| canonical(read(t))).collect();
        for (text, form) in texts.iter().zip(&forms) {
            assert_eq!(form, &forms[0], "{text} and {}", texts[0]);
        }
    }
    assert_ne!(canonical(read("has(a)")), canonical(read("!has(a)")));
}

#[test]
fn what_other_clusters_send_is_bounded() {
    let mut deep = read("has(a)");
    for _ in 0..40 {
        deep = LabelSelector(vec![Term::AnyOf(vec![deep, read("has(b)")])]);
    }
    let long = LabelSelector(vec![read("has(a)").0.remove(0); 5000]);
    for pods in [deep, long] {
        let subject = WorkloadSelector {
            pods,
            ..own("shop", "")
        };
        let error = compile(&set("west", vec![policy_of(subject)])).expect_err("too large");
        assert!(
            error.to_string().contains("nested too deeply or too long"),
            "{error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The text of a selector reads as the same one, and its one form is a form of itself.
    #[test]
    fn written_and_read_again(selector in generate::label_selector()) {
        let text = selector.to_string();
        let again = parse(&text, Labels::OfWorkloads);
        prop_assert!(again.is_ok(), "{text}: {again:?}");
        let one = canonical(selector);
        prop_assert_eq!(canonical(again.unwrap()), one.clone(), "{}", text);
        prop_assert_eq!(canonical(one.clone()), one);
    }

    /// No text stops the parser.
    #[test]
    fn any_text(text in "[ab(){}!&|=,'\" ]{0,40}|\\PC{0,40}") {
        let _ = parse(&text, Labels::OfNamespaces);
    }
}
