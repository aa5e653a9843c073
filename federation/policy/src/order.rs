//! A rule as a number: [`Id`] keeps it through every change of the table, [`Turn`] says when it is
//! asked.

use crate::{
    canonical::rank,
    model::{Policy, Rule},
};

/// Bits of the place of a rule in its policy: `MAX_RULES` is smaller.
const RULE: u32 = 20;
/// Bits of the order among rules of one tier and order.
const ACTION: u32 = 3;
/// Bits of the place of a policy in its table: `MAX_POLICIES` is smaller.
const POLICY: u32 = 20;

/// When a rule is asked among those of its tier and order: objects whose rules stand in an order first, one
/// after the other, then the rules of all others by what they do.
pub(crate) fn turn(policy: &Policy, rule: &Rule) -> u8 {
    match policy.kind.in_order() {
        true => 0,
        false => 1 + rank(rule.action),
    }
}

/// A rule of the policy in a slot of the table, or the policy itself as its rule 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    pub slot: u32,
    /// What [`Turn`] has in its lowest bits.
    action_and_rule: u32,
}

impl Id {
    /// The rule at `place` of the policy in `slot`.
    pub(crate) fn rule(slot: u32, policy: &Policy, rule: &Rule, place: u32) -> Self {
        let action = u32::from(turn(policy, rule));
        Self {
            slot,
            action_and_rule: action << RULE | place,
        }
    }

    /// The policy in `slot`.
    pub(crate) fn policy(slot: u32) -> Self {
        Self {
            slot,
            action_and_rule: 0,
        }
    }
}

/// Where the policy of a slot stands among all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// Its place in canonical order.
    pub place: u32,
    /// The place of the first policy of its tier and order.
    pub group: u32,
}

impl Standing {
    pub(crate) fn turn(self, id: Id) -> Turn {
        let (action, rule) = (id.action_and_rule >> RULE, id.action_and_rule % (1 << RULE));
        Turn(
            u64::from(self.group) << (ACTION + POLICY + RULE)
                | u64::from(action) << (POLICY + RULE)
                | u64::from(self.place) << RULE
                | u64::from(rule),
        )
    }
}

/// When a rule is asked: the lower first. By tier and order, then by action, then by the canonical
/// order of the policies, then by its place in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(u64);

impl Turn {
    /// The place of the first policy that has its tier and order.
    pub(crate) fn group(self) -> usize {
        (self.0 >> (ACTION + POLICY + RULE)) as usize
    }

    /// The place of the policy.
    pub(crate) fn policy(self) -> usize {
        (self.0 >> RULE) as usize % (1 << POLICY)
    }

    /// The place of the rule in its policy.
    pub(crate) fn rule(self) -> usize {
        self.0 as usize % (1 << RULE)
    }
}
