//! Identity on the TCP handshake: who makes a connection is proven, and policy has allowed it,
//! before a byte of payload passes.
//!
//! [`node`] is the enforcer beside the pods: it attaches HELLO, REPLY and CONFIRM to the segments
//! of its pods, judges those of others and takes them off again. [`transit`] is the gateway's part:
//! it checks what it can see of a handshake that passes through. docs/spec/handshake.md describes
//! the protocol.
//!
//! Pure: packets, time and randomness come in as arguments, packets and events go out. It touches
//! no socket, no clock and no file.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod admission;
pub mod bucket;
pub mod budget;
pub mod credentials;
mod freshness;
pub mod half_open;
pub mod hash;
mod judge;
pub mod keys;
mod names;
pub mod node;
mod packet;
mod question;
mod recent;
pub mod replay;
mod table;
mod transcript;
pub mod transit;

pub use freshness::{MAX_AGE, MAX_LEAD};
pub use transcript::Transcript;
