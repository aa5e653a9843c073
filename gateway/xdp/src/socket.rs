//! One AF_XDP socket: a queue of a NIC in user space (Documentation/networking/af_xdp.rst).

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use crate::{
    XdpError,
    frames::{Frame, FramePool},
    nic::Nic,
    ring::{Consumer, Descriptor, Producer},
    sys::{self, get, is_passing, set},
};

/// A queue of a NIC, or what stands for one in a test.
///
/// The order of one round: `receive`, process, `transmit`, `service`.
pub trait Port {
    /// Moves received frames to the end of `batch`, up to its capacity. Returns how many.
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Vec<Frame>) -> usize;

    /// Queues frames from the front of `batch` and removes them from it; what is left did not fit.
    /// Frames too short for Ethernet are freed and counted. Returns how many were queued.
    fn transmit(&mut self, pool: &mut FramePool, batch: &mut Vec<Frame>) -> usize;

    /// Sends what is queued, takes sent frames back, and hands free frames to the receiver, leaving
    /// `reserve` frames free.
    ///
    /// # Errors
    /// When the NIC is gone; a NIC that is down or busy is not an error.
    fn service(&mut self, pool: &mut FramePool, reserve: usize) -> io::Result<()>;

    /// How many frames its rings hold.
    fn held(&self) -> usize;

    /// Whether queued frames still wait to be sent.
    fn has_unsent(&mut self) -> bool;
}

/// How many descriptors each ring has. Powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// The receive ring and the fill ring.
    pub receive: u32,
    /// The transmit ring and the completion ring.
    pub transmit: u32,
}

impl Default for RingSizes {
    fn default() -> Self {
        Self {
            receive: 2048,
            transmit: 2048,
        }
    }
}

/// How packets get between the NIC and the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMode {
    /// The kernel copies them: any NIC.
    Copy,
    /// The NIC reads and writes the UMEM.
    ZeroCopy,
}

impl CopyMode {
    /// The word that the metric and the status use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::ZeroCopy => "zero-copy",
        }
    }
}

/// What the kernel counted for one socket (`struct xdp_statistics`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Statistics {
    /// Packets for us dropped for other reasons than the ones below, such as their length.
    pub rx_dropped: u64,
    /// Receive descriptors that were invalid.
    pub rx_invalid: u64,
    /// Transmit descriptors that were invalid.
    pub tx_invalid: u64,
    /// Packets for us dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times the fill ring had no frame to receive into.
    pub fill_ring_empty: u64,
    /// Times the transmit ring had nothing to send.
    pub tx_ring_empty: u64,
}

/// An AF_XDP socket bound to one queue of one NIC.
#[derive(Debug)]
pub struct XskQueue {
    socket: Arc<OwnedFd>,
    receive: Consumer<Descriptor>,
    transmit: Producer<Descriptor>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    /// Frames in the receive half (fill and receive rings) and in the transmit half.
    held_receive: usize,
    held_transmit: usize,
    /// The most frames of the receive half, so that one port cannot take what another needs.
    most_receive: usize,
    /// Completed and failed rounds of 32 that one flush of the transmit ring may need.
    kicks: u32,
    mode: CopyMode,
    queue: u32,
    too_short: u64,
}

