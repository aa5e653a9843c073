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

/// How many answers a table remembers at first, each at one of two places, and at most: as many as are in use, because a
/// gateway holds a table for each peer. Half a megabyte at most, with the identities a few more.
const FEWEST: usize = 64;
const MOST: usize = 4096;

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

    fn hash(&self) -> u64 {
        let direction = u64::from(self.direction == Direction::Egress);
        let asked = direction << 32 | u64::from(self.protocol) << 16 | u64::from(self.port);
        let mut mixer = Mixer(Arc::as_ptr(self.subject) as u64);
        mixer.word((Arc::as_ptr(self.peer) as u64).rotate_left(24) ^ asked);
        mixer.0
    }
}

impl Table {
    /// Judges as [`Table::decide`] does, and remembers the verdict for as long as this table and both
    /// identities are used.
    #[must_use]
    pub fn decide_pair(&self, pair: &Pair<'_>) -> Verdict {
        let hash = pair.hash();
        // Whoever would have to wait for another thread decides meanwhile.
        if let Ok(answers) = self.seen.0.try_lock()
            && let Some(verdict) = answers.find(hash, pair)
        {
            return verdict.clone();
        }
        let verdict = self.decide(&pair.query());
        let answer = Answer::new(hash, pair, verdict.clone());
        if let Ok(mut answers) = self.seen.0.try_lock() {
            answers.insert(answer);
        }
        verdict
    }
}

/// What a table remembers. A copy of the table remembers nothing.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Answers>);

impl Clone for Seen {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Places, as many as a power of two, or none yet.
#[derive(Debug, Default)]
struct Answers(Vec<Option<Answer>>);

impl Answers {
    fn find(&self, hash: u64, pair: &Pair<'_>) -> Option<&Verdict> {
        let places = self.places(hash);
        let mut answers = places
            .iter()
            .filter_map(|place| self.0.get(*place)?.as_ref());
        let answer = answers.find(|answer| answer.is_of(pair))?;
        Some(&answer.verdict)
    }

    fn insert(&mut self, answer: Answer) {
        if self.0.is_empty() {
            self.0.resize_with(FEWEST, || None);
        }
        while self.free(answer.hash).is_none() && self.0.len() < MOST {
            let more = self.0.len() * 2;
            let old = std::mem::take(&mut self.0);
            self.0.resize_with(more, || None);
            old.into_iter().flatten().for_each(|one| self.put(one));
        }
        self.put(answer);
    }

    /// Where nothing stands yet, or in the second place of what stands there.
    fn put(&mut self, answer: Answer) {
        let [_, second] = self.places(answer.hash);
        let place = self.free(answer.hash).unwrap_or(second);
        self.0[place] = Some(answer);
    }

    fn free(&self, hash: u64) -> Option<usize> {
        let mut places = self.places(hash).into_iter();
        places.find(|place| matches!(self.0.get(*place), Some(None)))
    }

    fn places(&self, hash: u64) -> [usize; 2] {
        let mask = self.0.len().wrapping_sub(1);
        [hash, hash >> 32].map(|hash| hash as usize & mask)
    }
}

#[derive(Debug)]
struct Answer {
    hash: u64,
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
    fn new(hash: u64, pair: &Pair<'_>, verdict: Verdict) -> Self {
        Self {
            hash,
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
