//! The flow log: what the queue threads say of flows, as one line each.

use gateway_core::context::Event;
use handshake::bucket::Bucket;
use identity::Mono;
use policy::DropReason;
use tracing::{debug, info, warn};

/// Lines about refused flows in a second: strangers cause them.
const REFUSALS_PER_SECOND: u32 = 100;

/// Writes events down, refusals within a rate.
pub(super) struct FlowLog {
    refusals: Bucket,
    left_out: u64,
}

impl Default for FlowLog {
    fn default() -> Self {
        Self {
            refusals: Bucket::new(REFUSALS_PER_SECOND, REFUSALS_PER_SECOND),
            left_out: 0,
        }
    }
}

impl FlowLog {
    /// Writes one event down.
    pub(super) fn write(&mut self, event: &Event, now: Mono) {
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
            Event::Refused { .. } if !self.keeps(now) => {}
            Event::Refused {
                key,
                reason,
                rule: by,
            } => {
                info!(target: "flow", flow = %key, reason = word(reason), rule = rule(by),
                    "refused");
            }
            Event::RefusedMore(more) => self.left_out += more,
            Event::Unresolved(side, address) => {
                debug!(target: "flow", ?side, %address, "no link address");
            }
        }
    }

    /// Whether another refusal may be written now; counts it otherwise.
    fn keeps(&mut self, now: Mono) -> bool {
        let keeps = self.refusals.take(now);
        self.left_out += u64::from(!keeps);
        keeps
    }

    /// One line for all refusals since the last call that no line was written for.
    pub(super) fn say_what_is_missing(&mut self) {
        let more = std::mem::take(&mut self.left_out);
        if more > 0 {
            warn!(target: "flow", more, "refused; only the counters have their reasons");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refusals_beyond_the_rate_are_counted_and_not_written() {
        let mut log = FlowLog::default();
        let second = |n| Mono(Duration::from_secs(n));
        let written = (0..5000).filter(|_| log.keeps(second(3))).count();
        assert_eq!(written, REFUSALS_PER_SECOND as usize);
        assert_eq!(log.left_out, 5000 - u64::from(REFUSALS_PER_SECOND));
        log.write(&Event::RefusedMore(1_000_000), second(3));
        assert_eq!(log.left_out, 1_005_000 - u64::from(REFUSALS_PER_SECOND));
        log.say_what_is_missing();
        assert_eq!(log.left_out, 0);
        assert!(log.keeps(second(4)));
    }
}
