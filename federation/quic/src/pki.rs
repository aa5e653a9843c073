//! X.509-SVIDs with their keys, and requests for them.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use identity::{SpiffeId, TrustDomain, UnixMillis};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, KeyPair,
    PublicKeyData, SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use zeroize::Zeroizing;

use crate::{FileError, Pin, VerifyError, pem, read_secret, tls::provider, write_secret};

/// A certificate is valid this long before it is made, for clocks that are behind.
pub(crate) const CUSHION: Duration = Duration::from_secs(60);
/// Longest certificate signing request in bytes.
const MAX_REQUEST: usize = 2048;
/// Longest file of keys and certificates in bytes.
pub(crate) const MAX_FILE: u64 = 64 << 10;
/// The last second of the year 9999, the end of what a certificate can say.
const END_OF_TIME: u64 = 253_402_300_799;

/// Why a key or certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A root signs for its own trust domain only.
    #[error("the root of {root} signs nothing for {id}")]
    OtherDomain {
        /// The root's trust domain.
        root: TrustDomain,
        /// What was asked for.
        id: SpiffeId,
    },
    /// The request is not a PKCS#10 request whose signature holds.
    #[error("not a certificate signing request: {0}")]
    Request(String),
    /// The certificate is not a valid X.509-SVID, or not of the key at hand.
    #[error(transparent)]
    Svid(#[from] VerifyError),
    /// The private key cannot be encrypted.
    #[error("cannot encrypt the private key: {0}")]
    Encrypt(String),
    /// The signer that keeps the root's private key did not sign, or not with that key.
    #[error("the external signer does not sign: {0}")]
    Signer(String),
    /// What the signer shows as its public key cannot be a root's.
    #[error("the external signer's public key: {0}")]
    SignerKey(&'static str),
    /// Making a key or certificate failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The key cannot be used.
    #[error("cannot use the key: {0}")]
    Key(#[from] rustls::Error),
}

/// The SHA-256 of the public key in `request`, once its signature is known to hold.
pub(crate) fn request_key_hash(request: &[u8]) -> Result<[u8; 32], PkiError> {
    Ok(Pin::of(&requested_key(request)?.subject_public_key_info()).0)
}

pub(crate) fn requested_key(request: &[u8]) -> Result<rcgen::PublicKey, PkiError> {
    if request.len() > MAX_REQUEST {
        return Err(PkiError::Request(format!(
            "{} bytes, at most {MAX_REQUEST} are allowed",
            request.len()
        )));
    }
    CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))
        .map(|request| request.public_key)
        .map_err(|e| PkiError::Request(e.to_string()))
}

/// A private key that waits for its certificate. The key never leaves this machine.
pub struct SvidRequest {
    key: KeyPair,
    request: Vec<u8>,
}

impl SvidRequest {
    /// A new key and the PKCS#10 request that proves its possession.
    ///
    /// # Errors
    /// [`PkiError::Make`] when no randomness is to be had.
    pub fn generate() -> Result<Self, PkiError> {
        Self::for_key(KeyPair::generate()?)
    }

    fn for_key(key: KeyPair) -> Result<Self, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject("X.509-SVID request");
        let request = params.serialize_request(&key)?.der().to_vec();
        Ok(Self { key, request })
    }

    /// The request whose key is in the file `path`, or a new one that is stored there: a secret
    /// that was spent on this key can be spent on it again when the answer was lost.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn load_or_generate(path: &Path) -> Result<Self, PkiError> {
        if let Some(stored) = read_secret(path, MAX_FILE)? {
            let (key, _) = pem::read(path, &stored, None)?;
            return Self::for_key(KeyPair::try_from(&key)?);
        }
        let request = Self::generate()?;
        write_secret(
            path,
            &pem::write(Some(request.key.serialized_der()), &[], None)?,
        )?;
        Ok(request)
    }

    /// The request in DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.request
    }

    /// Takes the chain that was signed for this request.
    ///
    /// # Errors
    /// [`PkiError::Svid`] when the leaf is no X.509-SVID or of another key.
    pub fn finish(self, chain: Vec<Vec<u8>>) -> Result<Svid, PkiError> {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Svid::new(chain, &self.key)
    }
}

/// An X.509-SVID with its private key: who this process is on QUIC.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    not_before: UnixMillis,
    expires_at: UnixMillis,
    pub(crate) certified: Arc<CertifiedKey>,
    key: Arc<Zeroizing<Vec<u8>>>,
}

impl Svid {
    pub(crate) fn new(
        chain: Vec<CertificateDer<'static>>,
        key: &KeyPair,
    ) -> Result<Self, PkiError> {
        let leaf = svid::inspect(chain.first().ok_or(VerifyError::NoCertificate)?)?;
        if leaf.public_key != key.subject_public_key_info() {
            return Err(VerifyError::KeyMismatch.into());
        }
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Self {
            id: leaf.id,
            not_before: leaf.not_before,
            expires_at: leaf.expires_at,
            certified: Arc::new(CertifiedKey::from_der(chain, der, &provider())?),
            key: Arc::new(Zeroizing::new(key.serialize_der())),
        })
    }

    /// One that somebody else issued: its chain in DER, leaf first, and its private key in PKCS#8.
    ///
    /// # Errors
    /// [`PkiError`] when the leaf is no X.509-SVID or of another key.
    pub fn received(chain: &[Vec<u8>], key: &[u8]) -> Result<Self, PkiError> {
        let chain = chain.iter().cloned().map(CertificateDer::from).collect();
        let key = KeyPair::try_from(&PrivatePkcs8KeyDer::from(key))?;
        Self::new(chain, &key)
    }

    /// The SVID in the file `path`. `None` when there is no such file.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn load(path: &Path) -> Result<Option<Self>, PkiError> {
        let Some(stored) = read_secret(path, MAX_FILE)? else {
            return Ok(None);
        };
        let (key, chain) = pem::read(path, &stored, None)?;
        Self::new(chain, &KeyPair::try_from(&key)?).map(Some)
    }

    /// Stores key and chain in the file `path`, mode 0600, atomically.
    ///
    /// # Errors
    /// [`PkiError::File`].
    pub fn store(&self, path: &Path) -> Result<(), PkiError> {
        let chain: Vec<&CertificateDer<'_>> = self.certified.cert.iter().collect();
        Ok(write_secret(
            path,
            &pem::write(Some(&self.key), &chain, None)?,
        )?)
    }

    /// Who it names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The begin of its validity.
    #[must_use]
    pub fn not_before(&self) -> UnixMillis {
        self.not_before
    }

    /// The end of its validity.
    #[must_use]
    pub fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// Chain and key, for what else of this process proves itself by TLS.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The chain in DER, the leaf first.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.certified.cert.iter().map(AsRef::as_ref)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Svid({} until {})", self.id, self.expires_at)
    }
}

pub(crate) fn params(not_before: UnixMillis, not_after: UnixMillis) -> CertificateParams {
    // The epoch plus at most the seconds up to 9999: within what the type can hold.
    let at =
        |secs: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs.min(END_OF_TIME));
    let mut params = CertificateParams::default();
    params.not_before = at(not_before.as_secs().saturating_sub(CUSHION.as_secs()));
    params.not_after = at(not_after.as_secs());
    params
}

pub(crate) fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Landbridge");
    // X.520 allows 64 characters; the identity is in the URI SAN.
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    name
}

pub(crate) fn uri(id: &str) -> Result<SanType, PkiError> {
    Ok(SanType::URI(id.try_into()?))
}

pub(crate) fn content(path: &Path, problem: String) -> PkiError {
    PkiError::Content {
        path: path.display().to_string(),
        problem,
    }
}
