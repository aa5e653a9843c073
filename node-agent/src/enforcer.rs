//! What the packet loop asks about every packet: the contract of [`handshake::node::Node`], as a
//! trait so that a test can put another enforcer in its place.

use std::sync::Arc;

use handshake::node::{Event, FlowRecord, Handled, Node, NodeSnapshot, Path, Transmit};
use identity::{Mono, Now};
use policy::DropReason;
use wire::flow::FlowKey;

/// A machine that judges packets.
///
/// After every call that takes input, transmits and events are drained.
pub trait Enforcer: Send {
    /// What it decides by.
    type Snapshot: Send;

    /// Judges one IP packet.
    fn handle_packet(&mut self, path: Path, packet: &[u8], now: Now) -> Handled;

    /// Decides by `snapshot` from now on, live flows included.
    fn set_snapshot(&mut self, snapshot: Self::Snapshot, now: Now);

    /// Takes a flow that an earlier process recorded and that the kernel still marks.
    ///
    /// # Errors
    /// Why it may not go on.
    fn restore_flow(&mut self, record: FlowRecord) -> Result<(), DropReason>;

    /// Forgets a flow whose connection the kernel no longer tracks.
    fn handle_flow_gone(&mut self, key: &FlowKey);

    /// The next packet to send.
    fn poll_transmit(&mut self) -> Option<Transmit>;

    /// The next event.
    fn poll_event(&mut self) -> Option<Event>;

    /// When [`Enforcer::handle_timeout`] is due.
    fn poll_timeout(&self) -> Option<Mono>;

    /// Forgets what is too old.
    fn handle_timeout(&mut self, now: Now);
}

impl Enforcer for Node {
    type Snapshot = Arc<NodeSnapshot>;

    fn handle_packet(&mut self, path: Path, packet: &[u8], now: Now) -> Handled {
        self.handle_packet(path, packet, now)
    }

    fn set_snapshot(&mut self, snapshot: Arc<NodeSnapshot>, now: Now) {
        self.set_snapshot(snapshot, now);
    }

    fn restore_flow(&mut self, record: FlowRecord) -> Result<(), DropReason> {
        self.restore_flow(record)
    }

    fn handle_flow_gone(&mut self, key: &FlowKey) {
        self.handle_flow_gone(key);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.poll_transmit()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.poll_event()
    }

    fn poll_timeout(&self) -> Option<Mono> {
        self.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.handle_timeout(now);
    }
}
