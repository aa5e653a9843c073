//! The packet loop: one thread per queue index, owning that queue of every interface.
//!
//! The loop has no policy and the [`Pipeline`] has no socket. One round is six steps: begin (load the
//! snapshot and read the clock once), receive a batch, process each frame, add what the pipeline
//! itself has to say, transmit, service the rings.

use std::{
    io, panic,
    process::abort,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};

use gateway_xdp::{Frame, FramePool, Port, QueueSet, Waker, XskQueue};
use identity::{Mono, Now};
use privileges::CapabilitySet;

use crate::clock::Clock;

/// Frames taken from one port before the next one's turn.
const BATCH: usize = 64;
/// Packets of its own that the pipeline may send in one round.
const OWN: usize = 64;
/// The longest sleep of an idle thread: an upper bound for noticing a lost wake-up.
const IDLE: Duration = Duration::from_millis(500);

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the packet, as it lies in the buffer now, out of this port.
    Send(usize),
    /// Do nothing more with it: it was dropped, consumed or is held elsewhere, and counted so.
    Done,
}

/// A packet and the memory around it, in which it may grow at both ends.
#[derive(Debug)]
pub struct Packet<'a> {
    /// The whole memory of the frame.
    pub buffer: &'a mut [u8],
    /// Where in it the packet lies.
    pub start: usize,
    /// Where the packet ends.
    pub end: usize,
}

/// What the loop drives. It never blocks.
pub trait Pipeline: Send {
    /// A round begins: load the snapshot; timers that are due may run.
    fn begin(&mut self, now: Now);

    /// Judges and rewrites the Ethernet frame that came in on `port`, in place.
    fn process(&mut self, port: usize, packet: &mut Packet<'_>) -> Action;

    /// An Ethernet frame that the pipeline itself sends, written into `buffer` from its start: its
    /// port and length. `None` when there is nothing, or `buffer` is too small for it.
    fn poll_transmit(&mut self, buffer: &mut [u8]) -> Option<(usize, usize)>;

    /// Of the frames that were to be sent in this round, `count` found no room in the transmit ring
    /// of `port` and are lost.
    fn not_sent(&mut self, port: usize, count: usize);

    /// The round is over: publish counters.
    fn end(&mut self);

    /// When the pipeline wants a round although no packet came.
    fn poll_timeout(&self) -> Option<Mono>;
}

/// The sockets of one thread and the pipeline between them.
pub struct Queue<Q, P> {
    pool: FramePool,
    ports: Vec<Q>,
    pipeline: P,
    batch: Vec<Frame>,
    /// What is to be sent, by port.
    out: Vec<Vec<Frame>>,
}

impl<Q: Port, P: Pipeline> Queue<Q, P> {
    /// A loop over `ports`, which share `pool`.
    pub fn new(pool: FramePool, ports: Vec<Q>, pipeline: P) -> Self {
        let room = BATCH * ports.len() + OWN;
        Self {
            out: ports.iter().map(|_| Vec::with_capacity(room)).collect(),
            batch: Vec::with_capacity(BATCH),
            pool,
            ports,
            pipeline,
        }
    }

    /// One round. Returns whether there may be more to do at once.
    ///
    /// # Errors
    /// When an interface is gone.
    pub fn round(&mut self, now: Now) -> io::Result<bool> {
        self.pipeline.begin(now);
        let mut busy = false;
        for port in 0..self.ports.len() {
            let received = self.ports[port].receive(&mut self.pool, &mut self.batch);
            busy |= received == BATCH;
            self.process(port);
        }
        busy |= self.originate();
        for port in 0..self.ports.len() {
            self.transmit(port);
            busy |= self.ports[port].has_unsent();
        }
        self.pipeline.end();
        // No `?` before the last port: one interface that is gone must not starve the others.
        let mut result = Ok(busy);
        for port in &mut self.ports {
            if let Err(e) = port.service(&mut self.pool, QueueSet::RESERVE) {
                result = Err(e);
            }
        }
        result
    }

    /// How many frames neither the pool nor a port has. Zero between two rounds.
    pub fn unaccounted(&self) -> usize {
        let held: usize = self.ports.iter().map(Port::held).sum();
        self.pool.outstanding() - held
    }

    /// When the next round is due although no packet came.
    fn sleep(&self, now: Now) -> Duration {
        let due = self.pipeline.poll_timeout();
        due.map_or(IDLE, |due| due.since(now.mono).min(IDLE))
    }

