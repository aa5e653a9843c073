//! TLS of the two profiles: one provider, TLS 1.2 and 1.3 as SPIFFE Federation, section 5.2, asks for,
//! nothing resumed, no certificate of a client.

use std::{
    fmt, fs, io,
    path::Path,
    sync::{Arc, LazyLock},
};

use identity::{SpiffeId, UnixMillis};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    server::{NoServerSessionStorage, ResolvesServerCert},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use svid::{Chain, Usage, VerifyError};

use crate::{Problem, Profile, WebRoots};

/// Longest file of roots in bytes: several times what a system has.
const MAX_ROOTS: u64 = 4 << 20;

static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
static VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The one provider of cryptography.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    PROVIDER.clone()
}

/// For all connections of a server.
pub(crate) fn server(certificate: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Who comes again sees the certificate of that time.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// For one connection by `profile`. Reads files of roots.
pub(crate) fn client(profile: &Profile) -> Result<ClientConfig, Problem> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(|e| Problem::Tls(e.to_string()))?;
    let mut config = match profile {
        Profile::Spiffe { endpoint, roots } => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(EndpointVerifier {
                endpoint: endpoint.clone(),
                roots: roots.borrow().clone(),
            }))
            .with_no_client_auth(),
        Profile::Web { roots } => builder
            .with_root_certificates(web_roots(roots).map_err(Problem::NoWebRoots)?)
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would not be judged again.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn web_roots(roots: &WebRoots) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    let certificates = match roots {
        WebRoots::System => {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
                return Err(format!("this system has none ({})", errors.join("; ")));
            }
            found.certs
        }
        WebRoots::File(path) => {
            let named = |e: String| format!("{}: {e}", path.display());
            let pem = read_bounded(path, MAX_ROOTS).map_err(|e| named(e.to_string()))?;
            certificates_of(&pem).map_err(named)?
        }
        WebRoots::Pem(text) => {
            certificates_of(text.as_bytes()).map_err(|e| format!("the authorities: {e}"))?
        }
    };
    // A root of the system that is of no use does no harm; all of them, and nothing can be judged.
    let (added, _) = store.add_parsable_certificates(certificates);
    match (added, roots) {
        (0, WebRoots::File(path)) => Err(format!("{}: no certificate in it", path.display())),
        (0, WebRoots::Pem(_)) => Err("the authorities: no certificate among them".into()),
        (0, WebRoots::System) => Err("none of this system's can be used".into()),
        _ => Ok(store),
    }
}

fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.map_err(|e| e.to_string())
}

/// The whole file, unless it is longer than `most` bytes.
pub(crate) fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    if length > most {
        let why = format!("{length} bytes, at most {most} are read");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
    }
    fs::read(path)
}

/// What a failed handshake says of the server.
pub(crate) fn problem(error: &io::Error, profile: &Profile) -> Problem {
    let tls = error.get_ref().and_then(|e| e.downcast_ref::<Error>());
    match (tls, profile) {
        (Some(Error::InvalidCertificate(CertificateError::Other(OtherError(why)))), _) => {
            match why.downcast_ref::<VerifyError>() {
                Some(why) => Problem::Untrusted(why.clone()),
                None => Problem::Tls(why.to_string()),
            }
        }
        (Some(Error::InvalidCertificate(why)), Profile::Web { .. }) => {
            Problem::NotOfTheWeb(why.to_string())
        }
        _ => Problem::Tls(error.to_string()),
    }
}

/// `https_spiffe`: believes the X.509-SVID of one ID, by the roots of its trust domain.
struct EndpointVerifier {
    endpoint: SpiffeId,
    roots: Arc<Vec<Vec<u8>>>,
}

impl EndpointVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), VerifyError> {
        let chain = Chain::read(leaf, rest)?;
        // First: the roots are those of this ID's trust domain, and judge no other.
        if *chain.id() != self.endpoint {
            return Err(VerifyError::OtherId {
                expected: self.endpoint.clone(),
                found: chain.id().clone(),
            });
        }
        let now = UnixMillis::from_secs(now.as_secs());
        chain.verify(&self.roots, Usage::Server, now)?;
        Ok(())
    }
}

impl ServerCertVerifier for EndpointVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, rest, now).map_err(|why| {
            Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls12_signature(message, leaf, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = provider().signature_verification_algorithms;
        verify_tls13_signature(message, leaf, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl fmt::Debug for EndpointVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EndpointVerifier({})", self.endpoint)
    }
}
