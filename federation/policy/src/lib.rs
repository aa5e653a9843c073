//! What may talk to what: rules, tiers and selectors, compiled to one table and decided on proven
//! identities. The same `decide` answers the data plane, `explain`, `policy check` and the digest.
//!
//! Pure: no socket, no clock, no Kubernetes. Sources translate their objects into [`model`],
//! [`compile`] turns a [`model::PolicySet`] into a [`Table`], and [`Table::decide`] judges a
//! [`Query`]. `docs/policy.md` tells operators the same in their words.

mod anchor;
mod canonical;
mod compile;
mod cover;
mod decide;
mod digest;
mod explain;
pub mod expression;
mod held;
mod index;
mod labels;
pub mod model;
mod offered;
mod order;
mod query;
mod reason;
mod seen;
mod selector;
mod shadow;
mod shared;
mod verdict;
mod words;

pub use canonical::{CompileError, Problem, check};
pub use compile::{Table, compile};
pub use explain::{Explanation, Outcome, Step};
pub use held::canonical_order;
pub use offered::OfferedPart;
pub use query::{KnownKeys, Peer, Query};
pub use reason::DropReason;
pub use seen::Pair;
pub use selector::{Matcher, selected};
pub use shadow::Shadowed;
pub use verdict::{Decision, RuleName, RuleRef, Staged, Verdict};
