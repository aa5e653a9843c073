//! The tap in the pipeline: which packets are taken, and what of them.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwapOption, Guard};
use gateway_core::{Disposition, Side, Snapshot, Witness};
use handshake::{bucket::Bucket, transit::Party};
use identity::{Mono, TrustDomain};
use policy::{DropReason, RuleRef};
use serde_json::Value;
use tokio::sync::mpsc;
use wire::{ethernet, ip};

use super::IdentitySelector;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only packets from and to this peer.
    pub peer: Option<TrustDomain>,
    /// Only packets of which an end fits.
    pub identity: Option<IdentitySelector>,
    /// Packets in clear.
    pub plain: bool,
    /// Packets as they are on the way to and from peers.
    pub sealed: bool,
    /// How many bytes of each, at most.
    pub snaplen: usize,
}

/// Where a packet was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The interface towards the nodes: Ethernet frames in clear.
    Lan,
    /// The interface towards the peers: Ethernet frames that hold sealed packets.
    Wan,
    /// The inside of the tunnel: IP packets that were on neither interface in clear.
    Tunnel,
}

/// One packet at one place.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where.
    pub place: Place,
    /// Whether it came in there.
    pub inbound: bool,
    /// Its length in bytes.
    pub length: usize,
    /// What is kept of it.
    pub bytes: Vec<u8>,
    /// It is the answer to the packet, made here.
    pub answer: bool,
}

/// One packet that was judged.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Nanoseconds since 1970.
    pub at: u64,
    /// What became of it.
    pub dropped: Option<DropReason>,
    /// The rule that refused it.
    pub rule: Option<RuleRef>,
    /// The peer on the other side.
    pub peer: Option<TrustDomain>,
    /// Who sent it, and to whom.
    pub ends: [Option<Party>; 2],
    /// The packet where it was seen, in the order of time.
    pub images: Vec<Image>,
}

/// The place of the capture that runs, if one does.
#[derive(Debug, Default)]
pub struct Tap(Arc<ArcSwapOption<Running>>);

/// The capture's turn: it ends when this is dropped.
#[derive(Debug)]
pub struct Turn {
    place: Arc<ArcSwapOption<Running>>,
    /// The capture.
    pub running: Arc<Running>,
}

/// A capture that runs.
#[derive(Debug)]
pub struct Running {
    /// Whose it is, and what it asks for.
    pub about: Value,
    /// Seconds since 1970.
    pub since: u64,
    filter: Filter,
    rate: Mutex<Bucket>,
    captured: AtomicU64,
    lost: AtomicU64,
    packets: mpsc::Sender<Seen>,
}

impl Tap {
    /// The capture that runs.
    #[must_use]
    pub fn load(&self) -> Guard<Option<Arc<Running>>> {
        self.0.load()
    }

