//! How many queued packets the agents of this node have dealt with, on disk: what the rules queued
//! beyond that while none was there was dropped for want of an agent.
//!
//! Twelve bytes, written by `pwrite` after each batch: the count (u64, little-endian) and its
//! CRC-32. The page cache survives a crash of the process.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// The count and its file.
#[derive(Debug)]
pub struct HandledCount {
    file: File,
    count: u64,
}

impl HandledCount {
    /// Opens the file at `path`. `queued` is the rules' own count now, or `None` when no rules were
    /// in force. Returns the packets that no agent handled, too; a count that cannot be read counts
    /// as none missed.
    ///
    /// # Errors
    /// When the file cannot be opened or written.
    pub fn open(path: &Path, queued: Option<u64>) -> io::Result<(Self, u64)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let earlier = read(&file);
        let missed = match (queued, earlier) {
            // One large segment is queued as several packets, so the count may be ahead.
            (Some(queued), Some(handled)) => queued.saturating_sub(handled),
            _ => 0,
        };
        let handled = Self {
            file,
            count: queued.unwrap_or_default(),
        };
        handled.write()?;
        Ok((handled, missed))
    }

    /// Adds `packets`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, packets: u64) -> io::Result<()> {
        if packets == 0 {
            return Ok(());
        }
        self.count = self.count.saturating_add(packets);
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let count = self.count.to_le_bytes();
        let crc = crc32fast::hash(&count).to_le_bytes();
        self.file.write_all_at(&[&count[..], &crc].concat(), 0)
    }
}

fn read(file: &File) -> Option<u64> {
    let mut bytes = [0; 12];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (count, crc) = bytes.split_first_chunk::<8>()?;
    (crc == crc32fast::hash(count).to_le_bytes()).then(|| u64::from_le_bytes(*count))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_queued_without_an_agent_is_missed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handled");
        let (mut first, missed) = HandledCount::open(&path, None).unwrap();
        assert_eq!(missed, 0);
        first.add(5).unwrap();
        drop(first);
        assert_eq!(HandledCount::open(&path, Some(9)).unwrap().1, 4);
        assert_eq!(HandledCount::open(&path, Some(9)).unwrap().1, 0);
    }

    #[test]
    fn a_torn_count_counts_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handled");
        std::fs::write(&path, [1; 12]).unwrap();
        assert_eq!(HandledCount::open(&path, Some(9)).unwrap().1, 0);
    }
}
