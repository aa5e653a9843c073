//! A cluster's gateway: the real data plane with the frames of both its sides.

use std::{net::IpAddr, sync::Arc, time::Duration};

use gateway_core::{
    Context, Dataplane, Disposition, Event, Frame, Limits, SharedCache, Side, Snapshot, Totals,
    link,
};
use handshake::credentials::CredentialCache;
use identity::{Mono, Now};

use crate::dice::Dice;

const SWEEP: Duration = Duration::from_millis(250);
const HEADROOM: usize = 128;
const BUFFER: usize = 2048;

/// A gateway. While its process does not run, its interfaces drop all that is for it.
pub struct Gateway {
    dice: Dice,
    process: Option<Process>,
}

struct Process {
    dataplane: Dataplane,
    cx: Context,
    snapshot: Arc<Snapshot>,
    sweep_at: Mono,
    seen: Seen,
    /// Flows that it said were established.
    opened: u64,
}

/// What went in and came out, as the interfaces saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    taken: u64,
    sent: u64,
    answers: u64,
}

/// A frame that it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where.
    pub side: Side,
    /// Link header first.
    pub frame: Vec<u8>,
    /// It answers a packet that was dropped.
    pub answer: bool,
}

impl Gateway {
    /// A gateway that does not run yet.
    #[must_use]
    pub fn new(dice: Dice) -> Self {
        Self {
            dice,
            process: None,
        }
    }

    /// The process is killed: flows, half-open flows, nonces and associations are lost.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// A new process, which knows nothing of the one before.
    pub fn start(&mut self, snapshot: Arc<Snapshot>, now: Mono) {
        let limits = Limits {
            established: 4096,
            half_open: 4096,
            nonces: 65_536,
            unproven_per_second: 100,
            flow_shards: 4,
            handshake_shards: 2,
            ..Limits::default()
        };
        let [cache_key, flow_key] = [(); 2].map(|()| {
            let bytes = self.dice.bytes();
            *bytes.first_chunk().expect("32 bytes")
        });
        let cache: Arc<dyn CredentialCache> = Arc::new(SharedCache::new(1024, &cache_key));
        self.process = Some(Process {
            dataplane: Dataplane::new(&limits, &flow_key, &cache),
            cx: Context::new(0, 1000),
            snapshot,
            sweep_at: now.after(SWEEP),
            seen: Seen::default(),
            opened: 0,
        });
    }

    /// Whether the process runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Decides by `snapshot` from now on.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        if let Some(process) = &mut self.process {
            process.snapshot = snapshot;
        }
    }

    /// A frame arrives on `side`; what is sent.
    ///
    /// # Panics
    /// When it looks for a station that it should know.
    pub fn handle_frame(&mut self, side: Side, bytes: &[u8], now: Now) -> Option<Sent> {
        let process = self.process.as_mut()?;
        process.seen.taken += 1;
        let mut memory = [0; BUFFER];
        let range = HEADROOM..HEADROOM + bytes.len();
        memory
            .get_mut(range.clone())
            .expect("frames fit into the MTU")
            .copy_from_slice(bytes);
        let mut frame = Frame::new(&mut memory, range).expect("it is inside");
        let snapshot = &process.snapshot;
        let fate = process
            .dataplane
            .process(&mut process.cx, side, &mut frame, snapshot, now);
        while let Some(event) = process.cx.poll_event() {
            match event {
                Event::Opened(_) => process.opened += 1,
                // Every station of this world is known.
                Event::Unresolved(..) => panic!("{event:?}"),
                Event::Cut { .. } | Event::Refused { .. } | Event::RefusedMore(_) => {}
            }
        }
        let (side, answer) = match fate {
            Disposition::Forward(side) => (side, false),
            Disposition::Answer(side, _) => (side, true),
            Disposition::Drop(_) => return None,
        };
        match answer {
            true => process.seen.answers += 1,
            false => process.seen.sent += 1,
        }
        let frame = frame.packet().to_vec();
        Some(Sent {
            side,
            frame,
            answer,
        })
    }

    /// What it would send if it were not ours any more: `packet`, whatever it is, in its tunnel to
    /// the gateway at `to`.
    #[must_use]
    pub fn lie(&self, to: IpAddr, packet: &[u8]) -> Option<Vec<u8>> {
        let snapshot = &self.process.as_ref()?.snapshot;
        let peer = snapshot.peers.iter().find(|peer| peer.endpoint == to)?;
        let mut memory = [0; BUFFER];
        let range = HEADROOM..HEADROOM + packet.len();
        memory.get_mut(range.clone())?.copy_from_slice(packet);
        let mut frame = Frame::new(&mut memory, range)?;
        link::encapsulate(&mut frame, peer, 0, snapshot).ok()?;
        Some(frame.packet().to_vec())
    }

    /// When [`Gateway::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        self.process.as_ref().map(|process| process.sweep_at)
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Some(process) = &mut self.process
            && process.sweep_at <= now.mono
        {
            process.sweep_at = now.mono.after(SWEEP);
            process.dataplane.handle_timeout(now);
        }
    }

    /// How many flows it said were established, while it runs.
    #[must_use]
    pub fn opened(&self) -> Option<u64> {
        self.process.as_ref().map(|process| process.opened)
    }

    /// What became of its packets, while it runs.
    #[must_use]
    pub fn totals(&self) -> Option<&Totals> {
        self.process.as_ref().map(|process| &process.cx.totals)
    }

    /// The same, to be falsified by a test of the checker.
    pub fn totals_mut(&mut self) -> Option<&mut Totals> {
        self.process.as_mut().map(|process| &mut process.cx.totals)
    }

    /// Every packet is accounted for, by itself and by its interfaces.
    ///
    /// # Panics
    /// When one is not.
    pub fn check(&self) {
        let Some(process) = &self.process else { return };
        let totals = &process.cx.totals;
        assert!(totals.balanced(), "a gateway lost count: {totals:?}");
        let counted = Seen {
            taken: totals.received,
            sent: totals.forwarded,
            answers: totals.originated,
        };
        assert_eq!(counted, process.seen, "a gateway counts other packets");
        assert_eq!(process.cx.lost_events(), 0);
    }
}
