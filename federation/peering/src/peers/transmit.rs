//! What is said next, made from what the peer has not heard yet.

use std::ops::Bound;

use identity::{SignedRecord, TrustDomain};
use serde_bytes::ByteBuf;

use super::{Peering, peer::Outbox, pieces::Sending};
use crate::peer_messages::{
    Hello, MAX_BATCH, MAX_MESSAGE, PEER_PROTOCOL, PeerMessage, Pong, RecordBatch,
};

impl Peering {
    /// The next message, and the peer whose session it is for. Nothing while something is not
    /// stored.
    pub fn poll_transmit(&mut self) -> Option<(TrustDomain, Vec<u8>)> {
        if !self.unsaved.is_empty() {
            return None;
        }
        while let Some(domain) = self.dirty.first().cloned() {
            match self.next_message(&domain) {
                Some(message) => return Some((domain, message.encode())),
                None => self.dirty.remove(&domain),
            };
        }
        None
    }

    /// A peer that wants records of this cluster after a position, and how many at most: to be
    /// answered at once by [`Self::handle_own_records`], with none when there are none. Nothing
    /// while something is not stored.
    pub fn poll_records(&mut self) -> Option<(TrustDomain, u64, usize)> {
        if !self.unsaved.is_empty() {
            return None;
        }
        let after = self.records_after.take();
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let (domain, peer) = self
            .peers
            .range_mut::<TrustDomain, _>((from, Bound::Unbounded))
            .find(|(_, peer)| {
                peer.session.as_ref().is_some_and(|session| {
                    // By the bundle they are believed.
                    let waits = session.outbox.bundle || session.records_out;
                    session.hello.is_some() && session.outbox.records && !waits
                })
            })?;
        let session = peer.session.as_mut()?;
        session.outbox.records = false;
        self.records_after = Some(domain.clone());
        Some((domain.clone(), session.records_sent, MAX_BATCH))
    }

    /// The message that carries `records`, each with its position, to `peer`. `through`: up to which
    /// position there are no others for it; none is needed when there are some.
    #[must_use]
    pub fn handle_own_records(
        &mut self,
        peer: &TrustDomain,
        records: &[(u64, SignedRecord)],
        through: u64,
    ) -> Option<Vec<u8>> {
        let peer = self.peers.get_mut(peer)?;
        let session = peer.session.as_mut()?;
        let batch = records.get(..MAX_BATCH).unwrap_or(records);
        let Some((position, _)) = batch.last() else {
            session.records_sent = session.records_sent.max(through);
            return None;
        };
        session.records_sent = *position;
        session.records_out = true;
        let message = PeerMessage::Records(RecordBatch {
            position: *position,
            records: batch
                .iter()
                .map(|(_, record)| ByteBuf::from(record.bytes()))
                .collect(),
        });
        Some(message.encode())
    }

