//! SPIFFE bundle endpoints (SPIFFE Federation, sections 4 and 5): the bundle of a trust domain served
//! over HTTPS, and those of others fetched. It moves bundles and judges nothing but the certificate of
//! who serves one, by exactly the profile that was configured. What becomes of a bundle is
//! `identity`'s and the caller's affair.
//!
//! * [`Server`]: one bundle at one path, by `https_spiffe` or `https_web`.
//! * [`fetch`]: one bundle from one [`EndpointUrl`] by one [`Profile`]; [`Poller`] does so for ever.
//!
//! docs/bundle-endpoints.md is for operators.

mod certificate;
mod error;
mod fetch;
mod places;
mod poll;
mod profile;
mod serve;
mod tls;
mod url;

pub use certificate::{Certificate, CertificateError, WebCertificate};
pub use error::{FetchError, Problem};
pub use fetch::{FetchLimits, fetch};
pub use poll::{Failure, Fetched, PollState, Poller};
pub use profile::{Profile, WebRoots};
pub use serve::{Counters, EndpointPath, PathError, ServeLimits, Server};
pub use url::{EndpointUrl, UrlError};
