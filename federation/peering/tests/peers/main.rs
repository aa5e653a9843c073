//! Two and three gateways in virtual time.
#![allow(clippy::unwrap_used, missing_docs)]

mod away;
mod chaos;
mod differences;
mod exchange;
mod introduced;
mod net;
mod offers;
mod restored;
mod revoked;
mod roots_elsewhere;
mod rotated;
mod rules;
mod sequences;
mod services;
mod tunnel;
