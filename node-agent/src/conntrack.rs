//! The kernel's connection table: which connections carry our mark, taking the mark away, and
//! removing what belongs to a pod that is gone.
//!
//! Spoken over ctnetlink (`linux/netfilter/nfnetlink_conntrack.h`).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nix::errno::Errno;
use wire::flow::FlowKey;

use crate::{
    marks::{FLOW_ALLOWED, MASK},
    netlink::{Attribute, Attributes, NetfilterSocket, Request, be16, be32},
};

const SUBSYSTEM: u8 = 1;
const MSG_NEW: u8 = 0;
const MSG_GET: u8 = 1;
const MSG_DELETE: u8 = 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const MARK: u16 = 8;
const ID: u16 = 12;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// `CTA_PROTOINFO_TCP`, and `CTA_PROTOINFO_TCP_STATE` inside it.
const TCP_INFO: u16 = 1;
const TCP_STATE: u16 = 1;
/// `TCP_CONNTRACK_TIME_WAIT` and `TCP_CONNTRACK_CLOSE`: nothing more is to come.
const ENDED: [u8; 2] = [7, 8];

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Room for one datagram of a dump: the kernel fills 32 KiB at most.
const DATAGRAM: usize = 64 << 10;
/// How often an interrupted dump is begun again before it is an error.
const DUMP_TRIES: usize = 8;

/// The table of the namespace in which it was opened.
#[derive(Debug)]
pub struct Conntrack {
    socket: NetfilterSocket,
}

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    /// What names the entry, as the kernel wrote it.
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    /// In the direction of its first packet, before any translation.
    pub from_initiator: FlowKey,
    /// In the other direction, as the replies come.
    pub from_responder: FlowKey,
    /// The whole mark.
    pub mark: u32,
    /// Both ends closed it, or one reset it; the kernel keeps the entry for late segments.
    pub ended: bool,
}

impl Tracked {
    /// The connection as the enforcer names it: the initiator's own source, and the responder's own
    /// address, whatever was translated between them.
    #[must_use]
    pub fn flow(&self) -> FlowKey {
        FlowKey {
            protocol: self.from_initiator.protocol,
            src: self.from_initiator.src,
            sport: self.from_initiator.sport,
            dst: self.from_responder.src,
            dport: self.from_responder.sport,
        }
    }

    /// Whether the initiator's source was translated: its replies come to another address.
    #[must_use]
    pub fn is_source_translated(&self) -> bool {
        self.from_responder.dst != self.from_initiator.src
    }

    /// Whether `address` is one of its ends, on either side of a translation.
    #[must_use]
    pub fn touches(&self, address: IpAddr) -> bool {
        let (a, b) = (&self.from_initiator, &self.from_responder);
        [a.src, a.dst, b.src, b.dst].contains(&address)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut tracked = Self {
            family: *body.first()?,
            original: Vec::new(),
            zone: None,
            id: None,
            from_initiator: NO_KEY,
            from_responder: NO_KEY,
            mark: 0,
            ended: false,
        };
        let (mut original, mut reply) = (None, None);
        for (kind, value) in Attributes::of_message(body) {
            match kind {
                TUPLE_ORIGINAL => {
                    tracked.original = value.to_vec();
                    original = key(value);
                }
                TUPLE_REPLY => reply = key(value),
                PROTOCOL_INFO => {
                    tracked.ended = tcp_state(value).is_some_and(|s| ENDED.contains(&s))
                }
                MARK => tracked.mark = be32(value)?,
                ID => tracked.id = Some(value.to_vec()),
                ZONE => tracked.zone = Some(value.to_vec()),
                _ => {}
            }
        }
        tracked.from_initiator = original?;
        tracked.from_responder = reply?;
        Some(tracked)
    }
}

