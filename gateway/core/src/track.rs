//! How far each end of a TCP connection has come: which segments can be its own (the rules of
//! "Real Stateful TCP Packet Filtering", van Rooij 2001, and RFC 5961) and when it is over.

use std::time::Duration;

use wire::tcp::{Flags, Segment};

/// Window scale option (RFC 7323).
const WINDOW_SCALE: u8 = 3;
/// The largest scale that RFC 7323 section 2.3 allows.
const MAX_SCALE: u8 = 14;
/// How far behind an acknowledgment may lie: a window without scale.
const ACK_SLACK: u32 = 66_000;

/// How long an established flow may be idle (RFC 5382 section 5).
pub const IDLE: Duration = Duration::from_mins(124);
/// How long after a FIN.
pub const CLOSING: Duration = Duration::from_mins(4);
/// How long after a RST.
pub const RESET: Duration = Duration::from_secs(10);

/// Who sent a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The initiator of the connection.
    Initiator = 0,
    /// The other end.
    Responder = 1,
}

impl Sender {
    fn other(self) -> Self {
        match self {
            Self::Initiator => Self::Responder,
            Self::Responder => Self::Initiator,
        }
    }
}

/// What tracking asks of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its flags.
    pub flags: Flags,
    /// Its sequence number.
    pub seq: u32,
    /// The sequence number after its last byte; SYN and FIN count.
    pub end: u32,
    /// Its acknowledgment number, if it has one.
    pub ack: Option<u32>,
    /// Its window, not scaled.
    pub window: u16,
    /// The window scale option of a SYN or SYN-ACK.
    pub scale: Option<u8>,
}

impl Facts {
    /// Of `segment`.
    #[must_use]
    pub fn of(segment: &Segment<'_>) -> Self {
        let flags = segment.flags();
        let scale = flags.syn().then(|| segment.option(WINDOW_SCALE)).flatten();
        Self {
            flags,
            seq: segment.seq(),
            end: segment.seq().wrapping_add(segment.sequence_len()),
            ack: flags.ack().then(|| segment.ack()),
            window: segment.window(),
            scale: scale.and_then(|option| option.data.first().copied()),
        }
    }
}

/// One end's half of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Half {
    /// After the last byte that it sent.
    end: u32,
    /// After the last byte that the other end let it send.
    limit: u32,
    /// The largest window that it announced, in bytes.
    window: u32,
    /// By how many bits its windows are shifted.
    scale: u8,
    /// The numbers are known: its SYN or SYN-ACK was seen.
    seen: bool,
    fin: bool,
    reset: bool,
}

impl Half {
    const UNSEEN: Self = Self {
        end: 0,
        limit: 0,
        window: 1,
        scale: 0,
        seen: false,
        fin: false,
        reset: false,
    };

    /// As a SYN or SYN-ACK says it; its window is not scaled.
    fn from_syn(facts: &Facts) -> Self {
        Self {
            end: facts.end,
            limit: facts.end,
            window: u32::from(facts.window).max(1),
            scale: facts.scale.unwrap_or(0).min(MAX_SCALE),
            seen: true,
            ..Self::UNSEEN
        }
    }
}

/// Both halves. A new one knows the SYN alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Track {
    halves: [Half; 2],
}

impl Track {
    /// From the SYN.
    #[must_use]
    pub fn new(syn: &Facts) -> Self {
        Self {
            halves: [Half::from_syn(syn), Half::UNSEEN],
        }
    }

    /// From the SYN-ACK. Another one replaces it.
    pub fn syn_ack(&mut self, facts: &Facts) {
        let [initiator, responder] = &mut self.halves;
        *responder = Half::from_syn(facts);
        responder.limit = facts.end.wrapping_add(initiator.window);
        initiator.limit = initiator.end.wrapping_add(responder.window);
        if facts.scale.is_none() {
            // RFC 7323 section 2.2: both ends, or none.
            initiator.scale = 0;
        }
    }

