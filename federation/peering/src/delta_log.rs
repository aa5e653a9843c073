//! A map that remembers in which order its entries changed, so that a reader who has seen it up to
//! some version is brought up to date by what changed since, each entry once.

use std::collections::BTreeMap;

/// Versions start at 1; a reader that has seen nothing has seen version 0.
#[derive(Debug)]
pub(crate) struct DeltaLog<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    order: BTreeMap<u64, K>,
    version: u64,
    forgotten: u64,
}

#[derive(Debug)]
struct Entry<V> {
    version: u64,
    /// `None` says that the entry was removed.
    value: Option<V>,
}

impl<K: Ord + Clone, V: PartialEq> DeltaLog<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            version: 0,
            forgotten: 0,
        }
    }

    /// Sets `key`, unless it is so already; whether that changed anything.
    pub(crate) fn set(&mut self, key: K, value: V) -> bool {
        self.put(key, Some(value))
    }

    /// Removes `key`, which leaves a note of that; whether it was there.
    pub(crate) fn remove(&mut self, key: K) -> bool {
        self.value(&key).is_some() && self.put(key, None)
    }

    /// Drops `key` and every note of it.
    pub(crate) fn forget(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.version);
            self.forgotten = self.forgotten.max(entry.version);
        }
    }

    /// Drops the notes of what was removed: when every reader has seen them.
    pub(crate) fn forget_removed(&mut self) {
        let order = &mut self.order;
        self.entries.retain(|_, entry| {
            let keep = entry.value.is_some();
            if !keep {
                order.remove(&entry.version);
            }
            keep
        });
    }

    pub(crate) fn value(&self, key: &K) -> Option<&V> {
        self.entries.get(key)?.value.as_ref()
    }

    /// What changed after `version`, oldest change first; `None` for what was removed.
    pub(crate) fn since(&self, version: u64) -> impl Iterator<Item = (u64, &K, Option<&V>)> {
        self.order
            .range(version.saturating_add(1)..)
            .filter_map(|(version, key)| {
                let entry = self.entries.get(key)?;
                Some((*version, key, entry.value.as_ref()))
            })
    }

    /// What is there, sorted by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries
            .iter()
            .filter_map(|(key, entry)| Some((key, entry.value.as_ref()?)))
    }

    /// The newest version.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The newest version that was forgotten: whoever has seen less has missed something.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How many entries there are, notes of removed ones included.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    fn put(&mut self, key: K, value: Option<V>) -> bool {
        if let Some(entry) = self.entries.get(&key) {
            if entry.value == value {
                return false;
            }
            self.order.remove(&entry.version);
        }
        self.version += 1;
        self.order.insert(self.version, key.clone());
        let version = self.version;
        self.entries.insert(key, Entry { version, value });
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reader_gets_each_change_once_and_the_newest_only() {
        let mut log = DeltaLog::new();
        assert!(log.set("a", 1));
        assert!(log.set("b", 1));
        assert!(!log.set("b", 1), "nothing changed");
        assert!(log.set("a", 2));
        let seen: Vec<_> = log.since(0).collect();
        assert_eq!(seen, [(2, &"b", Some(&1)), (3, &"a", Some(&2))]);
        assert!(log.remove("b"));
        assert!(!log.remove("b"));
        assert!(!log.remove("c"));
        let seen: Vec<_> = log.since(3).collect();
        assert_eq!(seen, [(4, &"b", None)]);
        assert_eq!(log.since(4).count(), 0);
        log.forget_removed();
        assert_eq!((log.len(), log.version(), log.forgotten()), (1, 4, 0));
        log.forget(&"a");
        assert_eq!((log.len(), log.forgotten()), (0, 3));
    }

    proptest! {
        /// A reader that looks now and then holds what the log holds.
        #[test]
        fn a_reader_converges(steps in prop::collection::vec((0..6u8, 0..4u8, any::<bool>()), 0..60)) {
            let mut log = DeltaLog::new();
            let (mut mirror, mut seen) = (BTreeMap::new(), 0);
            for (key, value, look) in steps {
                if value == 0 {
                    log.remove(key);
                } else {
                    log.set(key, value);
                }
                if look {
                    for (version, key, value) in log.since(seen) {
                        prop_assert!(version > seen);
                        seen = version;
                        match value {
                            Some(value) => mirror.insert(*key, *value),
                            None => mirror.remove(key),
                        };
                    }
                    let held: BTreeMap<_, _> = log.iter().map(|(k, v)| (*k, *v)).collect();
                    prop_assert_eq!(&mirror, &held);
                }
            }
        }
    }
}
