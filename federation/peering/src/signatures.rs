//! What was signed, for the audit log: every signature that an issuer key makes stands there before it
//! leaves the process.

use std::collections::VecDeque;

use identity::{SpiffeId, TrustDomain, UnixMillis};

/// Most that wait. Whoever keeps the contract takes them before anything is sent.
const MAX_WAITING: usize = 1 << 16;

/// Something that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// A credential.
    Credential {
        /// Its `cti`.
        id: [u8; 16],
        /// Whose.
        subject: SpiffeId,
        /// The pod.
        pod_uid: String,
        /// The agent's key that it names.
        agent_key: [u8; 32],
        /// When it ends.
        expires: UnixMillis,
    },
    /// What became of a pod.
    Record {
        /// The pod.
        pod_uid: String,
        /// Its generation.
        generation: u64,
        /// The record's number.
        sequence: u64,
    },
    /// A policy digest of this number.
    Digest(u64),
    /// A list of revocations of this number.
    Revocations(u64),
    /// A list of introductions of this number.
    Introductions {
        /// For whom.
        audience: TrustDomain,
        /// Its number.
        sequence: u64,
    },
    /// So many more were made and not taken in time.
    Lost(u64),
}

/// Those that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Signatures {
    waiting: VecDeque<Signature>,
    lost: u64,
}

impl Signatures {
    pub fn push(&mut self, signature: Signature) {
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back(signature);
    }

    pub fn extend(&mut self, more: impl IntoIterator<Item = Signature>) {
        more.into_iter().for_each(|one| self.push(one));
    }

    pub fn take(&mut self) -> Vec<Signature> {
        let lost = std::mem::take(&mut self.lost);
        let lost = (lost > 0).then_some(Signature::Lost(lost));
        lost.into_iter().chain(self.waiting.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_took_is_bounded_and_counted() {
        let mut signatures = Signatures::default();
        for number in 0..MAX_WAITING as u64 + 7 {
            signatures.push(Signature::Digest(number));
        }
        let taken = signatures.take();
        assert_eq!(taken.len(), MAX_WAITING + 1);
        assert_eq!(taken[..2], [Signature::Lost(7), Signature::Digest(7)]);
        assert!(signatures.take().is_empty());
    }
}
