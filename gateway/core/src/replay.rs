//! The replay window of one association.

/// How far behind the highest counter a packet may arrive, in packets.
pub const WINDOW: u64 = 8192;

/// One word more than the window, so that the word that is being filled and the oldest one that
/// still counts are never the same.
const WORDS: u64 = WINDOW / 64 + 1;

/// Which counters were seen: a ring of bits behind the highest one, so that moving on clears whole
/// words (the idea of RFC 6479). It must only be asked after the packet authenticated.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The highest counter seen; meaningless while `empty`.
    highest: u64,
    empty: bool,
    words: Box<[u64; WORDS as usize]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            highest: 0,
            empty: true,
            words: Box::new([0; WORDS as usize]),
        }
    }
}

impl ReplayWindow {
    /// Whether `counter` is new; then it is not any more. False when it was seen or lies
    /// [`WINDOW`] or more behind the highest.
    #[must_use]
    pub fn accept(&mut self, counter: u64) -> bool {
        if self.empty {
            (self.empty, self.highest) = (false, counter);
        } else if counter > self.highest {
            self.advance(counter);
        } else if self.highest - counter >= WINDOW {
            return false;
        }
        let bit = 1 << (counter % 64);
        let Some(word) = self.words.get_mut(slot(counter / 64)) else {
            return false;
        };
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// The highest counter that was accepted.
    #[cfg(test)]
    pub(crate) fn highest(&self) -> Option<u64> {
        (!self.empty).then_some(self.highest)
    }

    /// Clears the words between the old and the new highest counter.
    fn advance(&mut self, counter: u64) {
        let (old, new) = (self.highest / 64, counter / 64);
        for block in (old + 1..=new).take(WORDS as usize) {
            if let Some(word) = self.words.get_mut(slot(block)) {
                *word = 0;
            }
        }
        self.highest = counter;
    }
}

fn slot(block: u64) -> usize {
    // Below `WORDS`, which is 129.
    (block % WORDS) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the window means, without a ring.
    #[derive(Default)]
    struct Naive {
        seen: BTreeSet<u64>,
    }

    impl Naive {
        fn accept(&mut self, counter: u64) -> bool {
            let highest = self.seen.last().copied().unwrap_or(counter);
            let too_old = counter < highest && highest - counter >= WINDOW;
            !too_old && self.seen.insert(counter)
        }
    }

    /// The cases that a counter test of a tunnel asks, by their meaning: first, repeat, just inside
    /// and just outside the window, around word borders, far jumps, the top of the range.
    #[test]
    fn table() {
        let steps: &[(u64, bool)] = &[
            (0, true),
            (1, true),
            (1, false),
            (9, true),
            (8, true),
            (7, true),
            (7, false),
            (WINDOW, true),
            (WINDOW - 1, true),
            (WINDOW - 1, false),
            (WINDOW - 2, true),
            (2, true),
            (2, false),
            // WINDOW is the highest: 0 lies WINDOW behind.
            (0, false),
            (1, false),
            (WINDOW + 16, true),
            (3, false),
            (17, true),
            (16, false),
            (WINDOW + 16, false),
            (WINDOW * 4, true),
            (WINDOW * 4 - (WINDOW - 1), true),
            (10, false),
            (WINDOW * 4 - WINDOW, false),
            (WINDOW * 4 - (WINDOW + 1), false),
            (WINDOW * 4 - (WINDOW - 2), true),
            (WINDOW * 4 + 1 - WINDOW, false),
            (0, false),
            (u64::MAX - 1, true),
            (u64::MAX - WINDOW, true),
            (u64::MAX - WINDOW - 1, false),
            (u64::MAX, true),
            (u64::MAX, false),
            (u64::MAX - WINDOW, false),
        ];
        let mut window = ReplayWindow::default();
        for (i, (counter, accepted)) in steps.iter().enumerate() {
            assert_eq!(window.accept(*counter), *accepted, "step {i}: {counter}");
        }
    }

    #[test]
    fn a_full_window_backwards_and_again() {
        let mut window = ReplayWindow::default();
        let top = 5 * WINDOW + 13;
        assert!((0..WINDOW).all(|back| window.accept(top - back)));
        assert!((0..2 * WINDOW).all(|back| !window.accept(top - back)));
        assert!(window.accept(top + 64 * WORDS));
        assert!(!window.accept(top));
    }

    fn counters() -> impl Strategy<Value = Vec<u64>> {
        let near = (0u64..4, 0u64..3 * WINDOW).prop_map(|(jump, at)| jump * WINDOW + at);
        let small = 0u64..130;
        let border = (0u64..400).prop_map(|word| word * 64);
        let top = (0u64..2 * WINDOW).prop_map(|back| u64::MAX - back);
        let one = prop_oneof![4 => near, 4 => small, 2 => border, 1 => top];
        prop::collection::vec(one, 1..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn agrees_with_a_set(counters in counters()) {
            let (mut window, mut naive) = (ReplayWindow::default(), Naive::default());
            for counter in counters {
                prop_assert_eq!(window.accept(counter), naive.accept(counter), "{}", counter);
            }
        }
    }
}
