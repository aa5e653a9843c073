//! The flow log: what the queue threads say of flows, as one line each.

use gateway_core::context::Event;
use policy::DropReason;
use tracing::{debug, info};

/// Writes one event down.
pub(super) fn log_event(event: &Event) {
    let word = |reason: &DropReason| reason.as_str();
    let rule = |rule: &Option<policy::RuleRef>| rule.as_ref().map(ToString::to_string);
    match event {
        Event::Opened(ends) => {
            info!(target: "flow", flow = %ends.key, from = ends.initiator.display_name(),
                to = ends.responder.display_name(), "opened");
        }
        Event::Cut {
            key,
            reason,
            rule: by,
        } => {
            info!(target: "flow", flow = %key, reason = word(reason), rule = rule(by), "cut");
        }
        Event::Refused {
            key,
            reason,
            rule: by,
        } => {
            info!(target: "flow", flow = %key, reason = word(reason), rule = rule(by), "refused");
        }
        Event::Unresolved(side, address) => {
            debug!(target: "flow", ?side, %address, "no link address");
        }
    }
}
