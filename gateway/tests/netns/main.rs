//! The gateway on a real kernel, in network namespaces that these tests make and remove. They need
//! root.

#![allow(clippy::unwrap_used)]

mod api_server;
mod bundles;
mod disk;
mod ending;
mod fetched;
#[path = "../../../tests/peers/kubernetes.rs"]
mod kubernetes;
mod meeting;
mod namespaces;
mod nexthops;
mod peers;
mod refused;
mod restored;
mod rights;
mod secret;
mod signer;
mod workloads;
mod world;
