//! QUIC sessions between the members of a cluster and between clusters: who is at the other end
//! is proven by X.509-SVIDs, and frames of bounded size go both ways. It moves bytes and decides
//! nothing: what a frame means is `peering`'s affair.
//!
//! * [`ClusterRoot`], [`Svid`], [`SvidRequest`]: a cluster's own certificate authority and what it
//!   signs, on disk readable by the owner alone; [`Signer`]: who keeps the root's private key instead.
//! * [`Trust`]: which roots speak for which trust domain; [`VerifyError`] says what was wrong.
//! * [`Endpoint`]: one UDP socket that dials and accepts; [`Session`]: one authenticated stream of
//!   frames; [`Enrolling`]: a machine without an SVID that asks for one; [`Joining`]: a cluster that
//!   asks to become a peer.
//! * [`preferred`], [`Backoff`]: what the owner of an endpoint needs to keep one session per peer.

mod accept;
mod dial;
mod duplicate;
mod endpoint;
mod enrol;
mod error;
mod exchange;
mod files;
mod frame;
mod gate;
mod join;
mod passphrase;
mod pem;
mod pki;
mod protocol;
mod renew;
mod root;
mod session;
mod signer;
mod tls;
mod trust;
mod verifier;

pub use accept::{Arrival, Refused, source_of};
pub use dial::Target;
pub use duplicate::{Facts, Preferred, preferred};
pub use endpoint::{Counters, Endpoint, Identity, Limits};
pub use enrol::{Credentials, EnrolError, Enrolling, enrol};
pub use error::SessionError;
pub use files::{FileError, read_secret, write_secret};
pub use frame::MAX_FRAME;
pub use gate::{Asked, EnrolGate, EnrolRefusal, SecretHash, Spent};
pub use identity::Backoff;
pub use join::{Joining, ask_to_join};
pub use passphrase::{Passphrase, read_seed, write_seed};
pub use pki::{PkiError, Svid, SvidRequest};
pub use protocol::{Protocol, agent_id, agent_node, gateway_id};
pub use renew::{half_life, renew};
pub use root::ClusterRoot;
pub use session::{Info, Instance, Receiver, Sender, Session};
pub use signer::{Signer, public_key};
pub use svid::{Pin, PinError, Verified, VerifyError};
pub use trust::{Anchor, Trust};
