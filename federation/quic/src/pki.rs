//! A cluster's own certificate authority: one root, and the X.509-SVIDs that it signs.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use identity::{SpiffeId, TrustDomain, UnixMillis};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{
    CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer,
};
use zeroize::Zeroizing;

use crate::{
    FileError, Passphrase, Pin, VerifyError, pem, read_secret, tls::provider, write_secret,
};

/// A certificate is valid this long before it is made, for clocks that are behind.
pub(crate) const CUSHION: Duration = Duration::from_secs(60);
/// Longest certificate signing request in bytes.
const MAX_REQUEST: usize = 2048;
/// Longest file of keys and certificates in bytes.
const MAX_FILE: u64 = 64 << 10;
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
    /// Making a key or certificate failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The key cannot be used.
    #[error("cannot use the key: {0}")]
    Key(#[from] rustls::Error),
}

/// The root certificate of a cluster with its private key.
pub struct ClusterRoot {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    expires_at: UnixMillis,
}

impl ClusterRoot {
    /// A new root for `trust_domain`: ECDSA on P-256, one level, its URI SAN the trust domain's ID.
    ///
    /// # Errors
    /// [`PkiError::Make`] when no randomness is to be had.
    pub fn generate(
        trust_domain: &TrustDomain,
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = params(now, now.after(validity));
        params.distinguished_name = subject(&format!("root of {trust_domain}"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.der().clone();
        Self::new(trust_domain, certificate, key)
    }

    fn new(
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
        key: KeyPair,
    ) -> Result<Self, PkiError> {
        let root = svid::inspect_root(&certificate, trust_domain)?;
        if root.public_key != key.subject_public_key_info() {
            return Err(VerifyError::KeyMismatch.into());
        }
        Ok(Self {
            trust_domain: trust_domain.clone(),
            issuer: Issuer::from_ca_cert_der(&certificate, key)?,
            expires_at: root.expires_at,
            certificate,
        })
    }

    /// The root in the file `path` (PEM, mode 0600), or a new one that is stored there. With a passphrase
    /// its private key is encrypted there, also when it was not before.
    ///
    /// # Errors
    /// [`PkiError`]; a file that cannot be used is never replaced.
    pub fn load_or_generate(
        path: &Path,
        trust_domain: &TrustDomain,
        passphrase: Option<&Passphrase>,
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Self, PkiError> {
        if let Some(root) = Self::load(path, trust_domain, passphrase)? {
            return Ok(root);
        }
        let root = Self::generate(trust_domain, now, validity)?;
        root.store(path, passphrase)?;
        Ok(root)
    }

    fn store(&self, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), PkiError> {
        let key = self.issuer.key().serialized_der();
        let text = pem::write(key, &[&self.certificate], passphrase)?;
        Ok(write_secret(path, &text)?)
    }

    /// The root in the file `path`. `None` when there is no such file. With a passphrase its private key is
    /// encrypted there from now on, if it was not.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn load(
        path: &Path,
        trust_domain: &TrustDomain,
        passphrase: Option<&Passphrase>,
    ) -> Result<Option<Self>, PkiError> {
        let Some(stored) = read_secret(path, MAX_FILE)? else {
            return Ok(None);
        };
        let (key, chain) = pem::read(path, &stored, passphrase)?;
        let [certificate] = <[CertificateDer<'static>; 1]>::try_from(chain)
            .map_err(|chain| content(path, format!("{} certificates, not one", chain.len())))?;
        let root = Self::new(trust_domain, certificate, KeyPair::try_from(&key)?)?;
        if passphrase.is_some() && !pem::is_encrypted(&stored) {
            root.store(path, passphrase)?;
        }
        Ok(Some(root))
    }

    /// Whose root it is.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificate in DER, as bundles carry it.
    #[must_use]
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// What an operator hands to a peer's operator.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin::of(&self.certificate)
    }

    /// When the root ends.
    #[must_use]
    pub fn expires_at(&self) -> UnixMillis {
        self.expires_at
    }

    /// An X.509-SVID for `id` with a new key. It ends with the root at the latest.
    ///
    /// # Errors
    /// [`PkiError::OtherDomain`] when `id` is not of this trust domain.
    pub fn issue(
        &self,
        id: &SpiffeId,
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Svid, PkiError> {
        let key = KeyPair::generate()?;
        let chain = self.sign(id, &key, now, validity)?;
        Svid::new(chain, &key)
    }

    /// Signs the request of somebody who proved to be `id`. Only its public key is taken; what it
    /// says of names and usages is ignored. The chain is the certificate, then the root.
    ///
    /// # Errors
    /// [`PkiError::Request`] when the request is malformed or its signature does not hold,
    /// [`PkiError::OtherDomain`] when `id` is not of this trust domain.
    pub fn sign_request(
        &self,
        id: &SpiffeId,
        request: &[u8],
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Vec<Vec<u8>>, PkiError> {
        let key = requested_key(request)?;
        let chain = self.sign(id, &key, now, validity)?;
        Ok(chain.into_iter().map(|der| der.to_vec()).collect())
    }

    fn sign(
        &self,
        id: &SpiffeId,
        key: &impl PublicKeyData,
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        if *id.trust_domain() != self.trust_domain {
            return Err(PkiError::OtherDomain {
                root: self.trust_domain.clone(),
                id: id.clone(),
            });
        }
        let mut params = params(now, now.after(validity).min(self.expires_at));
        params.distinguished_name = subject("X.509-SVID");
        params.subject_alt_names = vec![uri(&id.to_string())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer)?.der().clone();
        svid::inspect(&leaf)?;
        Ok(vec![leaf, self.certificate.clone()])
    }
}

/// The SHA-256 of the public key in `request`, once its signature is known to hold.
pub(crate) fn request_key_hash(request: &[u8]) -> Result<[u8; 32], PkiError> {
    Ok(Pin::of(&requested_key(request)?.subject_public_key_info()).0)
}

fn requested_key(request: &[u8]) -> Result<rcgen::PublicKey, PkiError> {
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

impl fmt::Debug for ClusterRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterRoot({}, {})", self.trust_domain, self.pin())
    }
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
        write_secret(path, &pem::write(request.key.serialized_der(), &[], None)?)?;
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
    fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<Self, PkiError> {
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
        Ok(write_secret(path, &pem::write(&self.key, &chain, None)?)?)
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

fn params(not_before: UnixMillis, not_after: UnixMillis) -> CertificateParams {
    // The epoch plus at most the seconds up to 9999: within what the type can hold.
    let at =
        |secs: u64| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(secs.min(END_OF_TIME));
    let mut params = CertificateParams::default();
    params.not_before = at(not_before.as_secs().saturating_sub(CUSHION.as_secs()));
    params.not_after = at(not_after.as_secs());
    params
}

fn subject(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Landbridge");
    // X.520 allows 64 characters; the identity is in the URI SAN.
    name.push(
        DnType::CommonName,
        common_name.chars().take(64).collect::<String>(),
    );
    name
}

fn uri(id: &str) -> Result<SanType, PkiError> {
    Ok(SanType::URI(id.try_into()?))
}

pub(crate) fn content(path: &Path, problem: String) -> PkiError {
    PkiError::Content {
        path: path.display().to_string(),
        problem,
    }
}
