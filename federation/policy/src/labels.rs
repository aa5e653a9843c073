//! One form for equal label selectors, and refusal of those that are too large.

use std::collections::BTreeMap;

use identity::Labels;

use crate::{
    expression::MAX_DEPTH,
    model::{LabelSelector, Operator, Requirement, Term},
    selector::satisfies,
};

/// Most requirements of one selector.
const MAX_REQUIREMENTS: usize = 4096;

impl LabelSelector {
    /// Whether `labels`, all of which are known, fit.
    #[must_use]
    pub fn fits(&self, labels: &Labels) -> bool {
        let mut canonical = self.clone();
        canonical_labels(&mut canonical);
        fits(&canonical, labels)
    }
}

fn fits(selector: &LabelSelector, labels: &Labels) -> bool {
    selector.0.iter().all(|term| match term {
        Term::Label(Requirement { key, operator }) => satisfies(operator, labels.value(key)),
        Term::AnyOf(choices) => choices.iter().any(|choice| fits(choice, labels)),
    })
}

/// Whether `selector` is small enough: a policy may come from another cluster.
pub(crate) fn is_bounded(selector: &LabelSelector) -> bool {
    size(selector, 0).is_some_and(|size| size <= MAX_REQUIREMENTS)
}

/// How many terms there are; `None` when they are nested too deeply.
fn size(selector: &LabelSelector, depth: usize) -> Option<usize> {
    // A choice holds selectors that hold choices: two steps of the text are one here.
    if depth > MAX_DEPTH {
        return None;
    }
    selector.0.iter().try_fold(0_usize, |sum, term| {
        let size = match term {
            Term::Label(_) => 1,
            Term::AnyOf(choices) => choices.iter().try_fold(1_usize, |sum, choice| {
                Some(sum.saturating_add(size(choice, depth + 1)?))
            })?,
        };
        Some(sum.saturating_add(size))
    })
}

/// Sorted, without what says nothing, choices and lists of values as flat as they can be: `a == "x" || a == "y"`
/// is `a in {"x", "y"}`. The result fits what `selector` does, and is unknown where that is.
pub(crate) fn canonical_labels(selector: &mut LabelSelector) {
    let mut all = Vec::new();
    for term in std::mem::take(&mut selector.0) {
        match term {
            Term::Label(mut requirement) => {
                sort_values(&mut requirement.operator);
                all.push(Term::Label(requirement));
            }
            Term::AnyOf(choices) => all.extend(choice(choices).0),
        }
    }
    if all.contains(&Term::AnyOf(Vec::new())) {
        // Nothing fits all of them, whatever the others say.
        all = vec![Term::AnyOf(Vec::new())];
    }
    selector.0 = merge(all, |operator| match operator {
        Operator::NotIn(values) => Some(values),
        _ => None,
    });
}

/// What a choice requires: itself, one part alone, or nothing at all.
fn choice(parts: Vec<LabelSelector>) -> LabelSelector {
    let mut flat = Vec::new();
    let mut lone = Vec::new();
    for mut part in parts {
        canonical_labels(&mut part);
        match part.0.as_slice() {
            // Everything fits this part.
            [] => return LabelSelector::default(),
            [_] => lone.extend(part.0),
            _ => flat.push(part),
        }
    }
    let mut labels = Vec::new();
    for term in lone {
        match term {
            // A choice within a choice.
            Term::AnyOf(inner) => {
                for part in inner {
                    match part.0.as_slice() {
                        [Term::Label(_)] => labels.extend(part.0),
                        _ => flat.push(part),
                    }
                }
            }
            Term::Label(_) => labels.push(term),
        }
    }
    let labels = merge(labels, |operator| match operator {
        Operator::In(values) => Some(values),
        _ => None,
    });
    flat.extend(labels.into_iter().map(|term| LabelSelector(vec![term])));
    flat.sort();
    flat.dedup();
    match flat.pop() {
        Some(only) if flat.is_empty() => only,
        last => {
            flat.extend(last);
            LabelSelector(vec![Term::AnyOf(flat)])
        }
    }
}

/// Sorted and without duplicates, the requirements of one key of which `values` has a list as one.
fn merge(
    terms: Vec<Term>,
    values: impl Fn(&mut Operator) -> Option<&mut Vec<String>>,
) -> Vec<Term> {
    let mut out = Vec::new();
    let mut merged: BTreeMap<String, Operator> = BTreeMap::new();
    for term in terms {
        let Term::Label(Requirement { key, mut operator }) = term else {
            out.push(term);
            continue;
        };
        if values(&mut operator).is_none() {
            out.push(Requirement { key, operator }.into());
            continue;
        }
        match merged.get_mut(&key) {
            None => {
                merged.insert(key, operator);
            }
            Some(known) => {
                if let (Some(known), Some(more)) = (values(known), values(&mut operator)) {
                    known.append(more);
                }
            }
        }
    }
    for (key, mut operator) in merged {
        sort_values(&mut operator);
        out.push(Requirement { key, operator }.into());
    }
    out.sort();
    out.dedup();
    out
}

fn sort_values(operator: &mut Operator) {
    if let Operator::In(values) | Operator::NotIn(values) = operator {
        values.sort();
        values.dedup();
    }
}
