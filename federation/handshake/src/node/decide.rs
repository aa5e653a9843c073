//! Asking policy about one connection of this node.

use identity::Claims;
use policy::{Decision, DropReason, Peer, Query, RuleRef, model::Direction};
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

/// The rule that allows `subject` and `peer` to talk on the flow `key`, if one was needed.
pub(super) fn decide(
    snapshot: &NodeSnapshot,
    direction: Direction,
    subject: &Claims,
    peer: Peer<'_>,
    key: &FlowKey,
) -> Result<Option<RuleRef>, Refusal> {
    let verdict = snapshot.policy.decide(&Query {
        direction,
        subject,
        peer,
        protocol: key.protocol,
        port: key.dport,
        known: &snapshot.known,
    });
    match verdict.decision {
        Decision::Allow => Ok(verdict.rule),
        Decision::Drop { reason, reject } => Err(Refusal {
            reason,
            reject,
            rule: verdict.rule,
        }),
    }
}

/// Both halves for two pods of this node: egress of `from`, then ingress of `to`.
pub(super) fn decide_local(
    snapshot: &NodeSnapshot,
    from: &Claims,
    to: &Claims,
    key: &FlowKey,
) -> Result<Option<RuleRef>, Refusal> {
    let to_peer = Peer::Identity {
        claims: to,
        address: Some(key.dst),
    };
    let from_peer = Peer::Identity {
        claims: from,
        address: Some(key.src),
    };
    let egress = decide(snapshot, Direction::Egress, from, to_peer, key)?;
    let ingress = decide(snapshot, Direction::Ingress, to, from_peer, key)?;
    Ok(ingress.or(egress))
}
