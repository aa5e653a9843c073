//! Who is talking: SPIFFE IDs, labels, workload credentials, trust bundles and the prefixes whose
//! addresses must prove an identity.
//!
//! Pure: no socket, no clock, no global state. Time and randomness are arguments.

mod away;
mod backoff;
mod bundle;
mod bundle_store;
mod cbor;
mod claims;
mod claims_cbor;
mod cose;
mod credential;
pub mod fault;
mod fetched;
mod guesses;
mod issuer_key;
mod jwks;
mod labels;
mod limits;
mod networks;
mod record;
mod signed;
mod spiffe;
mod time;
mod verify_error;
mod workload;

#[cfg(test)]
mod testing;

pub use away::{AwayError, AwayLimit, AwayRule, AwayThen};
pub use backoff::Backoff;
pub use bundle::{BundleParseError, MAX_BUNDLE, MAX_CARRIED_LABELS, MAX_KEYS, TrustBundle};
pub use bundle_store::{BundleChange, BundleError, BundleMark, BundleStore, MAX_DOMAINS};
pub use claims::{Assurance, Claims, NamedPort};
pub use credential::{
    CredentialHash, IAT_CUSHION, IssueError, MAX_CREDENTIAL, MAX_LIFETIME, SignedCredential,
    claimed_issuer, claimed_key, verify_credential,
};
pub use fetched::{AcceptError, Accepted, FetchedBundle, FetchedMark};
pub use guesses::Guesses;
pub use issuer_key::{IssuerKey, IssuerPublicKey, KeyError, KeyId};
pub use labels::{LabelError, Labels, is_dns_subdomain};
pub use limits::{
    ClaimLimits, ClaimViolation, LabelLimit, MAX_PATTERNS, NamePattern, PatternError,
};
pub use networks::{IdentityNetworks, IdentityRange, NetworksError, RangeAddress, same_offset};
pub use record::{MAX_RECORD, PodChange, PodRecord, SignedRecord, VerifiedRecord};
pub use signed::{MAX_SIGNED, unproven_payload};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
pub use time::{Mono, Now, UnixMillis};
pub use verify_error::VerifyError;
pub use workload::Workload;