    /// From now on `running` runs; `None` when another does.
    #[must_use]
    pub fn begin(&self, running: &Arc<Running>) -> Option<Turn> {
        let none = None::<Arc<Running>>;
        let before = self.0.compare_and_swap(&none, Some(Arc::clone(running)));
        before.is_none().then(|| Turn {
            place: Arc::clone(&self.0),
            running: Arc::clone(running),
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.place.store(None);
    }
}

impl Running {
    /// Takes at most `rate` packets a second, and gives them to `packets`.
    #[must_use]
    pub fn new(filter: Filter, rate: u32, packets: mpsc::Sender<Seen>, about: Value) -> Self {
        Self {
            about,
            since: since_1970().as_secs(),
            filter,
            rate: Mutex::new(Bucket::new(rate, rate.div_ceil(10))),
            captured: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            packets,
        }
    }

    /// How many packets were taken, and how many more would have fitted but for rate and room.
    #[must_use]
    pub fn counts(&self) -> [u64; 2] {
        [&self.captured, &self.lost].map(|count| count.load(Relaxed))
    }

    /// Takes the packet that came in on `side` as `before`, if it is wanted. `after` is what is sent, if anything is.
    pub fn take(
        &self,
        side: Side,
        (before, after): (&[u8], &[u8]),
        disposition: Disposition,
        witness: &Witness,
        snapshot: &Snapshot,
        now: Mono,
    ) {
        if !self.filter.wants(side, before, witness, snapshot) {
            return;
        }
        let images = self
            .filter
            .images(side, (before, after), disposition, witness);
        if images.is_empty() {
            return;
        }
        let within = |bucket: &Mutex<Bucket>| {
            let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take(now)
        };
        let room = within(&self.rate).then(|| self.packets.try_reserve());
        let Some(Ok(room)) = room else {
            self.lost.fetch_add(1, Relaxed);
            return;
        };
        self.captured.fetch_add(1, Relaxed);
        room.send(Seen {
            at: since_1970().as_nanos() as u64,
            dropped: match disposition {
                Disposition::Forward(_) => None,
                Disposition::Drop(reason) | Disposition::Answer(_, reason) => Some(reason),
            },
            rule: witness.rule.clone(),
            peer: witness.peer.clone(),
            ends: [witness.sender.clone(), witness.receiver.clone()],
            images,
        });
    }
}

impl Filter {
    fn wants(&self, side: Side, before: &[u8], witness: &Witness, snapshot: &Snapshot) -> bool {
        let peer = self.peer.as_ref().is_none_or(|wanted| match &witness.peer {
            Some(peer) => peer == wanted,
            // What cannot be opened is whose address it claims.
            None => side == Side::Wan && claims_to_be(before, wanted, snapshot),
        });
        let fits = |selector: &IdentitySelector| {
            let mut ends = [&witness.sender, &witness.receiver].into_iter().flatten();
            ends.any(|party| selector.fits(&party.claims))
        };
        peer && self.identity.as_ref().is_none_or(fits)
    }

    fn images(
        &self,
        side: Side,
        (before, after): (&[u8], &[u8]),
        disposition: Disposition,
        witness: &Witness,
    ) -> Vec<Image> {
        let mut images = Vec::new();
        let mut add = |place, inbound, answer, packet: &[u8]| {
            let wanted = match place {
                Place::Wan => self.sealed,
                Place::Lan | Place::Tunnel => self.plain,
            };
            if wanted && !packet.is_empty() {
                let kept = packet.len().min(self.snaplen);
                images.push(Image {
                    place,
                    inbound,
                    length: packet.len(),
                    bytes: packet.get(..kept).unwrap_or_default().to_vec(),
                    answer,
                });
            }
        };
        match side {
            Side::Lan => add(Place::Lan, true, false, before),
            Side::Wan => {
                add(Place::Wan, true, false, before);
                // One that goes on is seen in clear where it leaves.
                if disposition != Disposition::Forward(Side::Lan) {
                    add(Place::Tunnel, true, false, &witness.opened);
                }
            }
        }
        match disposition {
            Disposition::Forward(Side::Lan) => add(Place::Lan, false, false, after),
            Disposition::Forward(Side::Wan) => add(Place::Wan, false, false, after),
            Disposition::Answer(Side::Lan, _) => add(Place::Lan, false, true, after),
            Disposition::Answer(Side::Wan, _) => {
                add(Place::Tunnel, false, true, &witness.answer);
                add(Place::Wan, false, true, after);
            }
            Disposition::Drop(_) => {}
        }
        images
    }
}

fn since_1970() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

/// Whether the frame's source is the address of that peer's gateway.
fn claims_to_be(frame: &[u8], peer: &TrustDomain, snapshot: &Snapshot) -> bool {
    let source = |frame| -> Option<IpAddr> {
        let frame = ethernet::Frame::parse(frame).ok()?;
        Some(ip::Packet::parse(frame.payload()).ok()?.src())
    };
    let mut peers = snapshot.peers.iter();
    peers.any(|known| known.trust_domain == *peer && Some(known.endpoint) == source(frame))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use identity::TrustDomain;

    use super::*;

    fn filter(plain: bool, sealed: bool) -> Filter {
        Filter {
            peer: None,
            identity: None,
            plain,
            sealed,
            snaplen: 4,
        }
    }

    /// Each packet is seen in clear once, and sealed once if it was: where, whether inbound, whether as an answer,
    /// and its first byte.
    #[test]
    fn a_packet_is_seen_where_it_was() {
        use Disposition::{Answer, Drop, Forward};
        use Place::{Lan, Tunnel, Wan};
        let reason = DropReason::DeniedByRule;
        let witness = Witness {
            opened: vec![3; 40],
            answer: vec![4; 40],
            ..Witness::default()
        };
        let came = |place| (place, true, false, 1);
        let opened = (Tunnel, true, false, 3);
        let inner_answer = (Tunnel, false, true, 4);
        let sent = |place, answer| (place, false, answer, 2);
        for (side, disposition, plain, sealed) in [
            (
                Side::Lan,
                Forward(Side::Wan),
                vec![came(Lan)],
                vec![sent(Wan, false)],
            ),
            (Side::Lan, Drop(reason), vec![came(Lan)], vec![]),
            (
                Side::Lan,
                Answer(Side::Lan, reason),
                vec![came(Lan), sent(Lan, true)],
                vec![],
            ),
            (
                Side::Lan,
                Answer(Side::Wan, reason),
                vec![came(Lan), inner_answer],
                vec![sent(Wan, true)],
            ),
            (
                Side::Wan,
                Forward(Side::Lan),
                vec![sent(Lan, false)],
                vec![came(Wan)],
            ),
            (Side::Wan, Drop(reason), vec![opened], vec![came(Wan)]),
            (
                Side::Wan,
                Answer(Side::Wan, reason),
                vec![opened, inner_answer],
                vec![came(Wan), sent(Wan, true)],
            ),
            (
                Side::Wan,
                Answer(Side::Lan, reason),
                vec![opened, sent(Lan, true)],
                vec![came(Wan)],
            ),
        ] {
            let seen = |plain, sealed| -> Vec<_> {
                let images =
                    filter(plain, sealed).images(side, (&[1; 60], &[2; 60]), disposition, &witness);
                for image in &images {
                    assert!(image.bytes.len() == 4 && image.length >= 40);
                }
                let place = |i: &Image| (i.place, i.inbound, i.answer, i.bytes[0]);
                images.iter().map(place).collect()
            };
            assert_eq!(seen(true, false), plain, "{side:?} {disposition:?}");
            assert_eq!(seen(false, true), sealed, "{side:?} {disposition:?}");
            let both = plain.len() + sealed.len();
            assert_eq!(seen(true, true).len(), both);
        }
    }

    #[test]
    fn what_is_too_much_is_counted_and_waits_for_nobody() {
        let domain = TrustDomain::new("east.example").unwrap();
        let snapshot = Snapshot::closed(domain);
        let (sender, mut receiver) = mpsc::channel(3);
        let running = Running::new(filter(true, true), 50, sender, Value::Null);
        let take = |now| {
            let drop = Disposition::Drop(DropReason::Malformed);
            let witness = Witness::default();
            running.take(Side::Lan, (&[1; 60], &[]), drop, &witness, &snapshot, now);
        };
        // Three find room.
        (0..4).for_each(|_| take(Mono::default()));
        assert_eq!(running.counts(), [3, 1]);
        while receiver.try_recv().is_ok() {}
        // One more is within the rate of this moment.
        (0..4).for_each(|_| take(Mono::default()));
        assert_eq!(running.counts(), [4, 4]);
        take(Mono(Duration::from_secs(1)));
        assert_eq!(running.counts(), [5, 4]);
    }

    #[test]
    fn only_the_peer_s_packets_are_taken_also_those_that_cannot_be_opened() {
        let west = TrustDomain::new("west.example").unwrap();
        let mut snapshot = Snapshot::closed(TrustDomain::new("east.example").unwrap());
        snapshot.peers.push(gateway_core::snapshot::Peer {
            trust_domain: west.clone(),
            endpoint: "192.0.2.2".parse().unwrap(),
            port: 1000,
            outbound: Vec::new(),
            next_hop: Ok(ethernet::Mac::default()),
            inner_mtu: 1400,
            translation: gateway_core::translation::Translation::default(),
        });
        let wanted = Filter {
            peer: Some(west.clone()),
            ..filter(true, true)
        };
        let frame = |last: u8| {
            let mut frame = vec![0; 14 + 20];
            frame[12..16].copy_from_slice(&[8, 0, 0x45, 0]);
            frame[17] = 20;
            frame[26..30].copy_from_slice(&[192, 0, 2, last]);
            let checksum = wire::checksum::Sum::default()
                .bytes(&frame[14..])
                .checksum();
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
            frame
        };
        let of = |peer: &TrustDomain| Witness {
            peer: Some(peer.clone()),
            ..Witness::default()
        };
        let wants =
            |side, last, witness: &Witness| wanted.wants(side, &frame(last), witness, &snapshot);
        assert!(wants(Side::Lan, 9, &of(&west)));
        assert!(!wants(Side::Lan, 2, &of(&snapshot.transit.own)));
        assert!(wants(Side::Wan, 2, &Witness::default()));
        assert!(!wants(Side::Wan, 3, &Witness::default()));
        assert!(!wants(Side::Lan, 2, &Witness::default()));
    }
}
