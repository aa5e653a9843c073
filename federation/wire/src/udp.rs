//! UDP (RFC 768).

use std::net::IpAddr;

use crate::{ParseError, checksum::Sum, ip};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;
/// Where the checksum stands.
pub(crate) const CHECKSUM_AT: usize = 6;

/// A checked view of a datagram: source port 0..2, destination port 2..4, length 4..6, checksum
/// 6..8, payload from 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    sport: u16,
    dport: u16,
    checksum: u16,
    /// Header and payload, cut to the length field.
    bytes: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// The datagram in `packet`.
    ///
    /// # Errors
    /// [`ParseError::Fragment`] for any fragment, [`ParseError::Protocol`] when it is not UDP, and
    /// what [`Datagram::parse`] says.
    pub fn of(packet: &ip::Packet<'a>) -> Result<Self, ParseError> {
        match (packet.protocol(), packet.fragment()) {
            (ip::UDP, None) => Self::parse(packet.payload()),
            (ip::UDP, Some(_)) => Err(ParseError::Fragment),
            _ => Err(ParseError::Protocol),
        }
    }

    /// Checks lengths only; see [`Datagram::checksum_holds`].
    ///
    /// # Errors
    /// [`ParseError::Truncated`], or [`ParseError::Length`] for a length under 8.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = bytes
            .first_chunk::<HEADER_LEN>()
            .ok_or(ParseError::Truncated)?;
        let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let bytes = bytes.get(..length).ok_or(ParseError::Truncated)?;
        let payload = bytes.get(HEADER_LEN..).ok_or(ParseError::Length)?;
        Ok(Self {
            sport: u16::from_be_bytes([s0, s1]),
            dport: u16::from_be_bytes([d0, d1]),
            checksum: u16::from_be_bytes([c0, c1]),
            bytes,
            payload,
        })
    }

    /// Source port.
    #[must_use]
    pub fn sport(&self) -> u16 {
        self.sport
    }

    /// Destination port.
    #[must_use]
    pub fn dport(&self) -> u16 {
        self.dport
    }

    /// What follows the header, cut to the length field.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the checksum holds between these addresses. Zero means that the sender made none,
    /// which holds (RFC 768; RFC 6935 for tunnels over IPv6).
    #[must_use]
    pub fn checksum_holds(&self, src: IpAddr, dst: IpAddr) -> bool {
        self.checksum == 0
            || Sum::pseudo_header(src, dst, ip::UDP, self.bytes.len())
                .bytes(self.bytes)
                .holds()
    }
}

/// A header without a checksum, for `payload_len` bytes of payload.
///
/// `None` when the datagram would be longer than 65,535 bytes.
#[must_use]
pub fn header(sport: u16, dport: u16, payload_len: usize) -> Option<[u8; HEADER_LEN]> {
    let length = u16::try_from(payload_len.checked_add(HEADER_LEN)?).ok()?;
    let ([s0, s1], [d0, d1], [l0, l1]) = (
        sport.to_be_bytes(),
        dport.to_be_bytes(),
        length.to_be_bytes(),
    );
    Some([s0, s1, d0, d1, l0, l1, 0, 0])
}