impl Conntrack {
    /// Opens the table of the calling thread's network namespace.
    ///
    /// # Errors
    /// What the system says.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: NetfilterSocket::open(DATAGRAM)?,
        })
    }

    /// The connections that carry our mark.
    ///
    /// # Errors
    /// What the kernel says; `EINTR` when the table never kept still.
    pub fn marked(&mut self) -> io::Result<Vec<Tracked>> {
        self.list(|request| {
            request
                .attribute(MARK, &FLOW_ALLOWED.to_be_bytes())
                .attribute(MARK_MASK, &MASK.to_be_bytes())
        })
    }

    /// Takes our mark from the connection `flow`, named from its initiator to its responder; false
    /// when the kernel tracks none. Its next packet is judged again.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear_mark(&mut self, flow: &FlowKey) -> io::Result<bool> {
        // Replies come from the responder's own address, whatever the initiator dialled, so that
        // this finds all but connections whose source was translated.
        let reply = tuple(&flow.reversed());
        let named = new_mark_request(family(flow.src)).nested(TUPLE_REPLY, &reply);
        if absent_is_false(self.socket.request(named))? {
            return Ok(true);
        }
        let Some(translated) = self.marked()?.into_iter().find(|t| t.flow() == *flow) else {
            return Ok(false);
        };
        let request = new_mark_request(translated.family);
        absent_is_false(self.socket.request(named_by(request, &translated)))
    }

    /// Removes every connection that `address` takes part in; returns how many.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_all_of(&mut self, address: IpAddr) -> io::Result<usize> {
        let mut removed = 0;
        for tracked in self.list(|request| request)? {
            if !tracked.touches(address) {
                continue;
            }
            let request = Request::new(SUBSYSTEM, MSG_DELETE, tracked.family, 0);
            if absent_is_false(self.socket.request(named_by(request, &tracked)))? {
                removed += 1;
            }
        }
        Ok(removed)
    }

    fn list(&mut self, filter: impl Fn(Request) -> Request) -> io::Result<Vec<Tracked>> {
        let mut tries = 0;
        loop {
            let mut found = Vec::new();
            let request = filter(Request::new(SUBSYSTEM, MSG_GET, AF_UNSPEC, 0));
            match self
                .socket
                .dump(request, |body| found.extend(Tracked::parse(body)))
            {
                Ok(()) => return Ok(found),
                Err(error) if is(&error, Errno::EINTR) && tries < DUMP_TRIES => tries += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Only our bits are replaced, by zero.
fn new_mark_request(family: u8) -> Request {
    Request::new(SUBSYSTEM, MSG_NEW, family, 0)
        .attribute(MARK, &0u32.to_be_bytes())
        .attribute(MARK_MASK, &MASK.to_be_bytes())
}

fn named_by(request: Request, tracked: &Tracked) -> Request {
    let original = Attribute::raw(&tracked.original);
    let mut request = request.nested(TUPLE_ORIGINAL, &original);
    for (kind, value) in [(ZONE, &tracked.zone), (ID, &tracked.id)] {
        if let Some(value) = value {
            request = request.attribute(kind, value);
        }
    }
    request
}

fn tuple(key: &FlowKey) -> Attribute {
    let address = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    // CTA_IP_V4_SRC 1, V4_DST 2, V6_SRC 3, V6_DST 4.
    let (src, dst) = if key.src.is_ipv4() { (1, 2) } else { (3, 4) };
    let ip = Attribute::default()
        .attribute(src, &address(key.src))
        .attribute(dst, &address(key.dst));
    let protocol = Attribute::default()
        .attribute(PROTOCOL_NUMBER, &[key.protocol])
        .attribute(PROTOCOL_SOURCE_PORT, &key.sport.to_be_bytes())
        .attribute(PROTOCOL_DESTINATION_PORT, &key.dport.to_be_bytes());
    Attribute::default()
        .nested(TUPLE_IP, &ip)
        .nested(TUPLE_PROTOCOL, &protocol)
}

fn tcp_state(protocol_info: &[u8]) -> Option<u8> {
    let find = |bytes, wanted| {
        let mut attributes = Attributes::nested(bytes);
        attributes
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    find(find(protocol_info, TCP_INFO)?, TCP_STATE)?
        .first()
        .copied()
}

fn key(tuple: &[u8]) -> Option<FlowKey> {
    let mut key = NO_KEY;
    let (mut src, mut dst) = (None, None);
    for (kind, value) in Attributes::nested(tuple) {
        for (inner, value) in Attributes::nested(value) {
            match (kind, inner) {
                (TUPLE_IP, 1) => src = v4(value),
                (TUPLE_IP, 2) => dst = v4(value),
                (TUPLE_IP, 3) => src = v6(value),
                (TUPLE_IP, 4) => dst = v6(value),
                (TUPLE_PROTOCOL, PROTOCOL_NUMBER) => key.protocol = *value.first()?,
                (TUPLE_PROTOCOL, PROTOCOL_SOURCE_PORT) => key.sport = be16(value)?,
                (TUPLE_PROTOCOL, PROTOCOL_DESTINATION_PORT) => key.dport = be16(value)?,
                _ => {}
            }
        }
    }
    (key.src, key.dst) = (src?, dst?);
    Some(key)
}

const NO_KEY: FlowKey = FlowKey {
    protocol: 0,
    src: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    dst: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    sport: 0,
    dport: 0,
};

fn v4(value: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 4] = *value.first_chunk()?;
    Some(Ipv4Addr::from(octets).into())
}

fn v6(value: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = *value.first_chunk()?;
    Some(Ipv6Addr::from(octets).into())
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn absent_is_false(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if is(&error, Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn flow(text: &str) -> FlowKey {
        let (src, dst) = text.split_once('>').unwrap();
        let src: std::net::SocketAddr = src.parse().unwrap();
        let dst: std::net::SocketAddr = dst.parse().unwrap();
        FlowKey {
            protocol: 6,
            src: src.ip(),
            dst: dst.ip(),
            sport: src.port(),
            dport: dst.port(),
        }
    }

    #[test]
    fn a_tuple_reads_back_as_it_was_written() {
        for text in ["10.1.1.10:4000>10.2.1.10:80", "[fd00::1]:4000>[fd00::2]:80"] {
            let written = tuple(&flow(text));
            assert_eq!(key(written.bytes()), Some(flow(text)));
        }
    }

    #[test]
    fn a_translated_flow_has_the_responders_own_address() {
        let tracked = Tracked {
            family: AF_INET,
            original: Vec::new(),
            zone: None,
            id: None,
            from_initiator: flow("10.1.1.10:4000>10.96.0.1:80"),
            from_responder: flow("10.2.1.10:8080>10.1.1.10:4000"),
            mark: FLOW_ALLOWED,
            ended: false,
        };
        assert_eq!(tracked.flow(), flow("10.1.1.10:4000>10.2.1.10:8080"));
        assert!(!tracked.is_source_translated());
        assert!(tracked.touches("10.96.0.1".parse().unwrap()));
    }
}
