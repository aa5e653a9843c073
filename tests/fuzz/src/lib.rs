//! What the fuzzer does with its bytes: one function for every parser, for the frame pipeline, the
//! handshake and the codecs of peering.
//!
//! The functions are ordinary ones, so that the committed corpus is replayed by `cargo test` on a
//! stable compiler, and cargo-fuzz (`make fuzz`) calls the same ones.
#![allow(clippy::unwrap_used, reason = "a broken expectation is a finding")]

mod codecs;
mod handshakes;
mod manifests;
mod membership;
mod packets;
mod pipeline;
mod selectors;
mod signed;
mod steps;

// The two clusters that the tests of the data plane are made of.
#[path = "../../../gateway/core/tests/common/mod.rs"]
#[allow(missing_docs, unused, clippy::pedantic)]
mod world;

/// Something that takes bytes from strangers.
pub struct Target {
    /// Names its corpus and its program.
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
    /// Genuine inputs, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "packet",
        run: packets::packet,
        seeds: packets::packet_seeds,
    },
    Target {
        name: "edit",
        run: packets::edit,
        seeds: packets::packet_seeds,
    },
    Target {
        name: "messages",
        run: packets::messages,
        seeds: packets::message_seeds,
    },
    Target {
        name: "credential",
        run: signed::credential,
        seeds: signed::credential_seeds,
    },
    Target {
        name: "record",
        run: signed::record,
        seeds: signed::record_seeds,
    },
    Target {
        name: "bundle",
        run: signed::bundle,
        seeds: signed::bundle_seeds,
    },
    Target {
        name: "peer-message",
        run: codecs::peer,
        seeds: codecs::peer_seeds,
    },
    Target {
        name: "introductions",
        run: membership::introductions,
        seeds: membership::introduction_seeds,
    },
    Target {
        name: "returned",
        run: membership::returned,
        seeds: membership::returned_seeds,
    },
    Target {
        name: "node-message",
        run: codecs::node,
        seeds: codecs::node_seeds,
    },
    Target {
        name: "manifest",
        run: manifests::run,
        seeds: manifests::seeds,
    },
    Target {
        name: "selector",
        run: selectors::run,
        seeds: selectors::seeds,
    },
    Target {
        name: "handshake",
        run: handshakes::run,
        seeds: handshakes::seeds,
    },
    Target {
        name: "pipeline",
        run: pipeline::run,
        seeds: pipeline::seeds,
    },
];

/// The target called `name`.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn target(name: &str) -> &'static Target {
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| panic!("no target is called {name:?}"))
}