    fn process(&mut self, port: usize) {
        for mut frame in self.batch.drain(..) {
            let range = frame.range();
            let mut packet = Packet {
                buffer: self.pool.buffer(&mut frame),
                start: range.start,
                end: range.end,
            };
            let action = self.pipeline.process(port, &mut packet);
            let range = packet.start..packet.end;
            match action {
                Action::Send(to) if to < self.out.len() && self.pool.place(&mut frame, range) => {
                    self.out[to].push(frame);
                }
                Action::Send(to) => {
                    // A port that is not there or a packet outside its memory: the pipeline is wrong.
                    debug_assert!(false, "cannot send to port {to}");
                    self.pipeline.not_sent(to, 1);
                    self.pool.free(frame);
                }
                Action::Done => self.pool.free(frame),
            }
        }
    }

    /// Takes up to [`OWN`] packets from the pipeline; `true` when there may be more.
    fn originate(&mut self) -> bool {
        for _ in 0..OWN {
            let Some(mut frame) = self.pool.allocate() else {
                return true;
            };
            let start = frame.range().start;
            let buffer = self.pool.buffer(&mut frame).get_mut(start..);
            let sent = self.pipeline.poll_transmit(buffer.unwrap_or_default());
            match sent {
                Some((port, len))
                    if port < self.out.len() && self.pool.place(&mut frame, start..start + len) =>
                {
                    self.out[port].push(frame);
                }
                _ => {
                    self.pool.free(frame);
                    return false;
                }
            }
        }
        true
    }

    fn transmit(&mut self, port: usize) {
        let out = &mut self.out[port];
        if out.is_empty() {
            return;
        }
        self.ports[port].transmit(&mut self.pool, out);
        if !out.is_empty() {
            // Waiting would hold up the other port; TCP sees the loss and slows down.
            self.pipeline.not_sent(port, out.len());
            out.drain(..).for_each(|frame| self.pool.free(frame));
        }
    }
}

/// A running queue thread.
pub struct QueueThread {
    thread: JoinHandle<io::Result<()>>,
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    waker: Waker,
}

impl QueueThread {
    /// Starts the thread of `queue`, on whatever processors this process may use
    /// (docs/decisions/queue-threads.md).
    ///
    /// A panic in it ends the process: its sockets vanish, and what is ours is dropped, not routed.
    ///
    /// # Errors
    /// When the system has no thread or descriptor left.
    pub fn start<P: Pipeline + 'static>(
        queue: u32,
        set: QueueSet,
        pipeline: P,
        clock: Clock,
    ) -> io::Result<Self> {
        let waker = Waker::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::new(AtomicBool::new(false));
        let thread = Builder::new().name(format!("lb-queue-{queue}")).spawn({
            let (waker, stop, ended) = (waker.clone(), Arc::clone(&stop), Arc::clone(&ended));
            move || {
                if let Err(e) = privileges::keep(CapabilitySet::empty()) {
                    tracing::warn!("queue {queue} keeps its capabilities: {e}");
                }
                let mut queue = Queue::new(set.pool, set.ports, pipeline);
                let run = panic::AssertUnwindSafe(|| queue.run(&waker, &stop, &clock));
                // The panic hook has printed the message.
                let result = panic::catch_unwind(run).unwrap_or_else(|_| abort());
                ended.store(true, Ordering::Relaxed);
                result
            }
        })?;
        Ok(Self {
            thread,
            stop,
            ended,
            waker,
        })
    }

    /// A handle that makes the thread do a round now.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Becomes true when the thread ended, which only an error makes it do by itself.
    pub fn ended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ended)
    }

    /// Ends the thread and returns what it ended with.
    ///
    /// # Errors
    /// What made it end before it was told to.
    pub fn stop(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        let lost = || io::Error::other("a queue thread panicked");
        self.thread.join().map_err(|_| lost())?
    }
}

