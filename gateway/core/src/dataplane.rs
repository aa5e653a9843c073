//! The function that every packet goes through. It touches no socket and, for an established flow,
//! allocates nothing.

use std::{net::IpAddr, sync::Arc};

use handshake::{
    credentials::CredentialCache,
    transit::{Origin, Party, Passed, Refused},
};
use identity::{
    Now,
    fault::{self, Fault},
};
use policy::DropReason;
use wire::{flow::FlowKey, inplace, ip, psp, tcp};

use crate::{
    answer::{Answer, Refusal, Way, refuse},
    context::{Context, Event, FlowView},
    flows::{Flows, Found, Limits, Rejected},
    frame::Frame,
    inner::{self, Inner, Kind},
    link,
    nexthop::NoHop,
    owners::Owner,
    snapshot::{Peer, Side, Snapshot},
    track::Facts,
};

/// What is to be done with the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Disposition {
    /// It holds what is to be transmitted on this side.
    Forward(Side),
    /// The packet was dropped for this reason, and the frame now holds an answer to its sender
    /// that is to be transmitted on this side.
    Answer(Side, DropReason),
    /// The packet was dropped; what the frame holds is garbage.
    Drop(DropReason),
}

/// The gateway's packet path. All threads share one.
#[derive(Debug)]
pub struct Dataplane {
    flows: Flows,
}

impl Dataplane {
    /// Without flows. `key` is 16 secret, random bytes; `cache` is shared by all handshakes.
    #[must_use]
    pub fn new(limits: &Limits, key: &[u8; 16], cache: &Arc<dyn CredentialCache>) -> Self {
        Self {
            flows: Flows::new(limits, key, cache),
        }
    }

    /// Takes one frame that came in on `ingress`, link header first, and says what to do with it.
    /// It is counted in `cx.totals` once.
    pub fn process(
        &self,
        cx: &mut Context,
        ingress: Side,
        frame: &mut Frame<'_>,
        snapshot: &Snapshot,
        now: Now,
    ) -> Disposition {
        cx.totals.received += 1;
        if let Some(witness) = &mut cx.witness {
            witness.begin();
        }
        let disposition = match ingress {
            Side::Lan => self.lan_ingress(cx, frame, snapshot, now),
            Side::Wan => self.wan_ingress(cx, frame, snapshot, now),
        };
        match disposition {
            Disposition::Forward(_) => cx.totals.forwarded += 1,
            Disposition::Drop(reason) => cx.totals.drop(reason),
            Disposition::Answer(_, reason) => {
                cx.totals.drop(reason);
                cx.totals.originated += 1;
            }
        }
        disposition
    }

    /// Forgets what is too old. Call it a few times a second, from one thread.
    pub fn handle_timeout(&self, now: Now) {
        self.flows.handle_timeout(now);
    }

    /// The flow tables, to be looked at.
    #[must_use]
    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    /// At most `limit` established flows, sorted.
    #[must_use]
    pub fn list(&self, limit: usize) -> Vec<FlowView> {
        self.flows.list(limit)
    }

    fn lan_ingress(
        &self,
        cx: &mut Context,
        frame: &mut Frame<'_>,
        snapshot: &Snapshot,
        now: Now,
    ) -> Disposition {
        let station = match link::take_ethernet(frame, &snapshot.lan) {
            Ok(station) => station,
            Err(reason) => return Disposition::Drop(reason),
        };
        let outcome = self.lan_to_wan(cx, frame, snapshot, now);
        match outcome {
            Ok(()) => Disposition::Forward(Side::Wan),
            Err(refusal) => refuse(cx, frame, snapshot, Way::Station(station), refusal, now),
        }
    }

