//! The change from one [`RuleSet`] to the next, as one transaction on the sets.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    model::{RuleSet, SETS},
    text::unfiltered_rules,
};

/// The text that turns the tables of `old` into those of `new`; `None` when the tables must be
/// installed anew because more than their sets differs.
#[must_use]
pub fn delta(old: &RuleSet, new: &RuleSet) -> Option<String> {
    if (old.limits, old.queues) != (new.limits, new.queues) {
        return None;
    }
    let mut out = String::new();
    // All of it takes effect at once; the order only keeps intervals from overlapping.
    for set in &SETS {
        let (had, has) = ((set.of)(old), (set.of)(new));
        for (verb, elements) in [("delete", &had - &has), ("add", &has - &had)] {
            if !elements.is_empty() {
                // Writing to a String does not fail.
                let _ = writeln!(
                    out,
                    "{verb} element {} {} {{ {} }}",
                    set.table,
                    set.name,
                    joined(elements)
                );
            }
        }
    }
    if old.bridge_netfilter != new.bridge_netfilter {
        out.push_str(&unfiltered_rules(new));
    }
    Some(out)
}

fn joined(elements: BTreeSet<String>) -> String {
    elements.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::rules::{LinkName, PodPort};

    fn rules(pods: &[(&str, &str)]) -> RuleSet {
        let routed = |link: &str| PodPort::Routed {
            link: LinkName::new(link).unwrap(),
        };
        RuleSet {
            pods: pods
                .iter()
                .map(|(a, l)| (a.parse().unwrap(), routed(l)))
                .collect(),
            ..RuleSet::default()
        }
    }

    #[test]
    fn nothing_changed_is_no_text() {
        let same = rules(&[("10.1.1.10", "veth1")]);
        assert_eq!(delta(&same, &same).unwrap(), "");
    }

    #[test]
    fn a_pod_that_comes_and_one_that_goes_change_the_sets_only() {
        let old = rules(&[("10.1.1.10", "veth1"), ("10.1.1.11", "veth2")]);
        let new = rules(&[("10.1.1.10", "veth1"), ("10.1.1.12", "veth3")]);
        assert_eq!(
            delta(&old, &new).unwrap(),
            "delete element inet landbridge pod_links { \"veth2\" }\n\
             add element inet landbridge pod_links { \"veth3\" }\n\
             delete element inet landbridge pods4 { 10.1.1.11 }\n\
             add element inet landbridge pods4 { 10.1.1.12 }\n\
             delete element inet landbridge pod_sources4 { \"veth2\" . 10.1.1.11 }\n\
             add element inet landbridge pod_sources4 { \"veth3\" . 10.1.1.12 }\n"
        );
    }

    #[test]
    fn other_limits_need_the_whole_text() {
        let old = rules(&[]);
        let mut new = rules(&[]);
        new.limits.per_pod += 1;
        assert_eq!(delta(&old, &new), None);
    }
}
