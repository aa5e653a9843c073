//! The established flows of one shard, in memory of a fixed size.
//!
//! Half-open flows are not here: they live in `handshake::transit` under a quota of their own, so
//! no flood of them can displace an established one.

use std::sync::Arc;

use handshake::transit::Ends;
use identity::{Claims, Mono};
use wire::flow::FlowKey;

use crate::track::{Sender, Track};

/// Entries looked at when a full table searches one that is over.
const RECLAIM: usize = 64;

/// One established flow; at most 128 bytes.
#[derive(Clone, Debug)]
pub struct Flow {
    /// From initiator to responder.
    pub key: FlowKey,
    /// What the initiator's credential says.
    pub initiator: Arc<Claims>,
    /// What the responder's credential says.
    pub responder: Arc<Claims>,
    /// The snapshot by which it was last allowed.
    pub epoch: u64,
    /// Bytes of IP packets, by [`Sender`].
    pub bytes: [u64; 2],
    /// Packets, by [`Sender`]; they stop at the top.
    pub packets: [u32; 2],
    /// When its last packet came.
    pub last_seen: Seconds,
    /// Where its ends are.
    pub track: Track,
    /// A new connection is being opened on the tuple.
    pub succeeding: bool,
}

/// Seconds of [`Mono`] time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(u32);

impl From<Mono> for Seconds {
    fn from(mono: Mono) -> Self {
        Self(u32::try_from(mono.0.as_secs()).unwrap_or(u32::MAX))
    }
}

impl Flow {
    /// A flow that begins now.
    #[must_use]
    pub fn new(ends: Ends, track: Track, epoch: u64, now: Mono) -> Self {
        Self {
            key: ends.key,
            initiator: ends.initiator,
            responder: ends.responder,
            epoch,
            bytes: [0; 2],
            packets: [0; 2],
            last_seen: now.into(),
            track,
            succeeding: false,
        }
    }

    /// Both ends, to decide again.
    #[must_use]
    pub fn ends(&self) -> Ends {
        Ends {
            key: self.key,
            initiator: self.initiator.clone(),
            responder: self.responder.clone(),
        }
    }

    /// Counts a packet.
    pub fn count(&mut self, sender: Sender, length: usize, now: Mono) {
        self.last_seen = now.into();
        if let Some(bytes) = self.bytes.get_mut(sender as usize) {
            *bytes = bytes.saturating_add(length as u64);
        }
        if let Some(packets) = self.packets.get_mut(sender as usize) {
            *packets = packets.saturating_add(1);
        }
    }

    fn expired(&self, now: Mono) -> bool {
        let idle = Seconds::from(now).0.saturating_sub(self.last_seen.0);
        u64::from(idle) > self.track.timeout().as_secs()
    }
}

/// Flows by key: a slab of entries and an index with linear probing, both of a size fixed at the
/// start. The memory is asked for at once and touched as it is used.
#[derive(Debug)]
pub struct FlowTable {
    /// 0 is free; else the low half of the hash above, the number of the entry plus 1 below.
    index: Vec<u64>,
    entries: Vec<Option<Flow>>,
    /// Entries that were given back.
    free: Vec<u32>,
    capacity: usize,
    used: usize,
    cursor: usize,
}

