//! X.509-SVIDs: what a certificate says of who it is, and whether a chain proves it by the roots of
//! one trust domain. TLS and QUIC ask here, and nobody else judges.
//!
//! Pure: no socket, no clock, no global state. Time is an argument.
//!
//! * [`Chain::read`] says who the leaf claims to be; the caller finds the roots of that trust domain
//!   and no other; [`Chain::verify`] judges.
//! * [`inspect`], [`inspect_root`]: what a single certificate says, for those who sign them.

mod certificate;
mod chain;
mod error;
mod pin;

pub use certificate::{Leaf, Root, inspect, inspect_root};
pub use chain::{Chain, Usage, Verified};
pub use error::VerifyError;
pub use pin::{Pin, PinError};
