//! Who is at both ends of a packet, as far as a gateway can tell: for people who look at packets.
//! Nothing is decided by it.

use std::sync::Arc;

use identity::{Claims, CredentialHash};
use wire::{flow::FlowKey, hello::Hello, reply::Reply};

use super::{Transit, TransitSnapshot};
use crate::packet::{Parsed, Tcp};

/// How a gateway knows who an end is, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The own cluster's source has this pod at the address.
    Listed,
    /// The packet carries this credential, whose signature held once. Anybody who saw it can send it.
    Presented,
    /// The flow with these addresses and ports is theirs: their handshake passed here. Of a packet that was
    /// refused it says whose it would have been.
    OfFlow,
}

/// An end of a packet.
#[derive(Clone, Debug)]
pub struct Party {
    /// What is said of it.
    pub claims: Arc<Claims>,
    /// How this is known.
    pub standing: Standing,
}

/// The sender and the receiver of a packet.
pub type Parties = [Option<Party>; 2];

impl Party {
    /// An end of a flow.
    #[must_use]
    pub fn of_flow(claims: Arc<Claims>) -> Self {
        Self {
            claims,
            standing: Standing::OfFlow,
        }
    }

    /// The pods that the own cluster's source has at the source and at the destination of `key`.
    #[must_use]
    pub fn listed(key: &FlowKey, snapshot: &TransitSnapshot) -> Parties {
        [key.src, key.dst].map(|address| {
            let claims = snapshot.pods.get(&address)?.clone();
            let standing = Standing::Listed;
            Some(Self { claims, standing })
        })
    }
}

impl Transit {
    /// The ends of the half-open flow that a packet with `key` is of.
    #[must_use]
    pub fn parties(&self, key: &FlowKey) -> Parties {
        let half = |key: &FlowKey| {
            let half = self.half.entry(key)?;
            let responder = half.responder.clone().map(Party::of_flow);
            Some((Some(Party::of_flow(half.initiator.clone())), responder))
        };
        if let Some((initiator, responder)) = half(key) {
            return [initiator, responder];
        }
        let (initiator, responder) = half(&key.reversed()).unwrap_or_default();
        [responder, initiator]
    }

    /// Whom the credential on a SYN or SYN-ACK names, if its signature was checked before.
    #[must_use]
    pub fn presented(&self, packet: &[u8]) -> Option<Party> {
        let parsed = Parsed::parse(packet).ok()?;
        let tcp = parsed.tcp.as_ref().filter(|tcp| tcp.has_marker())?;
        let hash = CredentialHash::of(credential(tcp)?);
        let claims = self.verifier.remembered(&hash)?;
        let standing = Standing::Presented;
        Some(Party { claims, standing })
    }
}

fn credential<'p>(tcp: &Tcp<'p>) -> Option<&'p [u8]> {
    match (tcp.syn(), tcp.ack()) {
        (true, false) => Hello::parse(tcp.payload()).ok().map(|h| h.credential),
        (true, true) => Reply::parse(tcp.payload()).ok().map(|r| r.credential),
        (false, _) => None,
    }
}
