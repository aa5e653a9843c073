//! Established flows: what they were allowed by, and the decision anew when the snapshot changes.

use std::{net::IpAddr, sync::Arc};

use identity::{
    Claims, Mono, UnixMillis,
    fault::{self, Fault},
    verify_credential,
};
use policy::{DropReason, Peer, RuleRef, Staged, model::Direction};
use serde::{Deserialize, Serialize};
use wire::flow::FlowKey;

use super::{
    decide::{Other, decide, decide_local},
    snapshot::NodeSnapshot,
};
use crate::{half_open::HalfOpen, hash::Seed, keys::Tag, table::FlowTable};

/// A flow as it is written to disk, so that a restarted agent can judge it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// From initiator to responder, as seen on this node.
    pub key: FlowKey,
    /// Which ends are pods of this node, and what the other end proved.
    pub ends: Ends,
    /// The rule that allowed it, in words; empty when a default did.
    pub rule: Arc<str>,
    /// The epoch of the snapshot that decided.
    pub epoch: u64,
    /// When it was opened.
    pub opened: UnixMillis,
}

/// Which ends of a flow are pods of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ends {
    /// The initiator is a pod of this node, with this UID.
    Initiator {
        /// The pod's UID.
        pod_uid: Arc<str>,
        /// The other end.
        remote: RemoteEnd,
    },
    /// The responder is a pod of this node, with this UID.
    Responder {
        /// The pod's UID.
        pod_uid: Arc<str>,
        /// The other end.
        remote: RemoteEnd,
    },
    /// Both are.
    Both {
        /// The initiator's UID.
        initiator_uid: Arc<str>,
        /// The responder's UID.
        responder_uid: Arc<str>,
    },
}

/// The end that is not on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RemoteEnd {
    /// It proved this credential.
    Proven(#[serde(with = "byte_string")] Arc<[u8]>),
    /// An address without identity.
    Address,
    /// The same, with the names that DNS told the pod when the flow was opened and that let it.
    Named(Vec<Arc<str>>),
    /// The node itself.
    Node,
}

/// Bytes as one string of them, not as a list of numbers.
mod byte_string {
    use std::sync::Arc;

    use serde::{Deserializer, Serializer};
    use serde_bytes::{ByteBuf, Bytes};

    pub fn serialize<S: Serializer>(bytes: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        serde_bytes::serialize(Bytes::new(bytes), to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        serde_bytes::deserialize(from).map(|bytes: ByteBuf| bytes.into_vec().into())
    }
}

/// An established flow in memory.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Shared with the event that has it stored.
    pub record: Arc<FlowRecord>,
    /// What the remote end proved, if it did.
    pub remote: Option<Arc<Claims>>,
    /// The CONFIRM of the flow: an initiator attaches it, a responder takes it off, as long as the
    /// initiator has not seen a segment of the responder.
    pub confirm: Option<Tag>,
    /// The initiator's initial sequence number, where a handshake was seen.
    pub isn: Option<u32>,
    /// Whether the kernel was told that the flow is established.
    pub marked: bool,
}

/// The flows of this node, by their initiator-to-responder key.
#[derive(Debug)]
pub(super) struct LiveTable {
    flows: FlowTable<Live>,
    capacity: usize,
    /// Those of our pods whose server proved itself and was not heard since. The kernel does not
    /// track them for us, and a server can leave any number of them behind: they are bounded by
    /// themselves, and give way to established ones.
    unheard: HalfOpen<()>,
}

impl LiveTable {
    pub fn new(capacity: usize, unheard: usize, seed: &Seed) -> Self {
        Self {
            unheard: HalfOpen::new(unheard, seed),
            flows: FlowTable::new(seed),
            capacity,
        }
    }

    /// Adds or replaces a flow; an established flow is never evicted for a new one.
    pub fn insert(&mut self, live: Live) -> Result<(), DropReason> {
        let key = live.record.key;
        if self.flows.len() >= self.capacity && self.flows.find(&key).is_none() {
            let oldest = self.unheard.pop_oldest().ok_or(DropReason::TableFull)?;
            self.flows.remove(&oldest);
        }
        match live.marked {
            true => drop(self.unheard.remove(&key)),
            // They stand in the order of their arrival: no deadline is before another.
            false => {
                if let Some(oldest) = self.unheard.insert(key, (), Mono::default()) {
                    self.flows.remove(&oldest);
                }
            }
        }
        self.flows.insert(key, live);
        Ok(())
    }

    /// The server of an unheard flow was heard: it is established. `None` when it was before.
    pub fn hear(&mut self, key: &FlowKey) -> Option<&Live> {
        let live = self.flows.get_mut(key).filter(|live| !live.marked)?;
        live.marked = true;
        self.unheard.remove(key);
        Some(live)
    }

    pub fn flow(&self, key: &FlowKey) -> Option<&Live> {
        self.flows.get(key)
    }

    pub fn restore(
        &mut self,
        record: FlowRecord,
        snapshot: &NodeSnapshot,
    ) -> Result<(), DropReason> {
        let mut live = Live::restore(record, snapshot)?;
        if !fault::is(Fault::RestoredUnjudged) {
            live.decide(snapshot)?;
        }
        self.insert(live)
    }

    pub fn remove(&mut self, key: &FlowKey) -> Option<Live> {
        self.unheard.remove(key);
        self.flows.remove(key)
    }

