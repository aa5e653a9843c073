//! What the issuer must know again after a restart.

use std::collections::BTreeMap;

use identity::UnixMillis;
use serde::{Deserialize, Serialize};

use crate::node_messages::AgentPublicKey;

/// The issuer's memory, to be stored whenever it changed ([`super::IssuerEvent::StateChanged`]).
///
/// The counter does not depend on it: it starts above the clock's milliseconds, so that a state
/// that is lost, or older than it should be, lets no sequence or generation go back. What is lost
/// with it is the knowledge which pods were deleted or relabelled meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerState {
    /// The last number given to a record or a generation.
    pub counter: u64,
    /// Pods that a credential was issued for, by UID.
    pub pods: BTreeMap<String, PodMark>,
    /// Pods that had one and were deleted, by UID.
    pub gone: BTreeMap<String, GoneMark>,
}

/// What was last said of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodMark {
    /// A hash of what policy can see of it.
    pub fingerprint: [u8; 16],
    /// The agent key of its last credential.
    pub key: AgentPublicKey,
    /// There is a record of it.
    pub relabelled: bool,
}

/// A pod that was deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoneMark {
    /// The generation of its record.
    pub generation: u64,
    /// When it was deleted.
    pub at: UnixMillis,
}
