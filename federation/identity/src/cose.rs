//! COSE_Sign1 (RFC 9052, section 4.2) in exactly one shape: Ed25519, one protected header, nothing
//! unprotected. docs/spec/credential.md, section 1, shows the bytes.
//!
//! The shape is fixed, so it is read by comparing bytes, before anything is verified, decoded or
//! allocated. The tests hold it against an independent implementation.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use crate::{
    cbor::{Reader, Writer},
    issuer_key::KeyId,
};

/// Tag 18, an array of four, a byte string of 13: {1 (alg): -8 (EdDSA), 4 (kid): 8 bytes}.
const START: [u8; 8] = [0xd2, 0x84, 0x4d, 0xa2, 0x01, 0x27, 0x04, 0x48];
/// How many bytes of [`START`] stand before the content of the protected header.
const BEFORE_PROTECTED: usize = 3;
/// How long that content is.
const PROTECTED: usize = START.len() - BEFORE_PROTECTED + 8;
/// More than what stands around the external data and the payload in what is signed.
const MAX_HEADS: usize = 48;
/// The empty map of unprotected headers.
const UNPROTECTED: u8 = 0xa0;
/// A byte string of 64.
const SIGNATURE_HEAD: [u8; 2] = [0x58, 0x40];

/// A signed object, taken apart and not yet verified.
pub(crate) struct Sign1<'a> {
    /// Which key is said to have signed.
    pub(crate) key_id: KeyId,
    /// What is said to be signed.
    pub(crate) payload: &'a [u8],
    signature: Signature,
}

impl<'a> Sign1<'a> {
    /// Takes `bytes` apart; `None` when they have another shape.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&START)?;
        let (key_id, rest) = rest.split_first_chunk()?;
        let rest = rest.strip_prefix(&[UNPROTECTED])?;
        let (rest, signature) = rest.split_last_chunk()?;
        let payload = rest.strip_suffix(&SIGNATURE_HEAD)?;
        let mut reader = Reader::new(payload);
        let payload = reader.bytes().ok()?;
        reader.finish().ok()?;
        Some(Self {
            key_id: KeyId(*key_id),
            payload,
            signature: Signature::from_bytes(signature),
        })
    }

    /// Whether `key` signed this payload for `external_aad`, by the strict rules: no key or
    /// commitment of small order, no second form of a signature (RFC 8032, section 5.1.7, without
    /// the cofactor).
    pub(crate) fn holds(&self, key: &VerifyingKey, external_aad: &[u8]) -> bool {
        let signed = to_be_signed(self.key_id, external_aad, self.payload);
        key.verify_strict(&signed, &self.signature).is_ok()
    }
}

/// Signs `payload` for `external_aad`, which is bound and not carried.
pub(crate) fn sign1(
    key: &SigningKey,
    key_id: KeyId,
    external_aad: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let signature = key.sign(&to_be_signed(key_id, external_aad, payload));
    let mut writer = Writer::default();
    writer.raw(&START);
    writer.raw(&key_id.0);
    writer.raw(&[UNPROTECTED]);
    writer.bytes(payload);
    writer.bytes(&signature.to_bytes());
    writer.finish()
}

/// The Sig_structure of RFC 9052, section 4.4.
fn to_be_signed(key_id: KeyId, external_aad: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut protected = [0; PROTECTED];
    let (head, key) = protected.split_at_mut(START.len() - BEFORE_PROTECTED);
    head.copy_from_slice(&START[BEFORE_PROTECTED..]);
    key.copy_from_slice(&key_id.0);
    let mut writer = Writer::with_capacity(external_aad.len() + payload.len() + MAX_HEADS);
    writer.array(4);
    writer.text("Signature1");
    writer.bytes(&protected);
    writer.bytes(external_aad);
    writer.bytes(payload);
    writer.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use coset::{CoseSign1, CoseSign1Builder, HeaderBuilder, TaggedCborSerializable, iana};
    use proptest::prelude::*;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    proptest! {
        /// Byte for byte what an independent COSE implementation builds, and readable by it.
        #[test]
        fn agrees_with_an_independent_implementation(
            id: [u8; 8], aad: Vec<u8>, payload in prop::collection::vec(any::<u8>(), 0..1200),
        ) {
            let ours = sign1(&key(), KeyId(id), &aad, &payload);
            let header = HeaderBuilder::new()
                .algorithm(iana::Algorithm::EdDSA)
                .key_id(id.to_vec())
                .build();
            let theirs = CoseSign1Builder::new()
                .protected(header)
                .payload(payload.clone())
                .create_signature(&aad, |tbs| key().sign(tbs).to_bytes().to_vec())
                .build();
            prop_assert_eq!(&ours, &theirs.to_tagged_vec().unwrap());
            let read = CoseSign1::from_tagged_slice(&ours).unwrap();
            prop_assert_eq!(read.payload.as_deref(), Some(payload.as_slice()));
            let object = Sign1::parse(&ours).unwrap();
            prop_assert_eq!(object.key_id, KeyId(id));
            prop_assert_eq!(object.payload, payload.as_slice());
            prop_assert!(object.holds(&key().verifying_key(), &aad));
            let mut other = aad.clone();
            other.push(0);
            prop_assert!(!object.holds(&key().verifying_key(), &other));
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Sign1::parse(&bytes);
            let mut started = START.to_vec();
            started.extend_from_slice(&bytes);
            let _ = Sign1::parse(&started);
        }
    }

    #[test]
    fn a_second_encoding_of_the_same_object_is_refused() {
        let object = sign1(&key(), KeyId([1; 8]), b"", b"payload");
        assert!(Sign1::parse(&object).is_some());
        let longer_head = [&object[..17], &[0x58, 0x07], &object[18..]].concat();
        assert!(CoseSign1::from_tagged_slice(&longer_head).is_ok());
        assert!(Sign1::parse(&longer_head).is_none());
        let unprotected = [&object[..16], &[0xa1, 0x03, 0x00], &object[17..]].concat();
        assert!(CoseSign1::from_tagged_slice(&unprotected).is_ok());
        assert!(Sign1::parse(&unprotected).is_none());
        assert!(Sign1::parse(&object[1..]).is_none(), "the tag is required");
        assert!(Sign1::parse(&[&object[..], &[0]].concat()).is_none());
    }
}
