//! A bounded table of half-open connections: at its limit the oldest goes, never an established
//! one, because those are kept elsewhere.

use std::collections::BTreeMap;

use identity::Mono;
use wire::flow::FlowKey;

/// Entries by flow, each with a deadline.
#[derive(Debug)]
pub struct HalfOpen<T> {
    entries: BTreeMap<FlowKey, Entry<T>>,
    /// By deadline, then by arrival: the first is the oldest.
    order: BTreeMap<(Mono, u64), FlowKey>,
    capacity: usize,
    arrivals: u64,
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    slot: (Mono, u64),
}

impl<T> HalfOpen<T> {
    /// An empty table for at most `capacity` entries; at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            capacity: capacity.max(1),
            arrivals: 0,
        }
    }

    /// Puts `value` under `key` until `deadline`, in place of what was there. Returns true when the
    /// oldest entry had to go for it.
    pub fn insert(&mut self, key: FlowKey, value: T, deadline: Mono) -> bool {
        self.remove(&key);
        let full = self.entries.len() >= self.capacity;
        if full && let Some((_, oldest)) = self.order.pop_first() {
            self.entries.remove(&oldest);
        }
        self.arrivals += 1;
        let slot = (deadline, self.arrivals);
        self.order.insert(slot, key);
        self.entries.insert(key, Entry { value, slot });
        full
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
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.slot);
        Some(entry.value)
    }

    /// Forgets entries whose deadline has come; returns how many.
    pub fn expire(&mut self, now: Mono) -> usize {
        let mut expired = 0;
        while let Some(first) = self.order.first_entry()
            && first.key().0 <= now
        {
            let key = first.remove();
            self.entries.remove(&key);
            expired += 1;
        }
        expired
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Mono> {
        self.order
            .first_key_value()
            .map(|((deadline, _), _)| *deadline)
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets the entries that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&FlowKey, &T) -> bool) {
        let order = &mut self.order;
        self.entries.retain(|key, entry| {
            let kept = keep(key, &entry.value);
            if !kept {
                order.remove(&entry.slot);
            }
            kept
        });
    }
}
