//! What a peer says, and what is believed of it.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use identity::{
    BundleChange, BundleError, Now, SignedRecord, TrustBundle, TrustDomain,
    fault::{self, Fault},
};

use super::{
    PeerEvent, Peering, StateKey,
    digest::{self, Opened},
    peer::{Peer, Problem},
    pieces::Gathered,
    standing::Sequences,
    state::{Numbered, StoredSigned},
};
use crate::peer_messages::{
    AnnouncedRange, Associations, DigestChange, Enforcing, Hello, PEER_PROTOCOL, PeerMessage,
    RecordBatch,
};

/// Most numbers of ranges that are remembered of a peer.
const MAX_RANGE_IDS: usize = 4096;

/// Why a session is closed: the peer does what no gateway of ours would do.
#[derive(Debug)]
pub(super) struct Misbehaved(String);

impl From<&str> for Misbehaved {
    fn from(what: &str) -> Self {
        Self(what.into())
    }
}

impl Peering {
    /// `bytes` came on the session of `peer`.
    pub fn handle_message(&mut self, peer: &TrustDomain, bytes: &[u8], now: Now) {
        self.now = now;
        let Some(session) = self.peers.get_mut(peer).and_then(|it| it.session.as_mut()) else {
            return;
        };
        let handled = if session.admits(now.mono) {
            self.handle(peer, bytes)
        } else {
            Err("too many messages".into())
        };
        if let Err(Misbehaved(what)) = handled {
            self.close(peer, &what);
        }
    }

    fn handle(&mut self, domain: &TrustDomain, bytes: &[u8]) -> Result<(), Misbehaved> {
        let message = PeerMessage::decode(bytes).map_err(|e| Misbehaved(e.to_string()))?;
        let Some(message) = message else {
            return Ok(());
        };
        let now = self.now;
        let Some(peer) = self.peers.get_mut(domain) else {
            return Ok(());
        };
        let Some(session) = &mut peer.session else {
            return Ok(());
        };
        if session.hello.is_none() != matches!(message, PeerMessage::Hello(_)) {
            return Err("a greeting must come first, and once".into());
        }
        self.dirty.insert(domain.clone());
        match message {
            PeerMessage::Hello(hello) => self.greet(domain, hello)?,
            PeerMessage::Bundle(jwks) => self.take_bundle(domain, &jwks)?,
            PeerMessage::Ranges(ranges) => self.take_ranges(domain, ranges)?,
            PeerMessage::Digest(signed) => self.take_signed_digest(domain, &signed),
            PeerMessage::DigestChange(change) => self.change_digest(domain, &change),
            PeerMessage::DigestWanted(sequence) => session.want_digest(sequence),
            PeerMessage::DigestPiece(piece) => match session.gathering.add(piece)? {
                Gathered::Wanting(next) => session.outbox.piece_wanted = Some(next),
                Gathered::Whole(signed) => self.take_signed_digest(domain, &signed),
            },
            PeerMessage::PieceWanted(wanted) => session.want_piece(wanted)?,
            PeerMessage::Revocations(signed) => self.take_revocations(domain, &signed),
            PeerMessage::Introductions(signed) => self.take_introductions(domain, &signed),
            PeerMessage::RevocationsWanted(above) => peer.want_revocations(above),
            PeerMessage::RevocationsReturned(signed) => {
                if !std::mem::take(&mut session.asked_back) {
                    return Err("it gives back a list that it was not asked for".into());
                }
                self.take_returned(domain, &signed);
            }
            PeerMessage::Leave(why) => {
                let why = super::shorten(&why);
                let what = format!("it left: {why}");
                peer.problems.insert(Problem::Left, what);
                let peer = domain.clone();
                self.emit(PeerEvent::Left { peer, why });
            }
            PeerMessage::Enforcing(enforcing) => peer.take_enforcing(enforcing, now),
            PeerMessage::Associations(theirs) => self.take_associations(domain, theirs)?,
            PeerMessage::InUse(generation) => {
                if !peer.tunnel.in_use(generation, now.mono) {
                    return Err("it uses associations that were never offered".into());
                }
            }
            PeerMessage::Rekey(generation) => {
                if peer.tunnel.wants_next(generation) {
                    self.offer(domain);
                }
            }
            PeerMessage::Records(batch) => self.take_records(domain, batch),
            PeerMessage::RecordsSeen(position) => {
                if position != session.records_sent {
                    return Err("it has records that were never sent".into());
                }
                session.records_out = false;
                session.outbox.records = true;
                if std::mem::take(&mut session.records_again) {
                    session.records_sent = 0;
                } else {
                    peer.records_told = peer.records_told.max(position);
                }
            }
            PeerMessage::Ping(number) => session.outbox.pong = Some(number),
            PeerMessage::Pong(pong) => {
                peer.clock.answer(pong.number, pong.clock, now);
                self.watch_clock(domain);
            }
        }
        Ok(())
    }

