//! A node: its pods' sockets, its kernel's connection marks, and the enforcer beside them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use handshake::node::{Event, FlowRecord, Handled, Mark, Node, NodeLimits, NodeSnapshot, Path};
use identity::{Mono, Now};
use wire::{flow::FlowKey, ip, marker::OurOption, tcp::Segment};

use crate::{
    dice::Dice,
    sockets::{Delivery, Sockets},
};

/// What the kernel handed to the agent's process, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    received: u64,
    forwarded: u64,
    dropped: u64,
    originated: u64,
}

/// A node of a cluster.
#[derive(Debug)]
pub struct Host {
    /// The sockets of its pods.
    pub pods: BTreeMap<IpAddr, Sockets>,
    enforcer: Option<Node>,
    /// The kernel's view: flows that skip the agent, in the form that both directions share.
    marks: BTreeSet<[u8; wire::flow::SYMMETRIC_LEN]>,
    /// Flow records on disk.
    records: BTreeMap<FlowKey, FlowRecord>,
    /// Packets for the network.
    pub out: Vec<Vec<u8>>,
    /// What the pods read.
    pub deliveries: Vec<Delivery>,
    /// Packets of which the enforcer's user space saw nothing.
    pub fast: u64,
    seen: Seen,
    due: Option<Mono>,
    dice: Dice,
}

impl Host {
    /// A node whose agent was not started yet.
    #[must_use]
    pub fn new(dice: Dice) -> Self {
        Self {
            pods: BTreeMap::new(),
            enforcer: None,
            marks: BTreeSet::new(),
            records: BTreeMap::new(),
            out: Vec::new(),
            deliveries: Vec::new(),
            fast: 0,
            seen: Seen::default(),
            due: None,
            dice,
        }
    }

    /// The enforcer, while the agent runs.
    #[must_use]
    pub fn enforcer(&self) -> Option<&Node> {
        self.enforcer.as_ref()
    }

    /// The agent decides by `snapshot` from now on.
    pub fn set_snapshot(&mut self, snapshot: Arc<NodeSnapshot>, now: Now) {
        if let Some(node) = &mut self.enforcer {
            node.set_snapshot(snapshot, now);
        }
        self.drain(now);
    }

    /// The agent dies; rules and marks stay.
    pub fn crash(&mut self) {
        self.enforcer = None;
        self.find_due();
    }

    /// A new agent finds the records of the old one; a marked flow without one is cut.
    pub fn restart(&mut self, snapshot: Arc<NodeSnapshot>, now: Now) {
        let rng = Box::new(self.dice.rng());
        let mut node = Node::new(snapshot, NodeLimits::default(), rng);
        let mut kept = BTreeSet::new();
        for (key, record) in &self.records {
            if node.restore_flow(record.clone()).is_ok() {
                kept.insert(key.symmetric());
            }
        }
        self.marks.retain(|mark| kept.contains(mark));
        self.enforcer = Some(node);
        self.seen = Seen::default();
        self.drain(now);
    }

    /// A pod of this node is deleted: its sockets, and the kernel's entries of its address.
    pub fn remove_pod(&mut self, address: IpAddr) {
        self.pods.remove(&address);
        let gone: Vec<FlowKey> = self
            .records
            .keys()
            .filter(|key| key.src == address || key.dst == address)
            .copied()
            .collect();
        for key in gone {
            self.records.remove(&key);
            self.marks.remove(&key.symmetric());
            if let Some(node) = &mut self.enforcer {
                node.handle_flow_gone(&key);
            }
        }
        self.find_due();
    }

    /// A packet comes from the network. Whether it was let pass.
    pub fn handle_network(&mut self, packet: &[u8], now: Now) -> bool {
        let Ok(parsed) = ip::Packet::parse(packet) else {
            return false;
        };
        let to = parsed.dst();
        let passed = self.judge(Path::ToPod, packet, now);
        if let Some(packet) = &passed {
            self.hand_to_pod(to, packet, now.mono);
        }
        self.drain(now);
        passed.is_some()
    }

    /// The agent's counters are those of the kernel.
    ///
    /// # Panics
    /// When they are not.
    pub fn check(&self) {
        let Some(node) = &self.enforcer else { return };
        let counters = node.counters();
        let counted = Seen {
            received: counters.received,
            forwarded: counters.forwarded,
            dropped: counters.dropped.values().sum(),
            originated: counters.originated,
        };
        assert_eq!(counted, self.seen, "an agent counts other packets");
        assert_eq!(counters.events_lost, 0);
    }

