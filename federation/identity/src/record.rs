//! What became of a pod after its credential was issued: other labels, or gone.
//! docs/spec/credential.md, section 6.

use crate::{
    Claims, IssuerKey, KeyId, SignedCredential, TrustBundle, TrustDomain, UnixMillis, VerifyError,
    cbor::{Bad, Key, Reader, Writer},
    cose::Sign1,
    credential,
};

const CONTEXT: &str = "pod-record";

const TRUST_DOMAIN: i64 = 1;
const SEQUENCE: i64 = 2;
const UID: i64 = 3;
const GENERATION: i64 = 4;
const CREDENTIAL: i64 = 5;

/// Longest signed record in bytes: a credential and room for the rest.
pub const MAX_RECORD: usize = credential::MAX_CREDENTIAL + 512;

/// A change of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// The pod's UID.
    pub pod_uid: String,
    /// Every older generation of the pod is void.
    pub generation: u64,
    /// What happened.
    pub change: PodChange,
}

/// What happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodChange {
    /// Its carried labels are other ones now; live flows are decided again by them.
    Relabelled(SignedCredential),
    /// It was deleted: its flows are cut.
    Gone,
}

/// A record's bytes. Holding one says nothing about the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedRecord {
    bytes: Vec<u8>,
}

/// A record whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRecord {
    /// Who issued it.
    pub trust_domain: TrustDomain,
    /// Rises with every record of this issuer.
    pub sequence: u64,
    /// The record.
    pub record: PodRecord,
    /// What the new credential says, if there is one. Its signature holds and its time may be over:
    /// labels do not expire with it.
    pub claims: Option<Claims>,
}

impl IssuerKey {
    /// Signs `record` as number `sequence` of `trust_domain`.
    #[must_use]
    pub fn sign_record(
        &self,
        trust_domain: &TrustDomain,
        sequence: u64,
        record: &PodRecord,
    ) -> SignedRecord {
        let credential = match &record.change {
            PodChange::Relabelled(credential) => Some(credential),
            PodChange::Gone => None,
        };
        let mut w = Writer::default();
        w.map(4 + usize::from(credential.is_some()));
        w.int(TRUST_DOMAIN);
        w.text(trust_domain.as_str());
        w.int(SEQUENCE);
        w.uint(sequence);
        w.int(UID);
        w.text(&record.pod_uid);
        w.int(GENERATION);
        w.uint(record.generation);
        if let Some(credential) = credential {
            w.int(CREDENTIAL);
            w.bytes(credential.bytes());
        }
        SignedRecord {
            bytes: self.sign(CONTEXT, &w.finish()),
        }
    }
}

impl SignedRecord {
    /// Takes `bytes` without looking at them; `None` when they are more than [`MAX_RECORD`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= MAX_RECORD).then(|| Self {
            bytes: bytes.to_vec(),
        })
    }

    /// The bytes that travel.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whose signature it says that it has; `None` when it cannot be read. Proves nothing.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        Sign1::parse(&self.bytes).map(|object| object.key_id)
    }

    /// Checks the record, and the credential in it, against `bundle`.
    ///
    /// # Errors
    /// [`VerifyError`] says why it is not believed.
    pub fn verify(
        &self,
        bundle: &TrustBundle,
        now: UnixMillis,
    ) -> Result<VerifiedRecord, VerifyError> {
        if self.bytes.len() > MAX_RECORD {
            return Err(VerifyError::Malformed("longer than a record may be"));
        }
        let payload = bundle.open(CONTEXT, &self.bytes, now)?;
        let read = read(&payload).map_err(VerifyError::Malformed)?;
        if read.trust_domain != bundle.trust_domain.as_str() {
            return Err(VerifyError::WrongTrustDomain(bundle.trust_domain.clone()));
        }
        let (change, claims) = match read.credential {
            None => (PodChange::Gone, None),
            Some(bytes) => {
                let claims = credential::verify_ignoring_expiry(bytes, bundle, now)?;
                if claims.pod_uid != read.pod_uid || claims.generation != read.generation {
                    return Err(VerifyError::Malformed(
                        "the credential is of another pod or generation than the record",
                    ));
                }
                let credential = SignedCredential::from_bytes(bytes)
                    .ok_or(VerifyError::Malformed("longer than a credential may be"))?;
                (PodChange::Relabelled(credential), Some(claims))
            }
        };
        Ok(VerifiedRecord {
            trust_domain: bundle.trust_domain.clone(),
            sequence: read.sequence,
            record: PodRecord {
                pod_uid: read.pod_uid.to_owned(),
                generation: read.generation,
                change,
            },
            claims,
        })
    }
}

struct Read<'a> {
    trust_domain: &'a str,
    sequence: u64,
    pod_uid: &'a str,
    generation: u64,
    credential: Option<&'a [u8]>,
}

