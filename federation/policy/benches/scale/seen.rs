//! What a memory of answers would give, for docs/decisions/no-cache-of-decisions.md: one answer for each of many places,
//! found by the identities' addresses in memory, which it keeps alive.

use std::sync::Arc;

use identity::Claims;
use landbridge_policy::{KnownKeys, Table, Verdict};

use crate::query;

/// The two identities, which question, and the answer.
type Answer = (Arc<Claims>, Arc<Claims>, usize, Verdict);

pub struct Seen {
    places: Vec<Option<Answer>>,
}

impl Seen {
    /// `places` is a power of two.
    pub fn new(places: usize) -> Self {
        Self {
            places: vec![None; places],
        }
    }

    /// The answer to question `n` about two identities.
    pub fn decide(
        &mut self,
        table: &Table,
        known: &KnownKeys,
        (subject, peer): (&Arc<Claims>, &Arc<Claims>),
        n: usize,
    ) -> Verdict {
        let mix = |hash: usize, part: usize| {
            (hash ^ part)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(29)
        };
        let parts = [
            Arc::as_ptr(subject) as usize,
            Arc::as_ptr(peer) as usize,
            n % 4,
        ];
        let place = parts.into_iter().fold(0, mix) % self.places.len();
        if let Some((a, b, m, verdict)) = &self.places[place]
            && Arc::ptr_eq(a, subject)
            && Arc::ptr_eq(b, peer)
            && *m == n % 4
        {
            return verdict.clone();
        }
        let verdict = table.decide(&query(subject, peer, n, known));
        self.places[place] = Some((
            Arc::clone(subject),
            Arc::clone(peer),
            n % 4,
            verdict.clone(),
        ));
        verdict
    }
}