    fn lan_to_wan(
        &self,
        cx: &mut Context,
        frame: &mut Frame<'_>,
        snapshot: &Snapshot,
        now: Now,
    ) -> Result<(), Refusal> {
        let inner = Inner::parse(frame.packet())?;
        frame.truncate(inner.length);
        let (_, peer) = snapshot.peer_of(inner.dst).ok_or(DropReason::NoRoute)?;
        self.look(cx, frame, &inner, peer, snapshot, false);
        check_nesting(&inner, snapshot)?;
        if peer.outbound.is_empty() {
            return Err(DropReason::NoTunnel.into());
        }
        if let Err(NoHop::Neighbour(address)) = peer.next_hop {
            cx.event(Event::Unresolved(Side::Wan, address));
        }
        peer.next_hop.map_err(DropReason::from)?;
        let judged = self.judge(cx, frame, &inner, Origin::Own, peer, snapshot, now);
        self.look(cx, frame, &inner, peer, snapshot, judged.is_ok());
        judged?;
        route(frame, &inner, peer)?;
        link::encapsulate(frame, peer, cx.queue(), snapshot)?;
        Ok(())
    }

    fn wan_ingress(
        &self,
        cx: &mut Context,
        frame: &mut Frame<'_>,
        snapshot: &Snapshot,
        now: Now,
    ) -> Disposition {
        let number = match open(frame, snapshot) {
            Ok(number) => number,
            Err(reason) => return Disposition::Drop(reason),
        };
        let Some(peer) = snapshot.peer(number) else {
            return Disposition::Drop(DropReason::TunnelUnknownSpi);
        };
        if let Err(reason) = peer.translation.inbound(frame.packet_mut()) {
            return Disposition::Drop(reason);
        }
        match self.wan_to_lan(cx, frame, (number, peer), snapshot, now) {
            Ok(()) => Disposition::Forward(Side::Lan),
            Err(refusal) => refuse(cx, frame, snapshot, Way::Tunnel(peer), refusal, now),
        }
    }

    fn wan_to_lan(
        &self,
        cx: &mut Context,
        frame: &mut Frame<'_>,
        (number, peer): (u16, &Peer),
        snapshot: &Snapshot,
        now: Now,
    ) -> Result<(), Refusal> {
        if let Some(witness) = &mut cx.witness {
            witness.peer = Some(peer.trust_domain.clone());
            witness.opened.extend_from_slice(frame.packet());
        }
        let inner = Inner::parse(frame.packet())?;
        frame.truncate(inner.length);
        self.look(cx, frame, &inner, peer, snapshot, false);
        if snapshot.owners.owner(inner.dst) != Some(Owner::Own) {
            return Err(DropReason::TunnelInnerAddress.into());
        }
        // An ICMP error may come from any router of the peer, but only about an address of the
        // peer. The rest must come from the peer's own addresses.
        let speaks_for = match inner.kind {
            Kind::IcmpError(error) => error.about.dst,
            _ => inner.src,
        };
        if snapshot.owners.owner(speaks_for) != Some(Owner::Peer(number))
            && !fault::is(Fault::InnerSourceUnchecked)
        {
            return Err(DropReason::TunnelInnerAddress.into());
        }
        check_nesting(&inner, snapshot)?;
        let next_hop = snapshot.lan_hops.lookup(inner.dst);
        if let Err(NoHop::Neighbour(address)) = next_hop {
            cx.event(Event::Unresolved(Side::Lan, address));
        }
        let next_hop = next_hop.map_err(DropReason::from)?;
        let origin = Origin::Peer(&peer.trust_domain);
        let judged = self.judge(cx, frame, &inner, origin, peer, snapshot, now);
        self.look(cx, frame, &inner, peer, snapshot, judged.is_ok());
        judged?;
        route(frame, &inner, peer)?;
        link::put_ethernet(frame, &snapshot.lan, next_hop)?;
        Ok(())
    }

    /// Tells the witness, if there is one, whose packet this is: before it is judged, because a flow may end
    /// with it, and after, because a flow may begin with it when it is `accepted`.
    fn look(
        &self,
        cx: &mut Context,
        frame: &Frame<'_>,
        inner: &Inner,
        peer: &Peer,
        snapshot: &Snapshot,
        accepted: bool,
    ) {
        let Some(witness) = &mut cx.witness else {
            return;
        };
        witness.peer = Some(peer.trust_domain.clone());
        let (key, opens) = match inner.kind {
            Kind::Tcp(key, facts) => (key, facts.flags.syn()),
            // Whoever tells of an error has no identity; it concerns the ends of what it quotes.
            Kind::IcmpError(error) => (error.about.reversed(), false),
            Kind::Other => return,
        };
        witness.key = Some(key);
        let parties = self.flows.parties(&key, frame.packet(), opens, accepted);
        witness.identify(parties);
        witness.identify(Party::listed(&key, &snapshot.transit));
    }

