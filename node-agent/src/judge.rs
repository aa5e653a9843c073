//! What happens around the judgement of one packet: records are stored before a packet goes on,
//! marks are taken back, our own packets are sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::Arc,
};

pub use handshake::node::Touched;
use handshake::node::{Event, FlowRecord, Handled, Path};
use identity::Now;
use policy::DropReason;
use wire::flow::FlowKey;

use crate::{
    conntrack::{Conntrack, Tracked},
    enforcer::Enforcer,
    records::{RecordError, Records},
    sender::Sender,
    tally::Judged,
};

/// Lines for the flow log that wait; beyond it the oldest goes, counted.
const LOG: usize = 1024;

/// Flows that are forgotten between two batches of packets.
const TIDIED_AT_ONCE: usize = 64;

/// A line for the flow log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowLine {
    /// A flow was established by this rule.
    Opened(FlowKey, Arc<str>),
    /// A flow may not go on.
    Cut(FlowKey, DropReason),
    /// A connection was refused, by this rule.
    Refused(FlowKey, DropReason, Arc<str>),
    /// A Log rule matched a new connection: its tuple and the rule, in words.
    Logged(FlowKey, Arc<str>),
    /// Staged policies would decide otherwise: why they would drop it, if they would, and by which rule.
    Staged(FlowKey, Option<DropReason>, Arc<str>),
}

/// Trouble that does not stop packets but must be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Flows without a record, because the file is full or cannot be written: they would be cut
    /// after a restart.
    pub unrecorded: u64,
    /// Marks that could not be taken back; tried again at each pass over the connection table.
    pub uncleared: u64,
    /// Packets of our own that could not be sent.
    pub unsent: u64,
    /// Lines of the flow log that nobody fetched in time.
    pub log_lost: u64,
}

/// The enforcer and what it acts on.
#[derive(Debug)]
pub struct Judge<E> {
    pub(crate) enforcer: E,
    conntrack: Conntrack,
    records: Records,
    sender: Sender,
    /// Flows of an earlier process that the kernel still passes and the enforcer does not know yet.
    inherited: BTreeMap<FlowKey, FlowRecord>,
    /// Flows that the kernel passes and that have no record: cut at the first change.
    orphans: BTreeSet<FlowKey>,
    /// Flows that are to be forgotten, if their record is not younger than `gone_age`.
    gone: Vec<FlowKey>,
    gone_age: u64,
    /// Flows whose mark is still to be taken.
    uncleared: BTreeSet<FlowKey>,
    log: VecDeque<FlowLine>,
    judged: Judged,
    trouble: Trouble,
}

impl<E: Enforcer> Judge<E> {
    /// Begins with what an earlier process left: `recovered` records, and the flows that the kernel
    /// still passes.
    ///
    /// # Errors
    /// When the connection table cannot be read.
    pub fn new(
        enforcer: E,
        mut conntrack: Conntrack,
        mut records: Records,
        sender: Sender,
        recovered: Vec<FlowRecord>,
    ) -> std::io::Result<Self> {
        let mut orphans: BTreeSet<_> = conntrack.marked()?.iter().map(Tracked::flow).collect();
        let mut inherited = BTreeMap::new();
        for record in recovered {
            // An entry that began in the middle of a connection may have its ends the other way
            // round.
            if orphans.remove(&record.key) | orphans.remove(&record.key.reversed()) {
                inherited.insert(record.key, record);
            } else {
                records.remove(&record.key)?;
            }
        }
        Ok(Self {
            enforcer,
            conntrack,
            records,
            sender,
            inherited,
            orphans,
            gone: Vec::new(),
            gone_age: 0,
            uncleared: BTreeSet::new(),
            log: VecDeque::new(),
            judged: Judged::default(),
            trouble: Trouble::default(),
        })
    }

    /// Cuts the flows without a record of which neither end is a pod of this node any more.
    pub fn cut_strangers(&mut self, is_pod: impl Fn(IpAddr) -> bool) {
        let strange = |key: &FlowKey| !is_pod(key.src) && !is_pod(key.dst);
        let cut: Vec<_> = self.orphans.extract_if(.., |key| strange(key)).collect();
        for key in cut {
            self.cut(&key, DropReason::UnknownFlow);
        }
    }

    /// Judges one packet. Its record is stored before this returns, and so before it goes on.
    pub fn judge(&mut self, path: Path, packet: &[u8], now: Now) -> Handled {
        self.judged.received += 1;
        let handled = self.enforcer.handle_packet(path, packet, now);
        match &handled {
            Handled::Drop(reason) => *self.judged.dropped.entry(*reason).or_default() += 1,
            Handled::Accept(_) | Handled::Rewrite { .. } => self.judged.forwarded += 1,
        }
        self.drain();
        handled
    }

    /// Decides by `snapshot` from now on. A flow that may not go on is cut before this returns:
    /// this thread also gives the verdicts, so none can set the mark anew in between.
    pub fn set_snapshot(&mut self, snapshot: E::Snapshot, touched: &Touched, now: Now) {
        self.enforcer.set_snapshot(snapshot, now);
        self.drain();
        self.take_over(touched);
        let cut: Vec<_> = self
            .orphans
            .extract_if(.., |key| touched.touches(key))
            .collect();
        for key in cut {
            self.cut(&key, DropReason::UnknownFlow);
        }
    }

    /// Removes every connection of a pod that is gone, before its address can be served again.
    ///
    /// # Errors
    /// When the connection table cannot be changed.
    pub fn remove_pod(&mut self, address: IpAddr) -> std::io::Result<usize> {
        let removed = self.conntrack.remove_all_of(address)?;
        let of_pod = |key: &FlowKey| key.src == address || key.dst == address;
        self.orphans.retain(|key| !of_pod(key));
        self.inherited.retain(|key, _| !of_pod(key));
        let gone: Vec<_> = self
            .records
            .not_after(u64::MAX)
            .filter(|k| of_pod(k))
            .copied()
            .collect();
        for key in gone {
            self.forget(&key);
        }
        Ok(removed)
    }

