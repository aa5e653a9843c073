//! TCP segments (RFC 9293).

pub mod options;

use std::net::IpAddr;

use crate::{
    ParseError,
    checksum::Sum,
    ip,
    marker::{self, OurOption},
};
use options::{Options, TcpOption};

/// Length of the header without options.
pub const HEADER_LEN: usize = 20;
/// The most bytes of options that a header can hold.
pub const MAX_OPTIONS: usize = 40;

/// Where the checksum stands in the header.
pub(crate) const CHECKSUM_AT: usize = 16;

/// The flags byte: CWR, ECE, URG, ACK, PSH, RST, SYN, FIN from high to low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number is significant.
    pub const ACK: u8 = 0x10;

    /// FIN is set.
    #[must_use]
    pub fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }

    /// SYN is set.
    #[must_use]
    pub fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }

    /// RST is set.
    #[must_use]
    pub fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }

    /// ACK is set.
    #[must_use]
    pub fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }

    /// The first segment of a connection: SYN without ACK, RST and FIN.
    #[must_use]
    pub fn is_syn(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }

    /// The answer to it: SYN and ACK without RST and FIN.
    #[must_use]
    pub fn is_syn_ack(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN | Self::ACK
    }
}

/// A checked view of a segment: ports 0..4, sequence 4..8, acknowledgment 8..12, data offset 12,
/// flags 13, window 14..16, checksum 16..18, urgent pointer 18..20, options from 20, payload from
/// the data offset. Lengths and the option list are checked, the checksum is not: see
/// [`Segment::checksum_holds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    bytes: &'a [u8],
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// The segment in `packet`.
    ///
    /// # Errors
    /// [`ParseError::Fragment`] for any fragment (RFC 1858, RFC 3128), [`ParseError::Protocol`]
    /// when it is not TCP, and what [`Segment::parse`] says.
    pub fn of(packet: &ip::Packet<'a>) -> Result<Self, ParseError> {
        match (packet.protocol(), packet.fragment()) {
            (ip::TCP, None) => Self::parse(packet.payload()),
            (ip::TCP, Some(_)) => Err(ParseError::Fragment),
            _ => Err(ParseError::Protocol),
        }
    }

    /// Checks `bytes`, which start with the header and end with the payload.
    ///
    /// # Errors
    /// [`ParseError::Truncated`], [`ParseError::Length`] for a data offset under 5, or
    /// [`ParseError::TcpOption`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let (header, after) = bytes.split_first_chunk().ok_or(ParseError::Truncated)?;
        let header: &[u8; HEADER_LEN] = header;
        let header_len = usize::from(header[12] >> 4) * 4;
        let options_len = header_len
            .checked_sub(HEADER_LEN)
            .ok_or(ParseError::Length)?;
        let (options, payload) = after
            .split_at_checked(options_len)
            .ok_or(ParseError::Truncated)?;
        options::check(options)?;
        Ok(Self {
            bytes,
            header,
            options,
            payload,
        })
    }

    /// Source port.
    #[must_use]
    pub fn sport(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[must_use]
    pub fn dport(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Sequence number.
    #[must_use]
    pub fn seq(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[4], h[5], h[6], h[7]])
    }

    /// Acknowledgment number; meaningful only with the ACK flag.
    #[must_use]
    pub fn ack(&self) -> u32 {
        let h = self.header;
        u32::from_be_bytes([h[8], h[9], h[10], h[11]])
    }

    /// Flags.
    #[must_use]
    pub fn flags(&self) -> Flags {
        Flags(self.header[13])
    }

    /// Window, not scaled.
    #[must_use]
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.header[14], self.header[15]])
    }

    /// The header without options.
    #[must_use]
    pub fn header(&self) -> &'a [u8; HEADER_LEN] {
        self.header
    }

    /// Length of the header with options.
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// The options, without no-ops and end of list.
    #[must_use]
    pub fn options(&self) -> Options<'a> {
        Options::new(self.options)
    }

    /// The options with no-ops, up to the end of the list.
    pub(crate) fn option_bytes(&self) -> &'a [u8] {
        let mut walk = options::Walk::new(self.options);
        let length = walk.by_ref().map(<[u8]>::len).sum();
        self.options.get(..length).unwrap_or_default()
    }

    /// The first option of `kind`.
    #[must_use]
    pub fn option(&self, kind: u8) -> Option<TcpOption<'a>> {
        self.options().find(|option| option.kind == kind)
    }

    /// The content after the ExID of the first option of kind 253 that bears `exid` (RFC 6994).
    #[must_use]
    pub fn find_exid(&self, exid: u16) -> Option<&'a [u8]> {
        self.options().find_map(|option| option.experiment(exid))
    }

    /// Our own option: marker, CONFIRM, none, or something that only a middlebox or an attacker
    /// makes of it.
    #[must_use]
    pub fn our_option(&self) -> OurOption<'a> {
        marker::find(self.options())
    }

    /// The maximum segment size option.
    #[must_use]
    pub fn mss(&self) -> Option<u16> {
        match self.option(options::MSS)?.data {
            &[high, low] => Some(u16::from_be_bytes([high, low])),
            _ => None,
        }
    }

    /// What follows the header.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Header and payload.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether the checksum holds between these addresses.
    #[must_use]
    pub fn checksum_holds(&self, src: IpAddr, dst: IpAddr) -> bool {
        Sum::pseudo_header(src, dst, ip::TCP, self.bytes.len())
            .bytes(self.bytes)
            .holds()
    }

    /// How far the segment moves the sequence number: payload, SYN and FIN. The payload of a SYN
    /// or SYN-ACK that bears our marker is a token, which is never in the sequence space.
    #[must_use]
    pub fn sequence_len(&self) -> u32 {
        let flags = self.flags();
        let token = flags.syn() && self.our_option() == OurOption::Marker;
        // A payload is at most 65,535 bytes.
        let payload = if token { 0 } else { self.payload.len() as u32 };
        payload + u32::from(flags.syn()) + u32::from(flags.fin())
    }
}
