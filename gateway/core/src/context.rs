//! What belongs to one queue thread alone: its number, its counts, its events.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use handshake::{bucket::Bucket, transit::Ends};
use identity::Mono;
use policy::{DropReason, RuleRef};
use wire::flow::FlowKey;

use crate::{account::Totals, snapshot::Side, track::Sender, witness::Witness};

/// Events that are kept for a caller that does not poll.
const MAX_EVENTS: usize = 1024;
/// Refusals that are told one by one in a second. Strangers cause them: in a flood each would wake control, and
/// take the room of an event that it needs.
const REFUSALS_PER_SECOND: u32 = 100;
/// How often the others are told of, as a number.
const SUMMARY: Duration = Duration::from_secs(1);

/// Something that control or the flow log wants to know.
#[derive(Clone, Debug)]
pub enum Event {
    /// A flow was established.
    Opened(Ends),
    /// A flow that was allowed is not any more.
    Cut {
        /// From initiator to responder.
        key: FlowKey,
        /// Why.
        reason: DropReason,
        /// The rule that decided, where one did.
        rule: Option<RuleRef>,
    },
    /// A handshake was refused.
    Refused {
        /// As the packet came.
        key: FlowKey,
        /// Why.
        reason: DropReason,
        /// The rule that decided, where one did.
        rule: Option<RuleRef>,
    },
    /// So many more were refused than were told one by one.
    RefusedMore(u64),
    /// The link address of a neighbour is needed.
    Unresolved(Side, IpAddr),
}

/// The state of one queue thread.
#[derive(Debug)]
pub struct Context {
    queue: usize,
    /// What became of the packets of this queue.
    pub totals: Totals,
    /// What was understood of the last packet; `None` while nobody looks at packets.
    pub witness: Option<Box<Witness>>,
    events: VecDeque<Event>,
    lost_events: u64,
    refusals: Bucket,
    /// Refusals that no event tells of yet, and when such were told of last.
    untold: u64,
    summed_up: Mono,
    /// Resets and ICMP errors that may still be sent.
    pub(crate) answers: Bucket,
}

impl Context {
    /// For the queue of number `queue`, which may originate `answers_per_second` resets and ICMP
    /// errors.
    #[must_use]
    pub fn new(queue: usize, answers_per_second: u32) -> Self {
        Self {
            queue,
            totals: Totals::default(),
            witness: None,
            events: VecDeque::new(),
            lost_events: 0,
            refusals: Bucket::new(REFUSALS_PER_SECOND, REFUSALS_PER_SECOND),
            untold: 0,
            summed_up: Mono::default(),
            answers: Bucket::new(answers_per_second, answers_per_second),
        }
    }

    /// The number of the queue: which association it seals with.
    #[must_use]
    pub fn queue(&self) -> usize {
        self.queue
    }

    /// The next event. Poll after each batch.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Tells of refusals that were not told one by one, about once a second. Call after each batch, before
    /// polling.
    pub fn sum_up(&mut self, now: Mono) {
        if self.untold > 0 && now.since(self.summed_up) >= SUMMARY {
            self.summed_up = now;
            let untold = std::mem::take(&mut self.untold);
            self.event(Event::RefusedMore(untold));
        }
    }

    /// Events that had no room.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// A handshake was refused.
    pub(crate) fn refused(
        &mut self,
        key: FlowKey,
        reason: DropReason,
        rule: Option<RuleRef>,
        now: Mono,
    ) {
        if let Some(witness) = &mut self.witness {
            witness.rule.clone_from(&rule);
        }
        match self.refusals.take(now) {
            true => self.event(Event::Refused { key, reason, rule }),
            false => self.untold += 1,
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.lost_events += 1;
        }
    }
}

/// One established flow, for people.
#[derive(Clone, Debug)]
pub struct FlowView {
    /// Both ends.
    pub ends: Ends,
    /// The snapshot by which it was last allowed.
    pub epoch: u64,
    /// Bytes of IP packets, by [`Sender`].
    pub bytes: [u64; 2],
    /// Packets, by [`Sender`].
    pub packets: [u32; 2],
    /// It is closing or was reset.
    pub over: bool,
}

impl FlowView {
    /// Bytes and packets that `sender` sent.
    #[must_use]
    pub fn sent_by(&self, sender: Sender) -> (u64, u32) {
        match (sender, self.bytes, self.packets) {
            (Sender::Initiator, [bytes, _], [packets, _])
            | (Sender::Responder, [_, bytes], [_, packets]) => (bytes, packets),
        }
    }
}
