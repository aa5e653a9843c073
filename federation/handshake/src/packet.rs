//! A packet, parsed once, with what the enforcer asks of it.

use std::net::IpAddr;

use identity::IdentityNetworks;
use policy::DropReason;
use wire::{
    ParseError,
    edit::{self, TcpEdit},
    flow::FlowKey,
    hello::Destination,
    icmp, ip,
    marker::OurOption,
    tcp::{Segment, options},
    udp,
};

use crate::keys::Tag;

/// One IP packet.
#[derive(Debug)]
pub(crate) struct Parsed<'a> {
    ip: ip::Packet<'a>,
    /// Ports are 0 for protocols without them.
    pub key: FlowKey,
    pub tcp: Option<Tcp<'a>>,
    /// What a UDP datagram carries.
    pub udp: Option<&'a [u8]>,
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quoted {
    /// It was sent by the one that the error goes to, on this flow.
    Flow(FlowKey),
    /// Somebody else sent it.
    Stranger,
}

/// Its TCP segment.
#[derive(Debug)]
pub(crate) struct Tcp<'a>(Segment<'a>);

impl<'a> Parsed<'a> {
    /// Checks lengths and headers.
    ///
    /// # Errors
    /// [`DropReason::Malformed`], or [`DropReason::Fragment`]: the kernel reassembles before us, so
    /// a fragment here cannot be judged.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DropReason> {
        let ip = ip::Packet::parse(bytes).map_err(|_| DropReason::Malformed)?;
        if ip.fragment().is_some() {
            return Err(DropReason::Fragment);
        }
        let malformed = |_: ParseError| DropReason::Malformed;
        let mut udp = None;
        let (tcp, sport, dport) = match ip.protocol() {
            ip::TCP => {
                let segment = Segment::of(&ip).map_err(malformed)?;
                let ports = (segment.sport(), segment.dport());
                (Some(Tcp(segment)), ports.0, ports.1)
            }
            ip::UDP => {
                let datagram = udp::Datagram::of(&ip).map_err(malformed)?;
                udp = Some(datagram.payload());
                (None, datagram.sport(), datagram.dport())
            }
            _ => (None, 0, 0),
        };
        let (src, dst) = (ip.src(), ip.dst());
        let key = FlowKey {
            protocol: ip.protocol(),
            src,
            dst,
            sport,
            dport,
        };
        Ok(Self { ip, key, tcp, udp })
    }

    /// Whether an option of ours, of any form, is on it.
    pub fn has_our_option(&self) -> bool {
        self.tcp
            .as_ref()
            .is_some_and(|tcp| tcp.0.our_option() != OurOption::Absent)
    }

    /// What an ICMP error speaks of.
    pub fn icmp_error(&self) -> Option<Quoted> {
        let about = icmp::IcmpError::of(&self.ip).ok()?.about;
        // To anybody but the sender of what it quotes, it could carry whatever it likes.
        Some(match about.src == self.key.dst {
            true => Quoted::Flow(about),
            false => Quoted::Stranger,
        })
    }

    /// `address` and `port` in the form that the transcript binds.
    pub fn destination(
        &self,
        networks: &IdentityNetworks,
        address: IpAddr,
        port: u16,
    ) -> Result<Destination, DropReason> {
        let range = networks.lookup(address).ok_or(DropReason::NoIdentity)?;
        Ok(Destination {
            trust_domain: range.owner_hash,
            range_id: range.range_id,
            offset: range.offset,
            port,
        })
    }

    /// An edit of the segment.
    pub fn edit(&self) -> Result<TcpEdit<'a>, DropReason> {
        let tcp = self.tcp.as_ref().ok_or(DropReason::Malformed)?;
        TcpEdit::of(&self.ip, &tcp.0).map_err(|_| DropReason::Malformed)
    }

    /// An edit of a SYN or SYN-ACK towards an identity network: what could carry data past us or
    /// open a second subflow is gone, and what cannot be combined with us is refused.
    pub fn syn_edit(&self) -> Result<TcpEdit<'a>, DropReason> {
        let tcp = self.tcp.as_ref().ok_or(DropReason::Malformed)?;
        let mut common = true;
        for option in tcp.0.options() {
            match option.kind {
                options::MD5 | options::AO => return Err(DropReason::NoOptionSpace),
                options::MSS..=options::TIMESTAMPS => {}
                _ => common = false,
            }
        }
        let edit = self.edit()?;
        Ok(match common {
            true => edit,
            false => edit.remove_fast_open().remove_kind(options::MPTCP),
        })
    }

    /// The RST that answers this segment (RFC 9293 section 3.10.7.1); none answers a RST.
    pub fn reset(&self) -> Option<Vec<u8>> {
        edit::reset_for(&self.ip).ok().flatten()
    }

    /// What tells the sender that policy refuses this packet: a RST, or ICMP "administratively
    /// prohibited" for what knows no RST; none answers an ICMP error.
    pub fn rejection(&self) -> Option<Vec<u8>> {
        match self.tcp {
            Some(_) => self.reset(),
            None => edit::icmp_admin_prohibited(&self.ip, self.key.dst),
        }
    }

    /// Seen on a SYN-ACK: the RST|ACK with which the server would have refused the connection.
    pub fn refusal(&self) -> Option<Vec<u8>> {
        let tcp = self.tcp.as_ref()?;
        edit::reset(&self.key, 0, Some(tcp.ack_number()))
    }
}

impl<'a> Tcp<'a> {
    pub fn syn(&self) -> bool {
        self.0.flags().syn()
    }

    pub fn ack(&self) -> bool {
        self.0.flags().ack()
    }

    pub fn rst(&self) -> bool {
        self.0.flags().rst()
    }

    pub fn seq(&self) -> u32 {
        self.0.seq()
    }

    pub fn ack_number(&self) -> u32 {
        self.0.ack()
    }

    pub fn payload(&self) -> &'a [u8] {
        self.0.payload()
    }

    /// Whether it announces a HELLO or REPLY.
    pub fn has_marker(&self) -> bool {
        self.0.our_option() == OurOption::Marker
    }

    /// The MAC of its CONFIRM.
    pub fn confirm(&self) -> Option<Tag> {
        match self.0.our_option() {
            OurOption::Confirm(mac) => Some(*mac),
            _ => None,
        }
    }
}
