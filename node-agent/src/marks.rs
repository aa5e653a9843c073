//! The four bits of the packet mark and of the conntrack mark that are ours, and what they say.
//!
//! A packet's bits are set by our rules before the queue, by the verdict, and cleared by the last
//! of our chains; a connection's bits stay. All other bits belong to others and are kept: kube-proxy
//! uses 0x4000 and 0x8000, Calico 0xffff0000, the AWS CNI 0x80. Cilium uses ours, but its packets
//! never pass netfilter, so the two cannot share a node anyway.

use handshake::node::{Mark, Path};

/// Our bits, in both marks.
pub const MASK: u32 = 0x0f00;

/// A bare SYN from the network for a pod: to the first queue.
pub const TO_POD_SYN: u32 = 0x0100;
/// Anything else from the network for a pod: to the second queue.
pub const TO_POD: u32 = 0x0200;
/// From a pod to the network: to the third queue, as are the next two.
pub const FROM_POD: u32 = 0x0400;
/// Between two pods of this node.
pub const LOCAL: u32 = 0x0500;
/// Between a local socket of this node and a pod of it.
pub const FROM_NODE: u32 = 0x0600;
/// The bits that the last three share, and that no other value has.
pub const LOCAL_QUEUE: u32 = 0x0400;
/// Tells those bits from the rest.
pub const LOCAL_QUEUE_MASK: u32 = 0x0c00;
/// Verdict: this packet only.
pub const ONCE: u32 = 0x0800;
/// Verdict: the flow.
pub const ESTABLISHED: u32 = 0x0900;
/// A pod's port sent it, with the pod's address as source.
pub const ORIGIN_POD: u32 = 0x0a00;
/// A local socket of this node sent it.
pub const ORIGIN_NODE: u32 = 0x0b00;
/// The connection mark said that it may pass.
pub const FAST: u32 = 0x0c00;
/// The agent sent it.
pub const AGENT: u32 = 0x0d00;

/// In the connection mark: the flow was allowed.
pub const FLOW_ALLOWED: u32 = 0x0100;

/// The path that a queued packet's mark names.
#[must_use]
pub fn path(mark: u32) -> Option<Path> {
    match mark & MASK {
        TO_POD_SYN | TO_POD => Some(Path::ToPod),
        FROM_POD => Some(Path::FromPod),
        LOCAL => Some(Path::Local),
        FROM_NODE => Some(Path::FromNode),
        _ => None,
    }
}

/// `mark` with our bits saying `verdict`.
#[must_use]
pub fn with_verdict(mark: u32, verdict: Mark) -> u32 {
    let ours = match verdict {
        Mark::Once => ONCE,
        Mark::Established => ESTABLISHED,
    };
    (mark & !MASK) | ours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_paths_have_the_bits_of_their_queue() {
        for mark in (0..16).map(|n| n << 8) {
            let local = matches!(mark, FROM_POD | LOCAL | FROM_NODE);
            // 0x0700 is not in use.
            if mark != 0x0700 {
                assert_eq!(mark & LOCAL_QUEUE_MASK == LOCAL_QUEUE, local, "{mark:#x}");
            }
        }
    }

    #[test]
    fn a_verdict_keeps_the_bits_of_others() {
        assert_eq!(with_verdict(0xabcd_e4ef, Mark::Once), 0xabcd_e8ef);
        assert_eq!(path(0xffff_f5ff), Some(Path::Local));
        assert_eq!(path(ONCE), None);
    }
}
