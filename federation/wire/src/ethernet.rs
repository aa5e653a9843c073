//! Ethernet II frames with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use crate::{ParseError, bytes::Reader};

/// Length in bytes of a header without tags.
pub const HEADER_LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const MAX_TAGS: usize = 2;

/// A link-layer address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether the group bit is set: multicast or broadcast.
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A checked view: destination 0..6, source 6..12, tags of four bytes each, EtherType, payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    dst: Mac,
    src: Mac,
    tags: usize,
    ether_type: u16,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Checks `bytes`, which start with the destination address and have no FCS at the end.
    ///
    /// # Errors
    /// [`ParseError::Truncated`]; [`ParseError::Length`] for a third tag or for a length instead
    /// of an EtherType (IEEE 802.3 with LLC).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader(bytes);
        let (dst, src) = (Mac(r.array()?), Mac(r.array()?));
        let mut tags = 0;
        let ether_type = loop {
            match r.u16()? {
                VLAN | SERVICE_VLAN if tags == MAX_TAGS => return Err(ParseError::Length),
                VLAN | SERVICE_VLAN => {
                    tags += 1;
                    r.u16()?;
                }
                other => break other,
            }
        };
        if ether_type < 0x0600 {
            return Err(ParseError::Length);
        }
        Ok(Self {
            dst,
            src,
            tags,
            ether_type,
            payload: r.0,
        })
    }

    /// Destination.
    #[must_use]
    pub fn dst(&self) -> Mac {
        self.dst
    }

    /// Source.
    #[must_use]
    pub fn src(&self) -> Mac {
        self.src
    }

    /// The EtherType after all tags.
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        self.ether_type
    }

    /// How many VLAN tags there are.
    #[must_use]
    pub fn tags(&self) -> usize {
        self.tags
    }

    /// Length in bytes of the header with tags.
    #[must_use]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + 4 * self.tags
    }

    /// What follows the header, link padding included.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A header without tags.
#[must_use]
pub fn header(dst: Mac, src: Mac, ether_type: u16) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0..6].copy_from_slice(&dst.0);
    bytes[6..12].copy_from_slice(&src.0);
    bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
    bytes
}
