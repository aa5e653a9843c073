//! Asking policy about one connection of this node.

use identity::{
    Claims,
    fault::{self, Fault},
};
use policy::{Decision, DropReason, Peer, Query, RuleRef, Staged, Verdict, model::Direction};
use wire::flow::FlowKey;

use super::snapshot::NodeSnapshot;

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

/// Whether `subject` and `peer` may talk on the flow `key`.
pub(super) fn decide(
    snapshot: &NodeSnapshot,
    direction: Direction,
    subject: &Claims,
    peer: Peer<'_>,
    key: &FlowKey,
) -> Judgement {
    let Verdict {
        decision,
        rule,
        logs,
        staged,
    } = snapshot.policy.decide(&Query {
        direction,
        subject,
        peer,
        protocol: key.protocol,
        port: match fault::is(Fault::AgentAsksOtherPort) {
            false => key.dport,
            true => key.dport ^ 1,
        },
        known: &snapshot.known,
    });
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
    from: &Claims,
    to: &Claims,
    key: &FlowKey,
) -> Judgement {
    let to_peer = Peer::Identity {
        claims: to,
        address: Some(key.dst),
    };
    let from_peer = Peer::Identity {
        claims: from,
        address: Some(key.src),
    };
    let egress = decide(snapshot, Direction::Egress, from, to_peer, key);
    let Ok(leaving) = &egress.outcome else {
        return egress;
    };
    let mut ingress = decide(snapshot, Direction::Ingress, to, from_peer, key);
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