    /// Whether the inner packet in `frame` may go on. It may be rewritten at its own length.
    #[expect(
        clippy::too_many_arguments,
        reason = "the whole situation of one packet"
    )]
    fn judge(
        &self,
        cx: &mut Context,
        frame: &mut Frame<'_>,
        inner: &Inner,
        origin: Origin<'_>,
        peer: &Peer,
        snapshot: &Snapshot,
        now: Now,
    ) -> Result<(), Refusal> {
        // Before any state is made for a packet that cannot go on.
        if inner.ttl <= 1 {
            return Err(Refusal {
                reason: DropReason::TtlExceeded,
                answer: Answer::TimeExceeded,
            });
        }
        if inner.length > usize::from(peer.inner_mtu) {
            let answer = Answer::TooBig(peer.inner_mtu);
            return Err(Refusal {
                reason: DropReason::TooBig,
                answer,
            });
        }
        match inner.kind {
            Kind::Tcp(key, facts) => {
                self.judge_segment(cx, frame, (&key, &facts), origin, snapshot, now)
            }
            Kind::IcmpError(error) => self.judge_icmp(cx, inner, &error, origin, snapshot),
            Kind::Other => Err(DropReason::UnsupportedProtocol.into()),
        }
    }

    fn judge_segment(
        &self,
        cx: &mut Context,
        frame: &mut Frame<'_>,
        (key, facts): (&FlowKey, &Facts),
        origin: Origin<'_>,
        snapshot: &Snapshot,
        now: Now,
    ) -> Result<(), Refusal> {
        // The source of a packet from a peer was checked before.
        if let Origin::Own = origin
            && snapshot.owners.owner(key.src) != Some(Owner::Own)
        {
            return Err(DropReason::NoIdentity.into());
        }
        // SYN and SYN-ACK are always a handshake, whatever flow is on their tuple.
        if !facts.flags.syn() {
            match self.lookup(cx, key, facts, frame.packet().len(), snapshot, now)? {
                Found::Fits => return Ok(()),
                Found::OutOfWindow => return Err(DropReason::UnknownFlow.into()),
                Found::Stale | Found::Unknown => {}
            }
        }
        if !snapshot.ready {
            return Err(DropReason::NotReady.into());
        }
        match self
            .flows
            .judge((key, facts), origin, frame.packet(), &snapshot.transit, now)
        {
            Ok(Passed::Forward | Passed::Closed) => Ok(()),
            Ok(Passed::Established(ends)) => {
                cx.event(Event::Opened(*ends));
                Ok(())
            }
            Ok(Passed::Rewrite(packet)) => {
                if frame.replace(&packet) {
                    Ok(())
                } else {
                    Err(DropReason::TooBig.into())
                }
            }
            Err(Rejected {
                refused:
                    Refused {
                        reason,
                        rule,
                        reject,
                    },
                answer,
            }) => {
                let stray = reason == DropReason::UnknownFlow;
                if !stray {
                    cx.refused(*key, reason, rule, now.mono);
                }
                let answer = match answer && (stray || reject) {
                    // What a SYN-ACK proves is refused to whom it goes.
                    true if facts.flags.is_syn_ack() && !stray => Answer::RefuseOnward,
                    true => Answer::Reset,
                    false => Answer::Silence,
                };
                Err(Refusal { reason, answer })
            }
        }
    }

    /// The established flow of a segment; one of an older snapshot is decided again.
    fn lookup(
        &self,
        cx: &mut Context,
        key: &FlowKey,
        facts: &Facts,
        length: usize,
        snapshot: &Snapshot,
        now: Now,
    ) -> Result<Found, Refusal> {
        let epoch = snapshot.transit.epoch;
        let found = self.flows.find(key, facts, length, epoch, now);
        if found != Found::Stale {
            return Ok(found);
        }
        if self.decide_again(cx, key, snapshot)? {
            return Ok(self.flows.find(key, facts, length, epoch, now));
        }
        Ok(Found::Unknown)
    }

    fn decide_again(
        &self,
        cx: &mut Context,
        key: &FlowKey,
        snapshot: &Snapshot,
    ) -> Result<bool, Refusal> {
        self.flows
            .decide_again(key, &snapshot.transit)
            .map_err(|(key, refused)| {
                let Refused { reason, rule, .. } = refused;
                if let Some(witness) = &mut cx.witness {
                    witness.rule.clone_from(&rule);
                }
                cx.event(Event::Cut { key, reason, rule });
                Refusal {
                    reason,
                    answer: Answer::Reset,
                }
            })
    }

    /// An ICMP error follows the flow whose packet it quotes: it must go to that packet's sender,
    /// and come from the side that the packet went to.
    fn judge_icmp(
        &self,
        cx: &mut Context,
        inner: &Inner,
        error: &wire::icmp::IcmpError,
        origin: Origin<'_>,
        snapshot: &Snapshot,
    ) -> Result<(), Refusal> {
        let about_own = snapshot.owners.owner(error.about.dst) == Some(Owner::Own);
        let from_right_side = match origin {
            Origin::Own => about_own,
            Origin::Peer(_) => !about_own,
        };
        if error.about.src != inner.dst || !from_right_side {
            return Err(DropReason::UnknownFlow.into());
        }
        let epoch = snapshot.transit.epoch;
        let mut found = self.flows.quoted(&error.about, error.seq, epoch);
        if found == Found::Stale {
            let goes_on = self.decide_again(cx, &error.about, snapshot);
            // A reset would not reach the flow's end from here.
            goes_on.map_err(|refusal| Refusal::from(refusal.reason))?;
            found = self.flows.quoted(&error.about, error.seq, epoch);
        }
        match found {
            Found::Fits => Ok(()),
            _ => Err(DropReason::UnknownFlow.into()),
        }
    }
}

