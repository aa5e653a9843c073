//! A cursor over bytes that hands out arrays and never reads past the end.

use crate::ParseError;

/// What is left to read.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(ParseError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next `length` bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], ParseError> {
        let (head, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(ParseError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// The next two bytes, big-endian.
    pub(crate) fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes, big-endian.
    pub(crate) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), ParseError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(ParseError::Length)
        }
    }
}
