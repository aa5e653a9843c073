//! Bytes and their meaning: packets, tunnel headers and the messages of the handshake.
//!
//! A view borrows bytes that were checked when it was made; what it hands out was inside the
//! checked lengths. Every input is hostile: no parser panics, allocates by an unchecked length, or
//! walks a chain without a bound.
//!
//! Pure: no socket, no clock, no randomness, no dependency on what an identity or a policy is.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bytes;
pub mod checksum;
pub mod confirm;
pub mod edit;
mod error;
pub mod ethernet;
pub mod flow;
pub mod hello;
pub mod icmp;
pub mod inplace;
pub mod ip;
pub mod marker;
pub mod psp;
pub mod reply;
pub mod tcp;
pub mod translate;
pub mod udp;
pub mod vxlan;

pub use error::ParseError;
