//! Why bytes are not what they claim to be.

/// What is wrong with an input. [`ParseError::Fragment`] is the only one that is not malformed:
/// the packet may be valid, but nothing above IP can be read from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than the format or its own length field asks for.
    #[error("truncated")]
    Truncated,
    /// A version or magic that is not spoken here.
    #[error("unknown version or magic")]
    Version,
    /// A length field that contradicts another or the format.
    #[error("contradictory length")]
    Length,
    /// A checksum that does not hold.
    #[error("wrong checksum")]
    Checksum,
    /// An IPv4 option or IPv6 extension header that is malformed, out of place, one too many, or
    /// steers the packet (source routes).
    #[error("IP option or extension header refused")]
    IpOption,
    /// A malformed TCP option list.
    #[error("malformed TCP options")]
    TcpOption,
    /// A fragment: it cannot be judged without the others.
    #[error("fragment")]
    Fragment,
    /// Another protocol than the view is for.
    #[error("another protocol")]
    Protocol,
    /// A bit or byte that must be zero is not, or one that must be one is not.
    #[error("reserved bits set")]
    Reserved,
}