    /// From a segment in the middle, when the beginning was not seen: both scales are taken for
    /// the largest, so that nothing legitimate is refused.
    #[must_use]
    pub fn midstream(sender: Sender, facts: &Facts) -> Self {
        let window = u32::from(u16::MAX) << MAX_SCALE;
        let own = Half {
            end: facts.end,
            limit: facts.end.wrapping_add(window),
            window,
            scale: MAX_SCALE,
            seen: true,
            fin: false,
            reset: false,
        };
        let other_end = facts.ack.unwrap_or(0);
        let other = Half {
            end: other_end,
            limit: other_end.wrapping_add(window),
            ..own
        };
        let halves = match sender {
            Sender::Initiator => [own, other],
            Sender::Responder => [other, own],
        };
        Self { halves }
    }

    /// Takes a segment without SYN. False when it cannot belong to the connection; then nothing
    /// changed.
    #[must_use]
    pub fn segment(&mut self, sender: Sender, facts: &Facts) -> bool {
        if !self.complete() || !self.fits(sender, facts) {
            return false;
        }
        let (own, other) = self.pair(sender);
        let window = u32::from(facts.window) << own.scale;
        own.window = own.window.max(window);
        if after(facts.end, own.end) {
            own.end = facts.end;
        }
        if let Some(ack) = facts.ack {
            // A closed window still lets a probe of one byte through.
            let limit = ack.wrapping_add(window.max(1));
            if after(limit, other.limit) {
                other.limit = limit;
            }
        }
        own.fin |= facts.flags.fin();
        if facts.flags.rst() {
            own.reset = true;
        } else {
            // Who goes on after a RST did not take it (RFC 5961 section 3).
            other.reset = false;
        }
        true
    }

    /// Whether the numbers of both ends are known.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.halves.iter().all(|half| half.seen)
    }

    /// Whether `seq`, quoted by an ICMP error, is one that `sender` may have in flight.
    #[must_use]
    pub fn in_flight(&self, sender: Sender, seq: u32) -> bool {
        let own = self.half(sender);
        let slack = self.half(sender.other()).window.max(ACK_SLACK);
        !after(seq, own.end) && after(seq, own.end.wrapping_sub(slack).wrapping_sub(1))
    }

    /// How long the flow may now be idle.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        match self.halves {
            [a, b] if a.reset || b.reset => RESET,
            [a, b] if a.fin || b.fin => CLOSING,
            _ => IDLE,
        }
    }

    /// Both ends have said FIN, or one RST: the entry may go when its room is needed.
    #[must_use]
    pub fn over(&self) -> bool {
        let [a, b] = self.halves;
        a.reset || b.reset || (a.fin && b.fin)
    }

    fn fits(&self, sender: Sender, facts: &Facts) -> bool {
        let (own, other) = (self.half(sender), self.half(sender.other()));
        // Not past what the other end lets it send; one byte more is a probe.
        let not_ahead = !after(facts.seq, own.limit.wrapping_add(1));
        // Not older than a whole window.
        let oldest = own.end.wrapping_sub(other.window.max(1));
        let not_behind = !after(oldest, facts.end);
        let acks = facts.ack.is_none_or(|ack| {
            let oldest = other.end.wrapping_sub(own.window.max(ACK_SLACK));
            !after(ack, other.end) && !after(oldest, ack)
        });
        not_ahead && not_behind && acks
    }

    fn half(&self, sender: Sender) -> &Half {
        let [initiator, responder] = &self.halves;
        match sender {
            Sender::Initiator => initiator,
            Sender::Responder => responder,
        }
    }

    fn pair(&mut self, sender: Sender) -> (&mut Half, &mut Half) {
        let [initiator, responder] = &mut self.halves;
        match sender {
            Sender::Initiator => (initiator, responder),
            Sender::Responder => (responder, initiator),
        }
    }
}

