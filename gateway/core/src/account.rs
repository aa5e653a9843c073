//! Every packet is accounted for, exactly once.

use policy::DropReason;

/// How many kinds of drop there are.
const REASONS: usize = DropReason::ALL.len();

/// The counts of one queue. Whoever publishes them copies the whole value between two packets, so
/// that [`Totals::balanced`] holds for every reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Packets that came in.
    pub received: u64,
    /// Sent on towards their destination.
    pub forwarded: u64,
    /// Turned into an answer that was asked for.
    pub replied: u64,
    /// Handed to the kernel or to control.
    pub punted: u64,
    /// Meant for the gateway itself and used up.
    pub consumed: u64,
    /// Waiting; the only one of these that can fall.
    pub held: u64,
    /// Sent without having come in: resets and ICMP errors. Not part of the balance.
    pub originated: u64,
    dropped: [u64; REASONS],
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            received: 0,
            forwarded: 0,
            replied: 0,
            punted: 0,
            consumed: 0,
            held: 0,
            originated: 0,
            dropped: [0; REASONS],
        }
    }
}

impl Totals {
    /// Counts a drop.
    pub fn drop(&mut self, reason: DropReason) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// A packet that counted as forwarded found the transmit ring full.
    pub fn transmit_failed(&mut self) {
        self.forwarded = self.forwarded.saturating_sub(1);
        self.drop(DropReason::TxFull);
    }

    /// An answer that counted as originated found the transmit ring full. What it answered stays
    /// counted as dropped.
    pub fn answer_failed(&mut self) {
        self.originated = self.originated.saturating_sub(1);
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped.get(reason as usize).copied().unwrap_or(0)
    }

    /// All reasons with their counts, in the order of [`DropReason::ALL`].
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, self.dropped(*reason)))
    }

    /// `received = forwarded + replied + punted + consumed + held + dropped`.
    #[must_use]
    pub fn balanced(&self) -> bool {
        let dropped: u64 = self.dropped.iter().sum();
        let kept = self.forwarded + self.replied + self.punted + self.consumed + self.held;
        self.received == kept + dropped
    }

    /// Adds the counts of another queue.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.forwarded += other.forwarded;
        self.replied += other.replied;
        self.punted += other.punted;
        self.consumed += other.consumed;
        self.held += other.held;
        self.originated += other.originated;
        for (sum, count) in self.dropped.iter_mut().zip(other.dropped) {
            *sum += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_place_of_its_own() {
        let mut totals = Totals::default();
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            totals.received += 1;
            totals.drop(*reason);
            assert_eq!(totals.dropped(*reason), 1);
        }
        assert!(totals.balanced());
        totals.received += 1;
        assert!(!totals.balanced());
        totals.forwarded += 1;
        totals.transmit_failed();
        assert!(totals.balanced());
        assert_eq!(totals.dropped(DropReason::TxFull), 2);
    }
}
