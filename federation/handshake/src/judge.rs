//! Judging what a HELLO or a REPLY claims: the same steps, in the same order, for the enforcer of
//! the destination and for the gateways on the way (docs/spec/handshake-protocol.md sections 5, 6
//! and 9). What policy says of the proven identity is asked by the caller.
//!
//! Cheapest first: one MAC, then freshness and replay, then the credential by its hash, and a
//! signature only within a budget.

use std::sync::Arc;

use identity::{BundleStore, Claims, CredentialHash, IdentityNetworks, Now, TrustDomain};
use policy::DropReason;
use wire::{
    hello::{Hello, HelloHeader},
    reply::Reply,
};

use crate::{
    admission::Admission,
    bucket::Bucket,
    credentials::{Verified, Verifier},
    freshness,
    keys::{ProofCheck, SegmentKeys},
    packet::{Parsed, Tcp},
    replay::{Freshness, Seen},
};

/// What credentials are judged by.
pub(crate) struct Judge<'a> {
    pub verifier: &'a mut Verifier,
    pub bundles: &'a BundleStore,
    pub admission: &'a Admission,
    /// The owner of the range that the packet came from: nobody else may have issued its credential. It comes from
    /// its own cluster or from that cluster's gateway: signature checks take from the issuer's budget.
    pub issuer: &'a TrustDomain,
}

/// Who answers for it that a HELLO comes from a member of the cluster.
pub(crate) enum Vouched<'a> {
    /// The tunnel, whose other end checked its own cluster's segment proof.
    ByTunnel,
    /// The HELLO itself, by its segment proof; without one the bucket says whether it is looked at.
    BySegment(&'a SegmentKeys, &'a mut Bucket),
}

/// What the receiver of a HELLO knows of its tuple and its nonce.
pub(crate) struct Standing<'h> {
    /// A SYN in the other direction is outstanding.
    pub crossing: bool,
    /// The nonce.
    pub nonce: Freshness,
    /// The connection that is being opened on the tuple.
    pub half: Option<Half<'h>>,
}

/// A connection that is being opened, or was opened a moment ago.
pub(crate) struct Half<'h> {
    /// Its newest HELLO.
    pub header: &'h HelloHeader,
    /// Somebody answered for it.
    pub proven: bool,
    /// CONFIRM was seen.
    pub confirmed: bool,
}

/// A HELLO that may go on.
pub(crate) enum Judged<'p> {
    /// It repeats the one that the half-open connection has: nothing is to be done again.
    Repeated(Hello<'p>),
    /// Its credential is believed.
    Believed(Believed<'p>),
}

/// A HELLO whose credential is believed.
pub(crate) struct Believed<'p> {
    pub hello: Hello<'p>,
    /// Somebody answered for it.
    pub proven: bool,
    /// What its nonce is to be remembered with.
    pub seen: Seen,
    pub credential: Verified,
    /// What the pod is by now.
    pub newest: Arc<Claims>,
}

/// A REPLY whose credential is believed. Its MAC is for the initiator to check.
pub(crate) struct Answer<'p> {
    pub reply: Reply<'p>,
    pub hash: CredentialHash,
    pub credential: Verified,
}

