//! The node agent: takes the packets of this node's pods from the kernel, has them judged by
//! `handshake`, and carries the judgement out.
//!
//! Inputs and outputs only: what may pass is decided in `handshake` and `policy`. This crate owns
//! the firewall rules, the queues, the connection marks and the flow records of its node.
//!
//! One thread gives verdicts ([`packet_loop`]); everything else runs in one loop ([`control`]),
//! which turns what the source, the gateway and the kernel say into rules and snapshots.

pub mod ask;
pub mod capture;
pub mod clock;
pub mod config;
pub mod conntrack;
pub mod control;
pub mod enforcer;
pub mod explain;
pub mod fullness;
pub mod handled;
pub mod joined;
pub mod judge;
pub mod links;
pub mod local;
pub mod marks;
pub mod netlink;
pub mod packet_loop;
pub mod preflight;
pub mod records;
pub mod roots;
pub mod rules;
pub mod sender;
pub mod session;
pub mod snapshot;
pub mod tally;
pub mod workloads;

// A program whose checks can be switched off is none.
const _: () = assert!(
    !identity::fault::BUILT_IN,
    "an agent must not have the feature `faults`"
);
