//! From what clusters, nodes and operators say to what the data plane decides by.
#![allow(missing_docs, clippy::unwrap_used)]

mod inputs;
mod tunnel;
mod world;
