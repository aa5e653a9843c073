//! The opposite of a selector, with negations at the labels only.

use std::ops::Not;

use super::nothing;
use crate::model::{LabelSelector, Operator, Requirement, Term};

impl Not for LabelSelector {
    type Output = Self;

    /// What `self` does not select; what it cannot say of, neither can this.
    fn not(self) -> Self {
        let mut parts: Vec<Self> = self.0.into_iter().map(not_term).collect();
        match parts.pop() {
            // The opposite of everything.
            None => nothing(),
            Some(only) if parts.is_empty() => only,
            Some(last) => {
                parts.push(last);
                Self(vec![Term::AnyOf(parts)])
            }
        }
    }
}

fn not_term(term: Term) -> LabelSelector {
    match term {
        Term::Label(Requirement { key, operator }) => {
            let operator = match operator {
                Operator::In(values) => Operator::NotIn(values),
                Operator::NotIn(values) => Operator::In(values),
                Operator::Exists => Operator::DoesNotExist,
                Operator::DoesNotExist => Operator::Exists,
                Operator::Like(part) => Operator::NotLike(part),
                Operator::NotLike(part) => Operator::Like(part),
            };
            LabelSelector(vec![Requirement { key, operator }.into()])
        }
        Term::AnyOf(choices) => LabelSelector(choices.into_iter().flat_map(|c| (!c).0).collect()),
    }
}