impl XskQueue {
    /// Binds a socket to `queue` of `nic`. Sockets of one pool share its memory: a frame received on
    /// one can be sent on another without a copy. The first one decides between zero-copy, where the
    /// driver has it, and copy; `force_copy` takes copy at once, for NICs of unlike abilities.
    ///
    /// # Errors
    /// [`XdpError::Misconfigured`] when the queue is taken or does not exist, with the remedy.
    pub fn bind(
        pool: &mut FramePool,
        nic: &Nic,
        queue: u32,
        sizes: RingSizes,
        force_copy: bool,
    ) -> Result<Self, XdpError> {
        let what = |step: &str| format!("AF_XDP socket on {} queue {queue}: {step}", nic.name);
        let fail = |step: &str, source| XdpError::unavailable(what(step), source);

        let socket = Arc::new(sys::open().map_err(|e| fail("create", e))?);
        if pool.registrant.is_none() {
            sys::register(socket.as_fd(), pool).map_err(|e| fail("register the UMEM", e))?;
        }
        let rings = [
            (sys::UMEM_FILL_RING, sizes.receive),
            (sys::UMEM_COMPLETION_RING, sizes.transmit),
            (sys::RX_RING, sizes.receive),
            (sys::TX_RING, sizes.transmit),
        ];
        for (option, entries) in rings {
            set(socket.as_fd(), option, &entries).map_err(|e| fail("size a ring", e))?;
        }
        let offsets: sys::MmapOffsets =
            get(socket.as_fd(), sys::MMAP_OFFSETS).map_err(|e| fail("ask for the rings", e))?;
        let fd = socket.as_fd();
        let map = |e| fail("map a ring", e);
        let receive = Consumer::map(fd, &offsets.rx.place(0, sizes.receive)).map_err(map)?;
        let transmit =
            Producer::map(fd, &offsets.tx.place(0x8000_0000, sizes.transmit)).map_err(map)?;
        let fill =
            Producer::map(fd, &offsets.fill.place(0x1_0000_0000, sizes.receive)).map_err(map)?;
        let completion =
            Consumer::map(fd, &offsets.completion.place(0x1_8000_0000, sizes.transmit))
                .map_err(map)?;
        // The default send buffer holds under a hundred packets in copy mode. Best effort.
        let _ = sys::set_send_buffer(fd, sizes.transmit);

        let shared = pool.registrant.as_deref().map(AsFd::as_fd);
        sys::bind(fd, nic.index, queue, shared, force_copy).map_err(|e| refused(nic, queue, e))?;
        let options: u32 = get(fd, sys::OPTIONS).map_err(|e| fail("ask for the mode", e))?;
        let mode = match options & sys::OPTIONS_ZEROCOPY {
            0 => CopyMode::Copy,
            _ => CopyMode::ZeroCopy,
        };
        if pool.registrant.is_none() {
            pool.registrant = Some(Arc::clone(&socket));
        }
        Ok(Self {
            socket,
            receive,
            transmit,
            fill,
            completion,
            held_receive: 0,
            held_transmit: 0,
            most_receive: sizes.receive as usize,
            kicks: sizes.transmit / 32 + 2,
            mode,
            queue,
            too_short: 0,
        })
    }

    /// Whether the kernel copies.
    #[must_use]
    pub fn mode(&self) -> CopyMode {
        self.mode
    }

    /// The queue of the NIC.
    #[must_use]
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Frames that were too short to send and were freed instead.
    #[must_use]
    pub fn too_short(&self) -> u64 {
        self.too_short
    }

    /// What the kernel counted for this socket.
    ///
    /// # Errors
    /// What getsockopt answered.
    pub fn statistics(&self) -> io::Result<Statistics> {
        get(self.socket.as_fd(), sys::STATISTICS)
    }

    /// A handle that reads [`XskQueue::statistics`] from another thread.
    #[must_use]
    pub fn statistics_handle(&self) -> StatisticsHandle {
        StatisticsHandle(Arc::clone(&self.socket))
    }

    fn reclaim(&mut self, pool: &mut FramePool) {
        while let Some(address) = self.completion.pop() {
            pool.free_address(address);
            self.held_transmit = self.held_transmit.saturating_sub(1);
        }
        self.completion.release();
    }

    fn refill(&mut self, pool: &mut FramePool, reserve: usize) {
        let spare = pool.available().saturating_sub(reserve);
        let room = self.most_receive.saturating_sub(self.held_receive);
        let room = room.min(self.fill.room() as usize);
        for _ in 0..room.min(spare) {
            let Some(address) = pool.take_address() else {
                break;
            };
            self.fill.push(address);
            self.held_receive += 1;
        }
        self.fill.publish();
    }

