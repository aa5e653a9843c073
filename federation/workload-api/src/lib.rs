//! A SPIFFE Workload API as the issuer of X.509-SVIDs: who this process is, and the roots of its own trust
//! domain, followed for as long as it runs. The Workload API is that of SPIRE's agent, or of whatever else
//! serves it on a Unix socket.
//!
//! What it says is taken for one ID alone, the one that this process must have, and of one trust domain
//! alone, its own. Roots of other trust domains that it federates with are not looked at: peers are believed
//! by their bundles, and by nothing else.
//!
//! * [`Socket`]: where it is; [`Wanted`]: what is wanted of it.
//! * [`follow`]: asks again and again; [`Following`]: what it said last, and what is wrong.
//! * [`Issued`]: an X.509-SVID that its own roots prove.

mod follow;
mod issued;
mod socket;

pub use follow::{Following, Standing, follow};
pub use issued::{Issued, Offer, Refusal, Wanted};
pub use socket::{Socket, SocketError};
