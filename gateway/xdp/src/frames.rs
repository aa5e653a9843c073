//! Packet memory: one UMEM, cut into frames, shared by all sockets of one thread.
//!
//! ```text
//! frame   |<- HEADROOM, 256 bytes ->|<- packet ->|<- tailroom ->|
//!         0                                                     2,048 or 4,096
//! ```
//!
//! The kernel never writes a received packet into the headroom (`XDP_PACKET_HEADROOM`), so 80 bytes of
//! encapsulation, and VXLAN around it, fit in place.

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::mapping::Mapping;

/// Bytes before a received packet (include/uapi/linux/bpf.h, `XDP_PACKET_HEADROOM`).
pub const HEADROOM: usize = 256;

/// A packet in the memory of a [`FramePool`]. It is a ticket, not a pointer: the bytes are reached
/// through the pool. Whoever holds it must transmit it or give it back with [`FramePool::free`];
/// dropping it loses the frame, which [`FramePool::outstanding`] shows.
#[derive(Debug)]
#[must_use = "a frame is lost unless it is transmitted or freed"]
pub struct Frame {
    pool: u32,
    chunk: u32,
    start: u32,
    end: u32,
}

impl Frame {
    /// Length of the packet in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether the packet has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where in the frame's memory the packet lies.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// The frames of one thread and the memory they lie in.
#[derive(Debug)]
pub struct FramePool {
    memory: Mapping,
    chunk_size: u32,
    total: u32,
    /// Chunk numbers, used as a stack: the frame freed last is warm in the cache.
    free: Vec<u32>,
    id: u32,
    /// The socket that registered the memory, once one did. Others share it.
    pub(crate) registrant: Option<Arc<OwnedFd>>,
}

impl FramePool {
    /// Memory for `frames` packets of interfaces with an MTU of at most `mtu` bytes.
    ///
    /// # Errors
    /// `InvalidInput` for an MTU above [`FramePool::MAX_MTU`] or zero frames; else what mmap answered.
    pub fn new(frames: u32, mtu: u32) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let chunk_size = Self::chunk_for(mtu).filter(|_| frames > 0).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{frames} frames for an MTU of {mtu}"),
            )
        })?;
        let memory = Mapping::anonymous(frames as usize * chunk_size as usize)?;
        Ok(Self {
            memory,
            chunk_size,
            total: frames,
            free: (0..frames).rev().collect(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            registrant: None,
        })
    }

    /// The largest MTU in bytes whose packets fit into a frame.
    pub const MAX_MTU: u32 = 4096 - HEADROOM as u32 - OVERHEAD;

    /// AF_XDP takes chunks of 2,048 or 4,096 bytes: the smallest that holds a packet of `mtu`.
    pub(crate) fn chunk_for(mtu: u32) -> Option<u32> {
        [2048, 4096]
            .into_iter()
            .find(|size| size - HEADROOM as u32 - OVERHEAD >= mtu)
    }

    /// An empty frame; `None` when all are in use.
    pub fn allocate(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        Some(Frame {
            pool: self.id,
            chunk,
            start: HEADROOM as u32,
            end: HEADROOM as u32,
        })
    }

    /// Takes a frame back.
    ///
    /// # Panics
    /// When the frame is of another pool.
    pub fn free(&mut self, frame: Frame) {
        self.check(&frame);
        self.give_back(frame.chunk);
    }

    /// The packet.
    ///
    /// # Panics
    /// When the frame is of another pool.
    #[must_use]
    pub fn packet(&self, frame: &Frame) -> &[u8] {
        self.check(frame);
        let start = frame.chunk as usize * self.chunk_size as usize;
        // SAFETY: `chunk` is below `total`, so the chunk lies inside the memory. The frame is out of
        // the kernel's rings while its ticket exists, so nobody writes; `&self` keeps us from it.
        let chunk = unsafe {
            std::slice::from_raw_parts(
                self.memory.start().add(start).as_ptr(),
                self.chunk_size as usize,
            )
        };
        &chunk[frame.range()]
    }

    /// The whole memory of a frame, headroom and tailroom included; [`Frame::range`] says where the
    /// packet lies.
    ///
    /// # Panics
    /// When the frame is of another pool.
    pub fn buffer(&mut self, frame: &mut Frame) -> &mut [u8] {
        self.check(frame);
        let start = frame.chunk as usize * self.chunk_size as usize;
        // SAFETY: as in `packet`; `&mut self` makes this the only borrow of any frame's memory.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.start().add(start).as_ptr(),
                self.chunk_size as usize,
            )
        }
    }

    /// Says where in its memory the packet of `frame` lies now. Returns `false` and changes nothing
    /// when `range` does not fit.
    #[must_use]
    pub fn place(&self, frame: &mut Frame, range: Range<usize>) -> bool {
        self.check(frame);
        if range.start > range.end || range.end > self.chunk_size as usize {
            return false;
        }
        (frame.start, frame.end) = (range.start as u32, range.end as u32);
        true
    }

    /// Writes `packet` into a fresh frame; `None` when it does not fit or no frame is free.
    pub fn copy_in(&mut self, packet: &[u8]) -> Option<Frame> {
        let range = HEADROOM..HEADROOM.checked_add(packet.len())?;
        if range.end > self.chunk_size as usize {
            return None;
        }
        let mut frame = self.allocate()?;
        (frame.start, frame.end) = (range.start as u32, range.end as u32);
        self.buffer(&mut frame)[range].copy_from_slice(packet);
        Some(frame)
    }

    /// How many frames are not free: held by callers and by the rings of the sockets.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.total as usize - self.free.len()
    }

    /// How many frames are free.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Bytes of one frame, headroom included.
    #[must_use]
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    pub(crate) fn memory(&self) -> &Mapping {
        &self.memory
    }

    /// A free chunk's address for the fill ring.
    pub(crate) fn take_address(&mut self) -> Option<u64> {
        self.free
            .pop()
            .map(|chunk| u64::from(chunk) * u64::from(self.chunk_size))
    }

    /// The frame that the kernel describes by `address` and `len`, which left its rings.
    ///
    /// # Panics
    /// When the kernel describes memory outside the pool: nothing can be trusted then.
    pub(crate) fn frame_at(&self, address: u64, len: u32) -> Frame {
        let size = u64::from(self.chunk_size);
        let (chunk, start) = (address / size, address % size);
        let end = start + u64::from(len);
        assert!(
            chunk < u64::from(self.total) && end <= size,
            "the kernel returned a frame outside the UMEM: {address}+{len}"
        );
        Frame {
            pool: self.id,
            chunk: chunk as u32,
            start: start as u32,
            end: end as u32,
        }
    }

    /// Where the packet of `frame` lies in the UMEM.
    pub(crate) fn address(&self, frame: &Frame) -> u64 {
        self.check(frame);
        u64::from(frame.chunk) * u64::from(self.chunk_size) + u64::from(frame.start)
    }

    /// Takes back the chunk that holds `address`, which left the kernel's rings.
    pub(crate) fn free_address(&mut self, address: u64) {
        let frame = self.frame_at(address, 0);
        self.give_back(frame.chunk);
    }

    fn give_back(&mut self, chunk: u32) {
        debug_assert!(
            self.free.len() < self.total as usize,
            "a frame was freed twice"
        );
        self.free.push(chunk);
    }

    fn check(&self, frame: &Frame) {
        assert_eq!(frame.pool, self.id, "a frame of another pool");
    }
}

