//! Entries in the order of their arrival, found by a key: the oldest goes first.
//!
//! Keys are made by strangers: the index is by a hash under a secret key. What decides the order is the
//! arrival, never the hash.

use std::collections::VecDeque;

use hashbrown::HashTable;

use crate::hash::Seed;

/// Names an entry for as long as it is there.
pub(crate) type Number = u32;

/// Entries by keys of `N` bytes.
#[derive(Debug)]
pub(crate) struct Recent<const N: usize, T> {
    seed: Seed,
    entries: VecDeque<Entry<N, T>>,
    /// Numbers of entries: the first has the number `gone`, and so on, modulo 2^32.
    index: HashTable<Number>,
    gone: Number,
}

#[derive(Debug)]
struct Entry<const N: usize, T> {
    hash: u64,
    key: [u8; N],
    value: T,
}

impl<const N: usize, T> Recent<N, T> {
    pub fn new(seed: &Seed) -> Self {
        Self {
            seed: seed.clone(),
            entries: VecDeque::new(),
            index: HashTable::new(),
            gone: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of the entry of `key`.
    pub fn find(&self, key: &[u8; N]) -> Option<Number> {
        let is = |number: &Number| self.entry(*number).is_some_and(|entry| entry.key == *key);
        self.index.find(self.seed.key(key), is).copied()
    }

    pub fn get(&self, key: &[u8; N]) -> Option<&T> {
        self.at(self.find(key)?)
    }

    pub fn at(&self, number: Number) -> Option<&T> {
        self.entry(number).map(|entry| &entry.value)
    }

    pub fn at_mut(&mut self, number: Number) -> Option<&mut T> {
        let place = self.place(number);
        self.entries.get_mut(place).map(|entry| &mut entry.value)
    }

    /// Adds an entry for a key that has none; returns its number.
    pub fn push(&mut self, key: [u8; N], value: T) -> Number {
        let hash = self.seed.key(&key);
        // Bounded by their owners far below 2^32 entries.
        let number = self.gone.wrapping_add(self.entries.len() as Number);
        let (entries, gone) = (&self.entries, self.gone);
        let hash_of = |number: &Number| {
            let place = number.wrapping_sub(gone) as usize;
            entries.get(place).map_or(0, |entry| entry.hash)
        };
        self.index.insert_unique(hash, number, hash_of);
        self.entries.push_back(Entry { hash, key, value });
        number
    }

    /// Takes the oldest entry out if `go` says so of it.
    pub fn pop_if(&mut self, go: impl FnOnce(&T) -> bool) -> Option<T> {
        let entry = self.entries.pop_front_if(|entry| go(&entry.value))?;
        let number = self.gone;
        self.gone = number.wrapping_add(1);
        if let Ok(indexed) = self.index.find_entry(entry.hash, |other| *other == number) {
            indexed.remove();
        }
        Some(entry.value)
    }

    /// Keeps the entries whose keys `keep` picks, in their order; the others' numbers and theirs are
    /// void. Costs as much as there are entries.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8; N]) -> bool) {
        let before = self.entries.len();
        self.entries.retain(|entry| keep(&entry.key));
        if self.entries.len() == before {
            return;
        }
        self.index.clear();
        self.gone = 0;
        for (entry, number) in self.entries.iter().zip(0..) {
            // There was room for more of them: no entry of the index moves.
            self.index.insert_unique(entry.hash, number, |_| entry.hash);
        }
    }

    fn entry(&self, number: Number) -> Option<&Entry<N, T>> {
        self.entries.get(self.place(number))
    }

    fn place(&self, number: Number) -> usize {
        number.wrapping_sub(self.gone) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a row that is searched from its begin; the numbers wrap early on.
        #[test]
        fn agrees_with_a_row(steps in prop::collection::vec((0..8u8, 0..12u8), 0..200)) {
            let mut recent = Recent::new(&Seed::new(&[7; 16]));
            recent.gone = Number::MAX - 3;
            let mut naive: VecDeque<(u8, usize)> = VecDeque::new();
            for (value, (step, key)) in steps.into_iter().enumerate() {
                match step {
                    0..4 => match recent.find(&[key; 5]) {
                        Some(number) => {
                            *recent.at_mut(number).unwrap() = value;
                            let entry = naive.iter_mut().find(|entry| entry.0 == key);
                            entry.unwrap().1 = value;
                        }
                        None => {
                            let number = recent.push([key; 5], value);
                            prop_assert_eq!(recent.at(number), Some(&value));
                            naive.push_back((key, value));
                        }
                    },
                    4 | 5 => {
                        let go = |value: &usize| value.is_multiple_of(2);
                        let expected = naive.pop_front_if(|entry| go(&entry.1));
                        prop_assert_eq!(recent.pop_if(go), expected.map(|entry| entry.1));
                    }
                    6 => {
                        recent.retain(|kept| kept[0] != key);
                        naive.retain(|entry| entry.0 != key);
                    }
                    _ => {}
                }
                prop_assert_eq!(recent.len(), naive.len());
                for key in 0..12 {
                    let expected = naive.iter().find(|entry| entry.0 == key);
                    prop_assert_eq!(recent.get(&[key; 5]), expected.map(|entry| &entry.1));
                }
            }
        }
    }
}
