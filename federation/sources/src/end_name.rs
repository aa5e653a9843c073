//! What people call an end of a connection.

use std::{net::IpAddr, sync::Arc};

/// How an end of a connection is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndName {
    /// By an address.
    Address(IpAddr),
    /// By a name of the DNS, in lower case and without a dot at the end.
    Domain(Arc<str>),
    /// As a pod: [`crate::World::find`] reads it.
    Pod,
}

impl EndName {
    /// What `text` names.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if let Ok(address) = text.parse() {
            return Self::Address(address);
        }
        match text.contains('.') && !text.contains('/') {
            true => Self::Domain(text.to_ascii_lowercase().trim_end_matches('.').into()),
            false => Self::Pod,
        }
    }
}
