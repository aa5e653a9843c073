//! What may talk to what: rules, tiers and selectors, compiled to one table and decided on proven
//! identities. The same `decide` answers the data plane, `explain`, `policy check` and the digest.
//!
//! Pure: no socket, no clock, no Kubernetes. Sources translate their objects into [`model`].

pub mod model;
mod reason;

pub use reason::DropReason;
