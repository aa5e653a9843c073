//! Who is talking: SPIFFE IDs, labels, workload credentials, trust bundles and the prefixes whose
//! addresses must prove an identity.
//!
//! Pure: no socket, no clock, no global state. Time and randomness are arguments.

mod claims;
mod labels;
mod networks;
mod spiffe;
mod time;
mod workload;

pub use claims::{Assurance, Claims, NamedPort};
pub use labels::{LabelError, Labels};
pub use networks::{IdentityNetworks, IdentityRange, NetworksError, RangeAddress};
pub use spiffe::{SpiffeError, SpiffeId, TrustDomain};
pub use time::{Mono, Now, UnixMillis};
pub use workload::Workload;