    fn greet(&mut self, domain: &TrustDomain, hello: Hello) -> Result<(), Misbehaved> {
        if hello.trust_domain == self.config.trust_domain {
            return Err(
                "it says that it is this cluster: two clusters with one trust domain".into(),
            );
        }
        if hello.trust_domain != *domain {
            return Err("it greets as another cluster than it is".into());
        }
        if hello.version != PEER_PROTOCOL {
            return Err(Misbehaved(format!(
                "it speaks version {}, here is version {PEER_PROTOCOL}",
                hello.version
            )));
        }
        let seen = Sequences::seen(&hello);
        let has_revocations = hello.seen_revocations == self.own.state.revocation_sequence;
        let own_instance = self.instance;
        let now = self.now;
        let Some(peer) = self.peers.get_mut(domain) else {
            return Ok(());
        };
        peer.clock.greeting(hello.clock, now);
        peer.tunnel.endpoint = peer
            .session
            .as_ref()
            .map(|session| SocketAddr::new(session.remote.ip(), hello.tunnel_port));
        if peer.records.0 != hello.instance {
            peer.records = (hello.instance, 0);
        }
        if let Some(session) = &mut peer.session {
            // A position that it was never told is not one of ours: it gets all of them again.
            let is_ours =
                hello.records_of == own_instance && hello.records_position <= peer.records_told;
            session.records_sent = if is_ours { hello.records_position } else { 0 };
            session.outbox.records = true;
            session.outbox.digest = true;
            session.outbox.revocations = !has_revocations;
            session.outbox.introductions = true;
            session.digest_told = Some(hello.seen_digest);
            session.outbox.ping = true;
            session.hello = Some(hello);
        }
        peer.problems.remove(&Problem::Protocol);
        peer.problems.remove(&Problem::Left);
        // What it holds is asked for anew, if it says that it holds it.
        peer.problems.remove(&Problem::Returned);
        self.has_seen(domain, seen);
        self.settle_away();
        self.watch_clock(domain);
        self.offer(domain);
        self.emit(PeerEvent::Connected(domain.clone()));
        Ok(())
    }

    fn watch_clock(&mut self, domain: &TrustDomain) {
        let now = self.now.unix;
        let peer = self.peers.get_mut(domain);
        if let Some(off) = peer.and_then(|peer| peer.clock.news(now)) {
            let peer = domain.clone();
            self.emit(PeerEvent::Clock { peer, off });
        }
    }

    /// Makes new associations for `domain` to send on.
    pub(super) fn offer(&mut self, domain: &TrustDomain) {
        let taken: BTreeSet<u32> = self.peers.values().flat_map(|p| p.tunnel.spis()).collect();
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        let Some(session) = &mut peer.session else {
            return;
        };
        let queues = session.hello.as_ref().map_or(1, |hello| hello.queues);
        let now = self.now.mono;
        peer.tunnel
            .offer(queues, self.config.cipher, &taken, now, &mut *self.rng);
        session.outbox.associations = true;
        self.dirty.insert(domain.clone());
        self.emit(PeerEvent::TunnelChanged(domain.clone()));
    }

    fn take_associations(
        &mut self,
        domain: &TrustDomain,
        theirs: Associations,
    ) -> Result<(), Misbehaved> {
        let spis: BTreeSet<u32> = theirs.keys.iter().map(|key| key.spi).collect();
        if spis.len() != theirs.keys.len() {
            return Err("two associations have one SPI".into());
        }
        let Some(peer) = self.peers.get_mut(domain) else {
            return Ok(());
        };
        if !peer.tunnel.take(theirs) {
            return Err("it offers associations that it replaced before".into());
        }
        if let Some(session) = &mut peer.session {
            session.outbox.in_use = true;
        }
        self.emit(PeerEvent::TunnelChanged(domain.clone()));
        Ok(())
    }

