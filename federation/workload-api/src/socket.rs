//! Where a Workload API is: the SPIFFE Workload Endpoint standard, section 4.

use std::{fmt, str::FromStr};

use serde::Deserialize;
use spiffe::transport::Endpoint;

/// The Unix socket of a Workload API, written `unix:///run/spire/sockets/agent.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Socket {
    text: String,
    pub(crate) endpoint: Endpoint,
}

/// It is something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// Whoever answers at a TCP port cannot know which process asks, nor we who answers.
    #[error("{0:?} is a TCP port: the Workload API is asked on a Unix socket alone")]
    Tcp(String),
    /// It is no endpoint.
    #[error("{0:?} is no Unix socket such as unix:///run/spire/sockets/agent.sock: {1}")]
    Malformed(String, String),
}

impl FromStr for Socket {
    type Err = SocketError;
    fn from_str(text: &str) -> Result<Self, SocketError> {
        match Endpoint::parse(text) {
            Ok(endpoint @ Endpoint::Unix(_)) => Ok(Self {
                text: text.into(),
                endpoint,
            }),
            Ok(_) => Err(SocketError::Tcp(text.into())),
            Err(e) => Err(SocketError::Malformed(text.into(), e.to_string())),
        }
    }
}

impl TryFrom<String> for Socket {
    type Error = SocketError;
    fn try_from(text: String) -> Result<Self, SocketError> {
        text.parse()
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_unix_socket_or_nothing() {
        let read = |text: &str| text.parse::<Socket>();
        assert!(read("unix:///run/spire/sockets/agent.sock").is_ok());
        assert!(read("unix:/run/agent.sock").is_ok());
        assert!(matches!(
            read("tcp://127.0.0.1:8081"),
            Err(SocketError::Tcp(_))
        ));
        for text in [
            "",
            "/run/agent.sock",
            "unix:",
            "unix:relative",
            "https://a.example",
        ] {
            let error = read(text).map(|_| ()).map_err(|e| e.to_string());
            assert!(
                error.is_err_and(|e| e.contains("such as unix:///run")),
                "{text}"
            );
        }
    }
}
