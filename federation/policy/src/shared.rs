//! A map from hashes whose copies share what is equal in them: a table that differs in one policy
//! costs the few parts in which what that policy hangs on stands.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

/// How many parts there are at most, a power of two. A change copies a part; whoever looks something up finds
/// the part without a search.
const PARTS: usize = 256;
/// How full parts are before there are more of them: a gateway holds a table of few policies for each peer.
const PER_PART: usize = 64;

#[derive(Clone, Debug)]
pub(crate) struct SharedMap<V> {
    /// As many as a power of two.
    parts: Vec<Arc<Part<V>>>,
    count: usize,
}

type Part<V> = HashMap<u64, V, BuildHasherDefault<Given>>;

impl<V> Default for SharedMap<V> {
    fn default() -> Self {
        Self {
            parts: vec![Arc::default()],
            count: 0,
        }
    }
}

impl<V> SharedMap<V> {
    pub(crate) fn get(&self, hash: u64) -> Option<&V> {
        self.parts.get(self.part(hash))?.get(&hash)
    }

    /// From bits that the part itself does not look at first.
    fn part(&self, hash: u64) -> usize {
        (hash >> 40) as usize % self.parts.len()
    }
}

impl<V: Clone + Default> SharedMap<V> {
    /// What stands at `hash`, made when nothing does.
    pub(crate) fn at(&mut self, hash: u64) -> &mut V {
        if self.count >= PER_PART * self.parts.len() && self.parts.len() < PARTS {
            self.split();
        }
        let part = self.part(hash);
        match Arc::make_mut(&mut self.parts[part]).entry(hash) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                self.count += 1;
                place.insert(V::default())
            }
        }
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        let part = self.part(hash);
        let removed = Arc::make_mut(&mut self.parts[part]).remove(&hash);
        self.count -= usize::from(removed.is_some());
    }

    /// Twice as many parts.
    fn split(&mut self) {
        let old = std::mem::take(&mut self.parts);
        self.parts.resize_with(2 * old.len(), Arc::default);
        for held in old {
            // Each goes to a place of its own, whichever comes first.
            #[allow(clippy::iter_over_hash_type)]
            for (hash, value) in Arc::unwrap_or_clone(held) {
                let part = self.part(hash);
                Arc::make_mut(&mut self.parts[part]).insert(hash, value);
            }
        }
    }
}

/// The key is the hash.
#[derive(Default)]
struct Given(u64);

impl Hasher for Given {
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    /// For keys that are no hashes; there is none.
    fn write(&mut self, bytes: &[u8]) {
        let mut mixer = Mixer(self.0);
        bytes.iter().for_each(|byte| mixer.word(u64::from(*byte)));
        self.0 = mixer.0;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Makes hashes, quickly. Whoever writes policies could make two things have one hash, and would gain
/// that some rules are looked at in vain, as they are when he names what many pods have.
pub(crate) struct Mixer(pub u64);

impl Mixer {
    pub(crate) fn word(&mut self, word: u64) {
        self.pair(word, 0x1319_8a2e_0370_7345);
    }

    pub(crate) fn text(&mut self, text: &str) {
        let (pairs, rest) = text.as_bytes().as_chunks::<16>();
        for pair in pairs {
            let pair = u128::from_le_bytes(*pair);
            self.pair(pair as u64, (pair >> 64) as u64);
        }
        let (first, last) = ends(rest);
        // Spread, so that it does not look like letters.
        let length = (text.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.pair(first ^ length, last);
    }

    /// One multiplication for two words.
    fn pair(&mut self, a: u64, b: u64) {
        // From the digits of pi.
        let wide = u128::from(a ^ 0x243f_6a88_85a3_08d3) * u128::from(b ^ self.0);
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }
}

/// Two words that tell bytes of one length apart: their first and their last ones, which may overlap.
fn ends(bytes: &[u8]) -> (u64, u64) {
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some(first), Some(last)) => (
                u32::from_le_bytes(*first).into(),
                u32::from_le_bytes(*last).into(),
            ),
            _ => {
                let few = |word, byte: &u8| word << 8 | u64::from(*byte);
                (bytes.iter().fold(0, few), 0)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Hashes that agree in many bits, at the low and at the high end.
    fn hash() -> impl Strategy<Value = u64> {
        (any::<u8>(), 0_u32..8, prop_oneof![Just(0), Just(u64::MAX)])
            .prop_map(|(byte, place, rest)| rest ^ (u64::from(byte) << (place * 8)))
    }

    /// A hash that two texts share costs a look each time; one that a whole family shares would be slow.
    #[test]
    fn texts_are_told_apart() {
        let mut hashes = BTreeMap::new();
        let long = "x".repeat(40);
        let texts = (0..=40).flat_map(|length| {
            let text = &long[..length];
            let changed = (0..length).map(|at| format!("{}y{}", &text[..at], &text[at + 1..]));
            changed.chain([text.to_owned()]).collect::<Vec<_>>()
        });
        let numbers = (0..100_000).map(|n| format!("a{n}"));
        for text in texts.chain(numbers) {
            let mut mixer = Mixer(1);
            mixer.text(&text);
            if let Some(other) = hashes.insert(mixer.0, text.clone()) {
                panic!("{other} and {text}");
            }
        }
        let buckets = |bits: fn(u64) -> u64| {
            let mut counts = [0_u32; 256];
            hashes
                .keys()
                .for_each(|hash| counts[bits(*hash) as usize % 256] += 1);
            let most = counts.iter().max().copied().unwrap_or_default();
            assert!(most < 600, "{most} of {} in one of 256", hashes.len());
        };
        buckets(|hash| hash);
        buckets(|hash| hash >> 40);
        buckets(|hash| hash >> 56);
    }

    proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay_as_they_are(
            steps in vec((hash(), any::<Option<u8>>()), 0..400), copied in 0_usize..400,
        ) {
            let (mut shared, mut map) = (SharedMap::<Vec<u8>>::default(), BTreeMap::<u64, Vec<u8>>::new());
            let mut copy = (shared.clone(), map.clone());
            for (number, (hash, value)) in steps.iter().enumerate() {
                match value {
                    Some(value) => {
                        shared.at(*hash).push(*value);
                        map.entry(*hash).or_default().push(*value);
                    }
                    None => {
                        shared.remove(*hash);
                        map.remove(hash);
                    }
                }
                if number == copied {
                    copy = (shared.clone(), map.clone());
                }
            }
            for (shared, map) in [(&shared, &map), (&copy.0, &copy.1)] {
                for (hash, _) in &steps {
                    prop_assert_eq!(shared.get(*hash), map.get(hash));
                }
            }
        }
    }
}
