//! rustls asks here whether to believe a certificate; [`Trust`] answers.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use identity::{TrustDomain, UnixMillis};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use svid::Usage;

use crate::{Trust, Verified, VerifyError, tls::provider};

/// What the verifier of one connection found: TLS hands on only text, and of a client nothing.
#[derive(Clone, Default)]
pub(crate) struct Outcome(Arc<Mutex<Option<Result<Verified, VerifyError>>>>);

impl Outcome {
    /// `None` when no certificate was looked at.
    pub(crate) fn take(&self) -> Option<Result<Verified, VerifyError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, result: Result<Verified, VerifyError>) -> Result<(), Error> {
        let told = match &result {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::InvalidCertificate(CertificateError::Other(
                OtherError(Arc::new(Spoken(e.clone()))),
            ))),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        told
    }
}

/// TLS tells the other end the `Debug` form of a refusal; this one's is the sentence.
#[derive(Clone, thiserror::Error)]
#[error("{0}")]
struct Spoken(VerifyError);

impl fmt::Debug for Spoken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Judges the server that was dialled.
pub(crate) struct ServerVerifier {
    pub trust: Trust,
    pub expected: TrustDomain,
    pub outcome: Outcome,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .trust
            .verify(leaf, rest, Usage::Server, millis(now))
            .and_then(|verified| {
                if *verified.id.trust_domain() == self.expected {
                    Ok(verified)
                } else {
                    Err(VerifyError::OtherDomain {
                        expected: self.expected.clone(),
                        found: verified.id,
                    })
                }
            });
        self.outcome.note(verified)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

/// Judges a client that dialled.
pub(crate) struct ClientVerifier {
    pub trust: Trust,
    /// Off only where somebody may enrol; the protocols that need a certificate then ask for it
    /// once the protocol is known.
    pub mandatory: bool,
    pub outcome: Outcome,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.outcome
            .note(self.trust.verify(leaf, rest, Usage::Client, millis(now)))?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

fn tls13_signature(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = provider().signature_verification_algorithms;
    verify_tls13_signature(message, leaf, signature, &algorithms)
}

fn schemes() -> Vec<SignatureScheme> {
    provider()
        .signature_verification_algorithms
        .supported_schemes()
}

fn only_tls13() -> Error {
    Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic)
}

fn millis(now: UnixTime) -> UnixMillis {
    UnixMillis::from_secs(now.as_secs())
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerVerifier({})", self.expected)
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientVerifier")
    }
}
