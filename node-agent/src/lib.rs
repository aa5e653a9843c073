//! The node agent: takes the packets of this node's pods from the kernel, has them judged by
//! `handshake`, and carries the judgement out.
//!
//! Inputs and outputs only: what may pass is decided in `handshake` and `policy`. This crate owns
//! the firewall rules, the queues, the connection marks and the flow records of its node.

pub mod capture;
pub mod clock;
pub mod conntrack;
pub mod enforcer;
pub mod handled;
pub mod judge;
pub mod marks;
pub mod netlink;
pub mod packet_loop;
pub mod records;
pub mod rules;
pub mod sender;
pub mod tally;
