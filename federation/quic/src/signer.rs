//! The private key of a root: held here, or kept by somebody else who is asked for each signature.

use std::{cell::RefCell, sync::Arc};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, EcdsaVerificationAlgorithm, UnparsedPublicKey,
};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SignatureAlgorithm,
    SigningKey, SubjectPublicKeyInfo,
};
use rustls_pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use crate::PkiError;

/// Keeps a private key and signs by it: an HSM, a key service, a smart card. What it answers is not
/// believed before the signature was verified by the public key.
pub trait Signer: Send + Sync {
    /// The DER of an ECDSA signature of `message`, hashed by SHA-256 for a key on P-256 and by SHA-384 for
    /// one on P-384. Waits for it.
    ///
    /// # Errors
    /// Why there is none, in words.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String>;

    /// What became of the signature that was asked for: it holds, or why there is none that does.
    fn judged(&self, went: Result<(), &str>);
}

/// Reads a public key as a signer tells it: PEM of a SubjectPublicKeyInfo (RFC 7468, section 13). Returns
/// its DER.
///
/// # Errors
/// [`PkiError::SignerKey`] when it is none.
pub fn public_key(pem: &[u8]) -> Result<Vec<u8>, PkiError> {
    let key = SubjectPublicKeyInfoDer::from_pem_slice(pem);
    let key = key.map_err(|_| PkiError::SignerKey("no public key in PEM"))?;
    Ok(key.to_vec())
}

/// Of a root.
pub(crate) enum RootKey {
    /// In memory, and in a file of this machine.
    Held(KeyPair),
    /// With a signer.
    Elsewhere(Elsewhere),
}

/// See [`RootKey::Elsewhere`].
pub(crate) struct Elsewhere {
    public: SubjectPublicKeyInfo,
    verified_by: &'static EcdsaVerificationAlgorithm,
    signer: Arc<dyn Signer>,
}

impl RootKey {
    /// The key of the SubjectPublicKeyInfo `public`, in DER, which `signer` keeps.
    pub(crate) fn elsewhere(public: &[u8], signer: Arc<dyn Signer>) -> Result<Self, PkiError> {
        let wrong = || PkiError::SignerKey("neither an ECDSA key on P-256 nor one on P-384");
        let public = SubjectPublicKeyInfo::from_der(public).map_err(|_| wrong())?;
        let verified_by = match public.algorithm() {
            curve if *curve == PKCS_ECDSA_P256_SHA256 => &ECDSA_P256_SHA256_ASN1,
            curve if *curve == PKCS_ECDSA_P384_SHA384 => &ECDSA_P384_SHA384_ASN1,
            _ => return Err(wrong()),
        };
        Ok(Self::Elsewhere(Elsewhere {
            public,
            verified_by,
            signer,
        }))
    }

    /// The one in memory.
    pub(crate) fn held(&self) -> Option<&KeyPair> {
        match self {
            Self::Held(pair) => Some(pair),
            Self::Elsewhere(_) => None,
        }
    }

    /// DER of the SubjectPublicKeyInfo.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Held(pair) => pair.subject_public_key_info(),
            Self::Elsewhere(key) => key.public.subject_public_key_info(),
        }
    }

    /// What `make` makes by signing with it. Waits for a signer.
    pub(crate) fn sign<T>(
        &self,
        make: impl FnOnce(Signing<'_>) -> Result<T, rcgen::Error>,
    ) -> Result<T, PkiError> {
        let failed = RefCell::new(None);
        let key = Signing {
            key: self,
            failed: &failed,
        };
        make(key).map_err(|e| match failed.take() {
            Some(why) => PkiError::Signer(why),
            None => e.into(),
        })
    }
}

/// One use of a key. rcgen's error of a key elsewhere has no words; they are kept beside it.
pub(crate) struct Signing<'a> {
    key: &'a RootKey,
    failed: &'a RefCell<Option<String>>,
}

impl PublicKeyData for Signing<'_> {
    fn der_bytes(&self) -> &[u8] {
        match self.key {
            RootKey::Held(pair) => pair.der_bytes(),
            RootKey::Elsewhere(key) => key.public.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.key {
            RootKey::Held(pair) => PublicKeyData::algorithm(pair),
            RootKey::Elsewhere(key) => key.public.algorithm(),
        }
    }
}

impl SigningKey for Signing<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self.key {
            RootKey::Held(pair) => pair.sign(message),
            RootKey::Elsewhere(key) => key.sign(message).map_err(|why| {
                self.failed.replace(Some(why));
                rcgen::Error::RemoteKeyError
            }),
        }
    }
}

impl Elsewhere {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.signer.sign(message);
        let signature = signature.and_then(|signature| match self.verify(message, &signature) {
            true => Ok(signature),
            false => Err("what it printed is no signature by the key of this root".to_owned()),
        });
        let went = signature.as_ref();
        self.signer.judged(went.map(|_| ()).map_err(String::as_str));
        signature
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(self.verified_by, self.public.der_bytes());
        key.verify(message, signature).is_ok()
    }
}
