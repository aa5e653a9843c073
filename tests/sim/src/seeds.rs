//! What a seed means: a world, and what happens to it.

use std::time::Duration;

use crate::world::{Summary, World};

/// How long people, pods and machines do things.
const SPAN: Duration = Duration::from_secs(10);

/// Runs the world of `seed`.
///
/// # Panics
/// When an invariant is broken.
pub fn run(seed: u64) -> Summary {
    World::new(3, seed).run(SPAN)
}
