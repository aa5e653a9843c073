//! Other objects that an issuer key signs: records, digests. The same COSE_Sign1 as a credential,
//! with a context as external_aad, so that an object of one kind never passes for another.
//! docs/spec/credential.md, section 5.

use crate::{
    IssuerKey, KeyId, TrustBundle, UnixMillis, VerifyError,
    cose::{self, Sign1},
};

/// Longest signed object in bytes: a digest of some twenty thousand policies.
pub const MAX_SIGNED: usize = 16 << 20;

impl IssuerKey {
    /// Signs `payload` as an object of the kind `context`.
    ///
    /// The payload must name the trust domain it speaks for, because two bundles may hold one key;
    /// whoever opens it compares. An object above [`MAX_SIGNED`] bytes can be signed and is opened
    /// by nobody.
    #[must_use]
    pub fn sign(&self, context: &'static str, payload: &[u8]) -> Vec<u8> {
        cose::sign1(&self.signing, self.id, &external_aad(context), payload)
    }
}

impl TrustBundle {
    /// The payload of `object`, if a key of this bundle signed it as one of the kind `context`.
    ///
    /// # Errors
    /// [`VerifyError`] says why not.
    pub fn open(
        &self,
        context: &'static str,
        object: &[u8],
        now: UnixMillis,
    ) -> Result<Vec<u8>, VerifyError> {
        if object.len() > MAX_SIGNED {
            return Err(VerifyError::Malformed("longer than a signed object may be"));
        }
        let object = Sign1::parse(object).ok_or(VerifyError::Malformed(
            "not a COSE_Sign1 of the known shape",
        ))?;
        self.check_signature(&object, &external_aad(context), now)?;
        Ok(object.payload.to_vec())
    }

    /// The checks that every signed object passes first.
    pub(crate) fn check_signature(
        &self,
        object: &Sign1<'_>,
        external_aad: &[u8],
        now: UnixMillis,
    ) -> Result<(), VerifyError> {
        if self.issuer_keys.is_empty() {
            return Err(VerifyError::BundleEmpty(self.trust_domain.clone()));
        }
        if now >= self.expires_at {
            return Err(VerifyError::BundleExpired(self.trust_domain.clone()));
        }
        let key = self
            .issuer_key(object.key_id)
            .ok_or(VerifyError::UnknownKey(object.key_id))?;
        if object.holds(&key.key, external_aad) {
            Ok(())
        } else {
            Err(VerifyError::Signature(object.key_id))
        }
    }

    /// The key of that name, if it is one of the bundle's.
    #[must_use]
    pub fn issuer_key(&self, id: KeyId) -> Option<&crate::IssuerPublicKey> {
        self.issuer_keys.iter().find(|key| key.id() == id)
    }
}

/// What a signed object says, whoever signed it: good only to find the key that it is to be checked by.
#[must_use]
pub fn unproven_payload(object: &[u8]) -> Option<&[u8]> {
    let object = object.get(..object.len().min(MAX_SIGNED + 1))?;
    Sign1::parse(object).map(|object| object.payload)
}

/// Never empty, as a credential's is.
fn external_aad(context: &str) -> Vec<u8> {
    ["landbridge/", context].concat().into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{NOW, bundle, key};

    #[test]
    fn what_is_signed_can_be_opened_in_its_context_only() {
        let object = key(1).sign("digest", b"payload");
        let bundle = bundle("east", &[&key(1)]);
        assert_eq!(bundle.open("digest", &object, NOW).unwrap(), b"payload");
        assert_eq!(
            bundle.open("pod-record", &object, NOW),
            Err(VerifyError::Signature(key(1).public().id()))
        );
        assert_eq!(
            bundle.open("", &object, NOW),
            Err(VerifyError::Signature(key(1).public().id()))
        );
    }

    #[test]
    fn another_key_an_empty_and_an_expired_bundle_open_nothing() {
        let object = key(1).sign("digest", b"payload");
        assert_eq!(
            bundle("east", &[&key(2)]).open("digest", &object, NOW),
            Err(VerifyError::UnknownKey(key(1).public().id()))
        );
        let mut empty = bundle("east", &[]);
        assert_eq!(
            empty.open("digest", &object, NOW),
            Err(VerifyError::BundleEmpty(empty.trust_domain.clone()))
        );
        empty = bundle("east", &[&key(1)]);
        empty.expires_at = NOW;
        assert_eq!(
            empty.open("digest", &object, NOW),
            Err(VerifyError::BundleExpired(empty.trust_domain.clone()))
        );
    }

    #[test]
    fn longer_than_the_limit_is_refused_unread() {
        let object = key(1).sign("digest", &vec![0; MAX_SIGNED]);
        assert_eq!(
            bundle("east", &[&key(1)]).open("digest", &object, NOW),
            Err(VerifyError::Malformed("longer than a signed object may be"))
        );
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = bundle("east", &[&key(1)]).open("digest", &bytes, NOW);
        }
    }
}
