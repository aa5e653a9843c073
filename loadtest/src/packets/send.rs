//! One frame over and over, out of an AF_XDP socket.

use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use gateway_xdp::{Frame, FramePool, HEADROOM, Nic, Port, RingSizes, XskQueue};

use crate::{
    pace::Batches,
    sending::{Counts, Sending},
};

/// Frames of one round.
const BATCH: usize = 64;
/// The shortest rest at a given rate, and the rest when the interface takes nothing: short, because what
/// is due meanwhile leaves as a burst.
const REST: Duration = Duration::from_micros(100);
/// How long after the end the last frames may take to leave.
const DRAIN: Duration = Duration::from_secs(1);
/// It never receives: the smallest ring will do.
const RINGS: RingSizes = RingSizes {
    receive: 64,
    transmit: 1024,
};

/// A socket, and memory in which every frame is the one to send.
pub struct Sender {
    pool: FramePool,
    socket: XskQueue,
    length: usize,
}

impl Sender {
    /// On `queue` of `nic`.
    pub fn open(nic: &Nic, queue: u32, frame: &[u8]) -> Result<Self> {
        let mut pool = FramePool::new(RINGS.transmit, nic.mtu).context("no packet memory")?;
        let socket = XskQueue::bind(&mut pool, nic, queue, RINGS, false)
            .context("cannot send by AF_XDP (needs root or CAP_NET_RAW)")?;
        let mut frames = Vec::new();
        while let Some(copy) = pool.copy_in(frame) {
            frames.push(copy);
        }
        // What a frame holds stays there when it is free.
        frames.into_iter().for_each(|frame| pool.free(frame));
        Ok(Self {
            pool,
            socket,
            length: frame.len(),
        })
    }

    /// Whether the kernel copies.
    pub fn mode(&self) -> &'static str {
        self.socket.mode().as_str()
    }

    /// Sends from a thread of its own until `length` after `begin`, or until `stop` is set.
    pub fn start(
        mut self,
        rate: Option<f64>,
        begin: Instant,
        length: Duration,
        stop: Arc<AtomicBool>,
    ) -> Result<Sending> {
        let due = Batches::new(rate, BATCH as u64, REST);
        Sending::start("packets", move |counts| {
            self.send(due.keep(begin, length, stop), counts)
        })
    }

    fn send(&mut self, due: impl Iterator<Item = u64>, counts: &Counts) -> Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        for count in due {
            let mut left = count as usize;
            let begun = Instant::now();
            // At a rate, what finds no room at once may find it soon; for ever it does when nothing leaves.
            while left > 0 && begun.elapsed() < DRAIN {
                batch.extend((0..left).map_while(|_| self.frame()));
                if batch.is_empty() {
                    thread::sleep(REST);
                }
                left -= self.socket.transmit(&mut self.pool, &mut batch);
                batch.drain(..).for_each(|frame| self.pool.free(frame));
                self.service(counts)?;
            }
            counts.add(0, left as u64);
        }
        let end = Instant::now() + DRAIN;
        while self.socket.held() > 0 && Instant::now() < end {
            self.service(counts)?;
            thread::sleep(REST);
        }
        counts.add(0, self.socket.held() as u64);
        Ok(())
    }

    fn frame(&mut self) -> Option<Frame> {
        let mut frame = self.pool.allocate()?;
        // It was copied there when the memory was made.
        let fits = self
            .pool
            .place(&mut frame, HEADROOM..HEADROOM + self.length);
        debug_assert!(fits, "the frame fitted when it was copied in");
        Some(frame)
    }

    /// Lets queued frames leave, and counts those that did.
    fn service(&mut self, counts: &Counts) -> Result<()> {
        let before = self.socket.held();
        // It keeps all free frames: none is for receiving.
        self.socket
            .service(&mut self.pool, usize::MAX)
            .context("the interface is gone")?;
        counts.add((before - self.socket.held()) as u64, 0);
        Ok(())
    }
}