/// Opens the tunnel packet in `frame`; the number of the peer that sent it.
fn open(frame: &mut Frame<'_>, snapshot: &Snapshot) -> Result<u16, DropReason> {
    link::take_ethernet(frame, &snapshot.wan)?;
    let ecn = link::take_outer(frame, snapshot)?;
    let header = psp::Header::parse(frame.packet()).map_err(inner::reason)?;
    let inbound = snapshot
        .inbound
        .get(&header.spi)
        .ok_or(DropReason::TunnelUnknownSpi)?;
    inbound.association.open(&header, frame)?;
    link::carry_congestion(ecn, frame.packet_mut())?;
    Ok(inbound.peer)
}

/// One encapsulation at most, and none towards the end of a tunnel: otherwise two gateways can
/// wrap one packet for ever.
fn check_nesting(inner: &Inner, snapshot: &Snapshot) -> Result<(), DropReason> {
    let to_endpoint = snapshot.is_endpoint(inner.dst) || snapshot.is_endpoint(inner.src);
    if to_endpoint && !matches!(inner.kind, Kind::IcmpError(_)) {
        return Err(DropReason::TunnelInnerAddress);
    }
    Ok(())
}

/// What a router does: one off the time to live, and the MSS of a SYN lowered to what fits.
fn route(frame: &mut Frame<'_>, inner: &Inner, peer: &Peer) -> Result<(), DropReason> {
    inplace::decrement_ttl(frame.packet_mut()).ok_or(DropReason::TtlExceeded)?;
    if let Kind::Tcp(_, facts) = inner.kind
        && facts.flags.syn()
    {
        let ip_header = match inner.dst {
            IpAddr::V4(_) => ip::V4_HEADER_LEN,
            IpAddr::V6(_) => ip::V6_HEADER_LEN,
        };
        let headers = (ip_header + tcp::HEADER_LEN) as u16;
        let limit = peer.inner_mtu.saturating_sub(headers);
        inplace::clamp_mss(frame.packet_mut(), inner.header_len, limit);
    }
    Ok(())
}
