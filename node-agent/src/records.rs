//! Flow records on disk, so that an agent that starts again knows what the kernel still passes.
//!
//! One file of fixed slots, written in place by `pwrite`: the page cache survives a crash of the
//! process, so nothing is synced, and after a crash of the machine the connections are gone too.
//! The head names the boot; records of another boot are dropped.
//!
//! | bytes | head, one page |
//! |---|---|
//! | 0..8 | `LBFLOWS1` |
//! | 8..12 | number of slots, little-endian |
//! | 12..16 | CRC-32 of 0..12 and of the boot's name |
//!
//! | bytes | slot, 2,048 bytes; two to a page, so that none is torn by a page |
//! |---|---|
//! | 0..4 | CRC-32 of the rest that is in use |
//! | 4..8 | length of the record, little-endian; 0 in a free slot |
//! | 8.. | the record in CBOR |

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use handshake::node::FlowRecord;
use wire::flow::FlowKey;

const MAGIC: &[u8; 8] = b"LBFLOWS1";
const HEAD: u64 = 4096;
const SLOT: usize = 2048;
const MAX_RECORD: usize = SLOT - 8;

/// The file.
#[derive(Debug)]
pub struct Records {
    file: File,
    /// The slot of each flow, and the number of its last `put`.
    used: BTreeMap<FlowKey, (u32, u64)>,
    puts: u64,
    /// The free slots, the next one last.
    free: Vec<u32>,
    written_to: u32,
    slots: u32,
}

/// What an earlier process left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The records that are whole.
    pub records: Vec<FlowRecord>,
    /// Slots that were torn or corrupt, or held a flow twice.
    pub corrupt: usize,
    /// Why the whole file was set aside, if it was.
    pub discarded: Option<&'static str>,
}

/// Why a record is not stored.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Every slot is in use.
    #[error("all {0} slots for flow records are in use")]
    Full(u32),
    /// The record is longer than a slot.
    #[error("a flow record of {0} bytes does not fit a slot of {MAX_RECORD}")]
    TooLong(usize),
    /// The file cannot be written.
    #[error("flow records cannot be written: {0}")]
    Io(#[from] io::Error),
}

