//! TCP options (RFC 9293 section 3.1, RFC 6994).

use crate::ParseError;

/// End of the list.
pub const END: u8 = 0;
/// No-op, one byte.
pub const NOP: u8 = 1;
/// Maximum segment size.
pub const MSS: u8 = 2;
/// Timestamps (RFC 7323); the kinds from MSS up to it are those of every SYN.
pub const TIMESTAMPS: u8 = 8;
/// MD5 signature (RFC 2385).
pub const MD5: u8 = 19;
/// Authentication option (RFC 5925).
pub const AO: u8 = 29;
/// Multipath TCP (RFC 8684).
pub const MPTCP: u8 = 30;
/// Fast Open cookie (RFC 7413).
pub const FAST_OPEN: u8 = 34;
/// First kind for experiments, which we use.
pub const EXPERIMENT_1: u8 = 253;
/// Second kind for experiments.
pub const EXPERIMENT_2: u8 = 254;
/// The ExID under which Fast Open ran before it had a kind.
pub const FAST_OPEN_EXID: u16 = 0xf989;

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOption<'a> {
    /// Its kind.
    pub kind: u8,
    /// What follows kind and length.
    pub data: &'a [u8],
    /// The whole option, kind and length included.
    pub bytes: &'a [u8],
}

impl<'a> TcpOption<'a> {
    /// The option that `bytes` are; `None` for a no-op.
    pub(crate) fn of(bytes: &'a [u8]) -> Option<Self> {
        match bytes {
            [kind, _, data @ ..] => Some(Self {
                kind: *kind,
                data,
                bytes,
            }),
            _ => None,
        }
    }

    /// The content after the ExID, if this is kind 253 and bears `exid`.
    #[must_use]
    pub fn experiment(&self, exid: u16) -> Option<&'a [u8]> {
        let content = self.data.strip_prefix(&exid.to_be_bytes())?;
        (self.kind == EXPERIMENT_1).then_some(content)
    }
}

/// The options of a checked list, without no-ops and end of list.
#[derive(Clone, Debug)]
pub struct Options<'a>(Walk<'a>);

impl<'a> Options<'a> {
    pub(super) fn new(checked: &'a [u8]) -> Self {
        Self(Walk::new(checked))
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = TcpOption<'a>;

    fn next(&mut self) -> Option<TcpOption<'a>> {
        self.0.find_map(TcpOption::of)
    }
}

/// The bytes of each option and each no-op, up to the end of the list or where it is malformed.
#[derive(Clone, Debug)]
pub(crate) struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    pub(crate) fn new(options: &'a [u8]) -> Self {
        Self { rest: options }
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = match self.rest {
            [] | [END, ..] => return None,
            [NOP, ..] => 1,
            [_, length @ 2..=255, ..] => usize::from(*length),
            _ => return None,
        };
        let (option, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(option)
    }
}

/// Whether the whole list is well formed: the walk ends at its end, not before.
pub(super) fn check(options: &[u8]) -> Result<(), ParseError> {
    let mut walk = Walk::new(options);
    walk.by_ref().for_each(drop);
    match walk.rest {
        [] | [END, ..] => Ok(()),
        _ => Err(ParseError::TcpOption),
    }
}
