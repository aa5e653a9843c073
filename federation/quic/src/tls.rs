//! TLS as every endpoint uses it: one provider, version 1.3 alone, nothing resumed.

use std::sync::{Arc, LazyLock};

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{
    Protocol,
    verifier::{ClientVerifier, ServerVerifier},
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// Why TLS cannot be configured. None of it depends on what a peer sends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Suite(#[from] NoInitialCipherSuite),
}

/// For one outgoing connection. `own` is `None` only to enrol.
pub(crate) fn client(
    own: Option<Arc<CertifiedKey>>,
    protocol: Protocol,
    verifier: ServerVerifier,
) -> Result<QuicClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    // A resumed session would not be verified again, and early data could be replayed.
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config.try_into()?)
}

/// For one incoming connection.
pub(crate) fn server(
    own: Arc<CertifiedKey>,
    protocols: &[Protocol],
    verifier: ClientVerifier,
) -> Result<QuicServerConfig, ConfigError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = protocols.iter().map(|p| p.alpn().to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config.try_into()?)
}
