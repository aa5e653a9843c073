//! Asking policy about one connection of this node.

use std::sync::Arc;

use identity::{
    Claims,
    fault::{self, Fault},
};
use policy::{Decision, DropReason, Pair, Peer, Query, RuleRef, Staged, Verdict, model::Direction};
use wire::flow::FlowKey;

use super::snapshot::NodeSnapshot;
use crate::question::question;

/// A connection that policy refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub reason: DropReason,
    /// The sender is told by a RST instead of silence.
    pub reject: bool,
    pub rule: Option<RuleRef>,
}

/// What policy says of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// The rule that allows it, if one was needed.
    pub outcome: Result<Option<RuleRef>, Refusal>,
    /// The Log rules that matched on the way.
    pub logs: Vec<RuleRef>,
    /// What staged policies would decide, where that is anything else.
    pub staged: Option<Box<Staged>>,
}

impl Judgement {
    /// Not by a rule of a policy.
    fn refused(reason: DropReason) -> Self {
        let refusal = Refusal {
            reason,
            reject: false,
            rule: None,
        };
        Self {
            outcome: Err(refusal),
            logs: Vec::new(),
            staged: None,
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Other<'a> {
    /// It proved this, from its address in the flow.
    Proven(&'a Arc<Claims>),
    /// It is anything else.
    Unproven(Peer<'a>),
}

/// Whether `subject`, a pod of this node, and `other` may talk on the flow `key`. What `other` proved was
/// admitted before.
pub(super) fn decide(
    snapshot: &NodeSnapshot,
    direction: Direction,
    subject: &Arc<Claims>,
    other: Other<'_>,
    key: &FlowKey,
) -> Judgement {
    if let Err(reason) = snapshot.admission.check(subject) {
        return Judgement::refused(reason);
    }
    if let Other::Proven(peer) = other
        && let Err(reason) = snapshot.admission.offers(subject, peer.trust_domain())
    {
        return Judgement::refused(reason);
    }
    let (table, known) = (&snapshot.policy, &snapshot.known);
    let port = match fault::is(Fault::AgentAsksOtherPort) {
        false => key.dport,
        true => key.dport ^ 1,
    };
    let Verdict {
        decision,
        rule,
        logs,
        staged,
    } = match other {
        Other::Proven(peer) => table.decide_pair(&Pair {
            port,
            ..question(direction, subject, peer, key, known)
        }),
        Other::Unproven(peer) => table.decide(&Query {
            direction,
            subject,
            peer,
            protocol: key.protocol,
            port,
            known,
        }),
    };
    let outcome = match decision {
        Decision::Allow => Ok(rule),
        _ if fault::is(Fault::AgentSkipsPolicy) => Ok(rule),
        Decision::Drop { reason, reject } => Err(Refusal {
            reason,
            reject,
            rule,
        }),
    };
    Judgement {
        outcome,
        logs,
        staged,
    }
}

/// Both halves for two pods of this node: egress of `from`, then ingress of `to`.
pub(super) fn decide_local(
    snapshot: &NodeSnapshot,
    from: &Arc<Claims>,
    to: &Arc<Claims>,
    key: &FlowKey,
) -> Judgement {
    let egress = decide(snapshot, Direction::Egress, from, Other::Proven(to), key);
    let Ok(leaving) = &egress.outcome else {
        return egress;
    };
    let mut ingress = decide(snapshot, Direction::Ingress, to, Other::Proven(from), key);
    ingress.outcome = ingress.outcome.map(|entering| entering.or(leaving.clone()));
    ingress.logs.splice(0..0, egress.logs);
    if egress
        .staged
        .as_ref()
        .is_some_and(|s| s.decision != Decision::Allow)
    {
        // The connection would not come to the other end.
        ingress.staged = egress.staged;
    }
    ingress
}
