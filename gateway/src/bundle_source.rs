//! Where the roots of a peer's trust domain are published, as a configuration says it
//! (docs/bundle-endpoints.md).

use anyhow::{Context, bail};
use bundle_endpoint::{EndpointUrl, WebRoots};
use identity::{FetchedBundle, SpiffeId};
use sources::crd::{BundleEndpointSpec, BundleProfileWord};

/// A bundle endpoint, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleSource {
    /// Where.
    pub url: EndpointUrl,
    /// By what the server is believed.
    pub by: Believed,
}

/// By what the server of a bundle is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Believed {
    /// `https_spiffe`.
    Svid {
        /// Who serves it.
        server: SpiffeId,
        /// The roots of the server's trust domain until a bundle of it was fetched.
        first: Vec<Vec<u8>>,
    },
    /// `https_web`.
    Web(WebRoots),
}

impl BundleSource {
    /// Checks what is configured.
    ///
    /// # Errors
    /// Names the field, and what is wrong with it.
    pub fn new(spec: &BundleEndpointSpec) -> anyhow::Result<Self> {
        let url = spec.url.parse::<EndpointUrl>().context("url")?;
        let by = match (spec.profile, &spec.spiffe_id) {
            (BundleProfileWord::Spiffe, Some(id)) => {
                if spec.authorities.is_some() {
                    bail!("authorities: they are of https_web alone");
                }
                let server: SpiffeId = id.parse().context("spiffeId")?;
                let read = |text: &String| {
                    FetchedBundle::from_jwks(server.trust_domain().clone(), text)
                        .map(|bundle| bundle.x509_roots().to_vec())
                };
                let first = spec.bundle.as_ref().map(read).transpose();
                let first = first.context("bundle")?.unwrap_or_default();
                if spec.bundle.is_some() && first.is_empty() {
                    bail!("bundle: it has no root (no key of use x509-svid)");
                }
                Believed::Svid { server, first }
            }
            (BundleProfileWord::Spiffe, None) => {
                bail!("spiffeId: https_spiffe needs the SPIFFE ID of the server")
            }
            (BundleProfileWord::Web, _) => {
                if spec.spiffe_id.is_some() || spec.bundle.is_some() {
                    bail!("spiffeId, bundle: they are of https_spiffe alone");
                }
                let roots = spec.authorities.as_deref();
                Believed::Web(roots.map_or(WebRoots::System, |pem| WebRoots::Pem(pem.into())))
            }
        };
        Ok(Self { url, by })
    }
}
