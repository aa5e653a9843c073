//! An enforcer without cryptography: it writes and takes off a token of the real size, option and
//! payload, and believes whoever has one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use handshake::node::{Ends, Event, FlowRecord, Handled, Mark, Path, RemoteEnd, Transmit};
use identity::{Mono, Now};
use landbridge_agent::enforcer::Enforcer;
use policy::DropReason;
use wire::{
    confirm::Confirm,
    edit::{EditError, TcpEdit, reset_for},
    flow::FlowKey,
    ip::Packet,
    marker::{MARKER, OurOption},
    tcp::Segment,
};

const TOKEN: [u8; 900] = [0x5a; 900];

#[derive(Default)]
pub struct Fake {
    /// Opened by a pod here and not confirmed by a segment of the other side.
    opening: BTreeSet<FlowKey>,
    /// By initiator-to-responder key.
    live: BTreeMap<FlowKey, FlowRecord>,
    /// Flows to this port may not be.
    denied: BTreeSet<u16>,
    epoch: u64,
    events: VecDeque<Event>,
    transmits: VecDeque<Transmit>,
}

impl Fake {
    pub fn live(&self) -> usize {
        self.live.len()
    }

    fn judge(&mut self, path: Path, bytes: &[u8]) -> Result<Handled, DropReason> {
        let packet = Packet::parse(bytes).map_err(|_| DropReason::Malformed)?;
        let key = FlowKey::of(&packet).map_err(|_| DropReason::UnsupportedProtocol)?;
        let segment = Segment::of(&packet).map_err(|_| DropReason::UnsupportedProtocol)?;
        let (syn, ack) = (segment.flags().syn(), segment.flags().ack());
        let known = self.live.contains_key(&key) || self.live.contains_key(&key.reversed());
        match path {
            _ if self.denied.contains(&key.dport) => Err(DropReason::DeniedByRule),
            Path::Local | Path::FromNode => match (syn && !ack, known) {
                (true, _) => {
                    self.open(key);
                    Ok(Handled::Accept(Mark::Established))
                }
                (false, true) => Ok(Handled::Accept(Mark::Established)),
                (false, false) => Err(DropReason::UnknownFlow),
            },
            Path::FromPod if syn => {
                if !ack {
                    self.opening.insert(key);
                }
                let edit = edit(&packet)?.add_option(&MARKER).payload(&TOKEN);
                rewrite(edit.finish(), Mark::Once)
            }
            Path::FromPod if known => Ok(Handled::Accept(Mark::Established)),
            Path::FromPod if self.opening.contains(&key) => {
                let confirm = Confirm { mac: [1; 16] }.to_bytes();
                rewrite(edit(&packet)?.add_option(&confirm).finish(), Mark::Once)
            }
            Path::ToPod if syn => match segment.our_option() {
                OurOption::Marker => {
                    let mut edit = edit(&packet)?.remove_exid().payload(&[]);
                    if ack {
                        edit = edit.reduce_mss_by(20);
                    }
                    rewrite(edit.finish(), Mark::Once)
                }
                _ => Err(DropReason::NoIdentity),
            },
            Path::ToPod if matches!(segment.our_option(), OurOption::Confirm(_)) => {
                self.open(key);
                rewrite(edit(&packet)?.remove_exid().finish(), Mark::Established)
            }
            Path::ToPod if known => Ok(Handled::Accept(Mark::Established)),
            Path::ToPod if self.opening.remove(&key.reversed()) => {
                self.open(key.reversed());
                Ok(Handled::Accept(Mark::Established))
            }
            Path::FromPod | Path::ToPod => {
                if let Ok(Some(packet)) = reset_for(&packet) {
                    let to_pod = path == Path::FromPod;
                    self.transmits.push_back(Transmit { packet, to_pod });
                }
                Err(DropReason::UnknownFlow)
            }
        }
    }

    fn open(&mut self, key: FlowKey) {
        let record = FlowRecord {
            key,
            ends: Ends::Initiator {
                pod_uid: "uid".into(),
                remote: RemoteEnd::Address,
            },
            rule: "a made-up rule".into(),
            epoch: self.epoch,
            opened: identity::UnixMillis(1),
        };
        if self.live.insert(key, record.clone()).is_none() {
            self.events.push_back(Event::FlowOpened(record.into()));
        }
    }
}

fn edit<'a>(packet: &Packet<'a>) -> Result<TcpEdit<'a>, DropReason> {
    TcpEdit::new(packet).map_err(|_| DropReason::Malformed)
}

fn rewrite(packet: Result<Vec<u8>, EditError>, mark: Mark) -> Result<Handled, DropReason> {
    let packet = packet.map_err(|_| DropReason::NoOptionSpace)?;
    Ok(Handled::Rewrite { packet, mark })
}

impl Enforcer for Fake {
    /// The ports to which no flow may be.
    type Snapshot = BTreeSet<u16>;

    fn handle_packet(&mut self, path: Path, packet: &[u8], _now: Now) -> Handled {
        self.judge(path, packet).unwrap_or_else(Handled::Drop)
    }

    fn set_snapshot(&mut self, denied: BTreeSet<u16>, _now: Now) {
        self.denied = denied;
        self.epoch += 1;
        let cut: Vec<_> = self
            .live
            .keys()
            .filter(|key| self.denied.contains(&key.dport))
            .copied()
            .collect();
        for key in cut {
            self.live.remove(&key);
            self.events.push_back(Event::FlowCut {
                key,
                reason: DropReason::DeniedByRule,
            });
        }
    }

    fn restore_flow(&mut self, record: FlowRecord) -> Result<(), DropReason> {
        if self.denied.contains(&record.key.dport) {
            return Err(DropReason::DeniedByRule);
        }
        self.live.insert(record.key, record);
        Ok(())
    }

    fn handle_flow_gone(&mut self, key: &FlowKey) {
        self.live.remove(key);
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Mono> {
        Some(Mono(Duration::from_secs(3600)))
    }

    fn handle_timeout(&mut self, _now: Now) {}
}
