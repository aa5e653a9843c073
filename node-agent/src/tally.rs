//! Every packet is accounted for: what the judge saw, what the queues lost, what the rules passed
//! or dropped, and what came while no agent was there.

use std::collections::BTreeMap;

use policy::DropReason;
use serde::Serialize;

use crate::{capture::Losses, rules::CounterValues};

/// Packets by their fate. `received` = `forwarded` + `replied` + `punted` + `consumed` + `held` +
/// the sum of `dropped`, always; what we send ourselves is `originated`, apart from that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Packets that touched a pod of this node.
    pub received: u64,
    /// Packets that went on, by the judge's word or by the connection mark.
    pub forwarded: u64,
    /// Packets answered in place; the agent never does.
    pub replied: u64,
    /// Packets left to the kernel; the agent never does.
    pub punted: u64,
    /// Packets meant for the agent; there are none.
    pub consumed: u64,
    /// Packets that wait; a gauge.
    pub held: u64,
    /// Packets of our own.
    pub originated: u64,
    /// Packets dropped.
    pub dropped: BTreeMap<DropReason, u64>,
}

/// What the judge counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Packets that were judged.
    pub received: u64,
    /// Those that may go on.
    pub forwarded: u64,
    /// Those that may not.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Packets of our own.
    pub originated: u64,
}

impl Tally {
    /// Puts together what is counted in three places. `rules` and `base` are the rules' counters
    /// now and when this process began, `no_agent` what came before it began.
    #[must_use]
    pub fn new(
        judged: &Judged,
        losses: &Losses,
        rules: &CounterValues,
        base: &CounterValues,
        no_agent: u64,
    ) -> Self {
        let value = |values: &CounterValues, name| values.get(name).copied().unwrap_or_default();
        let since = |name| value(rules, name).saturating_sub(value(base, name));
        let mut tally = Self {
            forwarded: judged.forwarded.saturating_sub(losses.refused) + since("fast"),
            originated: judged.originated,
            dropped: judged.dropped.clone(),
            ..Self::default()
        };
        let mut drop = |reason, packets| {
            if packets > 0 {
                *tally.dropped.entry(reason).or_default() += packets;
            }
        };
        drop(DropReason::SpoofedSource, since("spoofed_source"));
        drop(DropReason::RateLimited, since("rate_limited"));
        drop(DropReason::NotReady, since("not_ready"));
        // The interface went away under the packet.
        drop(
            DropReason::NoRoute,
            since("no_route") + losses.refused.min(judged.forwarded),
        );
        drop(
            DropReason::UnsupportedProtocol,
            since("unsupported_protocol"),
        );
        drop(DropReason::Malformed, losses.malformed);
        drop(DropReason::QueueFull, losses.queue_full);
        drop(DropReason::NoAgent, since("unqueued") + no_agent);
        tally.received = tally.forwarded + tally.dropped.values().sum::<u64>();
        tally
    }

    /// Whether every received packet has exactly one fate.
    #[must_use]
    pub fn balances(&self) -> bool {
        let fates = [
            self.forwarded,
            self.replied,
            self.punted,
            self.consumed,
            self.held,
        ];
        self.received == fates.iter().sum::<u64>() + self.dropped.values().sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_three_places_counted_balances() {
        let judged = Judged {
            received: 10,
            forwarded: 7,
            dropped: BTreeMap::from([(DropReason::NoIdentity, 3)]),
            originated: 2,
        };
        let losses = Losses {
            queue_full: 4,
            malformed: 1,
            refused: 2,
        };
        let rules = CounterValues::from([("fast".to_owned(), 100), ("unqueued".to_owned(), 5)]);
        let base = CounterValues::from([("fast".to_owned(), 40)]);
        let tally = Tally::new(&judged, &losses, &rules, &base, 6);
        assert!(tally.balances());
        assert_eq!(tally.forwarded, 65);
        assert_eq!(tally.dropped[&DropReason::NoAgent], 11);
        assert_eq!(tally.dropped[&DropReason::NoRoute], 2);
        // Judged packets, lost ones, and what the rules saw without us.
        assert_eq!(tally.received, 10 + 4 + 1 + 60 + 5 + 6);
    }
}
