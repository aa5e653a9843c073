//! With what a server proves itself, and how that is replaced while it runs.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use svid::Pin;
use tokio::{task::spawn_blocking, time::sleep};
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::tls::{provider, read_bounded};

/// Longest file of a certificate or key in bytes.
const MAX_FILE: u64 = 256 << 10;

/// The certificate of a server, by its profile.
#[derive(Clone)]
pub enum Certificate {
    /// `https_spiffe`: says the current X.509-SVID with its key, asked for each connection.
    Svid(Arc<dyn Fn() -> Arc<CertifiedKey> + Send + Sync>),
    /// `https_web`: files of a certificate of the Web PKI.
    Web(WebCertificate),
}

/// Why files are no certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct CertificateError {
    path: PathBuf,
    problem: String,
}

/// A certificate chain and its private key in two PEM files, read again when they change.
#[derive(Clone)]
pub struct WebCertificate {
    certificate: PathBuf,
    key: PathBuf,
    current: Arc<RwLock<Current>>,
}

struct Current {
    certified: Arc<CertifiedKey>,
    /// Of both files as they were read.
    files: [Pin; 2],
}

impl Certificate {
    /// As the standard and the configuration call the profile.
    #[must_use]
    pub fn profile(&self) -> &'static str {
        match self {
            Self::Svid(_) => "https_spiffe",
            Self::Web(_) => "https_web",
        }
    }

    pub(crate) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Resolver(self.clone()))
    }
}

impl WebCertificate {
    /// Reads the chain, leaf first, and its key.
    ///
    /// # Errors
    /// [`CertificateError`] names the file and what is wrong with it.
    pub fn load(certificate: PathBuf, key: PathBuf) -> Result<Self, CertificateError> {
        let current = Arc::new(RwLock::new(read(&certificate, &key)?));
        Ok(Self {
            certificate,
            key,
            current,
        })
    }

    /// Looks at the files every `pause` and takes what changed. What cannot be used, such as a key
    /// that is not yet of the new certificate, is told once and leaves the one before in use.
    pub(crate) async fn keep_fresh(&self, pause: Duration) -> ! {
        let mut told = None;
        loop {
            sleep(pause).await;
            let this = self.clone();
            let read = spawn_blocking(move || read(&this.certificate, &this.key));
            let error = match read.await {
                Ok(Ok(read)) => {
                    self.take(read);
                    None
                }
                Ok(Err(error)) => Some(error),
                Err(_) => continue,
            };
            if error != told
                && let Some(error) = &error
            {
                warn!("the certificate before stays in use: {error}");
            }
            told = error;
        }
    }

    fn take(&self, read: Current) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.files != read.files {
            *current = read;
            info!(file = %self.certificate.display(), "certificate replaced");
        }
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.certified.clone()
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Current, CertificateError> {
    let at = |path: &Path, problem: String| CertificateError {
        path: path.to_owned(),
        problem,
    };
    let bytes = |path: &Path| {
        read_bounded(path, MAX_FILE)
            .map(Zeroizing::new)
            .map_err(|e| at(path, e.to_string()))
    };
    let (chain_pem, key_pem) = (bytes(certificate)?, bytes(key)?);
    let chain = CertificateDer::pem_slice_iter(&chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| at(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(at(certificate, "no certificate in it".into()));
    }
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|e| at(key, e.to_string()))?;
    let certified = CertifiedKey::from_der(chain, private, &provider())
        .map_err(|e| at(key, format!("{e}, with {}", certificate.display())))?;
    Ok(Current {
        certified: Arc::new(certified),
        files: [Pin::of(&chain_pem), Pin::of(&key_pem)],
    })
}

struct Resolver(Certificate);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(match &self.0 {
            Certificate::Svid(current) => current(),
            Certificate::Web(files) => files.certified(),
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolver({})", self.0.profile())
    }
}
