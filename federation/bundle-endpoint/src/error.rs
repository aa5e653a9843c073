//! Why a bundle was not had, in sentences for the operator.

use std::io;

use identity::{BundleParseError, MAX_BUNDLE};
use svid::VerifyError;

/// A bundle that was not had.
#[derive(Debug, thiserror::Error)]
#[error("{url} ({profile}): {problem}")]
pub struct FetchError {
    /// Where it was to be had.
    pub url: String,
    /// The name of the profile by which it was asked for.
    pub profile: &'static str,
    /// What went wrong.
    pub problem: Box<Problem>,
}

/// What went wrong with a fetch, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No address for the host.
    #[error("the host has no address: {0}. Check its name and this machine's resolver")]
    NoAddress(String),
    /// No TCP connection.
    #[error("no connection: {0}. Check that the endpoint runs and that no firewall is between")]
    Unreachable(io::Error),
    /// `https_spiffe`: the server is not who was configured.
    #[error(
        "the server is not believed: {0}. Check the SPIFFE ID of the endpoint and the bundle of its trust domain; no other profile is tried"
    )]
    Untrusted(VerifyError),
    /// `https_web`: the server is not who was dialled.
    #[error(
        "the server is not believed: {0}. Check its certificate and the roots of the Web PKI that are used here; no other profile is tried"
    )]
    NotOfTheWeb(String),
    /// There are no roots of the Web PKI.
    #[error("no roots of the Web PKI: {0}. Install the system's CA certificates or name a file")]
    NoWebRoots(String),
    /// TLS failed for another reason.
    #[error("TLS failed: {0}. Check that it is an HTTPS endpoint with TLS 1.2 or 1.3")]
    Tls(String),
    /// It took too long.
    #[error("{0} took more than {1} s. Check the endpoint and the way to it")]
    Slow(&'static str, u64),
    /// No HTTP.
    #[error("no answer by HTTP/1.1: {0}. Check that the URL is that of the bundle endpoint")]
    Http(String),
    /// Redirects are not followed: SPIFFE Federation, section 7.5.1.
    #[error(
        "status {status} points to {to:?}, and redirects are not followed. Configure the address itself, if it is to be trusted"
    )]
    Redirect {
        /// The status.
        status: u16,
        /// `Location`, shortened.
        to: String,
    },
    /// A status that is not 200.
    #[error("status {0} instead of a bundle. Check the path of the URL")]
    Status(u16),
    /// More than a bundle may have.
    #[error("more than {MAX_BUNDLE} bytes, which no bundle has. Check the path of the URL")]
    TooLarge,
    /// No JWK set.
    #[error("the answer is no bundle: {0}. Check the path of the URL, and tell its operator")]
    NoBundle(#[from] BundleParseError),
    /// Not even text.
    #[error("the answer is no UTF-8. Check the path of the URL")]
    NoText,
}
