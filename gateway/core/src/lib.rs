//! The gateway without its sockets: what happens to a packet ([`dataplane`]) and what it is judged
//! by ([`snapshot`], built by [`control`]).
//!
//! Packets, time and randomness are arguments. Threads share one [`Dataplane`]; each has a
//! [`Context`] of its own and loads the newest [`Snapshot`] once per batch.
//!
//! Pure: no socket, no clock, no file, no thread.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod account;
mod answer;
pub mod cache;
pub mod context;
pub mod control;
pub mod dataplane;
pub mod flow_table;
pub mod flows;
pub mod frame;
mod hash;
mod inner;
pub mod link;
pub mod nexthop;
pub mod owners;
pub mod psp;
pub mod replay;
pub mod snapshot;
#[cfg(test)]
mod testing;
pub mod track;
pub mod translation;
pub mod witness;

pub use account::Totals;
pub use cache::SharedCache;
pub use context::{Context, Event, FlowView};
pub use control::Control;
pub use dataplane::{Dataplane, Disposition};
pub use flows::Limits;
pub use frame::Frame;
pub use snapshot::{Side, Snapshot};
pub use witness::Witness;
