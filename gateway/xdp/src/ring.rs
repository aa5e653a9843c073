//! The single-producer, single-consumer rings that an AF_XDP socket shares with the kernel
//! (Documentation/networking/af_xdp.rst, "Rings").
//!
//! Indices run freely over `u32` and wrap; a slot is `index & mask`.

use std::{
    io,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::mapping::Mapping;

/// `XDP_RING_NEED_WAKEUP` of include/uapi/linux/if_xdp.h.
const NEED_WAKEUP: u32 = 1;

/// A descriptor of the receive and transmit rings: `struct xdp_desc`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Descriptor {
    /// Offset of the packet's first byte in the UMEM.
    pub(crate) address: u64,
    /// Length of the packet in bytes.
    pub(crate) len: u32,
    /// Flags; none is used.
    pub(crate) options: u32,
}

/// A ring that this side fills and the kernel empties.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// The next slot to write.
    head: u32,
    /// The kernel's position as last seen.
    tail: u32,
}

impl<T: Copy> Producer<T> {
    /// Maps the ring of `entries` slots that `socket` serves at `page_offset`.
    ///
    /// # Errors
    /// What mmap answered.
    pub(crate) fn map(socket: BorrowedFd<'_>, place: &Place) -> io::Result<Self> {
        let ring = Ring::map(socket, place)?;
        let head = ring.producer().load(Ordering::Relaxed);
        let tail = ring.consumer().load(Ordering::Acquire);
        Ok(Self { ring, head, tail })
    }

    /// How many slots can be written now.
    pub(crate) fn room(&mut self) -> u32 {
        // Acquire pairs with the kernel's release of the slots that it has read.
        self.tail = self.ring.consumer().load(Ordering::Acquire);
        self.ring.entries() - self.head.wrapping_sub(self.tail)
    }

    /// How many published slots the kernel has not taken yet.
    pub(crate) fn pending(&mut self) -> u32 {
        self.ring.entries() - self.room()
    }

    /// Writes one slot; `false` when `room`, as last asked, is used up.
    pub(crate) fn push(&mut self, value: T) -> bool {
        if self.head.wrapping_sub(self.tail) >= self.ring.entries() {
            return false;
        }
        self.ring.write(self.head, value);
        self.head = self.head.wrapping_add(1);
        true
    }

    /// Shows the slots written since the last call to the kernel.
    pub(crate) fn publish(&mut self) {
        self.ring.producer().store(self.head, Ordering::Release);
    }

    /// Whether the kernel asks to be woken for this ring.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// A ring that the kernel fills and this side empties.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// The next slot to read.
    tail: u32,
    /// The kernel's position as last seen.
    head: u32,
}

impl<T: Copy> Consumer<T> {
    /// Maps the ring that `socket` serves at `place`.
    ///
    /// # Errors
    /// What mmap answered.
    pub(crate) fn map(socket: BorrowedFd<'_>, place: &Place) -> io::Result<Self> {
        let ring = Ring::map(socket, place)?;
        let tail = ring.consumer().load(Ordering::Relaxed);
        Ok(Self {
            ring,
            tail,
            head: tail,
        })
    }

    /// The oldest slot, `None` when the ring is empty.
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.head == self.tail {
            // Acquire pairs with the kernel's release of the slots that it has written.
            self.head = self.ring.producer().load(Ordering::Acquire);
            if self.head == self.tail {
                return None;
            }
        }
        let value = self.ring.read(self.tail);
        self.tail = self.tail.wrapping_add(1);
        Some(value)
    }

    /// Gives the slots popped since the last call back to the kernel.
    pub(crate) fn release(&mut self) {
        self.ring.consumer().store(self.tail, Ordering::Release);
    }
}

/// Where a ring lies: `struct xdp_ring_offset` and the page offset of its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) page_offset: i64,
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) flags: usize,
    pub(crate) slots: usize,
    /// A power of two.
    pub(crate) entries: u32,
}

#[derive(Debug)]
struct Ring<T> {
    mapping: Mapping,
    place: Place,
    slots: NonNull<T>,
}

// SAFETY: the pointer points into the mapping that the ring owns.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    fn map(socket: BorrowedFd<'_>, place: &Place) -> io::Result<Self> {
        let bytes = place.slots + size_of::<T>() * place.entries as usize;
        let mapping = Mapping::shared(socket, place.page_offset, bytes)?;
        let last = place.producer.max(place.consumer).max(place.flags);
        let aligned = |offset: usize, to: usize| offset.is_multiple_of(to);
        let usable = place.entries.is_power_of_two()
            && last + size_of::<u32>() <= bytes
            && [place.producer, place.consumer, place.flags].map(|o| aligned(o, 4)) == [true; 3]
            && aligned(place.slots, align_of::<T>());
        if !usable {
            return Err(io::Error::other(
                "the kernel describes a ring that does not fit",
            ));
        }
        // SAFETY: `slots` lies inside the mapping, which is longer than it.
        let slots = unsafe { mapping.start().add(place.slots) }.cast();
        Ok(Self {
            mapping,
            place: *place,
            slots,
        })
    }

    fn entries(&self) -> u32 {
        self.place.entries
    }

    fn producer(&self) -> &AtomicU32 {
        self.word(self.place.producer)
    }

    fn consumer(&self) -> &AtomicU32 {
        self.word(self.place.consumer)
    }

    fn flags(&self) -> &AtomicU32 {
        self.word(self.place.flags)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset + size_of::<u32>() <= self.mapping.len());
        // SAFETY: `map` checked that the offset is aligned and inside the mapping, which lives as
        // long as `self`; the kernel accesses the word atomically too.
        unsafe { AtomicU32::from_ptr(self.mapping.start().add(offset).as_ptr().cast()) }
    }

    fn read(&self, index: u32) -> T {
        // SAFETY: the masked index is below `entries`, and the mapping holds that many slots. The
        // kernel does not write a slot between its publication and its release by this side.
        unsafe { self.slots.add(self.slot(index)).read() }
    }

    fn write(&mut self, index: u32, value: T) {
        // SAFETY: as in `read`; the kernel does not read a slot before it is published.
        unsafe { self.slots.add(self.slot(index)).write(value) }
    }

    fn slot(&self, index: u32) -> usize {
        (index & (self.place.entries - 1)) as usize
    }
}