    fn next_message(&mut self, domain: &TrustDomain) -> Option<PeerMessage> {
        let peer = self.peers.get_mut(domain)?;
        let session = peer.session.as_mut()?;
        let outbox = &mut session.outbox;
        if take(&mut outbox.hello) {
            return Some(PeerMessage::Hello(Hello {
                version: PEER_PROTOCOL,
                trust_domain: self.config.trust_domain.clone(),
                instance: self.instance,
                clock: self.now.unix,
                tunnel_port: self.config.tunnel_port,
                queues: self.config.queues,
                seen_bundle: peer.state.mark.map_or(0, |mark| mark.sequence),
                seen_digest: peer.state.digest.as_ref().map_or(0, |held| held.sequence),
                // Of a peer that was away from the list there is the number alone: it is to say all again.
                seen_revocations: (peer.state.revocations.as_ref())
                    .filter(|held| !held.payload.is_empty())
                    .map_or(0, |held| held.sequence),
                records_of: peer.records.0,
                records_position: peer.records.1,
            }));
        }
        // Whoever saw more of us than we remember is told nothing that it might take for newer.
        let tells = session.hello.is_some() && self.standing.may_tell(&self.own.state, domain);
        if tells
            && take(&mut outbox.bundle)
            && let Some(bundle) = &self.own.bundle
        {
            self.standing.told(domain).bundle = bundle.sequence;
            return Some(PeerMessage::Bundle(bundle.to_jwks()));
        }
        if let Some(why) = outbox.leave.take() {
            return Some(PeerMessage::Leave(why));
        }
        // What is not to be believed any more comes before what is.
        if tells && take(&mut outbox.revocations) {
            self.standing.told(domain).revocations = self.own.state.revocation_sequence;
            return Some(PeerMessage::Revocations(self.own.revocations.to_vec()));
        }
        if tells
            && take(&mut outbox.introductions)
            && let Some(signed) = self.own.introductions.get(domain)
        {
            return Some(PeerMessage::Introductions(signed.clone()));
        }
        if session.hello.is_some()
            && let Some(above) = outbox.revocations_wanted.take()
        {
            session.asked_back = true;
            return Some(PeerMessage::RevocationsWanted(above));
        }
        if take(&mut outbox.revocations_returned) {
            let signed = peer.state.revocations_signed.clone();
            return Some(PeerMessage::RevocationsReturned(signed));
        }
        if take(&mut outbox.ranges) {
            return Some(PeerMessage::Ranges(self.own.ranges.clone()));
        }
        // Only the greeting says what it has.
        if tells
            // One that is being sent comes before the next one.
            && session.sending.is_none()
            && take(&mut outbox.digest)
            && let Some(digests) = self.own.digests.get(&peer.config.offer)
            && let Some(newest) = digests.announced.newest()
        {
            let sequence = newest.digest.sequence;
            self.standing.told(domain).digest = sequence;
            let told = session.digest_told.replace(sequence);
            let change = told.and_then(|told| digests.announced.change_from(told));
            let change = change.map(|change| PeerMessage::DigestChange(Box::new(change)));
            // Not one that is longer than the whole, or than a message.
            if let Some(change) = change.filter(|change| is_shorter(change, &newest.signed)) {
                return Some(change);
            }
            session.digest_whole = Some(sequence);
            if newest.signed.len() < MAX_MESSAGE {
                return Some(PeerMessage::Digest(newest.signed.to_vec()));
            }
            session.sending = Some(Sending::new(sequence, newest.signed.clone()));
            outbox.piece = true;
        }
        if take(&mut outbox.piece)
            && let Some(sending) = &mut session.sending
        {
            let piece = sending.next();
            if sending.is_done() {
                session.sending = None;
            }
            return Some(PeerMessage::DigestPiece(piece));
        }
        if let Some(wanted) = outbox.piece_wanted.take() {
            return Some(PeerMessage::PieceWanted(wanted));
        }
        if let Some(sequence) = outbox.digest_wanted.take() {
            return Some(PeerMessage::DigestWanted(sequence));
        }
        if tells
            && take(&mut outbox.enforcing)
            && let Some(hash) = self.own.enforcing
        {
            let enforcing = self.own.enforcing_for(&peer.config.offer, hash);
            // Not even that something changed which is not told.
            if session.enforcing_told.replace(enforcing) != Some(enforcing) {
                return Some(PeerMessage::Enforcing(enforcing));
            }
        }
        if take(&mut outbox.associations)
            && let Some(newest) = peer.tunnel.newest()
        {
            return Some(PeerMessage::Associations(newest));
        }
        if take(&mut outbox.in_use)
            && let Some(generation) = peer.tunnel.sending()
        {
            return Some(PeerMessage::InUse(generation));
        }
        if take(&mut outbox.records_seen) {
            return Some(PeerMessage::RecordsSeen(peer.records.1));
        }
        if take(&mut outbox.ping) {
            return Some(PeerMessage::Ping(peer.clock.ask(self.now)));
        }
        Self::last_of(outbox, self.now.unix)
    }

    fn last_of(outbox: &mut Outbox, clock: identity::UnixMillis) -> Option<PeerMessage> {
        if let Some(generation) = outbox.rekey.take() {
            return Some(PeerMessage::Rekey(generation));
        }
        let number = outbox.pong.take()?;
        Some(PeerMessage::Pong(Pong { number, clock }))
    }
}

fn is_shorter(change: &PeerMessage, whole: &[u8]) -> bool {
    let length = change.encode().len();
    length < whole.len() && length <= MAX_MESSAGE
}

fn take(flag: &mut bool) -> bool {
    std::mem::take(flag)
}
