//! What goes into a node, and what comes out of it.

use std::{collections::BTreeMap, sync::Arc};

use policy::DropReason;
use wire::flow::FlowKey;

use super::FlowRecord;
use crate::budget::SignatureLimits;

/// Where a packet was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// It leaves a pod of this node for the network; seen after address translation.
    FromPod,
    /// It came from the network for a pod of this node; seen before connection tracking.
    ToPod,
    /// It goes from one pod of this node to another.
    Local,
    /// It goes from a local socket of this node to a pod of this node, or back.
    FromNode,
}

/// What is to be done with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handled {
    /// It goes on as it is.
    Accept(Mark),
    /// These bytes go on in its place.
    Rewrite {
        /// A whole IP packet with valid lengths and checksums.
        packet: Vec<u8>,
        /// As for [`Handled::Accept`].
        mark: Mark,
    },
    /// It is dropped.
    Drop(DropReason),
}

/// Whether the kernel may pass the rest of the flow by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This packet only.
    Once,
    /// The flow: later packets without SYN and without our option skip the agent.
    Established,
}

/// A packet that the enforcer sends of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// A whole IP packet.
    pub packet: Vec<u8>,
    /// True when it goes to a pod of this node, false when it goes to the network.
    pub to_pod: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow was established; its record is to be stored before the packet goes on.
    FlowOpened(Arc<FlowRecord>),
    /// A flow may not go on: its kernel mark is to be cleared.
    FlowCut {
        /// From initiator to responder.
        key: FlowKey,
        /// Why.
        reason: DropReason,
    },
    /// A Log rule matched a new connection, for the flow log.
    Logged {
        /// From initiator to responder.
        key: FlowKey,
        /// The rule, in words.
        rule: Arc<str>,
    },
    /// Staged policies would decide otherwise of a new connection, or now do of a live one, for the flow log.
    Staged {
        /// From initiator to responder.
        key: FlowKey,
        /// Why it would be dropped; `None` when it would be allowed.
        dropped: Option<DropReason>,
        /// The rule that would decide, in words; empty when none would.
        rule: Arc<str>,
    },
    /// A connection was refused, for the flow log.
    Refused {
        /// From initiator to responder.
        key: FlowKey,
        /// Why.
        reason: DropReason,
        /// The rule, in words; empty when none decided.
        rule: Arc<str>,
    },
}

/// What a node may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Half-open connections in each direction, and connections whose server was not heard since it
    /// proved itself.
    pub half_open: usize,
    /// Established flows.
    pub flows: usize,
    /// Nonces of believed HELLOs.
    pub nonces: usize,
    /// Verified credentials.
    pub credentials: usize,
    /// Pair keys.
    pub pairs: usize,
    /// HELLOs a second without a segment proof.
    pub unproven_per_second: u32,
    /// Processor time for signature checks.
    pub signatures: SignatureLimits,
    /// RSTs a second in answer to segments that fit no flow.
    pub resets_per_second: u32,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            half_open: 16_384,
            flows: 262_144,
            nonces: 262_144,
            credentials: 16_384,
            pairs: 4_096,
            unproven_per_second: 100,
            signatures: SignatureLimits::default(),
            resets_per_second: 100,
        }
    }
}

/// Packets by their fate: `received = forwarded + the sum of dropped`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets handed in.
    pub received: u64,
    /// Packets that went on, changed or not.
    pub forwarded: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
    /// Packets sent of our own.
    pub originated: u64,
    /// Events that nobody fetched in time.
    pub events_lost: u64,
}