/// Whether `a` comes after `b` in sequence space (RFC 9293 section 3.4).
fn after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACK: u8 = Flags::ACK;

    fn facts(flags: u8, seq: u32, len: u32, ack: Option<u32>, window: u16) -> Facts {
        let extra = u32::from(flags & (Flags::SYN | Flags::FIN) != 0);
        let end = seq.wrapping_add(len + extra);
        Facts {
            flags: Flags(flags),
            seq,
            end,
            ack,
            window,
            scale: None,
        }
    }

    /// A connection with initial sequence numbers `a` and `b`, after the handshake.
    fn connected(a: u32, b: u32, scale: Option<u8>) -> Track {
        let syn = Facts {
            scale,
            ..facts(Flags::SYN, a, 0, None, 64_000)
        };
        let mut track = Track::new(&syn);
        let syn_ack = facts(Flags::SYN | ACK, b, 0, Some(a.wrapping_add(1)), 64_000);
        track.syn_ack(&Facts { scale, ..syn_ack });
        track
    }

    /// Threat row 9: what an injector off the path can send has no effect.
    #[test]
    fn segments_from_nowhere_change_nothing() {
        let mut track = connected(1000, 9000, None);
        let ok = facts(ACK, 1001, 100, Some(9001), 64_000);
        assert!(track.segment(Sender::Initiator, &ok));
        let before = track;
        for far in [200_000u32, 1 << 20, 1 << 30, 1 << 31, u32::MAX - 300_000] {
            for flags in [ACK, Flags::RST, Flags::RST | ACK, Flags::FIN | ACK] {
                let seq = 1101u32.wrapping_add(far);
                let wrong_seq = facts(flags, seq, 10, Some(9001), 64_000);
                assert!(
                    !track.segment(Sender::Initiator, &wrong_seq),
                    "{far} {flags}"
                );
                let wrong_ack = facts(flags, 1101, 10, Some(9001u32.wrapping_add(far)), 64_000);
                assert!(
                    !track.segment(Sender::Initiator, &wrong_ack),
                    "{far} {flags}"
                );
            }
        }
        assert_eq!(track, before);
    }

    #[test]
    fn a_reset_that_its_receiver_ignores_ends_nothing() {
        let mut track = connected(1000, 9000, None);
        assert!(track.segment(Sender::Initiator, &facts(Flags::RST, 1050, 0, None, 0)));
        assert_eq!((track.timeout(), track.over()), (RESET, true));
        // The challenge ACK of RFC 5961.
        assert!(track.segment(Sender::Responder, &facts(ACK, 9001, 0, Some(1001), 64_000)));
        assert_eq!((track.timeout(), track.over()), (IDLE, false));
    }

    #[test]
    fn closing_takes_both_ends() {
        let mut track = connected(1000, 9000, None);
        let fin = facts(Flags::FIN | ACK, 1001, 0, Some(9001), 64_000);
        assert!(track.segment(Sender::Initiator, &fin));
        assert_eq!((track.timeout(), track.over()), (CLOSING, false));
        assert!(track.segment(
            Sender::Responder,
            &facts(ACK, 9001, 5000, Some(1002), 64_000)
        ));
        let fin = facts(Flags::FIN | ACK, 14_001, 0, Some(1002), 64_000);
        assert!(track.segment(Sender::Responder, &fin));
        assert!(track.over());
    }

    #[test]
    fn keep_alives_and_window_probes_pass() {
        let mut track = connected(1000, 9000, None);
        assert!(track.segment(
            Sender::Initiator,
            &facts(ACK, 1001, 500, Some(9001), 64_000)
        ));
        assert!(track.segment(Sender::Responder, &facts(ACK, 9001, 0, Some(1501), 0)));
        // RFC 9293 section 3.8.4 and 3.8.6.1.
        assert!(track.segment(Sender::Initiator, &facts(ACK, 1500, 0, Some(9001), 64_000)));
        assert!(track.segment(Sender::Initiator, &facts(ACK, 1501, 1, Some(9001), 64_000)));
        assert!(!track.segment(
            Sender::Initiator,
            &facts(ACK, 900_000, 1, Some(9001), 64_000)
        ));
    }

    #[test]
    fn only_sequence_numbers_in_flight_are_quoted() {
        let mut track = connected(1000, 9000, None);
        assert!(track.segment(
            Sender::Initiator,
            &facts(ACK, 1001, 60_000, Some(9001), 64_000)
        ));
        assert!(track.in_flight(Sender::Initiator, 1001));
        assert!(track.in_flight(Sender::Initiator, 61_001));
        assert!(!track.in_flight(Sender::Initiator, 61_002));
        assert!(!track.in_flight(Sender::Initiator, 61_001u32.wrapping_sub(200_000)));
    }

    /// A sender with data, a receiver with a buffer, and a path before and behind the gateway that
    /// loses, repeats and reorders: the gateway must let everything pass.
    #[derive(Debug)]
    struct Transfer {
        track: Track,
        base: (u32, u32),
        scale: u8,
        /// Bytes sent, bytes received in order and ranges out of order, by the receiver.
        sent: u32,
        acked: u32,
        received: u32,
        islands: Vec<(u32, u32)>,
        read: u32,
        buffer: u32,
    }

    impl Transfer {
        fn data(&mut self, at: u32, len: u32, arrives: bool) -> bool {
            let (a, b) = self.base;
            let seq = a.wrapping_add(1 + at);
            let segment = facts(ACK, seq, len, Some(b.wrapping_add(1)), 64_000);
            let passed = self.track.segment(Sender::Initiator, &segment);
            if arrives {
                self.islands.push((at, at + len));
                while let Some(i) = self
                    .islands
                    .iter()
                    .position(|(from, to)| *from <= self.received && *to > self.received)
                {
                    self.received = self.islands.swap_remove(i).1;
                }
            }
            passed
        }

        fn ack(&mut self, arrives: bool) -> bool {
            let (a, b) = self.base;
            let free = self.buffer - (self.received - self.read);
            let window = (free >> self.scale).min(65_535) as u16;
            let ack = a.wrapping_add(1 + self.received);
            let segment = facts(ACK, b.wrapping_add(1), 0, Some(ack), window);
            let passed = self.track.segment(Sender::Responder, &segment);
            if arrives {
                self.acked = self.received;
            }
            passed
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn an_honest_transfer_always_passes(
            base: (u32, u32), scale in 0u8..8, buffer in 10_000u32..60_000,
            steps in prop::collection::vec((0u8..8, any::<bool>(), 1u32..1400), 1..400),
        ) {
            let buffer = buffer << scale;
            // The SYN-ACK announces a window without scale; the first ACK corrects it.
            let mut t = Transfer {
                track: connected(base.0, base.1, Some(scale)), base, scale, buffer,
                sent: 0, acked: 0, received: 0, islands: Vec::new(), read: 0,
            };
            let mut granted = 64_000u32.min(buffer);
            for (step, arrives, amount) in steps {
                let passed = match step {
                    0..=2 if t.sent + amount <= granted => {
                        let at = t.sent;
                        t.sent += amount;
                        t.data(at, amount, arrives)
                    }
                    // A retransmission from what is not acknowledged.
                    3 | 4 if t.acked < t.sent => {
                        let len = amount.min(t.sent - t.acked);
                        t.data(t.acked, len, arrives)
                    }
                    5 => {
                        t.read += amount.min(t.received - t.read);
                        true
                    }
                    6 => {
                        let free = (t.buffer - (t.received - t.read)) >> scale << scale;
                        let edge = t.received + free.min(65_535 << scale);
                        let passed = t.ack(arrives);
                        if arrives {
                            granted = granted.max(edge);
                        }
                        passed
                    }
                    _ => true,
                };
                prop_assert!(passed, "{:?}", t);
            }
        }
    }
}
