//! Rules that can never decide.

use std::{collections::BTreeMap, sync::Arc};

use policy::{
    KnownKeys, RuleRef,
    model::{Direction, Policy, PolicyKind, PolicySet},
};

use super::{Warning, intents::Rows, manifests::Manifest};
use crate::{
    Problem,
    fault::{FieldPath, MAX_FAULTS},
    folder::Loaded,
    read::{Object, ObjectKey},
};

/// So many rules are named that stand before one.
const MOST_NAMED: usize = 3;

pub(super) fn warn(loaded: &Loaded, manifests: &[Manifest<'_>], problems: &mut Vec<Problem>) {
    // What stands for a policy that cannot be read denies everything: that says nothing of the others.
    let objects = loaded.store.objects().values();
    let closed = objects.filter_map(|accepted| match &accepted.object {
        Object::ClosedPolicy(policy) => Some(policy),
        _ => None,
    });
    let closed: Vec<&Arc<Policy>> = closed.collect();
    let all = &loaded.world.policies;
    let policies = all.policies.iter().filter(|p| !closed.contains(p)).cloned();
    let set = PolicySet {
        cluster: all.cluster.clone(),
        policies: policies.collect(),
    };
    // Each was checked when it was read; too many of them are told elsewhere.
    let Ok(table) = policy::compile(&set) else {
        return;
    };
    let mut told: BTreeMap<&ObjectKey, usize> = BTreeMap::new();
    let all = table.shadowed(&KnownKeys::all());
    let mut rows = Rows::default();
    for shadowed in &all {
        let rule = &shadowed.rule;
        if rule.kind == PolicyKind::Zones {
            rows.add(shadowed);
            continue;
        }
        let is_it = |m: &&Manifest<'_>| {
            m.key.kind.policy() == Some(rule.kind)
                && m.key.namespace == rule.namespace.as_deref().unwrap_or_default()
                && m.key.name == rule.policy
        };
        let Some(manifest) = manifests.iter().find(is_it) else {
            continue;
        };
        let told = told.entry(&manifest.key).or_insert(0);
        *told += 1;
        if *told > MAX_FAULTS {
            continue;
        }
        let direction = match shadowed.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        let text = manifest.rules();
        let text = text
            .iter()
            .find(|t| t.direction == direction && t.name == rule.rule);
        let path = text.map_or_else(FieldPath::default, |t| t.path.clone());
        problems.push(manifest.problem(can_never_decide(path, &rule.rule, &shadowed.by)));
    }
    for manifest in manifests {
        let warnings = rows.warnings(&set, manifest).take(MAX_FAULTS);
        problems.extend(warnings.map(|warning| manifest.problem(warning)));
    }
}

pub(super) fn can_never_decide(path: FieldPath, rule: &str, by: &[RuleRef]) -> Warning {
    Warning {
        path,
        message: format!(
            "rule {rule} can never decide, because what it matches is decided before by {}",
            named(by)
        ),
        expected: "a rule that is asked before those or matches more, or no such rule".into(),
    }
}

fn named(by: &[RuleRef]) -> String {
    let name = |rule: &RuleRef| match &rule.namespace {
        Some(namespace) => format!(
            "{} {namespace}/{} rule {}",
            rule.kind, rule.policy, rule.rule
        ),
        None => format!("{} {} rule {}", rule.kind, rule.policy, rule.rule),
    };
    let names: Vec<String> = by.iter().take(MOST_NAMED).map(name).collect();
    let names = names.join(" and ");
    match by.len().checked_sub(MOST_NAMED) {
        None | Some(0) => names,
        Some(more) => format!("{names} and {more} more"),
    }
}