    /// Everything that is due, and everything the pods have to send.
    pub fn handle_timeout(&mut self, now: Now) {
        for pod in self.pods.values_mut() {
            pod.handle_timeout(now.mono);
        }
        if let Some(node) = &mut self.enforcer {
            node.handle_timeout(now);
        }
        self.drain(now);
    }

    /// When [`Host::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        self.due
    }

    fn find_due(&mut self) {
        let enforcer = self.enforcer.as_ref().and_then(Node::poll_timeout);
        let pods = self.pods.values().filter_map(Sockets::next_timeout);
        self.due = pods.chain(enforcer).min();
    }

    /// Lets packets, events and deliveries flow until nothing is left.
    pub fn drain(&mut self, now: Now) {
        loop {
            let mut sent: Vec<Vec<u8>> = Vec::new();
            for pod in self.pods.values_mut() {
                sent.extend(pod.take_packets());
                self.deliveries.extend(pod.take_deliveries());
            }
            let idle = sent.is_empty();
            for packet in sent {
                self.pod_sends(&packet, now);
            }
            if self.drain_enforcer(now) && idle {
                break;
            }
        }
        self.find_due();
    }

    fn drain_enforcer(&mut self, now: Now) -> bool {
        let Some(node) = &mut self.enforcer else {
            return true;
        };
        let mut transmits = Vec::new();
        while let Some(transmit) = node.poll_transmit() {
            transmits.push(transmit);
        }
        while let Some(event) = node.poll_event() {
            match event {
                Event::FlowOpened(record) => {
                    self.records.insert(record.key, FlowRecord::clone(&record));
                }
                Event::FlowCut { key, .. } => {
                    self.records.remove(&key);
                    self.marks.remove(&key.symmetric());
                }
                Event::Refused { .. } | Event::Logged { .. } | Event::Staged { .. } => {}
            }
        }
        let idle = transmits.is_empty();
        self.seen.originated += transmits.len() as u64;
        for transmit in transmits {
            if transmit.to_pod {
                if let Ok(parsed) = ip::Packet::parse(&transmit.packet) {
                    self.hand_to_pod(parsed.dst(), &transmit.packet, now.mono);
                }
            } else {
                self.out.push(transmit.packet);
            }
        }
        idle
    }

    /// A pod sends what the enforcers send. Whether it was let pass.
    pub fn pod_forges(&mut self, packet: &[u8], now: Now) -> bool {
        let Ok(parsed) = ip::Packet::parse(packet) else {
            return false;
        };
        self.judge(self.path_to(parsed.dst()), packet, now)
            .is_some()
    }

    fn path_to(&self, to: IpAddr) -> Path {
        match self.pods.contains_key(&to) {
            true => Path::Local,
            false => Path::FromPod,
        }
    }

    fn pod_sends(&mut self, packet: &[u8], now: Now) {
        let Ok(parsed) = ip::Packet::parse(packet) else {
            return;
        };
        let to = parsed.dst();
        let path = self.path_to(to);
        let Some(packet) = self.judge(path, packet, now) else {
            return;
        };
        if path == Path::Local {
            self.hand_to_pod(to, &packet, now.mono);
        } else {
            self.out.push(packet);
        }
    }

    fn hand_to_pod(&mut self, to: IpAddr, packet: &[u8], now: Mono) {
        if let Some(pod) = self.pods.get_mut(&to) {
            pod.handle_packet(packet, now);
        }
    }

    /// The kernel's rules: a marked flow passes, unless the segment has SYN or an option of ours;
    /// all else is the agent's, and without an agent it is dropped.
    fn judge(&mut self, path: Path, packet: &[u8], now: Now) -> Option<Vec<u8>> {
        let parsed = ip::Packet::parse(packet).ok()?;
        let segment = Segment::of(&parsed).ok();
        let key = FlowKey::of(&parsed).ok();
        let slow = segment.is_none_or(|segment| {
            segment.flags().syn() || segment.our_option() != OurOption::Absent
        });
        if let Some(key) = &key
            && !slow
            && self.marks.contains(&key.symmetric())
        {
            self.fast += 1;
            return Some(packet.to_vec());
        }
        let handled = self.enforcer.as_mut()?.handle_packet(path, packet, now);
        self.seen.received += 1;
        let (packet, mark) = match handled {
            Handled::Accept(mark) => (packet.to_vec(), mark),
            Handled::Rewrite { packet, mark } => (packet, mark),
            Handled::Drop(_) => {
                self.seen.dropped += 1;
                return None;
            }
        };
        self.seen.forwarded += 1;
        if let (Mark::Established, Some(key)) = (mark, key) {
            self.marks.insert(key.symmetric());
        }
        Some(packet)
    }
}
