//! A state directory as one file: what is in it, and whether it is whole. docs/backup.md.
//!
//! ```text
//! 0..8     "LBBACKUP"
//! 8        the version: 1
//! 9..17    when it was made, ms since 1970 (big endian, as all numbers)
//! then     for each file, in the order of their names: length of the name (2), the name, length (8), its bytes
//! last 32  SHA-256 of all before
//! ```

use std::{collections::BTreeMap, fmt};

use identity::UnixMillis;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const MAGIC: &[u8; 8] = b"LBBACKUP";
const VERSION: u8 = 1;
const HEADER: usize = 17;
const SUM: usize = 32;
/// The longest archive in bytes.
pub const MAX_ARCHIVE: u64 = 1 << 30;

/// Files with keys among them: overwritten when dropped, never printed.
pub type Files = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// What was backed up.
pub struct Archive {
    /// When.
    pub made: UnixMillis,
    /// By name.
    pub files: Files,
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Archive of {}: {:?}", self.made, self.files.keys())
    }
}

/// Why bytes are no backup that can be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveError {
    /// Another file.
    Foreign,
    /// Of another version.
    Version(u8),
    /// It was cut or changed.
    Damaged,
    /// The checksum holds, and it is none all the same.
    Malformed,
    /// A file in it is not what a gateway stores.
    File(String, &'static str),
    /// Something that every gateway has is not in it.
    Missing(&'static str),
}

impl std::error::Error for ArchiveError {}

impl fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("it is no backup of a gateway"),
            Self::Version(version) => write!(
                f,
                "it is a backup of version {version}, and this program reads version {VERSION}"
            ),
            Self::Damaged => f.write_str("it was cut or changed: its checksum does not hold"),
            Self::Malformed => f.write_str("its checksum holds, and it cannot be read"),
            Self::File(name, what) => write!(f, "{name} in it {what}"),
            Self::Missing(what) => write!(f, "there is no {what} in it"),
        }
    }
}

impl Archive {
    /// As one file.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let files = self.files.iter();
        let length: usize = files
            .map(|(name, bytes)| 10 + name.len() + bytes.len())
            .sum();
        // Whole at once: growing would leave copies of keys behind.
        let mut all = Zeroizing::new(Vec::with_capacity(HEADER + length + SUM));
        all.extend_from_slice(MAGIC);
        all.push(VERSION);
        all.extend_from_slice(&self.made.0.to_be_bytes());
        for (name, bytes) in &self.files {
            all.extend_from_slice(&(name.len() as u16).to_be_bytes());
            all.extend_from_slice(name.as_bytes());
            all.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            all.extend_from_slice(bytes);
        }
        let sum = Sha256::digest(&*all);
        all.extend_from_slice(&sum);
        all
    }

    /// Reads one, and looks whether all in it is whole.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ArchiveError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(ArchiveError::Foreign)?;
        let (version, _) = rest.split_first().ok_or(ArchiveError::Damaged)?;
        if *version != VERSION {
            return Err(ArchiveError::Version(*version));
        }
        let (body, sum) = bytes
            .split_last_chunk::<SUM>()
            .ok_or(ArchiveError::Damaged)?;
        if Sha256::digest(body).as_slice() != sum {
            return Err(ArchiveError::Damaged);
        }
        let (made, mut rest) = body
            .get(9..)
            .and_then(|rest| rest.split_first_chunk::<8>())
            .ok_or(ArchiveError::Malformed)?;
        let mut files = Files::new();
        while !rest.is_empty() {
            let (name, bytes) = file(&mut rest).ok_or(ArchiveError::Malformed)?;
            check(&name, bytes)?;
            if files.insert(name, Zeroizing::new(bytes.to_vec())).is_some() {
                return Err(ArchiveError::Malformed);
            }
        }
        for (what, starts, ends) in [("root", "root.", ".pem"), ("issuer key", "issuer.", ".key")] {
            if !files
                .keys()
                .any(|name| name.starts_with(starts) && name.ends_with(ends))
            {
                return Err(ArchiveError::Missing(what));
            }
        }
        Ok(Self {
            made: UnixMillis(u64::from_be_bytes(*made)),
            files,
        })
    }
}

