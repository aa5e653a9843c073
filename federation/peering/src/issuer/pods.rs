//! The pods of the cluster as the source describes them, and what a credential says of each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use handshake::admission::Admission;
use identity::{
    Claims, IssueError, IssuerKey, Labels, Now, SignedCredential, TrustDomain, Workload,
};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};

use crate::{
    node_messages::AgentPublicKey,
    signatures::{Signature, Signatures},
};

/// How far before this clock a credential starts: with the 10 s that a verifier allows, a clock
/// that is 30 s behind this one accepts a credential at once.
pub(super) const BACKDATE: Duration = Duration::from_secs(20);

/// A hash of what policy can see of a pod.
pub(super) type Fingerprint = [u8; 16];

pub(super) struct Pod {
    pub(super) workload: Workload,
    pub(super) fingerprint: Fingerprint,
    pub(super) generation: u64,
    /// A key that a credential of it names and that its agent held when last heard of; none when there
    /// never was one. A record of it names this key after a restart.
    pub(super) last_key: Option<AgentPublicKey>,
    /// There is a record of it, which has to be made again after a restart.
    pub(super) relabelled: bool,
    /// A record says that it is gone, which the next credential takes back.
    pub(super) withdrawn: bool,
    /// The operator was told that it cannot have a credential.
    pub(super) complained: bool,
    /// It was refused a credential because it is revoked, and nobody asked since.
    pub(super) refused: bool,
}

impl Pod {
    pub(super) fn new(workload: Workload, fingerprint: Fingerprint, generation: u64) -> Self {
        Self {
            workload,
            fingerprint,
            generation,
            last_key: None,
            relabelled: false,
            withdrawn: false,
            complained: false,
            refused: false,
        }
    }

    /// Whether `node` may have a credential of it.
    pub(super) fn belongs_to(&self, node: &str) -> bool {
        self.workload.node == node && !self.workload.unprotected
    }
}

/// What turns a pod into a credential.
pub(super) struct Press {
    pub(super) trust_domain: TrustDomain,
    pub(super) key: IssuerKey,
    pub(super) lifetime: Duration,
    /// The label keys that are carried; all when none are given.
    pub(super) carried: Option<Vec<String>>,
    /// What is revoked.
    pub(super) admission: Admission,
}

/// Why a pod gets no credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotIssued {
    /// Its namespace or service account cannot be part of a SPIFFE ID.
    #[error("no identity for {pod}: {problem}")]
    Name {
        /// `namespace/pod`.
        pod: String,
        /// What is wrong.
        problem: String,
    },
    /// It does not fit, or a claim of it is none.
    #[error(transparent)]
    Claims(#[from] IssueError),
    /// It is revoked.
    #[error("no credential for {pod}: {why}")]
    Revoked {
        /// `namespace/pod`.
        pod: String,
        /// By what.
        why: String,
    },
}

impl Press {
    /// Signs a credential of `pod` that names `key`.
    pub(super) fn issue(
        &self,
        pod: &Pod,
        key: AgentPublicKey,
        now: Now,
        rng: &mut dyn CryptoRng,
        signatures: &mut Signatures,
    ) -> Result<SignedCredential, NotIssued> {
        let mut id = [0; 16];
        rng.fill_bytes(&mut id);
        let from = now.unix.0.saturating_sub(millis(BACKDATE));
        let claims = Claims {
            issued_at: identity::UnixMillis::from_secs(from / 1000),
            expires_at: identity::UnixMillis::from_secs(from / 1000).after(self.lifetime),
            id,
            agent_key: key.0,
            ..self.claims(&pod.workload, pod.generation)?
        };
        if self.admission.check(&claims).is_err() {
            return Err(NotIssued::Revoked {
                pod: format!("{}/{}", pod.workload.namespace, pod.workload.pod),
                why: self.admission.why(&claims).unwrap_or_default(),
            });
        }
        let credential = self.key.issue(&claims)?;
        signatures.push(Signature::Credential {
            id,
            subject: claims.subject,
            pod_uid: claims.pod_uid,
            agent_key: claims.agent_key,
            expires: claims.expires_at,
        });
        Ok(credential)
    }

    /// How long a credential that is issued now stays valid.
    pub(super) fn valid_for(&self) -> Duration {
        self.lifetime.saturating_sub(BACKDATE)
    }

    /// What a credential says of `workload`, without times, key and id.
    pub(super) fn claims(&self, workload: &Workload, generation: u64) -> Result<Claims, NotIssued> {
        let claims = workload.claims(&self.trust_domain);
        let claims = claims.map_err(|error| NotIssued::Name {
            pod: format!("{}/{}", workload.namespace, workload.pod),
            problem: error.to_string(),
        })?;
        Ok(Claims {
            labels: self.carried(&workload.labels),
            namespace_labels: self.carried(&workload.namespace_labels),
            generation,
            ..claims
        })
    }

    /// The claims that a record of the pod concerns; `None` when it can have none.
    pub(super) fn about(&self, workload: &Workload, generation: u64) -> Option<Arc<Claims>> {
        self.claims(workload, generation).ok().map(Arc::new)
    }

    /// What policy can see of `workload`, hashed. It changes with the list of carried labels too.
    pub(super) fn fingerprint(&self, workload: &Workload) -> Fingerprint {
        let seen = (
            &workload.namespace,
            &workload.pod,
            &workload.service_account,
            self.carried(&workload.labels),
            self.carried(&workload.namespace_labels),
            &workload.zone,
            &workload.named_ports,
        );
        let mut bytes = Vec::new();
        // Strings and numbers: writing them to memory does not fail.
        let written = ciborium::into_writer(&seen, &mut bytes);
        debug_assert!(written.is_ok());
        let [.., last] = Sha256::digest(&bytes)
            .as_chunks::<16>()
            .0
            .try_into()
            .unwrap_or([[0; 16]; 2]);
        last
    }

    fn carried(&self, labels: &Labels) -> Labels {
        let Some(keys) = &self.carried else {
            return labels.clone();
        };
        let kept: BTreeMap<_, _> = labels
            .iter()
            .filter(|(key, _)| keys.iter().any(|kept| kept == key))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        // A part of checked labels is checked.
        Labels::try_from(kept).unwrap_or_default()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
