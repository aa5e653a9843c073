//! Asking the policies that a gateway knows: its own cluster's, and what each peer announced.

use std::sync::Arc;

use identity::{
    Claims,
    fault::{self, Fault},
};
use policy::{Decision, DropReason, Pair, model::Direction};
use wire::flow::FlowKey;

use super::{Ends, Refused, TransitSnapshot};
use crate::question::question;

/// What can be said when only the initiator is proven: its own gateway refuses what the other
/// cluster's digest does not admit, and the other gateway asks its policy about the pod that its
/// source has at the address.
pub(super) fn decide_syn(
    snapshot: &TransitSnapshot,
    initiator: &Arc<Claims>,
    key: &FlowKey,
) -> Result<(), Refused> {
    if *initiator.trust_domain() == snapshot.own {
        return Ok(refuse_early(snapshot, initiator, key)?);
    }
    let responder = snapshot.pods.get(&key.dst).ok_or(DropReason::NoRoute)?;
    snapshot.admission.check(responder)?;
    let from = initiator.trust_domain();
    snapshot.admission.offers(responder, from)?;
    let (table, direction) = (&snapshot.policy, Direction::Ingress);
    decide(snapshot, table, direction, responder, initiator, key)
}

/// Refuses on the SYN what no rule of the destination's digest admits, whatever the destination.
fn refuse_early(
    snapshot: &TransitSnapshot,
    initiator: &Claims,
    key: &FlowKey,
) -> Result<(), DropReason> {
    let owner = snapshot
        .networks
        .owner(key.dst)
        .ok_or(DropReason::NoRoute)?;
    // Nothing of a pod that is not offered there leaves this cluster: its HELLO would name it.
    snapshot.admission.offers(initiator, owner)?;
    match snapshot.digests.get(owner) {
        Some(digest) if !digest.may_admit(initiator, key.protocol, key.dport) => {
            Err(DropReason::PeerDenies)
        }
        _ => Ok(()),
    }
}

/// Asks both ends' policies as far as this gateway knows them: its own at its own end, and at the
/// other end the digest.
pub(super) fn decide_pair(snapshot: &TransitSnapshot, ends: &Ends) -> Result<(), Refused> {
    let Ends {
        key,
        initiator,
        responder,
    } = ends;
    for (own, other) in [(initiator, responder), (responder, initiator)] {
        let to = other.trust_domain();
        snapshot.admission.offers(own, to)?;
    }
    if *initiator.trust_domain() == snapshot.own {
        decide(
            snapshot,
            &snapshot.policy,
            Direction::Egress,
            initiator,
            responder,
            key,
        )?;
        if let Some(digest) = snapshot.digests.get(responder.trust_domain()) {
            decide(
                snapshot,
                digest,
                Direction::Ingress,
                responder,
                initiator,
                key,
            )
            .map_err(|refused| Refused {
                reason: DropReason::PeerDenies,
                ..refused
            })?;
        }
        return Ok(());
    }
    decide(
        snapshot,
        &snapshot.policy,
        Direction::Ingress,
        responder,
        initiator,
        key,
    )
}

fn decide(
    snapshot: &TransitSnapshot,
    table: &policy::Table,
    direction: Direction,
    subject: &Arc<Claims>,
    peer: &Arc<Claims>,
    key: &FlowKey,
) -> Result<(), Refused> {
    let verdict = table.decide_pair(&Pair {
        port: match fault::is(Fault::GatewayAsksOtherPort) {
            false => key.dport,
            true => key.dport ^ 1,
        },
        ..question(direction, subject, peer, key, &snapshot.known)
    });
    match verdict.decision {
        Decision::Allow => Ok(()),
        _ if fault::is(Fault::GatewaySkipsPolicy) => Ok(()),
        Decision::Drop { reason, reject } => Err(Refused {
            reason,
            rule: verdict.rule,
            reject,
        }),
    }
}
