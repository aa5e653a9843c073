//! Broken builds on purpose: with the feature `faults` a test can switch one check of the product
//! off in its own thread, and see that the simulator catches it.
//!
//! Without the feature, which no program may have, [`is`] is the constant `false`: nothing of this is
//! in the code that runs. It is here because every crate that judges stands on this one.

/// A check that is not made, or is made wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The MACs of REPLY and CONFIRM do not cover the destination.
    TranscriptWithoutDestination,
    /// No nonce is ever known.
    ReplayCacheOff,
    /// A gateway never decides a flow again.
    GatewayIgnoresEpoch,
    /// An agent never decides a flow again.
    AgentIgnoresEpoch,
    /// A gateway asks policy about another port.
    GatewayAsksOtherPort,
    /// An agent asks policy about another port.
    AgentAsksOtherPort,
    /// A gateway allows everything.
    GatewaySkipsPolicy,
    /// An agent allows everything.
    AgentSkipsPolicy,
    /// A responder takes a client's segment without CONFIRM.
    ConfirmSkipped,
    /// An initiator does not look at REPLY's MAC.
    ReplyUnchecked,
    /// A segment proof always holds.
    ProofUnchecked,
    /// Labels and deletions do not reach credentials that were issued before.
    RecordsIgnored,
    /// A restarted agent takes its old flows without judging them.
    RestoredUnjudged,
    /// A pod may send what only enforcers send.
    MarkerOfPodTaken,
    /// A gateway takes any source address from any peer.
    InnerSourceUnchecked,
    /// A tunnel packet may come twice.
    TunnelReplayed,
    /// An older trust bundle is taken.
    OldBundleTaken,
    /// An older policy digest is taken.
    OldDigestTaken,
    /// An older list of revocations is taken.
    OldRevocationsTaken,
    /// What was revoked is believed.
    RevocationIgnored,
    /// A peer may claim anything.
    LimitsIgnored,
    /// A peer meets what is not offered to it.
    OfferIgnored,
    /// A peer is told of all policies.
    WholeDigestTold,
    /// A peer is told of all pods.
    AllRecordsTold,
    /// A change of an offer does not reach what a peer is told.
    OfferToldOnce,
}

/// Whether a fault can be switched on at all: a program asserts that it cannot.
pub const BUILT_IN: bool = cfg!(feature = "faults");

/// Whether this thread runs with `fault`.
#[cfg(not(feature = "faults"))]
#[must_use]
#[inline(always)]
pub const fn is(_fault: Fault) -> bool {
    false
}

#[cfg(feature = "faults")]
pub use built_in::{is, set};

#[cfg(feature = "faults")]
mod built_in {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static FAULT: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// This thread runs with `fault` from now on, and with no other.
    pub fn set(fault: Option<Fault>) {
        FAULT.set(fault);
    }

    /// Whether this thread runs with `fault`.
    #[must_use]
    pub fn is(fault: Fault) -> bool {
        FAULT.get() == Some(fault)
    }
}
