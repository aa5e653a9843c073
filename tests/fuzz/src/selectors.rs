//! Selectors as text.

use identity::{Labels, TrustDomain};
use policy::{
    compile,
    expression::{self, parse},
    model::{
        ClusterMatch, LabelSelector, NamespaceMatch, Policy, PolicyKind, PolicySet, Tier,
        WorkloadSelector,
    },
};

/// What is read is written so that it is read the same, has one form, and its opposite fits what it does not.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let read = |text: &str| parse(text, expression::Labels::OfNamespaces);
    let Ok(selector) = read(text) else {
        return;
    };
    // What a table holds is bounded more tightly than what can be read.
    let Some(one) = canonical(selector.clone()) else {
        return;
    };
    if !text.contains(['"', '\'']) || is_plain(text) {
        let again = read(&selector.to_string()).unwrap();
        assert_eq!(canonical(again).as_ref(), Some(&one), "{selector}");
    }
    assert_eq!(canonical(one.clone()), Some(one.clone()));
    for labels in ["", "app=api", "app=web,env=prod", "env=test,tier=a"] {
        let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
        let pairs = pairs.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let labels = Labels::try_from(pairs.collect::<std::collections::BTreeMap<_, _>>()).unwrap();
        assert_eq!(selector.fits(&labels), one.fits(&labels), "{selector}");
        assert_ne!(
            selector.fits(&labels),
            (!selector.clone()).fits(&labels),
            "{selector}"
        );
    }
}

/// No value of it holds both kinds of quotes or a control character: others cannot be written.
fn is_plain(text: &str) -> bool {
    let has_both = text.contains('"') && text.contains('\'');
    !has_both && !text.chars().any(char::is_control)
}

fn canonical(pods: LabelSelector) -> Option<LabelSelector> {
    let policy = Policy {
        kind: PolicyKind::FederationPolicy,
        namespace: None,
        name: "p".into(),
        tier: Tier::Application,
        order: 1,
        subject: WorkloadSelector {
            clusters: ClusterMatch::Own,
            namespaces: NamespaceMatch::Any,
            pods,
            service_accounts: Vec::new(),
        },
        staged: false,
        isolates: Vec::new(),
        rules: Vec::new(),
    };
    let set = PolicySet {
        cluster: TrustDomain::new("west").unwrap(),
        policies: vec![policy.into()],
    };
    let table = compile(&set).ok()?;
    table.policies().next().map(|p| p.subject.pods.clone())
}

/// One of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "app == \"api\" && env in {'prod', 'stage'} || !has(legacy)",
        "!(a != 'b' && (c not in {} || d contains 'e'))",
        "a starts with 'b' && !c ends with \"d\" && all()",
        "global() || !all()",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