    /// Finds the flows that were recorded at `age` or before and that the kernel no longer passes,
    /// for [`Judge::tidy`] to forget. `tracked` is what it passes, in either direction.
    pub fn reconcile(&mut self, age: u64, tracked: &BTreeSet<FlowKey>) {
        let untracked =
            |key: &&FlowKey| !tracked.contains(key) && !tracked.contains(&key.reversed());
        self.gone = self
            .records
            .not_after(age)
            .filter(untracked)
            .copied()
            .collect();
        self.gone_age = age;
        self.orphans.retain(|key| tracked.contains(key));
        for key in std::mem::take(&mut self.uncleared) {
            self.clear_mark(&key);
        }
    }

    /// Forgets some of what [`Judge::reconcile`] found; true while there is more. A few at a time,
    /// so that packets do not wait.
    pub fn tidy(&mut self) -> bool {
        for _ in 0..TIDIED_AT_ONCE {
            let Some(key) = self.gone.pop() else {
                return false;
            };
            // The same ports may carry a new connection by now.
            if self.records.is_not_after(&key, self.gone_age) {
                self.inherited.remove(&key);
                self.forget(&key);
            }
        }
        !self.gone.is_empty()
    }

    /// What the records' age is now, for [`Judge::reconcile`].
    #[must_use]
    pub fn age(&self) -> u64 {
        self.records.age()
    }

    /// Forgets what is too old, if its time has come.
    pub fn handle_timeout(&mut self, now: Now) {
        if self
            .enforcer
            .poll_timeout()
            .is_some_and(|due| due <= now.mono)
        {
            self.enforcer.handle_timeout(now);
            self.drain();
        }
    }

    /// The flow log since the last call.
    pub fn take_log(&mut self) -> Vec<FlowLine> {
        self.log.drain(..).collect()
    }

    /// Flows that the kernel passes and the enforcer does not know: with a record, and without.
    #[must_use]
    pub fn unknown_to_enforcer(&self) -> (usize, usize) {
        (self.inherited.len(), self.orphans.len())
    }

    /// The enforcer, to look at.
    #[must_use]
    pub fn enforcer(&self) -> &E {
        &self.enforcer
    }

    /// Packets by their fate.
    #[must_use]
    pub fn judged(&self) -> &Judged {
        &self.judged
    }

    /// Trouble so far.
    #[must_use]
    pub fn trouble(&self) -> &Trouble {
        &self.trouble
    }

    /// The number of records.
    #[must_use]
    pub fn recorded(&self) -> usize {
        self.records.len()
    }

    /// Hands inherited flows to the enforcer. One whose pod has no credential yet waits, unless
    /// what allowed it has changed: then it is cut.
    fn take_over(&mut self, touched: &Touched) {
        for (key, record) in std::mem::take(&mut self.inherited) {
            match self.enforcer.restore_flow(record.clone()) {
                Ok(()) => {}
                Err(
                    DropReason::NoCredential | DropReason::UnknownIssuer | DropReason::NotReady,
                ) if !touched.touches(&key) => {
                    self.inherited.insert(key, record);
                }
                Err(reason) => self.cut(&key, reason),
            }
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(event) = self.enforcer.poll_event() {
            match event {
                Event::FlowOpened(record) => self.record(&record),
                Event::FlowCut { key, reason } => self.cut(&key, reason),
                Event::Refused { key, reason, rule } => {
                    self.note(FlowLine::Refused(key, reason, rule));
                }
                Event::Logged { key, rule } => self.note(FlowLine::Logged(key, rule)),
                Event::Staged { key, dropped, rule } => {
                    self.note(FlowLine::Staged(key, dropped, rule));
                }
            }
        }
        while let Some(transmit) = self.enforcer.poll_transmit() {
            match self.sender.send(&transmit.packet) {
                Ok(()) => self.judged.originated += 1,
                Err(_) => self.trouble.unsent += 1,
            }
        }
    }

    fn record(&mut self, record: &FlowRecord) {
        self.orphans.remove(&record.key);
        self.inherited.remove(&record.key);
        // A mark that was to be taken from an older connection is this one's now.
        self.uncleared.remove(&record.key);
        match self.records.put(record) {
            Ok(()) => {}
            Err(RecordError::Full(_) | RecordError::TooLong(_) | RecordError::Io(_)) => {
                self.trouble.unrecorded += 1;
            }
        }
        self.note(FlowLine::Opened(record.key, record.rule.clone()));
    }

    fn cut(&mut self, key: &FlowKey, reason: DropReason) {
        self.clear_mark(key);
        self.remove_record(key);
        self.note(FlowLine::Cut(*key, reason));
    }

    fn clear_mark(&mut self, key: &FlowKey) {
        if self.conntrack.clear_mark(key).is_err() {
            self.trouble.uncleared += 1;
            self.uncleared.insert(*key);
        }
    }

    fn forget(&mut self, key: &FlowKey) {
        self.enforcer.handle_flow_gone(key);
        self.remove_record(key);
    }

    fn remove_record(&mut self, key: &FlowKey) {
        if self.records.remove(key).is_err() {
            self.trouble.unrecorded += 1;
        }
    }

    fn note(&mut self, line: FlowLine) {
        if self.log.len() >= LOG {
            self.log.pop_front();
            self.trouble.log_lost += 1;
        }
        self.log.push_back(line);
    }
}
