//! Verdicts about workloads that met lately, remembered beside the table that gave them.
//!
//! A verdict depends on the table, on what clusters carry and on what is asked, and on nothing else:
//! it is remembered by the table itself, so that none outlives it. Identities are told apart by where they
//! stand in memory, and are kept there for as long as an answer names them.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use identity::Claims;

use crate::{KnownKeys, Peer, Query, Table, Verdict, model::Direction, shared::Mixer};

/// How many answers a table remembers, each at one of two places: half a megabyte, with the identities a
/// few more.
const PLACES: usize = 4096;

/// A question about two workloads that proved their identity, and that may come again.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Seen from `subject`.
    pub direction: Direction,
    /// The pod of the cluster that owns the table.
    pub subject: &'a Arc<Claims>,
    /// The other end.
    pub peer: &'a Arc<Claims>,
    /// The peer's address as this cluster sees it, where the caller knows it.
    pub address: Option<IpAddr>,
    /// As [`Query::protocol`].
    pub protocol: u8,
    /// As [`Query::port`].
    pub port: u16,
    /// As [`Query::known`].
    pub known: &'a KnownKeys,
}

impl<'a> Pair<'a> {
    fn query(&self) -> Query<'a> {
        Query {
            direction: self.direction,
            subject: self.subject,
            peer: Peer::Identity {
                claims: self.peer,
                address: self.address,
            },
            protocol: self.protocol,
            port: self.port,
            known: self.known,
        }
    }

    /// Where its answer may stand.
    fn places(&self) -> [usize; 2] {
        let direction = u64::from(self.direction == Direction::Egress);
        let asked = direction << 32 | u64::from(self.protocol) << 16 | u64::from(self.port);
        let mut mixer = Mixer(Arc::as_ptr(self.subject) as u64);
        mixer.word((Arc::as_ptr(self.peer) as u64).rotate_left(24) ^ asked);
        [mixer.0, mixer.0 >> 32].map(|hash| hash as usize % PLACES)
    }
}

impl Table {
    /// Judges as [`Table::decide`] does, and remembers the verdict for as long as this table and both
    /// identities are used.
    #[must_use]
    pub fn decide_pair(&self, pair: &Pair<'_>) -> Verdict {
        let places = pair.places();
        // Whoever would have to wait for another thread decides meanwhile.
        if let Ok(answers) = self.seen.0.try_lock() {
            let mut found = places
                .iter()
                .filter_map(|place| answers.get(*place)?.as_ref());
            if let Some(answer) = found.find(|answer| answer.is_of(pair)) {
                return answer.verdict.clone();
            }
        }
        let verdict = self.decide(&pair.query());
        let answer = Answer::new(pair, verdict.clone());
        if let Ok(mut answers) = self.seen.0.try_lock() {
            answers.resize_with(PLACES, || None);
            let [first, second] = places;
            let place = if answers[first].is_none() {
                first
            } else {
                second
            };
            answers[place] = Some(answer);
        }
        verdict
    }
}

/// What a table remembers. A copy of the table remembers nothing.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Vec<Option<Answer>>>);

impl Clone for Seen {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[derive(Debug)]
struct Answer {
    direction: Direction,
    subject: Arc<Claims>,
    peer: Arc<Claims>,
    address: Option<IpAddr>,
    protocol: u8,
    port: u16,
    known: KnownKeys,
    verdict: Verdict,
}

impl Answer {
    fn new(pair: &Pair<'_>, verdict: Verdict) -> Self {
        Self {
            direction: pair.direction,
            subject: Arc::clone(pair.subject),
            peer: Arc::clone(pair.peer),
            address: pair.address,
            protocol: pair.protocol,
            port: pair.port,
            known: pair.known.clone(),
            verdict,
        }
    }

    fn is_of(&self, pair: &Pair<'_>) -> bool {
        Arc::ptr_eq(&self.subject, pair.subject)
            && Arc::ptr_eq(&self.peer, pair.peer)
            && self.direction == pair.direction
            && self.protocol == pair.protocol
            && self.port == pair.port
            && self.address == pair.address
            && self.known.is(pair.known)
    }
}