    pub fn len(&self) -> usize {
        self.flows.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Live> {
        self.flows.iter().map(|(_, live)| live)
    }

    /// Decides every flow by `snapshot`, where `old` was in force.
    pub fn decide_again(&mut self, snapshot: &NodeSnapshot, old: &NodeSnapshot) -> Again {
        let mut again = Again::default();
        if fault::is(Fault::AgentIgnoresEpoch) {
            return again;
        }
        let Again { cut, staged } = &mut again;
        let ended = self.flows.pick(|key, live| match live.decide(snapshot) {
            Ok((rule, preview)) => {
                if let Some(preview) = preview
                    && live
                        .clone()
                        .decide(old)
                        .ok()
                        .and_then(|(_, old)| old)
                        .as_ref()
                        != Some(&preview)
                {
                    staged.push((*key, preview));
                }
                let record = Arc::make_mut(&mut live.record);
                record.rule = rule.map(|rule| rule.words()).unwrap_or_default();
                record.epoch = snapshot.epoch;
                false
            }
            Err(reason) => {
                cut.push((*key, reason));
                true
            }
        });
        for place in ended {
            self.flows.remove_at(place);
        }
        for (key, _) in &again.cut {
            self.unheard.remove(key);
        }
        again
    }
}

/// What came of deciding the live flows again.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// Those that may not go on, and why.
    pub cut: Vec<(FlowKey, DropReason)>,
    /// Those that go on and of which staged policies say something that they did not before.
    pub staged: Vec<(FlowKey, Box<Staged>)>,
}

/// The rule that allows a flow, and what staged policies say.
type Allowed = (Option<RuleRef>, Option<Box<Staged>>);

impl Live {
    /// Restores a flow from its record: the credential is judged by the time the flow was opened,
    /// because the expiry of a credential ends no flow.
    fn restore(record: FlowRecord, snapshot: &NodeSnapshot) -> Result<Self, DropReason> {
        let remote = match &record.ends {
            Ends::Initiator {
                remote: RemoteEnd::Proven(bytes),
                ..
            } => Some((bytes, record.key.dst)),
            Ends::Responder {
                remote: RemoteEnd::Proven(bytes),
                ..
            } => Some((bytes, record.key.src)),
            _ => None,
        };
        let remote = match remote {
            None => None,
            Some((bytes, address)) => {
                let owner = snapshot
                    .identity_owner(address)
                    .ok_or(DropReason::NoIdentity)?;
                let bundle = snapshot
                    .bundles
                    .bundle(owner)
                    .ok_or(DropReason::UnknownIssuer)?;
                let claims = verify_credential(bytes, bundle, record.opened)
                    .map_err(|_| DropReason::BadCredential)?;
                Some(Arc::new(claims))
            }
        };
        Ok(Self {
            record: Arc::new(record),
            remote,
            confirm: None,
            isn: None,
            marked: true,
        })
    }

    /// Whether the flow may be, by `snapshot`.
    fn decide(&mut self, snapshot: &NodeSnapshot) -> Result<Allowed, DropReason> {
        if let Some(claims) = &self.remote {
            if snapshot.bundles.bundle(claims.trust_domain()).is_none() {
                return Err(DropReason::UnknownIssuer);
            }
            self.remote = Some(snapshot.admission.newest(claims)?);
        }
        let key = self.record.key;
        let local = |address: IpAddr, uid: &str| {
            let pod = snapshot.pods.get(&address).filter(|pod| *pod.uid == *uid);
            let pod = pod.ok_or(DropReason::Revoked)?;
            pod.identity
                .as_ref()
                .map(|id| id.claims.clone())
                .ok_or(DropReason::NoCredential)
        };
        let claims = self.remote.as_ref();
        let judgement = match &self.record.ends {
            Ends::Initiator { pod_uid, remote } => {
                let subject = local(key.src, pod_uid)?;
                decide(
                    snapshot,
                    Direction::Egress,
                    &subject,
                    other(snapshot, claims, remote, key.dst)?,
                    &key,
                )
            }
            Ends::Responder { pod_uid, remote } => {
                let subject = local(key.dst, pod_uid)?;
                decide(
                    snapshot,
                    Direction::Ingress,
                    &subject,
                    other(snapshot, claims, remote, key.src)?,
                    &key,
                )
            }
            Ends::Both {
                initiator_uid,
                responder_uid,
            } => {
                let from = local(key.src, initiator_uid)?;
                let to = local(key.dst, responder_uid)?;
                decide_local(snapshot, &from, &to, &key)
            }
        };
        match judgement.outcome {
            Ok(rule) => Ok((rule, judgement.staged)),
            Err(refusal) => Err(refusal.reason),
        }
    }
}

/// The other end of a flow at `address`, as policy sees it.
fn other<'a>(
    snapshot: &NodeSnapshot,
    claims: Option<&'a Arc<Claims>>,
    remote: &'a RemoteEnd,
    address: IpAddr,
) -> Result<Other<'a>, DropReason> {
    // The address may have become part of an identity network since.
    let is_owned = || snapshot.identity_owner(address).is_some();
    Ok(Other::Unproven(match remote {
        RemoteEnd::Proven(_) => {
            let claims = claims.ok_or(DropReason::NoIdentity)?;
            return Ok(Other::Proven(claims));
        }
        RemoteEnd::Node => Peer::Node,
        RemoteEnd::Address | RemoteEnd::Named(_) if is_owned() => {
            return Err(DropReason::NoIdentity);
        }
        RemoteEnd::Address => Peer::Address(address),
        RemoteEnd::Named(names) => Peer::Named {
            address: Some(address),
            names,
        },
    }))
}
