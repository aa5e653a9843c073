//! Which connection a packet belongs to.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{ParseError, ip, tcp, udp};

/// The five values that name a connection, in the direction of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowKey {
    /// The IP protocol number.
    pub protocol: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// Length of [`FlowKey::symmetric`].
pub const SYMMETRIC_LEN: usize = 37;

impl FlowKey {
    /// The key of a TCP or UDP packet.
    ///
    /// # Errors
    /// [`ParseError::Fragment`] for any fragment, [`ParseError::Protocol`] for other protocols,
    /// and what the header's own view says.
    pub fn of(packet: &ip::Packet<'_>) -> Result<Self, ParseError> {
        let (sport, dport) = match packet.protocol() {
            ip::TCP => {
                let segment = tcp::Segment::of(packet)?;
                (segment.sport(), segment.dport())
            }
            ip::UDP => {
                let datagram = udp::Datagram::of(packet)?;
                (datagram.sport(), datagram.dport())
            }
            _ => return Err(ParseError::Protocol),
        };
        Ok(Self {
            protocol: packet.protocol(),
            src: packet.src(),
            dst: packet.dst(),
            sport,
            dport,
        })
    }

    /// The key of the other direction.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            protocol: self.protocol,
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
        }
    }

    /// The same bytes for both directions: protocol, the lower {address, port}, the higher one.
    /// IPv4 addresses stand in their IPv4-mapped form.
    #[must_use]
    pub fn symmetric(&self) -> [u8; SYMMETRIC_LEN] {
        let end = |address: IpAddr, port: u16| {
            let address = match address {
                IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
                IpAddr::V6(a) => a.octets(),
            };
            (address, port.to_be_bytes())
        };
        let (one, other) = (end(self.src, self.sport), end(self.dst, self.dport));
        let (low, high) = if one <= other {
            (one, other)
        } else {
            (other, one)
        };
        let mut bytes = [0; SYMMETRIC_LEN];
        bytes[0] = self.protocol;
        bytes[1..17].copy_from_slice(&low.0);
        bytes[17..19].copy_from_slice(&low.1);
        bytes[19..35].copy_from_slice(&high.0);
        bytes[35..37].copy_from_slice(&high.1);
        bytes
    }
}

impl std::fmt::Display for FlowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::net::SocketAddr;
        let (src, dst) = (
            SocketAddr::new(self.src, self.sport),
            SocketAddr::new(self.dst, self.dport),
        );
        match self.protocol {
            ip::TCP => write!(f, "tcp {src} > {dst}"),
            ip::UDP => write!(f, "udp {src} > {dst}"),
            other => write!(f, "protocol {other} {src} > {dst}"),
        }
    }
}