impl Judge<'_> {
    /// The HELLO on the SYN `p`. `standing` is asked only about a HELLO that is vouched for and
    /// fresh.
    pub fn hello<'p, 'h>(
        &mut self,
        (p, tcp): (&Parsed<'p>, &Tcp<'p>),
        networks: &IdentityNetworks,
        vouched: Vouched<'_>,
        now: Now,
        standing: impl FnOnce(&[u8; 16], Seen) -> Standing<'h>,
    ) -> Result<Judged<'p>, DropReason> {
        if !tcp.has_marker() {
            return Err(DropReason::NoIdentity);
        }
        let hello = Hello::parse(tcp.payload()).map_err(|_| DropReason::NoIdentity)?;
        let header = &hello.header;
        let destination = p.destination(networks, p.key.dst, p.key.dport)?;
        if header.isn != tcp.seq() || header.destination != destination {
            return Err(DropReason::TranscriptMismatch);
        }
        let proven = vouched.check(&hello, now)?;
        freshness::check(header.timestamp, now.unix)?;
        let seen = Seen {
            key: p.key,
            isn: header.isn,
        };
        let hash = CredentialHash(header.credential_hash);
        if standing(&header.nonce, seen).repeats(header, proven)? {
            // To the last byte: a gateway sends it on.
            return match CredentialHash::of(hello.credential) == hash {
                true => Ok(Judged::Repeated(hello)),
                false => Err(DropReason::TranscriptMismatch),
            };
        }
        let (bytes, of) = (hello.credential, self.issuer);
        let verified = self
            .verifier
            .verify(bytes, &hash, of, of, self.bundles, now);
        let credential = verified?;
        let newest = self.newest(&credential.claims)?;
        Ok(Judged::Believed(Believed {
            hello,
            proven,
            seen,
            credential,
            newest,
        }))
    }

    /// The REPLY on a SYN-ACK.
    pub fn reply<'p>(&mut self, tcp: &Tcp<'p>, now: Now) -> Result<Answer<'p>, DropReason> {
        if !tcp.has_marker() {
            return Err(DropReason::NoIdentity);
        }
        let reply = Reply::parse(tcp.payload()).map_err(|_| DropReason::NoIdentity)?;
        let hash = CredentialHash::of(reply.credential);
        let (bytes, of) = (reply.credential, self.issuer);
        let verified = (self.verifier).verify_hashed(bytes, &hash, of, of, self.bundles, now);
        let credential = verified?;
        Ok(Answer {
            reply,
            hash,
            credential,
        })
    }

    /// What the pod of `claims` is by now.
    pub fn newest(&self, claims: &Arc<Claims>) -> Result<Arc<Claims>, DropReason> {
        self.admission.newest(claims)
    }
}

impl Vouched<'_> {
    /// Whether somebody answers for the HELLO; `false` for one that is looked at all the same.
    fn check(self, hello: &Hello<'_>, now: Now) -> Result<bool, DropReason> {
        let Self::BySegment(keys, unproven) = self else {
            return Ok(true);
        };
        let proof = &hello.proof;
        match keys.check(hello.header_bytes, &proof.key_id, &proof.mac) {
            ProofCheck::Holds => Ok(true),
            ProofCheck::Broken => Err(DropReason::BadProof),
            ProofCheck::Unknown if unproven.take(now.mono) => Ok(false),
            ProofCheck::Unknown => Err(DropReason::RateLimited),
        }
    }
}

impl Standing<'_> {
    /// Whether a HELLO with `header` repeats the half-open connection's own; an error when it may
    /// not take its place either.
    fn repeats(&self, header: &HelloHeader, proven: bool) -> Result<bool, DropReason> {
        if self.crossing {
            return Err(DropReason::SimultaneousOpen);
        }
        match (self.nonce, &self.half) {
            (Freshness::Replay, _) => Err(DropReason::Replay),
            (Freshness::Again, Some(half)) if half.header == header && !half.confirmed => Ok(true),
            (Freshness::Again, Some(half)) if !half.confirmed => Err(DropReason::Superseded),
            // The connection that used this nonce is open or over: a late copy, or somebody who plays
            // it back.
            (Freshness::Again, _) => Err(DropReason::Replay),
            (Freshness::New, Some(half)) if half.header.isn == header.isn => {
                match header.timestamp < half.header.timestamp {
                    true => Err(DropReason::Superseded),
                    // Whoever saw the SYN can make one like it.
                    false if half.proven && !proven => Err(DropReason::BadProof),
                    false => Ok(false),
                }
            }
            // A new connection on the ports of one that is being opened.
            (Freshness::New, Some(half)) if !half.confirmed && !proven => Err(DropReason::BadProof),
            (Freshness::New, _) => Ok(false),
        }
    }
}
