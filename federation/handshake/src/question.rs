//! What policy is asked of two workloads that proved their identity.

use std::sync::Arc;

use identity::Claims;
use policy::{KnownKeys, Pair, model::Direction};
use wire::flow::FlowKey;

/// Whether `subject` may talk with `peer` on the flow `key`, whose far address is the peer's.
pub(crate) fn question<'a>(
    direction: Direction,
    subject: &'a Arc<Claims>,
    peer: &'a Arc<Claims>,
    key: &FlowKey,
    known: &'a KnownKeys,
) -> Pair<'a> {
    Pair {
        direction,
        subject,
        peer,
        address: Some(match direction {
            Direction::Ingress => key.src,
            Direction::Egress => key.dst,
        }),
        protocol: key.protocol,
        port: key.dport,
        known,
    }
}
