//! What one end says of a connection, for programs.

use policy::{Decision, DropReason, Explanation, model::Tier};
use serde::Serialize;

use crate::oracle::Half;

/// One end's verdict, and what decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndVerdict {
    pub allowed: bool,
    /// Why it is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<DropReason>,
    /// The cluster whose policies were asked; absent when none were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// That of the rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// Kind, namespace and name of the policy of that rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The rule that decided, whole; absent when isolation, the default or no policy did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The verdict in a sentence.
    pub because: String,
    /// What it would be with staged policies, where they change it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged: Option<Box<EndVerdict>>,
}

impl EndVerdict {
    /// What `half` says.
    pub fn of(half: Half) -> Self {
        match half {
            Half::Decided(explanation) => Self::explained(explanation),
            Half::NoIdentity(because) => {
                Self::without_policy(Some(DropReason::NoIdentity), because)
            }
            Half::Unenforced(because) => Self::without_policy(None, because),
        }
    }

    fn explained(explanation: Explanation) -> Self {
        let verdict = &explanation.verdict;
        let rule = verdict.rule.as_ref();
        Self {
            allowed: verdict.is_allowed(),
            reason: match verdict.decision {
                Decision::Allow => None,
                Decision::Drop { reason, .. } => Some(reason),
            },
            cluster: Some(explanation.cluster.to_string()),
            tier: rule.map(|rule| rule.tier),
            policy: rule.map(|rule| rule.policy_words().to_string()),
            rule: rule.map(ToString::to_string),
            because: explanation.because,
            staged: explanation
                .staged
                .map(|staged| Box::new(Self::explained(*staged))),
        }
    }

    fn without_policy(reason: Option<DropReason>, because: String) -> Self {
        Self {
            allowed: reason.is_none(),
            reason,
            cluster: None,
            tier: None,
            policy: None,
            rule: None,
            because,
            staged: None,
        }
    }
}
