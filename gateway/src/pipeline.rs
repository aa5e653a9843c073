//! Joins the packet loop and the data plane: one [`Worker`] per queue thread.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use gateway_core::{
    Context, Dataplane, Disposition, Frame, Side, Snapshot, Totals, context::Event,
};
use identity::{Mono, Now};
use tokio::sync::mpsc;
use wire::{ethernet, ip, udp};

use crate::{
    capture::{Running, Tap},
    queue::{Action, Packet, Pipeline},
};

/// How often the flow tables are swept.
const SWEEP: std::time::Duration = std::time::Duration::from_millis(250);

/// What the queue threads and the control side share.
#[derive(Debug)]
pub struct Shared {
    /// The packet path.
    pub dataplane: Dataplane,
    /// What packets are judged by.
    pub snapshot: ArcSwap<Snapshot>,
    /// Where packets can be looked at.
    pub tap: Tap,
}

/// The counts of one queue, copied between two rounds, so that they always balance.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<Mutex<(Totals, u64)>>);

impl Published {
    /// The counts, and how many events had no room.
    #[must_use]
    pub fn read(&self) -> (Totals, u64) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The data plane as one queue thread drives it.
pub struct Worker {
    shared: Arc<Shared>,
    cx: Context,
    now: Now,
    snapshot: Arc<Snapshot>,
    ports: Ports,
    /// By port: whether each frame queued in this round is an answer of ours.
    answers: Vec<Vec<bool>>,
    events: mpsc::Sender<Event>,
    lost_events: u64,
    published: Published,
    swept: Mono,
    /// The capture that runs, and the memory for the frame as it came.
    capture: Option<Arc<Running>>,
    before: Vec<u8>,
}

/// Which port is on which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Port 0 towards the nodes, port 1 towards the peers.
    Two,
    /// One port for both sides: tunnel packets are told from the rest by their address and port.
    One,
}

impl Ports {
    fn count(self) -> usize {
        match self {
            Self::Two => 2,
            Self::One => 1,
        }
    }

    fn port(self, side: Side) -> usize {
        match (self, side) {
            (Self::One, _) | (Self::Two, Side::Lan) => 0,
            (Self::Two, Side::Wan) => 1,
        }
    }
}

impl Worker {
    /// For the queue of number `queue`. What happens to flows goes to `events` while there is room.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        queue: usize,
        ports: Ports,
        answers_per_second: u32,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let snapshot = shared.snapshot.load_full();
        Self {
            shared,
            cx: Context::new(queue, answers_per_second),
            now: Now::default(),
            snapshot,
            answers: vec![Vec::with_capacity(256); ports.count()],
            ports,
            events,
            lost_events: 0,
            published: Published::default(),
            swept: Mono::default(),
            capture: None,
            before: Vec::new(),
        }
    }

    /// Where this queue's counts can be read.
    #[must_use]
    pub fn published(&self) -> Published {
        self.published.clone()
    }

    fn side(&self, port: usize, frame: &[u8]) -> Side {
        match (self.ports, port) {
            (Ports::Two, 0) => Side::Lan,
            (Ports::Two, _) => Side::Wan,
            (Ports::One, _) if is_tunnel(frame, &self.snapshot) => Side::Wan,
            (Ports::One, _) => Side::Lan,
        }
    }

    /// Whether packets of this round are looked at.
    fn look(&mut self) {
        let running = self.shared.tap.load();
        if running.is_some() || self.capture.is_some() {
            self.capture.clone_from(&running);
            match running.is_some() {
                true => drop(self.cx.witness.get_or_insert_default()),
                false => self.cx.witness = None,
            }
        }
    }

    fn send(&mut self, side: Side, answer: bool) -> Action {
        let port = self.ports.port(side);
        if let Some(answers) = self.answers.get_mut(port) {
            answers.push(answer);
        }
        Action::Send(port)
    }
}

/// Whether a frame is addressed to the gateway's end of the tunnels.
fn is_tunnel(frame: &[u8], snapshot: &Snapshot) -> bool {
    let datagram = || {
        let frame = ethernet::Frame::parse(frame).ok()?;
        let packet = ip::Packet::parse(frame.payload()).ok()?;
        let here = snapshot.wan.addresses.contains(&packet.dst());
        udp::Datagram::of(&packet).ok().filter(|_| here)
    };
    datagram().is_some_and(|d| d.dport() == snapshot.tunnel_port)
}

impl Pipeline for Worker {
    fn begin(&mut self, now: Now) {
        self.now = now;
        self.snapshot = self.shared.snapshot.load_full();
        self.answers.iter_mut().for_each(Vec::clear);
        self.look();
        if self.cx.queue() == 0 && now.mono.since(self.swept) >= SWEEP {
            self.swept = now.mono;
            self.shared.dataplane.handle_timeout(now);
        }
    }

    fn process(&mut self, port: usize, packet: &mut Packet<'_>) -> Action {
        let (start, end) = (packet.start, packet.end);
        let side = self.side(port, packet.buffer.get(start..end).unwrap_or_default());
        if self.capture.is_some() {
            let frame = packet.buffer.get(start..end).unwrap_or_default();
            self.before.clear();
            self.before.extend_from_slice(frame);
        }
        let Some(mut frame) = Frame::new(packet.buffer, start..end) else {
            debug_assert!(false, "a packet outside its memory");
            return Action::Done;
        };
        let disposition =
            self.shared
                .dataplane
                .process(&mut self.cx, side, &mut frame, &self.snapshot, self.now);
        if let (Some(capture), Some(witness)) = (&self.capture, &self.cx.witness) {
            let images = (&self.before[..], frame.packet());
            capture.take(
                side,
                images,
                disposition,
                witness,
                &self.snapshot,
                self.now.mono,
            );
        }
        let range = frame.range();
        (packet.start, packet.end) = (range.start, range.end);
        match disposition {
            Disposition::Forward(side) => self.send(side, false),
            Disposition::Answer(side, _) => self.send(side, true),
            Disposition::Drop(_) => Action::Done,
        }
    }

    fn poll_transmit(&mut self, _: &mut [u8]) -> Option<(usize, usize)> {
        None
    }

    fn not_sent(&mut self, port: usize, count: usize) {
        // The ring takes frames in order: the last ones are those that found no room.
        let answers = self.answers.get(port).map_or(&[][..], Vec::as_slice);
        for answer in answers.iter().rev().take(count) {
            match answer {
                true => self.cx.totals.answer_failed(),
                false => self.cx.totals.transmit_failed(),
            }
        }
    }

    fn end(&mut self) {
        self.cx.sum_up(self.now.mono);
        while let Some(event) = self.cx.poll_event() {
            // Control is behind: the log has a gap, which is counted; packets do not wait for it.
            if self.events.try_send(event).is_err() {
                self.lost_events += 1;
            }
        }
        let lost = self.lost_events + self.cx.lost_events();
        let mut published = self
            .published
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        published.0.clone_from(&self.cx.totals);
        published.1 = lost;
    }

    fn poll_timeout(&self) -> Option<Mono> {
        (self.cx.queue() == 0).then(|| self.swept.after(SWEEP))
    }
}