    fn take_bundle(&mut self, domain: &TrustDomain, jwks: &str) -> Result<(), Misbehaved> {
        let bundle = TrustBundle::from_jwks(domain.clone(), jwks)
            .map_err(|e| Misbehaved(format!("its bundle cannot be read: {e}")))?;
        let Some(peer) = self.peers.get_mut(domain) else {
            return Ok(());
        };
        if peer.state.mark.is_none() && !Self::is_first(&bundle, &peer.config) {
            let what = "its first bundle does not hold the root of the configured pin".into();
            peer.problems.insert(Problem::Bundle, what);
            return Ok(());
        }
        match self.bundles.insert(bundle) {
            Ok(BundleChange::Unchanged) => {
                peer.problems.remove(&Problem::Bundle);
            }
            Ok(BundleChange::Taken) => {
                peer.problems.remove(&Problem::Bundle);
                peer.state.mark = self.bundles.marks().get(domain).copied().map(Into::into);
                // As it would be written by us, which is what the mark's hash is of.
                peer.state.bundle = self.bundles.bundle(domain).map(|held| held.to_jwks());
                self.unsaved.insert(StateKey::Peer(domain.clone()));
                self.emit(PeerEvent::BundlesChanged);
                // Whoever knows it by us is to know its newest roots.
                self.settle_introductions();
            }
            Err(e @ BundleError::Full(_)) => {
                peer.problems.insert(Problem::Bundle, e.to_string());
            }
            Err(e @ (BundleError::Older { .. } | BundleError::Equivocation { .. })) => {
                self.alarm(domain, Problem::Bundle, e.to_string());
            }
        }
        Ok(())
    }

    /// A digest by what differs from one before. When that is not what we have, or does not make what was signed, the
    /// whole is asked for, and judged as any other.
    fn change_digest(&mut self, domain: &TrustDomain, change: &DigestChange) {
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        let content = peer.state.digest.as_ref().map(|held| held.content);
        let held = peer
            .digest
            .as_deref()
            .filter(|_| content == Some(change.base));
        let made = held.and_then(|held| digest::apply(domain, held, change));
        let opened = made.and_then(|(signed, part)| {
            let bundle = self.bundles.bundle(domain)?;
            let mut opened = digest::open(bundle, &signed, self.now.unix).ok()?;
            // The same, and shared with the one before.
            opened.digest.part = Some(part);
            Some(opened)
        });
        match opened {
            Some(opened) => self.take_digest(domain, opened),
            None => {
                if let Some(session) = &mut peer.session {
                    session.outbox.digest_wanted = Some(change.sequence);
                }
            }
        }
    }

    /// A signed digest as it came.
    fn take_signed_digest(&mut self, domain: &TrustDomain, signed: &[u8]) {
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        let Some(bundle) = self.bundles.bundle(domain) else {
            let what = "its digest came before its bundle".into();
            peer.problems.insert(Problem::Digest, what);
            return;
        };
        match digest::open(bundle, signed, self.now.unix) {
            Ok(opened) => self.take_digest(domain, opened),
            Err(e @ digest::DigestError::Foreign(_)) => {
                let what = format!("its digest is refused: {e}");
                self.alarm(domain, Problem::Digest, what);
            }
            Err(e) => {
                let what = format!("its digest is refused: {e}");
                peer.problems.insert(Problem::Digest, what);
            }
        }
    }

