//! The header of the PSP Security Protocol, as docs/spec/psp.md tells it.

use std::ops::Range;

use crate::{ParseError, bytes::Reader};

/// The UDP destination port of the published format.
pub const PORT: u16 = 1000;
/// Length in bytes of the header without a virtualization cookie, which is not spoken here.
pub const HEADER_LEN: usize = 16;
/// Length in bytes of the integrity check value at the end.
pub const ICV_LEN: usize = 16;

/// What seals the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// AES-GCM with a 128-bit key.
    Aes128Gcm = 0,
    /// AES-GCM with a 256-bit key.
    Aes256Gcm = 1,
}

/// Next header 0, header extension length 1 (in units of 8 bytes after the first 8: one), crypt
/// offset in the low six bits of 2, flags 3 (sample 0x80, drop 0x40, version 0x3c, cookie 0x02,
/// always one 0x01), SPI 4..8, IV 8..16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The protocol of what is sealed: [`crate::ip::IPV4`] or [`crate::ip::IPV6`] in tunnel mode.
    pub next_header: u8,
    /// How much of the payload is authenticated but not encrypted, in units of 4 bytes.
    pub crypt_offset: u8,
    /// The receiver may sample the packet.
    pub sample: bool,
    /// The receiver should drop it after it was sampled.
    pub drop: bool,
    /// What seals the packet.
    pub version: Version,
    /// The receiver's name for the key.
    pub spi: u32,
    /// Unique under the key.
    pub iv: u64,
}

impl Header {
    /// The header of a tunnel packet: all of the payload is encrypted.
    #[must_use]
    pub fn tunnel(next_header: u8, version: Version, spi: u32, iv: u64) -> Self {
        Self {
            next_header,
            crypt_offset: 0,
            sample: false,
            drop: false,
            version,
            spi,
            iv,
        }
    }

    /// Reads the header at the start of `bytes`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`]; [`ParseError::Version`] for an unknown version;
    /// [`ParseError::Length`] for a header with a cookie or extensions; [`ParseError::Reserved`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader(bytes);
        let [next_header, ext_len, offset, flags] = r.array()?;
        let version = match flags >> 2 & 0x0f {
            0 => Version::Aes128Gcm,
            1 => Version::Aes256Gcm,
            _ => return Err(ParseError::Version),
        };
        let cookie = flags & 0x02 != 0;
        if ext_len != 1 || cookie {
            return Err(ParseError::Length);
        }
        if flags & 0x01 == 0 || offset & 0xc0 != 0 {
            return Err(ParseError::Reserved);
        }
        Ok(Self {
            next_header,
            crypt_offset: offset,
            sample: flags & 0x80 != 0,
            drop: flags & 0x40 != 0,
            version,
            spi: r.u32()?,
            iv: u64::from_be_bytes(r.array()?),
        })
    }

    /// The bytes on the wire. The low six bits of the crypt offset count.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let flags = u8::from(self.sample) << 7
            | u8::from(self.drop) << 6
            | (self.version as u8) << 2
            | 0x01;
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&[self.next_header, 1, self.crypt_offset & 0x3f, flags]);
        bytes[4..8].copy_from_slice(&self.spi.to_be_bytes());
        bytes[8..].copy_from_slice(&self.iv.to_be_bytes());
        bytes
    }

    /// The nonce of AES-GCM: SPI, then IV.
    #[must_use]
    pub fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.spi.to_be_bytes());
        nonce[4..].copy_from_slice(&self.iv.to_be_bytes());
        nonce
    }
}

/// Where the parts of a PSP packet lie, counted from the start of its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Authenticated only: the header and what the crypt offset leaves in clear.
    pub aad: Range<usize>,
    /// Encrypted and authenticated.
    pub body: Range<usize>,
    /// The integrity check value.
    pub icv: Range<usize>,
}

impl Layout {
    /// The layout of a packet of `length` bytes, ICV included.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when what `header` says does not fit.
    pub fn of(header: &Header, length: usize) -> Result<Self, ParseError> {
        let clear = HEADER_LEN + 4 * usize::from(header.crypt_offset & 0x3f);
        let icv = length.checked_sub(ICV_LEN).ok_or(ParseError::Truncated)?;
        if clear > icv {
            return Err(ParseError::Truncated);
        }
        Ok(Self {
            aad: 0..clear,
            body: clear..icv,
            icv: icv..length,
        })
    }
}
