//! A bounded table of half-open connections: at its limit the oldest goes, never an established
//! one, because those are kept elsewhere.

use identity::Mono;
use wire::flow::FlowKey;

use crate::{
    hash::Seed,
    table::{FlowTable, Place},
};

/// Entries by flow, each with a deadline.
#[derive(Debug)]
pub struct HalfOpen<T> {
    entries: FlowTable<Entry<T>>,
    /// The ends of the row in which entries stand, by deadline, then by arrival.
    oldest: Option<Place>,
    newest: Option<Place>,
    capacity: usize,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    deadline: Mono,
    older: Option<Place>,
    newer: Option<Place>,
}

impl<T> HalfOpen<T> {
    /// An empty table for at most `capacity` entries; at least one.
    #[must_use]
    pub fn new(capacity: usize, seed: &Seed) -> Self {
        Self {
            entries: FlowTable::new(seed),
            oldest: None,
            newest: None,
            capacity: capacity.max(1),
        }
    }

    /// Puts `value` under `key` until `deadline`, in place of what was there. Returns the key of the
    /// oldest entry when that had to go for it. Quick when `deadline` is not before those given
    /// earlier.
    pub fn insert(&mut self, key: FlowKey, value: T, deadline: Mono) -> Option<FlowKey> {
        let hash = self.entries.hash(&key);
        if let Some(place) = self.entries.find_hashed(hash, &key) {
            self.take(place);
        }
        let full = self.entries.len() >= self.capacity;
        let evicted = if full { self.pop_oldest() } else { None };
        let mut older = self.newest;
        while let Some((place, entry)) = self.entry_at(older)
            && entry.deadline > deadline
        {
            debug_assert_ne!(entry.older, Some(place));
            older = entry.older;
        }
        let newer = match self.entry_at(older) {
            Some((_, entry)) => entry.newer,
            None => self.oldest,
        };
        let entry = Entry {
            value,
            deadline,
            older,
            newer,
        };
        let place = Some(self.entries.insert_new(hash, key, entry));
        *self.newer_of(older) = place;
        *self.older_of(newer) = place;
        evicted
    }

    /// Forgets the oldest entry; returns its key.
    pub fn pop_oldest(&mut self) -> Option<FlowKey> {
        let place = self.oldest?;
        let key = *self.entries.key(place)?;
        self.take(place);
        Some(key)
    }

    /// The entry under `key`.
    #[must_use]
    pub fn entry(&self, key: &FlowKey) -> Option<&T> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The entry under `key`, to change.
    pub fn entry_mut(&mut self, key: &FlowKey) -> Option<&mut T> {
        self.entries.get_mut(key).map(|entry| &mut entry.value)
    }

    /// Takes the entry out.
    pub fn remove(&mut self, key: &FlowKey) -> Option<T> {
        self.take(self.entries.find(key)?)
    }

    /// Forgets entries whose deadline has come; returns how many.
    pub fn expire(&mut self, now: Mono) -> usize {
        let mut expired = 0;
        while let Some((place, entry)) = self.entry_at(self.oldest)
            && entry.deadline <= now
        {
            self.take(place);
            expired += 1;
        }
        expired
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.entry_at(self.oldest).map(|(_, entry)| entry.deadline)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the entries that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&FlowKey, &T) -> bool) {
        let refused = self.entries.pick(|key, entry| !keep(key, &entry.value));
        for place in refused {
            self.take(place);
        }
    }

    fn entry_at(&self, place: Option<Place>) -> Option<(Place, &Entry<T>)> {
        place.and_then(|place| Some((place, self.entries.at(place)?)))
    }

    /// Takes the entry at `place` out of the table and closes the row.
    fn take(&mut self, place: Place) -> Option<T> {
        let Entry {
            value,
            older,
            newer,
            ..
        } = self.entries.remove_at(place)?;
        *self.newer_of(older) = newer;
        *self.older_of(newer) = older;
        Some(value)
    }

    /// Which entry stands after the one at `place`; after nothing stands the oldest.
    fn newer_of(&mut self, place: Option<Place>) -> &mut Option<Place> {
        match place.and_then(|place| self.entries.at_mut(place)) {
            Some(entry) => &mut entry.newer,
            None => &mut self.oldest,
        }
    }

    /// Which entry stands before the one at `place`; before nothing stands the newest.
    fn older_of(&mut self, place: Option<Place>) -> &mut Option<Place> {
        match place.and_then(|place| self.entries.at_mut(place)) {
            Some(entry) => &mut entry.older,
            None => &mut self.newest,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(sport: u16) -> FlowKey {
        FlowKey {
            protocol: 6,
            src: [10, 1, 0, 1].into(),
            dst: [10, 2, 0, 1].into(),
            sport,
            dport: 80,
        }
    }

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    proptest! {
        /// Against a list in the order of deadline and arrival.
        #[test]
        fn agrees_with_a_list(
            steps in prop::collection::vec((0..5u8, 0..8u16, 0..6u64), 0..100),
            capacity in 1..6usize,
        ) {
            let mut table = HalfOpen::new(capacity, &Seed::new(&[7; 16]));
            let mut naive: Vec<(u16, usize, u64)> = Vec::new();
            for (value, (step, number, time)) in steps.into_iter().enumerate() {
                match step {
                    0..=2 => {
                        naive.retain(|(other, ..)| *other != number);
                        let full = naive.len() >= capacity;
                        let evicted = full.then(|| key(naive.remove(0).0));
                        naive.push((number, value, time));
                        naive.sort_by_key(|(_, _, deadline)| *deadline);
                        prop_assert_eq!(table.insert(key(number), value, at(time)), evicted);
                    }
                    3 => {
                        let known = naive.iter().position(|(other, ..)| *other == number);
                        let known = known.map(|place| naive.remove(place).1);
                        prop_assert_eq!(table.remove(&key(number)), known);
                    }
                    _ => {
                        let before = naive.len();
                        naive.retain(|(_, _, deadline)| *deadline > time);
                        prop_assert_eq!(table.expire(at(time)), before - naive.len());
                    }
                }
                prop_assert_eq!(table.len(), naive.len());
                prop_assert_eq!(table.next_deadline(), naive.first().map(|(_, _, deadline)| at(*deadline)));
            }
            table.retain(|key, _| key.sport % 2 == 0);
            naive.retain(|(number, ..)| number % 2 == 0);
            for number in 0..8 {
                let known = naive.iter().find(|(other, ..)| *other == number);
                prop_assert_eq!(table.entry(&key(number)), known.map(|(_, value, _)| value));
            }
            prop_assert_eq!(table.expire(at(9)), naive.len());
            prop_assert_eq!(table.next_deadline(), None);
        }
    }
}
