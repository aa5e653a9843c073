//! What is said of a packet that is dropped, and to whom.

use std::net::IpAddr;

use identity::Now;
use policy::DropReason;
use wire::{edit, ethernet::Mac, flow::FlowKey, ip::Packet, tcp};

use crate::{
    context::Context,
    dataplane::Disposition,
    frame::Frame,
    link,
    snapshot::{Peer, Side, Snapshot},
};

/// Why a packet is dropped, and what its sender is told.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub reason: DropReason,
    pub answer: Answer,
}

/// What the sender of a dropped packet is told. It may only be asked for while the frame still
/// holds the inner packet as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Silence,
    Reset,
    /// Not its sender is told but its receiver, which dialled: the connection is refused.
    RefuseOnward,
    TooBig(u16),
    TimeExceeded,
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self {
            reason,
            answer: Answer::Silence,
        }
    }
}

/// The way to an end of a flow: back to the sender of a packet, unless said otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'s> {
    /// A station on the LAN.
    Station(Mac),
    /// The tunnel of a peer.
    Tunnel(&'s Peer),
}

/// Drops the packet and, where it is due and within the rate, puts an answer into the frame.
pub(crate) fn refuse(
    cx: &mut Context,
    frame: &mut Frame<'_>,
    snapshot: &Snapshot,
    back: Way<'_>,
    refusal: Refusal,
    now: Now,
) -> Disposition {
    let reason = refusal.reason;
    if refusal.answer == Answer::Silence || !cx.answers.take(now.mono) {
        return Disposition::Drop(reason);
    }
    let way = match refusal.answer {
        Answer::RefuseOnward => onward(frame, snapshot, back),
        _ => Some(back),
    };
    let Some(way) = way else {
        return Disposition::Drop(reason);
    };
    let answered = match way {
        Way::Station(station) => {
            let from = |packet: &Packet<'_>| snapshot.lan.address_like(packet.src());
            answer(frame.packet(), refusal.answer, from).is_some_and(|bytes| {
                frame.replace(&bytes) && link::put_ethernet(frame, &snapshot.lan, station).is_ok()
            })
        }
        Way::Tunnel(peer) => {
            // The far gateway takes nothing from us but from our pods: the destination speaks.
            let from = |packet: &Packet<'_>| Some(packet.dst());
            answer(frame.packet(), refusal.answer, from).is_some_and(|bytes| {
                if let Some(witness) = &mut cx.witness {
                    witness.answer.extend_from_slice(&bytes);
                }
                frame.replace(&bytes)
                    && link::encapsulate(frame, peer, cx.queue(), snapshot).is_ok()
            })
        }
    };
    match (answered, way) {
        (true, Way::Station(_)) => Disposition::Answer(Side::Lan, reason),
        (true, Way::Tunnel(_)) => Disposition::Answer(Side::Wan, reason),
        (false, _) => Disposition::Drop(reason),
    }
}

/// The way to the receiver of the packet in `frame`, whose sender is at the end of `back`.
fn onward<'s>(frame: &Frame<'_>, snapshot: &'s Snapshot, back: Way<'_>) -> Option<Way<'s>> {
    let receiver = Packet::parse(frame.packet()).ok()?.dst();
    match back {
        Way::Station(_) => snapshot
            .peer_of(receiver)
            .map(|(_, peer)| Way::Tunnel(peer)),
        Way::Tunnel(_) => snapshot.lan_hops.lookup(receiver).ok().map(Way::Station),
    }
}

/// The answer to `packet`; `from` chooses the source of an ICMP error.
fn answer(
    packet: &[u8],
    answer: Answer,
    from: impl Fn(&Packet<'_>) -> Option<IpAddr>,
) -> Option<Vec<u8>> {
    let packet = Packet::parse(packet).ok()?;
    match answer {
        Answer::Silence => None,
        Answer::Reset => edit::reset_for(&packet).ok().flatten(),
        Answer::RefuseOnward => {
            let segment = tcp::Segment::of(&packet).ok()?;
            edit::reset(&FlowKey::of(&packet).ok()?, 0, Some(segment.ack()))
        }
        Answer::TooBig(mtu) => edit::icmp_too_big(&packet, from(&packet)?, mtu),
        Answer::TimeExceeded => edit::icmp_time_exceeded(&packet, from(&packet)?),
    }
}
