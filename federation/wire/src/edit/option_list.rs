//! The option list of a segment while it is edited.

use super::EditError;
use crate::tcp::{
    MAX_OPTIONS, Segment,
    options::{self, Walk},
};

/// Room for what a header holds and as much again: what is added may take the place of no-ops.
const ROOM: usize = 2 * MAX_OPTIONS;

/// Options in order, no-ops as one byte each, without end of list.
#[derive(Clone, Debug)]
pub(super) struct OptionList {
    bytes: [u8; ROOM],
    /// At most `ROOM`.
    length: usize,
    /// More was added than there is room for.
    overflown: bool,
}

impl OptionList {
    /// Those of `segment`.
    pub fn of(segment: &Segment<'_>) -> Self {
        let mut list = Self {
            bytes: [0; ROOM],
            length: 0,
            overflown: false,
        };
        list.push(segment.option_bytes());
        list
    }

    /// Adds a whole option or a no-op.
    pub fn push(&mut self, option: &[u8]) {
        let end = self.length + option.len();
        match self.bytes.get_mut(self.length..end) {
            Some(place) => {
                place.copy_from_slice(option);
                self.length = end;
            }
            None => self.overflown = true,
        }
    }

    /// Removes those that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let mut from = 0;
        while let Some(option) = self.after(from) {
            let to = from + option.len();
            if keep(option) {
                from = to;
            } else {
                self.bytes.copy_within(to..self.length, from);
                self.length -= to - from;
            }
        }
    }

    /// The option or no-op that starts at `start`.
    fn after(&self, start: usize) -> Option<&[u8]> {
        Walk::new(self.bytes.get(start..self.length)?).next()
    }

    /// Changes the value of the MSS option.
    pub fn map_mss(&mut self, map: impl Fn(u16) -> u16) {
        let mut from = 0;
        while let Some(option) = self.after(from) {
            let to = from + option.len();
            if let [options::MSS, 4, high, low] = *option
                && let Some(value) = self.bytes.get_mut(from + 2..to)
            {
                value.copy_from_slice(&map(u16::from_be_bytes([high, low])).to_be_bytes());
            }
            from = to;
        }
    }

    /// The bytes as they go into the header: no-ops only where there is room, padded to a multiple
    /// of four.
    ///
    /// # Errors
    /// [`EditError::NoOptionSpace`].
    pub fn packed(&mut self) -> Result<&[u8], EditError> {
        if self.length > MAX_OPTIONS {
            self.retain(|option| option != [options::NOP]);
        }
        while !self.length.is_multiple_of(4) {
            self.push(&[options::NOP]);
        }
        if self.overflown || self.length > MAX_OPTIONS {
            return Err(EditError::NoOptionSpace);
        }
        self.bytes
            .get(..self.length)
            .ok_or(EditError::NoOptionSpace)
    }
}
