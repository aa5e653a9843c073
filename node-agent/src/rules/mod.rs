//! The firewall rules of this node: generated from a [`RuleSet`] by pure functions, applied as one
//! transaction.
//!
//! ```text
//! prerouting -310  ours   source check; rate limit; marks a pod's SYN or our option for the queue
//! prerouting -300  raw    one static rule per queue: marked packets go to NFQUEUE
//! prerouting -290  ours   drops what is marked and was not judged
//! prerouting -200         connection tracking: sees what the agent stripped
//! prerouting -100         destination translation, of others
//! postrouting -160 ours   passes what the connection mark allows, marks the rest for the queue
//! postrouting -150 mangle the same static rules
//! postrouting -140 ours   copies the verdict to the connection mark; drops what has none
//! postrouting   90 ours   binds the pod's own source before others masquerade
//! ```
//!
//! `input` has the same three steps as `postrouting`, for what a pod sends to its node. This
//! kernel may lack nft's own `queue`, hence the static rules by `iptables-nft`; they and the nft
//! table cannot change in one transaction, so the table, which drops what was not judged, comes
//! first and goes last.

pub mod apply;
mod delta;
mod model;
pub mod statics;
mod text;
pub mod watch;

pub use delta::delta;
pub use model::{LinkName, LinkNameError, PodPort, RateLimits, RuleSet};
pub use text::{COUNTERS, CounterValues, TABLE, install, remove};
