//! VXLAN (RFC 7348).

use crate::{ParseError, bytes::Reader};

/// Length in bytes of the header.
pub const HEADER_LEN: usize = 8;
/// The UDP port that IANA assigned.
pub const PORT: u16 = 4789;

/// A checked view of a UDP payload: flags 0 (0x08: the VNI is valid), reserved 1..4, VNI 4..7,
/// reserved 7, an Ethernet frame from 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan<'a> {
    /// The network identifier, 24 bits.
    pub vni: u32,
    /// The inner Ethernet frame, not looked into.
    pub frame: &'a [u8],
}

impl<'a> Vxlan<'a> {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`], or [`ParseError::Reserved`] when the VNI is not valid or another
    /// flag asks for an extension. Reserved bytes are ignored on receipt, as section 5 says.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader(bytes);
        let [flags, _, _, _, v0, v1, v2, _] = r.array()?;
        if flags != 0x08 {
            return Err(ParseError::Reserved);
        }
        Ok(Self {
            vni: u32::from_be_bytes([0, v0, v1, v2]),
            frame: r.0,
        })
    }
}

/// The header for `vni`, of which the low 24 bits count.
#[must_use]
pub fn header(vni: u32) -> [u8; HEADER_LEN] {
    let [_, v0, v1, v2] = vni.to_be_bytes();
    [0x08, 0, 0, 0, v0, v1, v2, 0]
}
