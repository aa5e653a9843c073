//! A cluster's gateway: the transit machine and the table of established flows. Between gateways
//! runs an authenticated tunnel, so that the network can lose and delay there, but not alter.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use handshake::{
    credentials::{SmallCache, Verifier},
    replay::ReplayCache,
    transit::{Ends, Origin, Passed, Transit, TransitSnapshot},
};
use identity::{Mono, Now, TrustDomain};
use policy::DropReason;
use wire::{flow::FlowKey, ip, tcp::Segment};

/// A gateway.
#[derive(Debug)]
pub struct Gateway {
    snapshot: Arc<TransitSnapshot>,
    transit: Transit,
    established: BTreeMap<[u8; wire::flow::SYMMETRIC_LEN], (u64, Ends)>,
    /// Packets in.
    pub received: u64,
    /// Packets on.
    pub forwarded: u64,
    /// Packets dropped, by reason.
    pub dropped: BTreeMap<DropReason, u64>,
}

impl Gateway {
    /// A gateway that decides by `snapshot`.
    #[must_use]
    pub fn new(snapshot: Arc<TransitSnapshot>) -> Self {
        Self {
            snapshot,
            transit: new_transit(),
            established: BTreeMap::new(),
            received: 0,
            forwarded: 0,
            dropped: BTreeMap::new(),
        }
    }

    /// Decides by `snapshot` from now on.
    pub fn set_snapshot(&mut self, snapshot: Arc<TransitSnapshot>) {
        self.snapshot = snapshot;
    }

    /// Forgets half-open flows and nonces, as a restart does; established flows are taken over.
    pub fn restart(&mut self) {
        self.transit = new_transit();
    }

    /// Judges a packet; what goes on.
    pub fn handle_packet(
        &mut self,
        from: Option<&TrustDomain>,
        packet: &[u8],
        now: Now,
    ) -> Option<Vec<u8>> {
        self.received += 1;
        let origin = from.map_or(Origin::Own, Origin::Peer);
        match self.judge(origin, packet, now) {
            Ok(packet) => {
                self.forwarded += 1;
                Some(packet)
            }
            Err(reason) => {
                *self.dropped.entry(reason).or_default() += 1;
                None
            }
        }
    }

    /// When [`Gateway::handle_timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        self.transit.poll_timeout()
    }

    /// Forgets what is too old.
    pub fn handle_timeout(&mut self, now: Now) {
        self.transit.handle_timeout(now);
    }

    fn judge(
        &mut self,
        origin: Origin<'_>,
        packet: &[u8],
        now: Now,
    ) -> Result<Vec<u8>, DropReason> {
        let parsed = ip::Packet::parse(packet).map_err(|_| DropReason::Malformed)?;
        let key = FlowKey::of(&parsed).map_err(|_| DropReason::UnsupportedProtocol)?;
        let tcp = Segment::of(&parsed).map_err(|_| DropReason::UnsupportedProtocol)?;
        if !tcp.flags().syn()
            && let Some((epoch, ends)) = self.established.get_mut(&key.symmetric())
        {
            if *epoch != self.snapshot.epoch {
                match Transit::decide_again(ends, &self.snapshot) {
                    Ok(newest) => (*epoch, *ends) = (self.snapshot.epoch, newest),
                    Err(refused) => {
                        self.established.remove(&key.symmetric());
                        return Err(refused.reason);
                    }
                }
            }
            return Ok(packet.to_vec());
        }
        let snapshot = self.snapshot.clone();
        match self.transit.handle_packet(origin, packet, &snapshot, now) {
            Ok(Passed::Rewrite(packet)) => Ok(packet),
            Ok(Passed::Forward | Passed::Closed) => Ok(packet.to_vec()),
            Ok(Passed::Established(ends)) => {
                self.established
                    .insert(key.symmetric(), (snapshot.epoch, *ends));
                Ok(packet.to_vec())
            }
            Err(refused) => Err(refused.reason),
        }
    }
}

fn new_transit() -> Transit {
    Transit::new(
        Verifier::new(Arc::new(SmallCache::new(1024))),
        Arc::new(Mutex::new(ReplayCache::new(65_536))),
        4096,
        100,
    )
}
