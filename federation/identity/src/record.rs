//! What became of a pod after its credential was issued: other labels, or gone.
//! docs/spec/credential.md, section 6.

use crate::{
    Claims, IssuerKey, SignedCredential, TrustBundle, TrustDomain, UnixMillis, VerifyError,
    cbor::{Bad, Key, Reader, Writer},
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
