//! A map from hashes whose copies share what is equal in them: a table that differs in one policy
//! costs the few nodes on the way to what that policy hangs on.
//!
//! A tree over the bits of the hash. A leaf that is full becomes a branch; branches stay.

use std::sync::Arc;

/// How many bits of the hash one level looks at.
const BITS: u32 = 8;
const WIDTH: usize = 1 << BITS;
/// A leaf with as many entries is split before it takes another. Two hashes differ somewhere, so that
/// there is an end to it.
const FULL: usize = 24;

#[derive(Clone, Debug)]
pub(crate) struct Trie<V>(Arc<Node<V>>);

#[derive(Clone, Debug)]
enum Node<V> {
    Leaf(Vec<(u64, V)>),
    /// [`WIDTH`] of them.
    Branch(Vec<Arc<Node<V>>>),
}

impl<V> Default for Trie<V> {
    fn default() -> Self {
        Self(Arc::new(Node::Leaf(Vec::new())))
    }
}

impl<V> Trie<V> {
    pub(crate) fn get(&self, hash: u64) -> Option<&V> {
        let (mut node, mut bits) = (&*self.0, hash);
        loop {
            match node {
                Node::Leaf(entries) => {
                    let found = entries.iter().find(|(of, _)| *of == hash);
                    return found.map(|(_, value)| value);
                }
                Node::Branch(children) => node = children.get(bits as usize % WIDTH)?,
            }
            bits >>= BITS;
        }
    }
}

impl<V: Clone + Default> Trie<V> {
    /// What stands at `hash`, made when nothing does.
    pub(crate) fn at(&mut self, hash: u64) -> &mut V {
        let entries = self.leaf(hash);
        let place = entries.iter().position(|(of, _)| *of == hash);
        let place = place.unwrap_or_else(|| {
            entries.push((hash, V::default()));
            entries.len() - 1
        });
        &mut entries[place].1
    }

    pub(crate) fn remove(&mut self, hash: u64) {
        self.leaf(hash).retain(|(of, _)| *of != hash);
    }

    /// The leaf where `hash` belongs, with room for it, shared with no copy.
    fn leaf(&mut self, hash: u64) -> &mut Vec<(u64, V)> {
        let (mut node, mut depth) = (Arc::make_mut(&mut self.0), 0);
        loop {
            node.split_if_full(depth);
            match node {
                Node::Leaf(entries) => return entries,
                Node::Branch(children) => node = Arc::make_mut(&mut children[child(hash, depth)]),
            }
            depth += 1;
        }
    }
}

impl<V: Clone> Node<V> {
    fn split_if_full(&mut self, depth: u32) {
        let Self::Leaf(entries) = self else { return };
        if entries.len() < FULL {
            return;
        }
        let empty = Arc::new(Self::Leaf(Vec::new()));
        let mut children: Vec<_> = std::iter::repeat_n(empty, WIDTH).collect();
        for entry in std::mem::take(entries) {
            if let Self::Leaf(leaf) = Arc::make_mut(&mut children[child(entry.0, depth)]) {
                leaf.push(entry);
            }
        }
        *self = Self::Branch(children);
    }
}

fn child(hash: u64, depth: u32) -> usize {
    // As many as make a leaf full cannot agree in all bits.
    hash.unbounded_shr(depth * BITS) as usize % WIDTH
}

/// Makes hashes, quickly. Whoever writes policies could make two things have one hash, and would gain
/// that some rules are looked at in vain, as they are when he names what many pods have.
pub(crate) struct Mixer(pub u64);

impl Mixer {
    pub(crate) fn word(&mut self, word: u64) {
        // Two odd constants, from the digits of pi.
        let wide = u128::from(self.0 ^ word ^ 0x243f_6a88_85a3_08d3) * 0x1319_8a2e_0370_7345;
        self.0 = (wide >> 64) as u64 ^ wide as u64;
    }

    pub(crate) fn text(&mut self, text: &str) {
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let rest = rest
            .iter()
            .fold(0, |rest, byte| (rest << 8) | u64::from(*byte));
        self.word((rest << 8) | (text.len() as u64 % 256));
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

    proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay_as_they_are(
            steps in vec((hash(), any::<Option<u8>>()), 0..400), copied in 0_usize..400,
        ) {
            let (mut trie, mut map) = (Trie::<Vec<u8>>::default(), BTreeMap::<u64, Vec<u8>>::new());
            let mut copy = (trie.clone(), map.clone());
            for (number, (hash, value)) in steps.iter().enumerate() {
                match value {
                    Some(value) => {
                        trie.at(*hash).push(*value);
                        map.entry(*hash).or_default().push(*value);
                    }
                    None => {
                        trie.remove(*hash);
                        map.remove(hash);
                    }
                }
                if number == copied {
                    copy = (trie.clone(), map.clone());
                }
            }
            for (trie, map) in [(&trie, &map), (&copy.0, &copy.1)] {
                for (hash, _) in &steps {
                    prop_assert_eq!(trie.get(*hash), map.get(hash));
                }
            }
        }
    }
}
