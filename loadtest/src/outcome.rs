//! What can come of a connection or a request, in the words of the report.

use std::{fmt, io};

use serde::Serialize;

/// Why something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// A RST answered the SYN: nobody listens, or a rule rejects.
    Refused,
    /// A RST ended a connection that stood.
    Reset,
    /// Nothing came within the limit.
    Timeout,
    /// An ICMP error or this host's routes said so.
    Unreachable,
    /// The far end closed before it had answered.
    Closed,
    /// The answer is not what was asked for.
    Corrupted,
    /// This host has no free local port or file descriptor left: the generator's limit, not the
    /// target's.
    NoLocalPort,
    /// Started, and not over when the run ended.
    Unfinished,
    /// None of these.
    Other,
}

impl Failure {
    /// The word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Corrupted => "corrupted",
            Self::NoLocalPort => "no-local-port",
            Self::Unfinished => "unfinished",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind as K;
        // EMFILE and ENFILE have no kind of their own.
        let descriptors = [
            rustix::io::Errno::MFILE.raw_os_error(),
            rustix::io::Errno::NFILE.raw_os_error(),
        ];
        match error.kind() {
            K::ConnectionRefused => Self::Refused,
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => Self::Reset,
            K::TimedOut => Self::Timeout,
            K::HostUnreachable | K::NetworkUnreachable | K::NetworkDown => Self::Unreachable,
            // What a firewall of this host says of its own packets.
            K::PermissionDenied => Self::Unreachable,
            K::UnexpectedEof => Self::Closed,
            K::InvalidData => Self::Corrupted,
            K::AddrNotAvailable | K::AddrInUse => Self::NoLocalPort,
            _ if error
                .raw_os_error()
                .is_some_and(|e| descriptors.contains(&e)) =>
            {
                Self::NoLocalPort
            }
            _ => Self::Other,
        }
    }
}