fn file<'a>(rest: &mut &'a [u8]) -> Option<(String, &'a [u8])> {
    let (length, after) = rest.split_first_chunk::<2>()?;
    let (name, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
    let (length, after) = after.split_first_chunk::<8>()?;
    let length = usize::try_from(u64::from_be_bytes(*length)).ok()?;
    let (bytes, after) = after.split_at_checked(length)?;
    *rest = after;
    Some((String::from_utf8(name.to_vec()).ok()?, bytes))
}

/// A file may only be one that a gateway stores, and whole.
fn check(name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
    let wrong = |what| Err(ArchiveError::File(name.to_owned(), what));
    if !is_state(name) {
        return wrong("is none that a state directory has");
    }
    if name.ends_with(".sealed") && peering::peers::check_stored(bytes).is_err() {
        return wrong("is damaged");
    }
    let holds = |(sum, body): (&[u8; 32], &[u8])| Sha256::digest(body).as_slice() == sum;
    if name.ends_with(".state") && !bytes.split_first_chunk::<32>().is_some_and(holds) {
        return wrong("is damaged");
    }
    Ok(())
}

/// Whether a file of that name in a state directory is part of its state.
pub fn is_state(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let passing = [".lock", ".sock", ".unfinished", ".tmp"];
    let shape = !name.is_empty() && name.len() <= 255 && name.bytes().all(plain);
    shape && !name.starts_with('.') && !passing.iter().any(|end| name.ends_with(end))
}

/// Whether it is the audit log, which goes on where it is.
pub fn is_audit(name: &str) -> bool {
    name.starts_with("audit.log")
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use peering::peers::mark_restored;
    use proptest::prelude::*;

    use super::*;

    /// What `State` of the gateway makes of a record.
    pub fn record(json: &str) -> Vec<u8> {
        [Sha256::digest(json).as_slice(), json.as_bytes()].concat()
    }

    pub fn files() -> Files {
        let own = mark_restored(None, UnixMillis(1)).unwrap().unwrap();
        let all = [
            ("root.pem", b"a root".to_vec()),
            ("issuer.key", vec![7; 32]),
            ("issuer.2.key", vec![8; 32]),
            ("own.sealed", own),
            ("members.state", record("{}")),
            ("invitations.state", record(r#"{"invitations":{}}"#)),
        ];
        all.map(|(name, bytes)| (name.to_owned(), Zeroizing::new(bytes)))
            .into()
    }

    fn sample() -> Archive {
        Archive {
            made: UnixMillis(1_800_000_000_000),
            files: files(),
        }
    }

    /// Bytes of which the checksum holds.
    fn summed(mut body: Vec<u8>) -> Vec<u8> {
        let sum = Sha256::digest(&body);
        body.extend_from_slice(&sum);
        body
    }

    fn refused(change: impl FnOnce(&mut Files)) -> ArchiveError {
        let mut archive = sample();
        change(&mut archive.files);
        Archive::decode(&archive.encode()).unwrap_err()
    }

    #[test]
    fn what_was_backed_up_is_read_again() {
        let read = Archive::decode(&sample().encode()).unwrap();
        assert_eq!((read.made, read.files), (sample().made, files()));
        let shown = format!("{:?}", sample());
        assert!(
            !shown.contains("a root") && shown.contains("root.pem"),
            "{shown}"
        );
    }

    #[test]
    fn another_file_or_version_is_named() {
        assert_eq!(Archive::decode(b"PK").unwrap_err(), ArchiveError::Foreign);
        assert_eq!(
            Archive::decode(b"LBBACKUP").unwrap_err(),
            ArchiveError::Damaged
        );
        let mut other = sample().encode();
        other[8] = 2;
        let error = Archive::decode(&other).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it is a backup of version 2, and this program reads version 1"
        );
    }

    #[test]
    fn what_no_gateway_stores_is_not_put_back() {
        let put = |name: &str| {
            let name = name.to_owned();
            refused(|files| drop(files.insert(name, Zeroizing::new(Vec::new()))))
        };
        for name in ["../x", "a/b", ".bashrc", "xdp.lock", "admin.sock", ""] {
            assert!(matches!(put(name), ArchiveError::File(..)), "{name}");
        }
        let damage = |name: &str| {
            let name = name.to_owned();
            refused(move |files| *files.get_mut(&name).unwrap().last_mut().unwrap() ^= 1)
        };
        for name in ["own.sealed", "members.state"] {
            assert_eq!(damage(name), ArchiveError::File(name.into(), "is damaged"));
        }
        let without = |name: &str| {
            let name = name.to_owned();
            refused(move |files| files.retain(|other, _| !other.starts_with(&name)))
        };
        assert_eq!(without("root"), ArchiveError::Missing("root"));
        assert_eq!(without("issuer"), ArchiveError::Missing("issuer key"));
    }

    proptest! {
        #[test]
        fn any_damage_is_seen(at: prop::sample::Index, bit in 0_u8..8, cut: prop::sample::Index) {
            let whole = sample().encode();
            let mut bytes = whole.clone();
            bytes[at.index(whole.len())] ^= 1 << bit;
            prop_assert!(Archive::decode(&bytes).is_err());
            prop_assert!(Archive::decode(&whole[..cut.index(whole.len())]).is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>) {
            let _ = Archive::decode(&body);
            let _ = Archive::decode(&summed([&b"LBBACKUP\x01"[..], &body].concat()));
        }
    }
}