/// No room for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl FlowTable {
    /// For at most `capacity` flows.
    #[must_use]
    pub fn new(capacity: u32) -> Self {
        let capacity = capacity.clamp(1, 1 << 26) as usize;
        Self {
            index: vec![0; (capacity * 2).next_power_of_two()],
            entries: Vec::with_capacity(capacity),
            free: Vec::new(),
            capacity,
            used: 0,
            cursor: 0,
        }
    }

    /// The flow of a packet with `key`, whose hash is `hash`, and who sent the packet.
    pub fn find(&mut self, hash: u64, key: &FlowKey) -> Option<(&mut Flow, Sender)> {
        let (_, number) = self.locate(hash, key)?;
        let flow = self.entries.get_mut(number)?.as_mut()?;
        let sender = if flow.key == *key {
            Sender::Initiator
        } else {
            Sender::Responder
        };
        Some((flow, sender))
    }

    /// Puts `flow` into the table, in place of one with the same ends. When it is full, a flow that
    /// is over or expired makes room.
    ///
    /// # Errors
    /// [`Full`]: no established flow is ever displaced.
    pub fn insert(
        &mut self,
        hash: u64,
        flow: Flow,
        now: Mono,
        rehash: impl Fn(&FlowKey) -> u64,
    ) -> Result<(), Full> {
        if let Some((_, number)) = self.locate(hash, &flow.key) {
            if let Some(entry) = self.entries.get_mut(number) {
                *entry = Some(flow);
            }
            return Ok(());
        }
        if self.used >= self.capacity {
            self.reclaim(RECLAIM, rehash, |old| old.track.over() || old.expired(now));
            if self.used >= self.capacity {
                return Err(Full);
            }
        }
        let number = self.store(flow);
        let mut slot = self.home(hash);
        while self.index.get(slot).is_some_and(|word| *word != 0) {
            slot = self.next(slot);
        }
        if let Some(word) = self.index.get_mut(slot) {
            *word = pack(hash, number);
        }
        self.used += 1;
        Ok(())
    }

    /// Takes the flow out.
    pub fn remove(&mut self, hash: u64, key: &FlowKey) -> Option<Flow> {
        let (slot, number) = self.locate(hash, key)?;
        self.close_gap(slot);
        self.used -= 1;
        self.free.push(number as u32);
        self.entries.get_mut(number)?.take()
    }

    /// Looks at the next `count` entries in turn and takes out those that expired; returns how
    /// many went.
    pub fn sweep(&mut self, count: usize, now: Mono, rehash: impl Fn(&FlowKey) -> u64) -> usize {
        self.reclaim(count, rehash, |flow| flow.expired(now))
    }

    /// How many flows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// All flows, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.entries.iter().flatten()
    }

    fn reclaim(
        &mut self,
        count: usize,
        rehash: impl Fn(&FlowKey) -> u64,
        goes: impl Fn(&Flow) -> bool,
    ) -> usize {
        let before = self.used;
        for _ in 0..count.min(self.entries.len()) {
            self.cursor = if self.cursor + 1 < self.entries.len() {
                self.cursor + 1
            } else {
                0
            };
            let flow = self.entries.get(self.cursor).and_then(Option::as_ref);
            if let Some(key) = flow.filter(|flow| goes(flow)).map(|flow| flow.key) {
                self.remove(rehash(&key), &key);
            }
        }
        before - self.used
    }

    fn store(&mut self, flow: Flow) -> usize {
        if let Some(number) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(number as usize)
        {
            *entry = Some(flow);
            return number as usize;
        }
        self.entries.push(Some(flow));
        self.entries.len() - 1
    }

    /// The slot and the number of the flow with these ends.
    fn locate(&self, hash: u64, key: &FlowKey) -> Option<(usize, usize)> {
        let mut slot = self.home(hash);
        loop {
            let word = *self.index.get(slot)?;
            if word == 0 {
                return None;
            }
            if word >> 32 == hash & 0xffff_ffff {
                let number = number_of(word);
                let found = self.entries.get(number)?.as_ref()?.key;
                if found == *key || found == key.reversed() {
                    return Some((slot, number));
                }
            }
            slot = self.next(slot);
        }
    }

    /// Frees `gap` and moves up what was pushed past it, so that every probe still ends right.
    fn close_gap(&mut self, mut gap: usize) {
        let mut slot = gap;
        loop {
            slot = self.next(slot);
            let word = self.index.get(slot).copied().unwrap_or(0);
            if word == 0 {
                break;
            }
            // It may move if its home does not lie between the gap and itself.
            let home = self.home(word >> 32);
            let distance = |from: usize| slot.wrapping_sub(from) & (self.index.len() - 1);
            if distance(home) >= distance(gap) {
                self.index.swap(gap, slot);
                gap = slot;
            }
        }
        if let Some(word) = self.index.get_mut(gap) {
            *word = 0;
        }
    }

    /// Only the low half of the hash counts here; the high half chose the shard.
    fn home(&self, hash: u64) -> usize {
        (hash & 0xffff_ffff) as usize & (self.index.len() - 1)
    }

    fn next(&self, slot: usize) -> usize {
        (slot + 1) & (self.index.len() - 1)
    }
}

fn pack(hash: u64, number: usize) -> u64 {
    // The capacity keeps numbers below 2^26.
    hash << 32 | (number as u64 + 1)
}

