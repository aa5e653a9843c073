//! The answer of `decide`, and the name of the rule that gave it.

use std::{fmt, sync::Arc};

use identity::TrustDomain;
use serde::{Deserialize, Serialize};

use crate::{DropReason, model::PolicyKind};

/// What to do with the connection, and which rule said so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Allow or drop.
    pub decision: Decision,
    /// The rule that decided; `None` when isolation or the default did.
    pub rule: Option<RuleRef>,
    /// The Log rules that matched before it, in the order they were asked.
    pub logs: Vec<RuleRef>,
}

impl Verdict {
    /// Whether the connection may be.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
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
pub struct RuleRef {
    /// The cluster that enforces it.
    pub cluster: TrustDomain,
    /// The kind of the object.
    pub kind: PolicyKind,
    /// Its namespace; `None` for a cluster-wide object.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub policy: Arc<str>,
    /// The rule's name, or its place such as `ingress[0]`.
    pub rule: Arc<str>,
}

impl fmt::Display for RuleRef {
    /// `west: NetworkPolicy shop/api-allow rule ingress[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ", self.cluster, self.kind)?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{} rule {}", self.policy, self.rule)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::FederationPolicy => "FederationPolicy",
            Self::ClusterFederationPolicy => "ClusterFederationPolicy",
        })
    }
}
