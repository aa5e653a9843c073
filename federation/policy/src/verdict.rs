//! The answer of `decide`, and the name of the rule that gave it.

use std::{fmt, ops::Deref, sync::Arc};

use identity::TrustDomain;
use serde::{Deserialize, Serialize};

use crate::{
    DropReason,
    model::{PolicyKind, Tier},
};

/// What to do with the connection, and which rule said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Allow or drop.
    pub decision: Decision,
    /// The rule that decided; `None` when isolation or the default did.
    pub rule: Option<RuleRef>,
    /// The Log rules that matched before it, in the order they were asked.
    pub logs: Vec<RuleRef>,
    /// What would be decided if staged policies were enforced, where that is anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Box<Staged>>,
}

/// What would be decided if staged policies were enforced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Allow or drop.
    pub decision: Decision,
    /// The rule that would decide; `None` when isolation or the default would.
    pub rule: Option<RuleRef>,
}

impl Verdict {
    /// Whether the connection may be.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
    }

    /// Notes what `staged`, the verdict with staged policies, decides otherwise.
    pub(crate) fn stage(&mut self, staged: Self) {
        let Self { decision, rule, .. } = staged;
        if (decision, &rule) != (self.decision, &self.rule) {
            self.staged = Some(Box::new(Staged { decision, rule }));
        }
    }
}

/// Allow or drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The connection may be.
    Allow,
    /// It may not.
    Drop {
        /// Why.
        reason: DropReason,
        /// The sender is answered by RST or ICMP instead of silence.
        reject: bool,
    },
}

/// The name of a rule, as people see it everywhere. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "RuleName", into = "RuleName")]
pub struct RuleRef(Arc<Named>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Named {
    name: RuleName,
    /// Written once, because each connection that the rule decides is told of.
    words: Arc<str>,
}

/// The parts of a rule's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleName {
    /// The cluster that enforces it.
    pub cluster: TrustDomain,
    /// The tier of its policy.
    pub tier: Tier,
    /// The kind of the object.
    pub kind: PolicyKind,
    /// Its namespace; `None` for a cluster-wide object.
    pub namespace: Option<String>,
    /// Its name.
    pub policy: String,
    /// The rule's name, or its place such as `ingress[0]`.
    pub rule: String,
}

impl From<RuleName> for RuleRef {
    fn from(name: RuleName) -> Self {
        let (kind, policy, rule) = (name.kind, &name.policy, &name.rule);
        let (namespace, slash) = match &name.namespace {
            Some(namespace) => (namespace.as_str(), "/"),
            None => ("", ""),
        };
        let words = format!(
            "{}: {kind} {namespace}{slash}{policy} rule {rule}",
            name.cluster
        );
        let words = words.into();
        Self(Arc::new(Named { name, words }))
    }
}

impl From<RuleRef> for RuleName {
    fn from(rule: RuleRef) -> Self {
        rule.0.name.clone()
    }
}

impl Deref for RuleRef {
    type Target = RuleName;

    fn deref(&self) -> &RuleName {
        &self.0.name
    }
}

impl RuleName {
    /// Kind, namespace and name of the policy: `NetworkPolicy shop/api`.
    pub fn policy_words(&self) -> impl fmt::Display {
        fmt::from_fn(|f| match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.policy),
            None => write!(f, "{} {}", self.kind, self.policy),
        })
    }
}

impl RuleRef {
    /// `west: NetworkPolicy shop/api-allow rule ingress[0]`.
    #[must_use]
    pub fn words(&self) -> Arc<str> {
        self.0.words.clone()
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.words)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::FederationPolicy => "FederationPolicy",
            Self::ClusterFederationPolicy => "ClusterFederationPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::Zones => "Zones",
            Self::Team => "Team",
            Self::PlatformAllowList => "PlatformAllowList",
        })
    }
}
