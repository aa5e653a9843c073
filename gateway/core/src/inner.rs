//! What the data plane reads of an inner packet, in one pass and without keeping the bytes.

use std::net::IpAddr;

use policy::DropReason;
use wire::{
    ParseError,
    flow::FlowKey,
    icmp::{self, ErrorKind, IcmpError},
    ip::{self, Packet},
    tcp::Segment,
};

use crate::track::Facts;

/// The lowest MTU that an ICMP error may announce: what IPv4 and IPv6 ask of every link.
const MIN_MTU_V4: u32 = 576;
const MIN_MTU_V6: u32 = 1280;

/// An inner packet that may be judged.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Length in bytes of the IP header.
    pub header_len: usize,
    /// Length in bytes of the packet, without link padding.
    pub length: usize,
    /// What it is.
    pub kind: Kind,
}

/// What an inner packet is.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A TCP segment.
    Tcp(FlowKey, Facts),
    /// An ICMP error about a TCP segment.
    IcmpError(IcmpError),
    /// Anything else: it is not carried.
    Other,
}

impl Inner {
    /// Reads `bytes`, which start with the IP header.
    ///
    /// # Errors
    /// [`DropReason::Malformed`] or [`DropReason::Fragment`].
    pub fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let packet = Packet::parse(bytes).map_err(reason)?;
        if packet.fragment().is_some() {
            return Err(DropReason::Fragment);
        }
        let kind = match packet.protocol() {
            ip::TCP => {
                let segment = Segment::of(&packet).map_err(reason)?;
                Kind::Tcp(FlowKey::of(&packet).map_err(reason)?, Facts::of(&segment))
            }
            ip::ICMP | ip::ICMPV6 if icmp::is_error(&packet) => icmp_error(&packet)?,
            _ => Kind::Other,
        };
        Ok(Self {
            src: packet.src(),
            dst: packet.dst(),
            ttl: packet.ttl(),
            header_len: packet.header_len(),
            length: packet.total_len(),
            kind,
        })
    }
}

/// An error about something that is not carried is not carried either. One that announces less
/// than any link must take would starve the flow: it is a forgery.
fn icmp_error(packet: &Packet<'_>) -> Result<Kind, DropReason> {
    let error = match IcmpError::of(packet) {
        Ok(error) => error,
        Err(ParseError::Protocol | ParseError::Fragment) => return Ok(Kind::Other),
        Err(_) => return Err(DropReason::Malformed),
    };
    let min = if packet.is_v6() {
        MIN_MTU_V6
    } else {
        MIN_MTU_V4
    };
    match error.kind {
        ErrorKind::TooBig(mtu) if mtu < min => Err(DropReason::Malformed),
        // Redirects, source quench: nobody should follow them.
        ErrorKind::Other(_) => Ok(Kind::Other),
        _ if error.about.protocol == ip::TCP => Ok(Kind::IcmpError(error)),
        _ => Ok(Kind::Other),
    }
}

/// What a parse error means for a packet.
#[must_use]
pub fn reason(error: ParseError) -> DropReason {
    match error {
        ParseError::Fragment => DropReason::Fragment,
        _ => DropReason::Malformed,
    }
}
