//! The newest record of each pod that was relabelled or deleted, of any cluster: what agents and
//! gateways hold against credentials that were issued before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use handshake::credentials::{PodState, PodStates};
use identity::{Mono, PodChange, TrustDomain, VerifiedRecord};

/// Most records that are held of one trust domain; the oldest of that domain goes first.
pub const MAX_RECORDS_PER_DOMAIN: usize = 16_384;
/// How long a deleted pod is remembered: far longer than its last credential was valid.
pub const GONE_KEPT: Duration = Duration::from_hours(24);

/// Records whose signature was checked.
#[derive(Debug, Default)]
pub struct RecordBook {
    domains: BTreeMap<TrustDomain, Domain>,
    arrivals: u64,
}

#[derive(Debug, Default)]
struct Domain {
    pods: BTreeMap<String, Entry>,
    /// By arrival.
    order: BTreeSet<(u64, String)>,
}

#[derive(Debug)]
struct Entry {
    generation: u64,
    state: PodState,
    arrival: u64,
    at: Mono,
}

impl RecordBook {
    /// Takes a record, unless one of the same or a newer generation of the pod is held; whether it
    /// was taken.
    pub fn insert(&mut self, record: &VerifiedRecord, now: Mono) -> bool {
        let uid = &record.record.pod_uid;
        let generation = record.record.generation;
        let state = match (&record.record.change, &record.claims) {
            (PodChange::Relabelled(_), Some(claims)) => {
                PodState::Relabelled(Arc::new(claims.clone()))
            }
            _ => PodState::Gone,
        };
        let domain = self.domains.entry(record.trust_domain.clone()).or_default();
        if let Some(held) = domain.pods.get(uid) {
            if held.generation >= generation {
                return false;
            }
            domain.order.remove(&(held.arrival, uid.clone()));
        }
        self.arrivals += 1;
        let arrival = self.arrivals;
        domain.order.insert((arrival, uid.clone()));
        domain.pods.insert(
            uid.clone(),
            Entry {
                generation,
                state,
                arrival,
                at: now,
            },
        );
        if domain.pods.len() > MAX_RECORDS_PER_DOMAIN
            && let Some((_, oldest)) = domain.order.pop_first()
        {
            domain.pods.remove(&oldest);
        }
        true
    }

    /// The generation below which credentials of the pod are void, and what it is now.
    #[must_use]
    pub fn newest(&self, domain: &TrustDomain, pod_uid: &str) -> Option<(u64, &PodState)> {
        let entry = self.domains.get(domain)?.pods.get(pod_uid)?;
        Some((entry.generation, &entry.state))
    }

    /// Every record, as handshakes and flows are held against it.
    #[must_use]
    pub fn states(&self) -> PodStates {
        let mut states = PodStates::default();
        for (domain, held) in &self.domains {
            for (uid, entry) in &held.pods {
                states.insert(domain.clone(), uid.clone(), entry.state.clone());
            }
        }
        states
    }

    /// How many records are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.domains.values().map(|domain| domain.pods.len()).sum()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what `domain` ever said: it left.
    pub fn remove_domain(&mut self, domain: &TrustDomain) {
        self.domains.remove(domain);
    }

    /// Forgets pods that were deleted [`GONE_KEPT`] ago.
    pub fn forget_old(&mut self, now: Mono) {
        for domain in self.domains.values_mut() {
            let order = &mut domain.order;
            domain.pods.retain(|uid, entry| {
                let keep = entry.state != PodState::Gone || now.since(entry.at) < GONE_KEPT;
                if !keep {
                    order.remove(&(entry.arrival, uid.clone()));
                }
                keep
            });
        }
        self.domains.retain(|_, domain| !domain.pods.is_empty());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use identity::PodRecord;

    use super::*;

    fn gone(domain: &str, uid: &str, generation: u64) -> VerifiedRecord {
        VerifiedRecord {
            trust_domain: TrustDomain::new(domain).unwrap(),
            sequence: generation,
            record: PodRecord {
                pod_uid: uid.into(),
                generation,
                change: PodChange::Gone,
            },
            claims: None,
        }
    }

    #[test]
    fn an_older_generation_is_refused() {
        let mut book = RecordBook::default();
        assert!(book.insert(&gone("east", "a", 5), Mono::default()));
        assert!(!book.insert(&gone("east", "a", 5), Mono::default()));
        assert!(!book.insert(&gone("east", "a", 4), Mono::default()));
        assert!(book.insert(&gone("east", "a", 6), Mono::default()));
        assert_eq!(book.len(), 1);
    }

    #[test]
    fn a_domain_that_floods_forgets_its_own_records_only() {
        let mut book = RecordBook::default();
        book.insert(&gone("east", "a", 1), Mono::default());
        for n in 0..=MAX_RECORDS_PER_DOMAIN {
            book.insert(&gone("west", &format!("pod-{n}"), 1), Mono::default());
        }
        assert_eq!(book.len(), 1 + MAX_RECORDS_PER_DOMAIN);
        let west = TrustDomain::new("west").unwrap();
        assert!(book.newest(&west, "pod-0").is_none(), "the oldest went");
        assert!(book.newest(&west, "pod-1").is_some());
        assert!(
            book.newest(&TrustDomain::new("east").unwrap(), "a")
                .is_some()
        );
    }

    #[test]
    fn the_deleted_are_forgotten_after_a_day() {
        let mut book = RecordBook::default();
        let deleted = Mono(Duration::from_secs(100));
        book.insert(&gone("east", "a", 1), deleted);
        book.forget_old(deleted.after(GONE_KEPT - Duration::from_millis(1)));
        assert_eq!(book.len(), 1);
        book.forget_old(deleted.after(GONE_KEPT));
        assert!(book.is_empty());
    }
}
