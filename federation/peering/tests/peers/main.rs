//! Two and three gateways in virtual time.
#![allow(clippy::unwrap_used, missing_docs)]

mod chaos;
mod differences;
mod exchange;
mod introduced;
mod net;
mod revoked;
mod rotated;
mod rules;
mod sequences;
mod services;
mod tunnel;