impl<P: Pipeline> Queue<XskQueue, P> {
    fn run(&mut self, waker: &Waker, stop: &AtomicBool, clock: &Clock) -> io::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let now = clock.now();
            if !self.round(now)? {
                waker.wait(&self.ports, self.sleep(now))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;

    use super::*;

    /// A NIC in memory: `inbox` arrives, what is sent is in `sent`, and it stays "on the wire" until
    /// the next service.
    #[derive(Default)]
    struct Wire {
        inbox: VecDeque<Vec<u8>>,
        sent: Vec<Vec<u8>>,
        on_the_wire: Vec<Frame>,
        room: usize,
    }

    impl Port for Wire {
        fn receive(&mut self, pool: &mut FramePool, batch: &mut Vec<Frame>) -> usize {
            let before = batch.len();
            while batch.len() < batch.capacity() {
                let Some(packet) = self.inbox.pop_front() else {
                    break;
                };
                batch.push(pool.copy_in(&packet).unwrap());
            }
            batch.len() - before
        }

        fn transmit(&mut self, pool: &mut FramePool, batch: &mut Vec<Frame>) -> usize {
            let count = batch.len().min(self.room);
            for frame in batch.drain(..count) {
                self.sent.push(pool.packet(&frame).to_vec());
                self.on_the_wire.push(frame);
            }
            count
        }

        fn service(&mut self, pool: &mut FramePool, _: usize) -> io::Result<()> {
            self.on_the_wire.drain(..).for_each(|f| pool.free(f));
            Ok(())
        }

        fn held(&self) -> usize {
            self.on_the_wire.len()
        }

        fn has_unsent(&mut self) -> bool {
            false
        }
    }

    /// Sends everything to the other port with a byte before and one after it; drops what begins with
    /// zero; answers each round with `own` packets.
    #[derive(Default)]
    struct Test {
        own: usize,
        not_sent: usize,
        rounds: usize,
    }

    impl Pipeline for Test {
        fn begin(&mut self, _: Now) {
            self.rounds += 1;
        }
        fn process(&mut self, port: usize, packet: &mut Packet<'_>) -> Action {
            if packet.buffer[packet.start] == 0 {
                return Action::Done;
            }
            packet.start -= 1;
            packet.buffer[packet.start] = 0xaa;
            packet.buffer[packet.end] = 0xbb;
            packet.end += 1;
            Action::Send(1 - port)
        }
        fn poll_transmit(&mut self, buffer: &mut [u8]) -> Option<(usize, usize)> {
            self.own = self.own.checked_sub(1)?;
            buffer[..20].fill(7);
            Some((0, 20))
        }
        fn not_sent(&mut self, _: usize, count: usize) {
            self.not_sent += count;
        }
        fn end(&mut self) {}
        fn poll_timeout(&self) -> Option<Mono> {
            Some(Mono(Duration::from_millis(30)))
        }
    }

    fn queue(room: usize, own: usize) -> Queue<Wire, Test> {
        let wire = || Wire {
            room,
            ..Wire::default()
        };
        let pipeline = Test {
            own,
            ..Test::default()
        };
        let pool = FramePool::new(256, 1500).unwrap();
        Queue::new(pool, vec![wire(), wire()], pipeline)
    }

    #[test]
    fn frames_go_through_in_place_and_are_conserved() {
        let mut queue = queue(1000, 3);
        queue.ports[0].inbox = (0..10u8).map(|i| vec![i; 60]).collect();
        queue.ports[1].inbox = [vec![9; 60]].into();
        assert!(!queue.round(Now::default()).unwrap());
        assert_eq!(queue.unaccounted(), 0);
        assert_eq!(queue.pool.outstanding(), 0);
        let sent = &queue.ports[1].sent;
        assert_eq!(sent.len(), 9, "one was dropped");
        assert_eq!((sent[0][0], sent[0][1], sent[0][61]), (0xaa, 1, 0xbb));
        assert_eq!(queue.ports[0].sent.len(), 1 + 3);
        assert_eq!(queue.ports[0].sent[1], [7; 20]);
    }

    #[test]
    fn a_full_transmit_ring_loses_frames_that_are_counted_and_freed() {
        let mut queue = queue(4, 0);
        queue.ports[0].inbox = (0..10).map(|_| vec![1; 60]).collect();
        queue.round(Now::default()).unwrap();
        assert_eq!(queue.pipeline.not_sent, 6);
        assert_eq!(queue.pool.outstanding(), 0);
    }

    #[test]
    fn a_full_batch_asks_for_another_round_and_bounds_hold() {
        let mut queue = queue(1000, OWN + 5);
        queue.ports[0].inbox = (0..BATCH + 1).map(|_| vec![1; 60]).collect();
        assert!(queue.round(Now::default()).unwrap());
        assert_eq!(queue.ports[1].sent.len(), BATCH);
        assert_eq!(queue.ports[0].sent.len(), OWN);
        assert!(!queue.round(Now::default()).unwrap());
        assert_eq!(queue.ports[1].sent.len(), BATCH + 1);
        assert_eq!(queue.ports[0].sent.len(), OWN + 5);
    }

    #[test]
    fn an_idle_thread_sleeps_until_the_pipelines_next_deadline() {
        let queue = queue(1, 0);
        let at = |millis| Now {
            mono: Mono(Duration::from_millis(millis)),
            ..Now::default()
        };
        assert_eq!(queue.sleep(at(10)), Duration::from_millis(20));
        assert_eq!(queue.sleep(at(40)), Duration::ZERO);
    }
}
