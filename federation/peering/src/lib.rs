//! What the members of a federation tell each other and their nodes: sans-IO state machines.
//!
//! Pure: no socket, no clock, no file. Messages, time and randomness are arguments.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod delta_log;
pub mod introductions;
pub mod issuer;
pub mod join;
pub mod key_ring;
pub mod member;
pub mod node_messages;
pub mod peer_messages;
pub mod peers;
pub mod records;
mod signatures;

pub use signatures::Signature;
