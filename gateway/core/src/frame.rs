//! A packet in its buffer, with room before and behind it for what a tunnel adds.

use std::ops::Range;

/// Bytes that the longest encapsulation puts before an inner packet: Ethernet (14), IPv6 (40), UDP
/// (8), PSP (16).
pub const HEADROOM: usize = 78;
/// Bytes that it puts behind: the ICV.
pub const TAILROOM: usize = 16;

/// A borrowed buffer and where in it the packet lies. All changes stay inside the buffer; what
/// does not fit is refused and leaves the packet as it was.
#[derive(Debug)]
pub struct Frame<'a> {
    memory: &'a mut [u8],
    range: Range<usize>,
}

impl<'a> Frame<'a> {
    /// The packet at `range` of `memory`; `None` when it is not inside.
    #[must_use]
    pub fn new(memory: &'a mut [u8], range: Range<usize>) -> Option<Self> {
        memory.get(range.clone())?;
        Some(Self { memory, range })
    }

    /// Where the packet lies now.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The packet.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.memory.get(self.range.clone()).unwrap_or_default()
    }

    /// The packet, to change.
    pub fn packet_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.range.clone()).unwrap_or_default()
    }

    /// Puts `header` before the packet. Whether there was room.
    #[must_use]
    pub fn push_front(&mut self, header: &[u8]) -> bool {
        let Some(start) = self.range.start.checked_sub(header.len()) else {
            return false;
        };
        self.range.start = start;
        if let Some(front) = self.packet_mut().get_mut(..header.len()) {
            front.copy_from_slice(header);
        }
        true
    }

    /// Takes `length` bytes off the front. Whether there were as many.
    #[must_use]
    pub fn trim_front(&mut self, length: usize) -> bool {
        let fits = length <= self.range.len();
        if fits {
            self.range.start += length;
        }
        fits
    }

    /// Adds `length` bytes behind the packet, with any content. Whether there was room.
    #[must_use]
    pub fn extend_back(&mut self, length: usize) -> bool {
        let end = self.range.end.checked_add(length);
        let Some(end) = end.filter(|end| *end <= self.memory.len()) else {
            return false;
        };
        self.range.end = end;
        true
    }

    /// Cuts the packet to `length` bytes, if it is longer.
    pub fn truncate(&mut self, length: usize) {
        self.range.end = self.range.end.min(self.range.start.saturating_add(length));
    }

    /// Puts `packet` in the place of the packet, beginning where it begins. Whether it fits.
    #[must_use]
    pub fn replace(&mut self, packet: &[u8]) -> bool {
        let range = self.range.start..self.range.start.saturating_add(packet.len());
        let Some(place) = self.memory.get_mut(range.clone()) else {
            return false;
        };
        place.copy_from_slice(packet);
        self.range = range;
        true
    }
}