/// Ethernet header, two 802.1Q tags and the tunnel's trailer, in bytes.
const OVERHEAD: u32 = 14 + 8 + 16;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_are_conserved_and_keep_their_bytes() {
        let mut pool = FramePool::new(4, 1500).unwrap();
        let mut frames: Vec<Frame> = (0..4u8).map(|i| pool.copy_in(&[i; 60]).unwrap()).collect();
        assert!(pool.allocate().is_none());
        assert_eq!(pool.outstanding(), 4);
        for (i, frame) in frames.iter().enumerate() {
            assert_eq!(pool.packet(frame), &[i as u8; 60]);
        }
        for frame in frames.drain(..) {
            pool.free(frame);
        }
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    fn a_packet_grows_into_the_headroom_in_place() {
        let mut pool = FramePool::new(1, 1500).unwrap();
        let mut frame = pool.copy_in(&[7; 100]).unwrap();
        let range = frame.range();
        assert!(pool.place(&mut frame, range.start - 80..range.end + 16));
        pool.buffer(&mut frame)[range.start - 80..range.start].fill(1);
        assert_eq!(frame.len(), 196);
        assert_eq!(pool.packet(&frame)[..80], [1; 80]);
        assert_eq!(pool.packet(&frame)[80..180], [7; 100]);
        assert!(!pool.place(&mut frame, 0..pool.chunk_size() as usize + 1));
        pool.free(frame);
    }

    #[test]
    fn addresses_of_the_kernel_come_back_as_the_same_frame() {
        let mut pool = FramePool::new(3, 1500).unwrap();
        let address = pool.take_address().unwrap();
        let frame = pool.frame_at(address + HEADROOM as u64, 64);
        assert_eq!(pool.address(&frame), address + HEADROOM as u64);
        assert_eq!(frame.range(), HEADROOM..HEADROOM + 64);
        pool.free(frame);
        assert_eq!(pool.outstanding(), 0);
    }

    #[test]
    #[should_panic(expected = "outside the UMEM")]
    fn a_descriptor_outside_the_memory_is_refused() {
        let pool = FramePool::new(1, 1500).unwrap();
        let _ = pool.frame_at(2048, 1);
    }

    #[test]
    fn a_large_mtu_takes_large_frames_and_a_larger_one_is_refused() {
        assert_eq!(FramePool::new(1, 1500).unwrap().chunk_size(), 2048);
        assert_eq!(
            FramePool::new(1, FramePool::MAX_MTU).unwrap().chunk_size(),
            4096
        );
        assert!(FramePool::new(1, FramePool::MAX_MTU + 1).is_err());
        assert!(FramePool::new(0, 1500).is_err());
    }
}
