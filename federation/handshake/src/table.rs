//! Entries by flow: places in a row, and an index of them by hash.
//!
//! A place stays the same as long as its entry, and all entries are visited in the order of their
//! places, which depends on nothing but what was done to the table: the hash decides no order.

use hashbrown::HashTable;
use wire::flow::FlowKey;

use crate::hash::Seed;

/// Where an entry is. Valid until the entry is removed.
pub(crate) type Place = u32;

#[derive(Debug)]
pub(crate) struct FlowTable<T> {
    seed: Seed,
    index: HashTable<Place>,
    places: Vec<Option<Slot<T>>>,
    /// Empty places.
    free: Vec<Place>,
}

#[derive(Debug)]
struct Slot<T> {
    hash: u64,
    key: FlowKey,
    value: T,
}

impl<T> FlowTable<T> {
    pub fn new(seed: &Seed) -> Self {
        Self {
            seed: seed.clone(),
            index: HashTable::new(),
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn hash(&self, key: &FlowKey) -> u64 {
        self.seed.flow(key)
    }

    /// Where the entry of `key` is.
    pub fn find(&self, key: &FlowKey) -> Option<Place> {
        if self.index.is_empty() {
            return None;
        }
        self.find_hashed(self.hash(key), key)
    }

    /// The same for who has the key's hash.
    pub fn find_hashed(&self, hash: u64, key: &FlowKey) -> Option<Place> {
        let is = |place: &Place| slot(&self.places, *place).is_some_and(|slot| slot.key == *key);
        self.index.find(hash, is).copied()
    }

    pub fn key(&self, place: Place) -> Option<&FlowKey> {
        slot(&self.places, place).map(|slot| &slot.key)
    }

    pub fn at(&self, place: Place) -> Option<&T> {
        slot(&self.places, place).map(|slot| &slot.value)
    }

    pub fn at_mut(&mut self, place: Place) -> Option<&mut T> {
        let slot = self.places.get_mut(place as usize)?.as_mut()?;
        Some(&mut slot.value)
    }

    pub fn get(&self, key: &FlowKey) -> Option<&T> {
        self.at(self.find(key)?)
    }

    pub fn get_mut(&mut self, key: &FlowKey) -> Option<&mut T> {
        self.at_mut(self.find(key)?)
    }

    /// Puts `value` under `key`, in place of what was there.
    pub fn insert(&mut self, key: FlowKey, value: T) -> Place {
        let hash = self.hash(&key);
        match self.find_hashed(hash, &key) {
            Some(place) => {
                self.put(place, Slot { hash, key, value });
                place
            }
            None => self.insert_new(hash, key, value),
        }
    }

    /// The same for a key that is not there, by who has its hash.
    pub fn insert_new(&mut self, hash: u64, key: FlowKey, value: T) -> Place {
        // Tables are bounded far below 2^32 entries.
        let place = self.free.pop().unwrap_or(self.places.len() as Place);
        let places = &self.places;
        let hash_of = |place: &Place| slot(places, *place).map_or(0, |slot| slot.hash);
        self.index.insert_unique(hash, place, hash_of);
        self.put(place, Slot { hash, key, value });
        place
    }

    fn put(&mut self, place: Place, slot: Slot<T>) {
        match self.places.get_mut(place as usize) {
            Some(old) => *old = Some(slot),
            None => self.places.push(Some(slot)),
        }
    }

    pub fn remove(&mut self, key: &FlowKey) -> Option<T> {
        self.remove_at(self.find(key)?)
    }

    pub fn remove_at(&mut self, place: Place) -> Option<T> {
        let Slot { hash, value, .. } = self.places.get_mut(place as usize)?.take()?;
        if let Ok(indexed) = self.index.find_entry(hash, |other| *other == place) {
            indexed.remove();
        }
        self.free.push(place);
        Some(value)
    }

    /// All entries, in the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (&FlowKey, &T)> {
        let slots = self.places.iter().flatten();
        slots.map(|slot| (&slot.key, &slot.value))
    }

    /// The places of those that `take` picks.
    pub fn pick(&mut self, mut take: impl FnMut(&FlowKey, &mut T) -> bool) -> Vec<Place> {
        let mut picked = Vec::new();
        for (slot, place) in self.places.iter_mut().zip(0..) {
            if let Some(Slot { key, value, .. }) = slot
                && take(key, value)
            {
                picked.push(place);
            }
        }
        picked
    }
}

fn slot<T>(places: &[Option<Slot<T>>], place: Place) -> Option<&Slot<T>> {
    places.get(place as usize)?.as_ref()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn key(number: u8) -> FlowKey {
        let v4 = [10, 0, 0, number % 3].into();
        let v6 = [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number % 3)].into();
        FlowKey {
            protocol: 6,
            src: if number.is_multiple_of(2) { v4 } else { v6 },
            dst: v4,
            sport: u16::from(number),
            dport: 80,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0..3u8, 0..24u8), 0..200)) {
            let mut table = FlowTable::new(&Seed::new(&[7; 16]));
            let mut naive = BTreeMap::new();
            for (value, (step, number)) in steps.into_iter().enumerate() {
                let key = key(number);
                match step {
                    0 | 1 => {
                        let place = table.insert(key, value);
                        prop_assert_eq!(table.at(place), Some(&value));
                        naive.insert(key, value);
                    }
                    _ => prop_assert_eq!(table.remove(&key), naive.remove(&key)),
                }
                prop_assert_eq!(table.len(), naive.len());
                prop_assert!(table.places.len() <= 24, "places are used again");
            }
            for number in 0..24 {
                prop_assert_eq!(table.get(&super::tests::key(number)), naive.get(&super::tests::key(number)));
            }
            let listed: BTreeMap<_, _> = table.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(listed, naive);
        }
    }
}
