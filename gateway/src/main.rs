//! The gateway of a cluster.
fn main() {}
