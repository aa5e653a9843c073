//! A stream of bytes that shows each change: numbered frames, each with a checksum that its sender
//! computed before any network saw it.
//!
//! A frame: magic 0..4, payload length 4..8 (0 ends the stream), number 8..16, CRC-32 of all but
//! itself 16..20, payload; numbers big-endian. Each changed bit is found, and each frame that is lost, doubled or
//! out of its place.

use crc32fast::Hasher;

use crate::outcome::Failure;

/// No letter first: a server that tells protocols apart by their first bytes must take it for none.
const MAGIC: [u8; 4] = [0xf5, b'L', b'B', b'T'];
/// Length in bytes of what stands before the payload.
pub const HEADER: usize = 20;
/// The most payload of a frame in bytes.
pub const PAYLOAD: usize = 65_536 - HEADER;

/// Makes the frames of a stream.
pub struct Writer {
    frame: Vec<u8>,
    number: u64,
}

impl Writer {
    /// A stream of which nothing was sent.
    pub fn new() -> Self {
        let mut frame = vec![0; HEADER];
        // Bytes that no layer on the way can compress.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        frame.extend((0..PAYLOAD).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        }));
        Self { frame, number: 0 }
    }

    /// The next full frame.
    pub fn full(&mut self) -> &[u8] {
        self.seal(PAYLOAD)
    }

    /// The frame that ends the stream.
    pub fn end(&mut self) -> &[u8] {
        self.seal(0)
    }

    fn seal(&mut self, payload: usize) -> &[u8] {
        let frame = &mut self.frame[..HEADER + payload];
        frame[..4].copy_from_slice(&MAGIC);
        frame[4..8].copy_from_slice(&(payload as u32).to_be_bytes());
        frame[8..16].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        let mut sum = Hasher::new();
        sum.update(&frame[..16]);
        sum.update(&frame[HEADER..]);
        frame[16..HEADER].copy_from_slice(&sum.finalize().to_be_bytes());
        frame
    }
}

/// Reads a stream in whatever pieces it comes.
#[derive(Default)]
pub struct Checker {
    header: Vec<u8>,
    /// Payload still to come, once the header is whole.
    missing: Option<usize>,
    length: usize,
    sum: Hasher,
    number: u64,
    ended: bool,
    checked: u64,
}

impl Checker {
    /// Bytes of payload whose checksum held.
    pub fn checked(&self) -> u64 {
        self.checked
    }

    /// Whether the frame that ends the stream was read.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Reads `bytes`.
    ///
    /// # Errors
    /// [`Failure::Corrupted`]; what follows cannot be read any more.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            if self.ended {
                return Err(Failure::Corrupted);
            }
            let missing = match self.missing {
                Some(missing) => missing,
                None => {
                    let wanted = HEADER - self.header.len();
                    let (head, rest) = bytes.split_at(wanted.min(bytes.len()));
                    self.header.extend_from_slice(head);
                    bytes = rest;
                    if self.header.len() < HEADER {
                        return Ok(());
                    }
                    self.begin()?
                }
            };
            let (payload, rest) = bytes.split_at(missing.min(bytes.len()));
            self.sum.update(payload);
            bytes = rest;
            self.missing = Some(missing - payload.len());
            if self.missing == Some(0) {
                self.finish()?;
            }
        }
        Ok(())
    }

    /// The header is whole: how much payload follows.
    fn begin(&mut self) -> Result<usize, Failure> {
        let length = self.header.get(4..8).and_then(|b| b.try_into().ok());
        let length = length.map_or(usize::MAX, |b| u32::from_be_bytes(b) as usize);
        if !self.header.starts_with(&MAGIC) || length > PAYLOAD {
            return Err(Failure::Corrupted);
        }
        self.length = length;
        self.sum = Hasher::new();
        self.sum.update(&self.header[..16]);
        Ok(length)
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let sum = std::mem::take(&mut self.sum).finalize();
        let holds = self.header[16..] == sum.to_be_bytes();
        if !holds || self.header[8..16] != self.number.to_be_bytes() {
            return Err(Failure::Corrupted);
        }
        self.number += 1;
        self.checked += self.length as u64;
        self.ended = self.length == 0;
        self.missing = None;
        self.header.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn stream(frames: usize) -> Vec<u8> {
        let mut writer = Writer::new();
        let mut bytes = Vec::new();
        for _ in 0..frames {
            bytes.extend_from_slice(writer.full());
        }
        bytes.extend_from_slice(writer.end());
        bytes
    }

    fn read(bytes: &[u8], piece: usize) -> Result<u64, Failure> {
        let mut checker = Checker::default();
        for piece in bytes.chunks(piece) {
            checker.feed(piece)?;
        }
        match checker.ended() {
            true => Ok(checker.checked()),
            false => Err(Failure::Closed),
        }
    }

    #[test]
    fn any_cut_reads_the_same() {
        let bytes = stream(2);
        for piece in [1, 19, 20, 21, 65_535, 65_536, 65_537, bytes.len()] {
            assert_eq!(read(&bytes, piece), Ok(2 * PAYLOAD as u64), "{piece}");
        }
        assert_eq!(read(&bytes[..bytes.len() - 1], 4096), Err(Failure::Closed));
    }

    #[test]
    fn each_changed_byte_is_found() {
        let bytes = stream(1);
        let places = (0..HEADER).chain((HEADER..bytes.len() - HEADER).step_by(997));
        for at in places.chain(bytes.len() - HEADER..bytes.len()) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x04;
            assert!(read(&changed, 4096).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_frame_that_is_lost_doubled_or_moved_is_found() {
        let bytes = stream(3);
        let size = HEADER + PAYLOAD;
        let frame = |n: usize| &bytes[n * size..bytes.len().min((n + 1) * size)];
        for order in [&[0, 2, 3][..], &[0, 0, 1, 2, 3], &[1, 0, 2, 3]] {
            let moved: Vec<_> = order.iter().flat_map(|n| frame(*n)).copied().collect();
            assert_eq!(read(&moved, 4096), Err(Failure::Corrupted), "{order:?}");
        }
        assert!(read(&[&bytes[..], b"more"].concat(), 4096).is_err());
    }
}