impl Records {
    /// Opens or creates the file at `path` for `slots` flows and reads what it holds. `boot` names
    /// the boot of the machine: `/proc/sys/kernel/random/boot_id`.
    ///
    /// # Errors
    /// When the file cannot be opened, read or written.
    pub fn open(path: &Path, slots: u32, boot: &str) -> io::Result<(Self, Recovered)> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        let mut recovered = Recovered::default();
        let head = head(slots, boot);
        let mut found = [0; 16];
        let known = file.read_exact_at(&mut found, 0).is_ok();
        let mut records = Self {
            file,
            used: BTreeMap::new(),
            puts: 0,
            free: Vec::new(),
            written_to: 0,
            slots,
        };
        if known && found == head {
            records.read_back(&mut recovered)?;
        } else {
            if known && found[..8] == *MAGIC {
                recovered.discarded = Some("of another boot or size");
            } else if known {
                recovered.discarded = Some("not a file of flow records");
            }
            records.file.set_len(0)?;
            records.file.write_all_at(&head, 0)?;
        }
        Ok((records, recovered))
    }

    /// Stores `record` in place of an earlier one of its flow.
    ///
    /// # Errors
    /// See [`RecordError`]; the flow has no record then.
    pub fn put(&mut self, record: &FlowRecord) -> Result<(), RecordError> {
        let mut bytes = vec![0; 8];
        ciborium::into_writer(record, &mut bytes).map_err(io::Error::other)?;
        let length = bytes.len() - 8;
        if length > MAX_RECORD {
            self.remove(&record.key)?;
            return Err(RecordError::TooLong(length));
        }
        let length = u32::try_from(length).map_err(io::Error::other)?;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        let crc = crc32fast::hash(&bytes[4..]);
        bytes[..4].copy_from_slice(&crc.to_le_bytes());
        let slot = self.slot_for(&record.key)?;
        self.file.write_all_at(&bytes, offset(slot))?;
        self.puts += 1;
        self.used.insert(record.key, (slot, self.puts));
        Ok(())
    }

    /// Forgets the record of `key`, if there is one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn remove(&mut self, key: &FlowKey) -> io::Result<()> {
        let Some((slot, _)) = self.used.remove(key) else {
            return Ok(());
        };
        self.free.push(slot);
        self.file.write_all_at(&[0; 8], offset(slot))
    }

    /// How often a record was stored: the age of what is stored now.
    #[must_use]
    pub fn age(&self) -> u64 {
        self.puts
    }

    /// The flows whose record is not younger than `age`, sorted.
    pub fn not_after(&self, age: u64) -> impl Iterator<Item = &FlowKey> {
        let old = self.used.iter().filter(move |(_, (_, put))| *put <= age);
        old.map(|(key, _)| key)
    }

    /// Whether `key` has a record that is not younger than `age`.
    #[must_use]
    pub fn is_not_after(&self, key: &FlowKey, age: u64) -> bool {
        self.used.get(key).is_some_and(|(_, put)| *put <= age)
    }

    /// The number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty()
    }

    fn slot_for(&mut self, key: &FlowKey) -> Result<u32, RecordError> {
        if let Some((slot, _)) = self.used.get(key) {
            return Ok(*slot);
        }
        if let Some(slot) = self.free.pop() {
            return Ok(slot);
        }
        if self.written_to >= self.slots {
            return Err(RecordError::Full(self.slots));
        }
        self.written_to += 1;
        Ok(self.written_to - 1)
    }

    fn read_back(&mut self, recovered: &mut Recovered) -> io::Result<()> {
        let mut bytes = [0; SLOT];
        for slot in 0..self.slots {
            let read = read_up_to(&self.file, &mut bytes, offset(slot))?;
            if read == 0 {
                break;
            }
            self.written_to = slot + 1;
            let record = match parse(bytes.get(..read).unwrap_or_default()) {
                Slot::Free => None,
                Slot::Corrupt => {
                    recovered.corrupt += 1;
                    None
                }
                Slot::Record(record) if self.used.contains_key(&record.key) => {
                    recovered.corrupt += 1;
                    None
                }
                Slot::Record(record) => Some(record),
            };
            match record {
                Some(record) => {
                    self.used.insert(record.key, (slot, 0));
                    recovered.records.push(*record);
                }
                None => self.free.push(slot),
            }
        }
        Ok(())
    }
}

enum Slot {
    Free,
    Corrupt,
    Record(Box<FlowRecord>),
}

fn parse(slot: &[u8]) -> Slot {
    parse_record(slot).unwrap_or(Slot::Corrupt)
}

fn parse_record(slot: &[u8]) -> Option<Slot> {
    let crc = u32::from_le_bytes(*slot.first_chunk()?);
    let length = u32::from_le_bytes(*slot.get(4..)?.first_chunk()?);
    if (crc, length) == (0, 0) {
        return Some(Slot::Free);
    }
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    if crc32fast::hash(slot.get(4..end)?) != crc {
        return None;
    }
    let record = ciborium::from_reader(slot.get(8..end)?).ok()?;
    Some(Slot::Record(Box::new(record)))
}

fn head(slots: u32, boot: &str) -> [u8; 16] {
    let mut head = [0; 16];
    head[..8].copy_from_slice(MAGIC);
    head[8..12].copy_from_slice(&slots.to_le_bytes());
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..12]);
    crc.update(boot.as_bytes());
    head[12..].copy_from_slice(&crc.finalize().to_le_bytes());
    head
}

fn offset(slot: u32) -> u64 {
    HEAD + u64::from(slot) * SLOT as u64
}

