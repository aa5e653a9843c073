//! What can go wrong between this process and a NIC, and whose business it is.

use std::io;

/// Whose fault it is, in words that an operator can act on.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The machine or the configuration must change.
    #[error("{what}. Remedy: {remedy}")]
    Misconfigured {
        /// What was found.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// The kernel refused for a reason that it alone knows.
    #[error("{what}: {source}")]
    Unavailable {
        /// What was tried.
        what: String,
        /// What the kernel or the loader answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Program and loader do not fit each other.
    #[error("bug in the steering program or its loader: {0}")]
    Bug(String),
}

impl XdpError {
    pub(crate) fn misconfigured(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Misconfigured {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn unavailable(
        what: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Unavailable {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The errno at the root of the error, if one is there.
    pub(crate) fn errno(source: &(dyn std::error::Error + 'static)) -> Option<i32> {
        let mut source = Some(source);
        while let Some(error) = source {
            if let Some(io) = error.downcast_ref::<io::Error>() {
                return io.raw_os_error();
            }
            source = error.source();
        }
        None
    }
}
