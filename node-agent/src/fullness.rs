//! How full the kernel's connection table is. A full one drops the first packet of whatever is new on the
//! node, protected or not; connections that both ends confirmed stay (nf_conntrack's `early_drop` passes over them).

use std::{fs, io, path::Path};

/// From this part on an operator must hear of it.
const NEARLY: f64 = 0.9;

/// Entries, and how many there may be. The limit is the machine's, the entries those of one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fullness {
    /// `net.netfilter.nf_conntrack_count`
    pub tracked: u64,
    /// `net.netfilter.nf_conntrack_max`; 0 for no limit.
    pub limit: u64,
}

impl Fullness {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel does not say it.
    pub fn now() -> io::Result<Self> {
        Self::read(Path::new("/proc/sys/net/netfilter"))
    }

    fn read(dir: &Path) -> io::Result<Self> {
        let number = |name: &str| {
            let text = fs::read_to_string(dir.join(name))?;
            let number = text.trim().parse();
            number.map_err(|e| io::Error::other(format!("{name}: {e}")))
        };
        Ok(Self {
            tracked: number("nf_conntrack_count")?,
            limit: number("nf_conntrack_max")?,
        })
    }

    /// What to do about it, when it is nearly full.
    #[must_use]
    pub fn problem(self) -> Option<String> {
        let Self { tracked, limit } = self;
        (limit > 0 && tracked as f64 >= NEARLY * limit as f64).then(|| {
            format!(
                "the kernel's connection table is nearly full ({tracked} of {limit}): new connections of this node \
                 will be dropped; raise net.netfilter.nf_conntrack_max, and see who opens them"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_connection_table_that_is_nearly_full_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let read = |tracked: &str, limit: &str| {
            fs::write(dir.path().join("nf_conntrack_count"), tracked).unwrap();
            fs::write(dir.path().join("nf_conntrack_max"), limit).unwrap();
            Fullness::read(dir.path())
        };
        assert_eq!(read("899\n", "1000\n").unwrap().problem(), None);
        let problem = read("900\n", "1000\n").unwrap().problem().unwrap();
        assert!(problem.contains("(900 of 1000)"), "{problem}");
        assert_eq!(read("900\n", "0\n").unwrap().problem(), None);
        let error = read("many\n", "1000\n").unwrap_err().to_string();
        assert!(error.contains("nf_conntrack_count"), "{error}");
    }
}