fn number_of(word: u64) -> usize {
    ((word & 0xffff_ffff) as usize).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;
    use wire::tcp::Flags;

    use super::*;
    use crate::{
        hash::FlowHasher,
        testing::{claims, domain, key},
        track::{Facts, RESET},
    };

    fn at(secs: u64) -> Mono {
        Mono(Duration::from_secs(secs))
    }

    fn flow(number: u32, epoch: u64) -> Flow {
        let ends = Ends {
            key: key(number),
            initiator: Arc::new(claims(&domain("east"), "a")),
            responder: Arc::new(claims(&domain("west"), "b")),
        };
        let ack = Facts {
            flags: Flags(Flags::ACK),
            seq: 1,
            end: 1,
            ack: Some(1),
            window: 9,
            scale: None,
        };
        Flow::new(
            ends,
            Track::midstream(Sender::Responder, &ack),
            epoch,
            at(0),
        )
    }

    fn reset(flow: &mut Flow) {
        let rst = Facts {
            flags: Flags(Flags::RST),
            seq: 1,
            end: 1,
            ack: None,
            window: 0,
            scale: None,
        };
        assert!(flow.track.segment(Sender::Initiator, &rst));
    }

    #[test]
    fn an_entry_fits_two_cache_lines() {
        assert!(
            size_of::<Option<Flow>>() <= 128,
            "{}",
            size_of::<Option<Flow>>()
        );
    }

    #[test]
    fn a_full_table_refuses_and_keeps_what_it_has() {
        let hasher = FlowHasher::new(&[1; 16]);
        let hash = |key: &FlowKey| hasher.hash(key);
        let mut table = FlowTable::new(100);
        for n in 0..100 {
            let flow = flow(n, 1);
            assert_eq!(table.insert(hash(&flow.key), flow, at(0), hash), Ok(()));
        }
        for n in 100..1100 {
            let flow = flow(n, 1);
            assert_eq!(table.insert(hash(&flow.key), flow, at(0), hash), Err(Full));
        }
        for n in 0..100 {
            let back = key(n).reversed();
            assert_eq!(table.find(hash(&back), &back).unwrap().1, Sender::Responder);
        }
        // One that is over makes room, and only that one.
        reset(table.find(hash(&key(42)), &key(42)).unwrap().0);
        let next = flow(7000, 1);
        let inserted =
            (0..4).any(|_| table.insert(hash(&next.key), next.clone(), at(0), hash) == Ok(()));
        assert!(inserted);
        assert!(table.find(hash(&key(42)), &key(42)).is_none());
        assert_eq!(table.len(), 100);
    }

    #[test]
    fn idle_flows_expire_by_their_state() {
        let hasher = FlowHasher::new(&[1; 16]);
        let hash = |key: &FlowKey| hasher.hash(key);
        let mut table = FlowTable::new(10);
        for n in 0..2 {
            table
                .insert(hash(&key(n)), flow(n, 1), at(0), hash)
                .unwrap();
        }
        reset(table.find(hash(&key(1)), &key(1)).unwrap().0);
        assert_eq!(table.sweep(10, at(RESET.as_secs()), hash), 0);
        assert_eq!(table.sweep(10, at(RESET.as_secs() + 1), hash), 1);
        assert!(table.find(hash(&key(1)), &key(1)).is_none());
        assert_eq!(table.sweep(10, at(124 * 60), hash), 0);
        assert_eq!(table.sweep(10, at(124 * 60 + 1), hash), 1);
        assert!(table.is_empty());
    }

    proptest! {
        /// Against a map, with a hash so bad that everything collides and wraps around the end.
        #[test]
        fn agrees_with_a_map(
            steps in prop::collection::vec((0u32..24, 0u8..3, any::<u64>()), 1..300), bits in 0u32..6,
        ) {
            let bad = |key: &FlowKey| {
                let ports = u64::from(key.sport) ^ u64::from(key.dport);
                u64::from(u32::MAX) - (ports & ((1 << bits) - 1))
            };
            let mut table = FlowTable::new(16);
            let mut model: BTreeMap<FlowKey, u64> = BTreeMap::new();
            for (number, action, epoch) in steps {
                let key = key(number);
                let hash = bad(&key);
                match action {
                    0 | 1 => {
                        let fits = model.contains_key(&key) || model.len() < 16;
                        let inserted = table.insert(hash, flow(number, epoch), at(0), bad);
                        prop_assert_eq!(inserted.is_ok(), fits);
                        if fits {
                            model.insert(key, epoch);
                        }
                    }
                    _ => {
                        let removed = table.remove(hash, &key.reversed()).map(|flow| flow.epoch);
                        prop_assert_eq!(removed, model.remove(&key));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for number in 0..24 {
                    let key = super::tests::key(number);
                    let found = table.find(bad(&key), &key).map(|(flow, _)| flow.epoch);
                    prop_assert_eq!(found, model.get(&key).copied());
                }
            }
        }
    }
}
