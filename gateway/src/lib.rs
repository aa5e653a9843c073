//! The gateway of a cluster: queue threads between AF_XDP and the data plane, and the control side
//! that feeds them. The shell around `gateway_core`; it decides nothing.

pub mod bundle_source;
pub mod bundles;
pub mod capture;
pub mod clock;
pub mod config;
pub mod hub;
pub mod keys;
pub mod nexthops;
mod passphrase;
pub mod pipeline;
mod prepare;
mod program;
pub mod queue;
pub mod refusals;
mod root_map;
pub mod run;
pub mod secret;
pub mod signals;
mod signer;
mod signing;
mod start;
pub mod state;
pub mod unmounter;
mod workloads;

// A program whose checks can be switched off is none.
const _: () = assert!(
    !identity::fault::BUILT_IN,
    "a gateway must not have the feature `faults`"
);
