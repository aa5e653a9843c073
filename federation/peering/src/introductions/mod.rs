//! How members make others known to each other: a cluster signs, for each of its peers, the list of
//! those that it introduces to it; whoever gets one judges it by what its operator allows.
//! docs/spec/membership.md.
//!
//! An introduction says one thing: this root belongs to that name. The two then speak with each other
//! as any peers do, and whoever introduced them speaks for neither.

mod judge;
mod list;

pub use judge::{Accepting, Changes, Pending, Refused, Rules, Said, accept, judge, refuse};
pub use list::{Introduced, Introduction, MAX_INTRODUCED, MAX_LIFE, MIN_LIFE};
pub(crate) use list::{ListError, MAX_ROOTS, Opened, open, sign, stored};