fn read_up_to(file: &File, bytes: &mut [u8], at: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < bytes.len() {
        match file.read_at(&mut bytes[read..], at + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use handshake::node::{Ends, RemoteEnd};
    use identity::UnixMillis;
    use proptest::prelude::*;

    use super::*;

    const BOOT: &str = "a-boot";

    fn record(port: u16) -> FlowRecord {
        FlowRecord {
            key: FlowKey {
                protocol: 6,
                src: [10, 1, 1, 10].into(),
                dst: [10, 2, 1, 10].into(),
                sport: port,
                dport: 8080,
            },
            ends: Ends::Initiator {
                pod_uid: "3f2c".into(),
                remote: RemoteEnd::Proven([7; 960].into()),
            },
            rule: "east: NetworkPolicy shop/api-allow rule egress[0]".into(),
            epoch: 4,
            opened: UnixMillis(1_700_000_000_000),
        }
    }

    fn reopen(path: &Path) -> (Records, Recovered) {
        Records::open(path, 8, BOOT).unwrap()
    }

    #[test]
    fn what_was_put_and_not_removed_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows");
        let (mut records, recovered) = reopen(&path);
        assert_eq!(recovered, Recovered::default());
        for port in 1..=4 {
            records.put(&record(port)).unwrap();
        }
        records.remove(&record(2).key).unwrap();
        records
            .put(&FlowRecord {
                epoch: 9,
                ..record(3)
            })
            .unwrap();
        drop(records);

        let (mut records, recovered) = reopen(&path);
        let read: Vec<_> = recovered
            .records
            .iter()
            .map(|r| (r.key.sport, r.epoch))
            .collect();
        assert_eq!(read, [(1, 4), (3, 9), (4, 4)]);
        assert_eq!(recovered.corrupt, 0);
        // The slot that became free is used before a new one.
        records.put(&record(5)).unwrap();
        drop(records);
        assert_eq!(std::fs::metadata(&path).unwrap().len() / SLOT as u64, 5);
        assert_eq!(reopen(&path).1.records.len(), 4);
    }

    #[test]
    fn a_record_that_is_stored_again_is_young_again() {
        let dir = tempfile::tempdir().unwrap();
        let (mut records, _) = reopen(&dir.path().join("flows"));
        records.put(&record(1)).unwrap();
        records.put(&record(2)).unwrap();
        let age = records.age();
        records.put(&record(1)).unwrap();
        records.put(&record(3)).unwrap();
        let old: Vec<_> = records.not_after(age).map(|key| key.sport).collect();
        assert_eq!(old, [2]);
    }

    #[test]
    fn the_last_slot_is_the_limit_and_a_removed_one_makes_room() {
        let dir = tempfile::tempdir().unwrap();
        let (mut records, _) = reopen(&dir.path().join("flows"));
        for port in 1..=8 {
            records.put(&record(port)).unwrap();
        }
        assert!(matches!(records.put(&record(9)), Err(RecordError::Full(8))));
        records.remove(&record(1).key).unwrap();
        records.put(&record(9)).unwrap();
        assert_eq!(records.len(), 8);
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_none_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows");
        let (mut records, _) = reopen(&path);
        records.put(&record(1)).unwrap();
        let long = FlowRecord {
            rule: "r".repeat(SLOT).into(),
            ..record(1)
        };
        assert!(matches!(records.put(&long), Err(RecordError::TooLong(_))));
        drop(records);
        assert_eq!(reopen(&path).1, Recovered::default());
    }

    #[test]
    fn records_of_another_boot_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flows");
        reopen(&path).0.put(&record(1)).unwrap();
        let (records, recovered) = Records::open(&path, 8, "another").unwrap();
        assert!(records.is_empty() && recovered.records.is_empty());
        assert!(recovered.discarded.is_some());
    }

    proptest! {
        /// A crash or a failing disk changes bytes anywhere: what is read back was written.
        #[test]
        fn damage_loses_only_what_it_touched(
            damage in prop::collection::vec((0u64..HEAD + 4 * SLOT as u64, any::<u8>()), 1..6),
            cut in prop::option::of(0u64..HEAD + 4 * SLOT as u64),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("flows");
            let (mut records, _) = reopen(&path);
            for port in 1..=4 {
                records.put(&record(port)).unwrap();
            }
            drop(records);
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            for (at, byte) in &damage {
                file.write_all_at(&[*byte], *at).unwrap();
            }
            if let Some(length) = cut {
                file.set_len(length).unwrap();
            }
            let (mut records, recovered) = reopen(&path);
            for read in &recovered.records {
                prop_assert_eq!(read, &record(read.key.sport));
            }
            prop_assert_eq!(records.len(), recovered.records.len());
            // It works on after the damage.
            records.put(&record(7)).unwrap();
            drop(records);
            let (_, again) = reopen(&path);
            prop_assert!(again.records.contains(&record(7)));
        }
    }
}
