//! A destination port as people name it on the command line: `80/tcp`, `53/udp`, `http`.

use std::{fmt, str::FromStr};

use anyhow::{Context, Result, bail};

use crate::{oracle::End, party::Party};

/// A port of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    port: Port,
    protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Port {
    Number(u16),
    Name(String),
}

/// Protocols with ports, under their IP protocol numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// As it is written behind the port.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// The word for a protocol number.
pub fn word(protocol: u8) -> &'static str {
    match protocol {
        17 => Protocol::Udp.word(),
        132 => Protocol::Sctp.word(),
        _ => Protocol::Tcp.word(),
    }
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => return Err(format!("{other:?} is none of tcp, udp, sctp")),
        };
        let is_number = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port.parse() {
            Ok(0) | Err(_) if is_number => return Err(format!("{port} is not from 1 to 65535")),
            Ok(number) => Port::Number(number),
            Err(_) if port.is_empty() => return Err("there is no port".into()),
            Err(_) => Port::Name(port.to_owned()),
        };
        Ok(Self { port, protocol })
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.port {
            Port::Number(number) => write!(f, "{number}/{}", self.protocol.word()),
            Port::Name(name) => write!(f, "{name}/{}", self.protocol.word()),
        }
    }
}

impl Service {
    /// The protocol and number, as `to` means a name.
    ///
    /// # Errors
    /// When it has no such name.
    pub fn at_party(&self, to: &Party) -> Result<(Protocol, u16)> {
        match (to.pod(), &self.port) {
            (Some(pod), _) => self.at(pod),
            (None, Port::Number(number)) => Ok((self.protocol, *number)),
            (None, Port::Name(name)) => {
                bail!("only pods give names to ports, and {name:?} is one")
            }
        }
    }

    /// The protocol and number, as the pod `to` means a name.
    ///
    /// # Errors
    /// When the pod has no such name.
    pub fn at(&self, to: &End) -> Result<(Protocol, u16)> {
        let protocol = self.protocol;
        let number = match &self.port {
            Port::Number(number) => *number,
            Port::Name(name) => {
                let ports = &to.claims.named_ports;
                let mut ports = ports.iter().filter(|p| p.protocol == protocol as u8);
                let port = ports.find(|p| p.name == *name);
                let port = port.with_context(|| {
                    let pod = to.claims.display_name();
                    format!("{pod} names no {} port {name:?}", protocol.word())
                })?;
                port.port
            }
        };
        Ok((protocol, number))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_strictly() {
        for wrong in ["", "/tcp", "0", "65536/tcp", "80/tls", "99999999999"] {
            assert!(wrong.parse::<Service>().is_err(), "{wrong:?}");
        }
        let dns = Service {
            port: Port::Number(53),
            protocol: Protocol::Udp,
        };
        assert_eq!("53/udp".parse(), Ok(dns));
    }
}
