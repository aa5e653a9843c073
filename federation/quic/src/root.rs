//! A cluster's own certificate authority: one root, and the X.509-SVIDs that it signs.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use identity::{SpiffeId, TrustDomain, UnixMillis};
use rcgen::{
    BasicConstraints, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls_pki_types::CertificateDer;

use crate::{
    Passphrase, Pin, PkiError, Signer, Svid, VerifyError, pem,
    pki::{MAX_FILE, content, params, requested_key, subject, uri},
    read_secret,
    signer::RootKey,
    write_secret,
};

/// The root certificate of a cluster, and its private key or who signs by it.
pub struct ClusterRoot {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    key: RootKey,
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
        Self::make(
            trust_domain,
            RootKey::Held(KeyPair::generate()?),
            now,
            validity,
        )
    }

    /// The same for the public key `public`, DER of its SubjectPublicKeyInfo, whose private key `signer`
    /// keeps: ECDSA on P-256, or on P-384.
    ///
    /// # Errors
    /// [`PkiError::SignerKey`] when the key is of another kind, [`PkiError::Signer`] when it does not sign
    /// by it.
    pub fn certify(
        trust_domain: &TrustDomain,
        public: &[u8],
        signer: Arc<dyn Signer>,
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Self, PkiError> {
        let key = RootKey::elsewhere(public, signer)?;
        Self::make(trust_domain, key, now, validity)
    }

    fn make(
        trust_domain: &TrustDomain,
        key: RootKey,
        now: UnixMillis,
        validity: Duration,
    ) -> Result<Self, PkiError> {
        let mut params = params(now, now.after(validity));
        params.distinguished_name = subject(&format!("root of {trust_domain}"));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = key.sign(|key| params.self_signed(&key))?.der().clone();
        Self::new(trust_domain, certificate, key)
    }

    fn new(
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
        key: RootKey,
    ) -> Result<Self, PkiError> {
        let root = svid::inspect_root(&certificate, trust_domain)?;
        if root.public_key != key.public_key() {
            return Err(VerifyError::KeyMismatch.into());
        }
        Ok(Self {
            trust_domain: trust_domain.clone(),
            key,
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
        if let Some(root) = Self::load(path, trust_domain, passphrase, None)? {
            return Ok(root);
        }
        let root = Self::generate(trust_domain, now, validity)?;
        root.store(path, passphrase)?;
        Ok(root)
    }

    /// Stores it in the file `path`, mode 0600: the certificate, and the private key if it is held here.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn store(&self, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), PkiError> {
        let key = self.key.held().map(KeyPair::serialized_der);
        let text = pem::write(key, &[&self.certificate], passphrase)?;
        Ok(write_secret(path, &text)?)
    }

    /// The root in the file `path`. `None` when there is no such file. With a passphrase its private key is
    /// encrypted there from now on, if it was not. `signer` signs for one whose private key is not there.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn load(
        path: &Path,
        trust_domain: &TrustDomain,
        passphrase: Option<&Passphrase>,
        signer: Option<Arc<dyn Signer>>,
    ) -> Result<Option<Self>, PkiError> {
        let Some(stored) = read_secret(path, MAX_FILE)? else {
            return Ok(None);
        };
        let (key, chain) = pem::read_any(path, &stored, passphrase)?;
        let [certificate] = <[CertificateDer<'static>; 1]>::try_from(chain)
            .map_err(|chain| content(path, format!("{} certificates, not one", chain.len())))?;
        let held = key.is_some();
        let key = match (key, signer) {
            (Some(key), _) => RootKey::Held(KeyPair::try_from(&key)?),
            (None, Some(signer)) => {
                let public = svid::inspect_root(&certificate, trust_domain)?.public_key;
                RootKey::elsewhere(&public, signer)?
            }
            (None, None) => {
                let problem = "its private key is with an external signer, and none is configured";
                return Err(content(path, problem.into()));
            }
        };
        let root = Self::new(trust_domain, certificate, key)?;
        if held && passphrase.is_some() && !pem::is_encrypted(&stored) {
            root.store(path, passphrase)?;
        }
        Ok(Some(root))
    }

    /// Whether its private key is held here, and not by a [`Signer`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.key.held().is_some()
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

    /// An X.509-SVID for `id` with a new key. It ends with the root at the latest. Waits for the
    /// [`Signer`], if there is one.
    ///
    /// # Errors
    /// [`PkiError::OtherDomain`] when `id` is not of this trust domain, [`PkiError::Signer`].
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
    /// says of names and usages is ignored. The chain is the certificate, then the root. Waits for the
    /// [`Signer`], if there is one.
    ///
    /// # Errors
    /// [`PkiError::Request`] when the request is malformed or its signature does not hold,
    /// [`PkiError::OtherDomain`] when `id` is not of this trust domain, [`PkiError::Signer`].
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
        let leaf = self.key.sign(|root| {
            let issuer = Issuer::from_ca_cert_der(&self.certificate, root)?;
            params.signed_by(key, &issuer)
        })?;
        let leaf = leaf.der().clone();
        svid::inspect(&leaf)?;
        Ok(vec![leaf, self.certificate.clone()])
    }
}

impl fmt::Debug for ClusterRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterRoot({}, {})", self.trust_domain, self.pin())
    }
}