    /// Tells the kernel to send. In copy mode one call sends at most 32 packets and then answers
    /// EAGAIN although the rest stays queued, so it is repeated while the queue gets shorter.
    fn kick(&mut self) -> io::Result<()> {
        let mut pending = self.transmit.pending();
        for _ in 0..self.kicks {
            if pending == 0 || !self.transmit.needs_wakeup() {
                return Ok(());
            }
            match sys::send_nothing(self.socket.as_fd()) {
                Ok(()) => return Ok(()),
                Err(e) if is_passing(&e) => {
                    let left = self.transmit.pending();
                    if left == pending {
                        // The NIC is down, its queue or the completion ring is full: next round.
                        return Ok(());
                    }
                    pending = left;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Port for XskQueue {
    fn receive(&mut self, pool: &mut FramePool, batch: &mut Vec<Frame>) -> usize {
        let before = batch.len();
        while batch.len() < batch.capacity() {
            let Some(descriptor) = self.receive.pop() else {
                break;
            };
            batch.push(pool.frame_at(descriptor.address, descriptor.len));
            self.held_receive = self.held_receive.saturating_sub(1);
        }
        self.receive.release();
        batch.len() - before
    }

    fn transmit(&mut self, pool: &mut FramePool, batch: &mut Vec<Frame>) -> usize {
        let room = self.transmit.room() as usize;
        let mut queued = 0;
        for frame in batch.drain(..room.min(batch.len())) {
            if frame.len() < ETHERNET_HEADER {
                // The kernel skips an invalid descriptor without completing it: the frame would leak.
                self.too_short += 1;
                pool.free(frame);
                continue;
            }
            let descriptor = Descriptor {
                address: pool.address(&frame),
                len: frame.len() as u32,
                options: 0,
            };
            // `room` was asked above, so the slot is there.
            self.transmit.push(descriptor);
            queued += 1;
        }
        self.transmit.publish();
        self.held_transmit += queued;
        queued
    }

    fn service(&mut self, pool: &mut FramePool, reserve: usize) -> io::Result<()> {
        self.reclaim(pool);
        self.kick()?;
        self.refill(pool, reserve);
        if self.fill.needs_wakeup() && self.held_receive > 0 {
            match sys::receive_nothing(self.socket.as_fd()) {
                Err(e) if !is_passing(&e) => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }

    fn held(&self) -> usize {
        self.held_receive + self.held_transmit
    }

    fn has_unsent(&mut self) -> bool {
        self.transmit.pending() > 0
    }
}

impl AsFd for XskQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Reads a socket's counters while its thread owns the socket.
#[derive(Clone, Debug)]
pub struct StatisticsHandle(Arc<OwnedFd>);

impl StatisticsHandle {
    /// What the kernel counted.
    ///
    /// # Errors
    /// What getsockopt answered.
    pub fn read(&self) -> io::Result<Statistics> {
        get(self.0.as_fd(), sys::STATISTICS)
    }
}

/// Bytes of an Ethernet header without tags.
const ETHERNET_HEADER: usize = 14;

fn refused(nic: &Nic, queue: u32, error: io::Error) -> XdpError {
    let name = &nic.name;
    match error.raw_os_error() {
        Some(libc::EBUSY) => XdpError::misconfigured(
            format!("queue {queue} of {name} already has an AF_XDP socket"),
            "stop the other process that uses this interface; `ss --xdp` names it",
        ),
        Some(libc::EINVAL) if queue >= nic.rx_queues.max(nic.tx_queues) => XdpError::misconfigured(
            format!(
                "{name} has no queue {queue}: {} receive, {} transmit",
                nic.rx_queues, nic.tx_queues
            ),
            "configure fewer queue threads, or `ethtool -L` more queues",
        ),
        _ => XdpError::unavailable(
            format!("AF_XDP socket on {name} queue {queue}: bind"),
            error,
        ),
    }
}