fn read(payload: &[u8]) -> Result<Read<'_>, Bad> {
    let mut reader = Reader::new(payload);
    let (mut trust_domain, mut sequence, mut pod_uid) = (None, None, None);
    let (mut generation, mut credential) = (None, None);
    reader.map(|r, key| {
        match key {
            Key::Int(TRUST_DOMAIN) => trust_domain = Some(r.text()?),
            Key::Int(SEQUENCE) => sequence = Some(r.uint()?),
            Key::Int(UID) => pod_uid = Some(r.text()?),
            Key::Int(GENERATION) => generation = Some(r.uint()?),
            Key::Int(CREDENTIAL) => credential = Some(r.bytes()?),
            Key::Int(i64::MIN..=-1) => r.skip()?,
            _ => return Err("an unknown member of a record"),
        }
        Ok(())
    })?;
    reader.finish()?;
    Ok(Read {
        trust_domain: trust_domain.ok_or("a record without trust domain")?,
        sequence: sequence.ok_or("a record without sequence")?,
        pod_uid: pod_uid.ok_or("a record without UID")?,
        generation: generation.ok_or("a record without generation")?,
        credential,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{NOW, bundle, claims, domain, key};

    fn relabelled() -> PodRecord {
        let claims = claims();
        PodRecord {
            pod_uid: claims.pod_uid.clone(),
            generation: claims.generation,
            change: PodChange::Relabelled(key(1).issue(&claims).unwrap()),
        }
    }

    fn gone() -> PodRecord {
        PodRecord {
            change: PodChange::Gone,
            ..relabelled()
        }
    }

    fn east() -> TrustBundle {
        bundle("east.example", &[&key(1)])
    }

    fn sign(record: &PodRecord) -> SignedRecord {
        key(1).sign_record(&domain("east.example"), 17, record)
    }

    #[test]
    fn a_record_is_what_was_signed() {
        for (record, claims) in [(relabelled(), Some(claims())), (gone(), None)] {
            let verified = sign(&record).verify(&east(), NOW);
            assert_eq!(
                verified,
                Ok(VerifiedRecord {
                    trust_domain: domain("east.example"),
                    sequence: 17,
                    record,
                    claims,
                })
            );
        }
    }

    #[test]
    fn a_late_record_still_says_which_labels_the_pod_has() {
        let late = NOW.after(Duration::from_hours(2));
        let verified = sign(&relabelled()).verify(&east(), late).unwrap();
        assert_eq!(verified.claims, Some(claims()));
    }

    /// Threat row 18.
    #[test]
    fn a_record_speaks_for_its_own_trust_domain_only() {
        let west = bundle("west.example", &[&key(1)]);
        let wrong = Err(VerifyError::WrongTrustDomain(domain("west.example")));
        assert_eq!(sign(&gone()).verify(&west, NOW), wrong);
        // A credential of east in a record that says it is of west.
        let mixed = key(1).sign_record(&domain("west.example"), 1, &relabelled());
        assert_eq!(mixed.verify(&west, NOW), wrong);
    }

    #[test]
    fn the_credential_is_of_the_pod_and_generation_of_the_record() {
        let mut other_pod = relabelled();
        other_pod.pod_uid = "other".into();
        let mut other_generation = relabelled();
        other_generation.generation += 1;
        for record in [other_pod, other_generation] {
            assert!(matches!(
                sign(&record).verify(&east(), NOW),
                Err(VerifyError::Malformed(_))
            ));
        }
        let mut forged = relabelled();
        forged.change = PodChange::Relabelled(key(2).issue(&claims()).unwrap());
        assert_eq!(
            sign(&forged).verify(&east(), NOW),
            Err(VerifyError::UnknownKey(key(2).public().id()))
        );
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let bundle = east();
        let mut bytes = sign(&relabelled()).bytes().to_vec();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let record = SignedRecord::from_bytes(&bytes).unwrap();
                assert!(record.verify(&bundle, NOW).is_err(), "byte {at} bit {bit}");
                bytes[at] ^= 1 << bit;
            }
        }
    }

    #[test]
    fn the_largest_credential_fits_and_more_does_not() {
        let mut large = claims();
        let mut bytes = 0;
        for n in 0.. {
            let mut longer = large.clone();
            let map = (0..n).map(|n| (format!("label-{n}"), "v".repeat(20)));
            longer.labels =
                crate::Labels::try_from(map.collect::<std::collections::BTreeMap<_, _>>()).unwrap();
            let Ok(credential) = key(1).issue(&longer) else {
                break;
            };
            bytes = credential.bytes().len();
            large = longer;
        }
        assert!(bytes > credential::MAX_CREDENTIAL - 40, "{bytes}");
        let record = PodRecord {
            change: PodChange::Relabelled(key(1).issue(&large).unwrap()),
            ..relabelled()
        };
        let longest = domain(&"d".repeat(255));
        let signed = key(1).sign_record(&longest, u64::MAX, &record);
        assert!(signed.bytes().len() <= MAX_RECORD);
        assert!(SignedRecord::from_bytes(&vec![0; MAX_RECORD + 1]).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            if let Some(record) = SignedRecord::from_bytes(&bytes) {
                let _ = record.verify(&east(), NOW);
            }
            let signed = SignedRecord { bytes: key(1).sign(CONTEXT, &bytes) };
            let _ = signed.verify(&east(), NOW);
        }
    }
}