    /// A digest whose signature holds.
    fn take_digest(&mut self, domain: &TrustDomain, opened: Opened) {
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        let Opened {
            digest,
            payload,
            content,
        } = opened;
        let offered = digest.sequence;
        match Numbered::of(peer.state.digest.as_ref(), offered, &content) {
            Numbered::Older(held) if !fault::is(Fault::OldDigestTaken) => {
                let what =
                    format!("its digest {offered} is older than {held}, which was seen before");
                return self.alarm(domain, Problem::Digest, what);
            }
            Numbered::Other => {
                let what = format!("two different digests have the sequence {offered}");
                return self.alarm(domain, Problem::Digest, what);
            }
            Numbered::Same if peer.digest.is_some() => {
                peer.problems.remove(&Problem::Digest);
                return;
            }
            Numbered::Newer | Numbered::Same | Numbered::Older(_) => {}
        }
        peer.problems.remove(&Problem::Digest);
        peer.state.digest = Some(StoredSigned {
            sequence: offered,
            content,
            payload,
        });
        peer.digest = Some(Arc::new(digest));
        self.unsaved.insert(StateKey::Peer(domain.clone()));
        self.emit(PeerEvent::DigestChanged(domain.clone()));
    }

    fn take_ranges(
        &mut self,
        domain: &TrustDomain,
        mut ranges: Vec<AnnouncedRange>,
    ) -> Result<(), Misbehaved> {
        ranges.sort();
        let Some(peer) = self.peers.get_mut(domain) else {
            return Ok(());
        };
        if ranges
            .windows(2)
            .any(|pair| pair[0].range_id == pair[1].range_id)
        {
            return Err("two of its ranges have one number".into());
        }
        if ranges == peer.state.ranges {
            return Ok(());
        }
        let mut known = peer.state.range_ids.clone();
        for range in &ranges {
            let first = *known.entry(range.range_id).or_insert(range.prefix);
            if first != range.prefix {
                let what = format!(
                    "its range number {} was {first} and is {} now: a number may never be used again",
                    range.range_id, range.prefix
                );
                self.alarm(domain, Problem::Ranges, what);
                return Ok(());
            }
        }
        if known.len() > MAX_RANGE_IDS {
            return Err("it has used more than 4096 range numbers".into());
        }
        peer.state.range_ids = known;
        peer.state.ranges = ranges;
        self.unsaved.insert(StateKey::Peer(domain.clone()));
        self.settle_ranges();
        Ok(())
    }

    fn take_records(&mut self, domain: &TrustDomain, batch: RecordBatch) {
        let now = self.now.unix;
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        let Some(bundle) = self.bundles.bundle(domain) else {
            // Not acknowledged: they come again with the next session, when there is a bundle.
            let what = "its records came before its bundle".into();
            peer.problems.insert(Problem::Records, what);
            return;
        };
        peer.problems.remove(&Problem::Records);
        let mut believed = Vec::new();
        for bytes in batch.records {
            let Some(record) = SignedRecord::from_bytes(&bytes) else {
                continue;
            };
            match record.verify(bundle, now) {
                Ok(verified) => believed.push((record, verified)),
                Err(e) => {
                    let what = format!("a record of a pod is refused: {e}");
                    peer.problems.insert(Problem::Records, what);
                }
            }
        }
        peer.records.1 = batch.position;
        if let Some(session) = &mut peer.session {
            session.outbox.records_seen = true;
        }
        if !believed.is_empty() {
            self.emit(PeerEvent::Records(believed));
        }
    }

    pub(super) fn alarm(&mut self, domain: &TrustDomain, problem: Problem, what: String) {
        if let Some(peer) = self.peers.get_mut(domain) {
            peer.problems.insert(problem, what.clone());
        }
        self.emit(PeerEvent::Alarm {
            peer: domain.clone(),
            what,
        });
    }

    /// The session of `domain` is of no use any more.
    fn close(&mut self, domain: &TrustDomain, what: &str) {
        let now = self.now;
        let Some(peer) = self.peers.get_mut(domain) else {
            return;
        };
        peer.problems.insert(Problem::Protocol, what.into());
        let greeted = peer.disconnect(what, now);
        self.dirty.remove(domain);
        if greeted {
            self.emit(PeerEvent::Disconnected(domain.clone()));
        }
        self.emit(PeerEvent::Close {
            peer: domain.clone(),
            reason: what.into(),
        });
    }
}

impl Peer {
    fn take_enforcing(&mut self, enforcing: Enforcing, now: Now) {
        if self.enforcing.is_none_or(|(held, _)| held != enforcing) {
            self.enforcing = Some((enforcing, now.unix));
        }
    }
}
