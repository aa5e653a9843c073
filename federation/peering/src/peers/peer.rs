//! One peer: what is configured, what it said, and its session.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use handshake::admission::{Away, Revocation};
use identity::{IdentityRange, Mono, Now, UnixMillis};

use super::{
    Digest, PeerConfig,
    away::Contact,
    clock::{PING_EVERY, PeerClock},
    inbox::Misbehaved,
    pieces::{Gathering, Sending},
    revocations::stored,
    state::PeerState,
    tunnel::Tunnel,
};
use crate::{
    introductions::{self, Introduction},
    peer_messages::{Enforcing, Hello, Instance, PieceWanted},
};

/// How many messages a peer may send at once, and how soon the next after that.
const BURST: u32 = 1000;
const EVERY: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Peer {
    pub config: PeerConfig,
    pub state: PeerState,
    pub digest: Option<Arc<Digest>>,
    pub ranges: Vec<IdentityRange>,
    pub session: Option<Session>,
    pub tunnel: Tunnel,
    pub clock: PeerClock,
    pub enforcing: Option<(Enforcing, UnixMillis)>,
    /// The peer's records that we have: of which process, up to which position.
    pub records: (Instance, u64),
    /// The highest position of our records that the peer took in the life of this process, since it was offered
    /// what it is.
    pub records_told: u64,
    /// Since when it is as it is.
    pub since: UnixMillis,
    /// What it revoked of itself.
    pub revoked: Vec<Revocation>,
    /// Whom it introduces; none before it said so.
    pub introduced: Option<Vec<Introduction>>,
    /// When it was heard last, while it is not.
    pub contact: Contact,
    /// What holds because it is away.
    pub away: Option<Away>,
    /// Why the last attempt failed.
    pub failure: Option<(UnixMillis, String)>,
    /// What is wrong with what it says, by kind, until it says better.
    pub problems: BTreeMap<Problem, String>,
}

/// What may be wrong with what a peer says. One of each stands in the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Problem {
    Bundle,
    Digest,
    Ranges,
    Records,
    Revocations,
    Introductions,
    Left,
    OwnState,
    Returned,
    Protocol,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub remote: SocketAddr,
    pub hello: Option<Hello>,
    pub outbox: Outbox,
    pub ping_at: Mono,
    /// The position up to which our records were sent, and whether the peer has not said yet that
    /// it has them.
    pub records_sent: u64,
    pub records_out: bool,
    /// Other records are its own since the last were sent: all are looked through again.
    pub records_again: bool,
    /// The sequence of our digest that the peer has.
    pub digest_told: Option<u64>,
    /// What it was told to be enforced here.
    pub enforcing_told: Option<Enforcing>,
    /// The sequence of our digest that the peer was sent whole.
    pub digest_whole: Option<u64>,
    /// Our digest of which the peer has not all pieces yet.
    pub sending: Option<Sending>,
    /// Its digest of which not all pieces came yet.
    pub gathering: Gathering,
    /// It was given its own list back.
    pub returned: bool,
    /// It was asked for ours, and has not answered.
    pub asked_back: bool,
    budget: Budget,
}

/// What is still to be said.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub hello: bool,
    pub bundle: bool,
    pub ranges: bool,
    pub digest: bool,
    pub digest_wanted: Option<u64>,
    /// The next piece of our digest.
    pub piece: bool,
    pub piece_wanted: Option<PieceWanted>,
    pub revocations: bool,
    pub introductions: bool,
    /// Our own list back, if the peer has one above this number.
    pub revocations_wanted: Option<u64>,
    /// Its own list back.
    pub revocations_returned: bool,
    /// That we are none of its peers any more.
    pub leave: Option<String>,
    pub enforcing: bool,
    pub associations: bool,
    pub in_use: bool,
    pub rekey: Option<u64>,
    pub records: bool,
    pub records_seen: bool,
    pub ping: bool,
    pub pong: Option<u64>,
}

#[derive(Debug)]
struct Budget {
    left: u32,
    at: Mono,
}

impl Peer {
    pub(crate) fn new(config: PeerConfig, state: PeerState, contact: Contact, now: Now) -> Self {
        let revoked = state.revocations.as_ref();
        let revoked = revoked.map(|held| stored(&state.trust_domain, held));
        Self {
            config,
            revoked: revoked.unwrap_or_default(),
            introduced: (state.introductions.as_ref()).and_then(introductions::stored),
            state,
            digest: None,
            ranges: Vec::new(),
            session: None,
            tunnel: Tunnel::default(),
            clock: PeerClock::default(),
            enforcing: None,
            records: (Instance::default(), 0),
            records_told: 0,
            since: now.unix,
            contact,
            away: None,
            failure: None,
            problems: BTreeMap::new(),
        }
    }

    /// Whether there was a tunnel, which is gone now.
    pub(crate) fn connect(&mut self, remote: SocketAddr, now: Now) -> bool {
        self.session = Some(Session {
            remote,
            hello: None,
            outbox: Outbox {
                hello: true,
                bundle: true,
                ranges: true,
                enforcing: true,
                ..Outbox::default()
            },
            ping_at: now.mono.after(PING_EVERY),
            records_sent: 0,
            records_out: false,
            records_again: false,
            digest_told: None,
            enforcing_told: None,
            digest_whole: None,
            sending: None,
            gathering: Gathering::default(),
            returned: false,
            asked_back: false,
            budget: Budget {
                left: BURST,
                at: now.mono,
            },
        });
        self.since = now.unix;
        self.failure = None;
        // Those that were refused come again.
        self.problems.remove(&Problem::Records);
        self.tunnel.reset()
    }

    /// Whether the peer had greeted us.
    pub(crate) fn disconnect(&mut self, why: &str, now: Now) -> bool {
        let Some(session) = self.session.take() else {
            return false;
        };
        self.since = now.unix;
        self.failure = Some((now.unix, super::shorten(why)));
        if session.hello.is_some() {
            self.contact = Contact::at(now);
        }
        session.hello.is_some()
    }
}

impl Session {
    /// Whether the peer may send one more message now.
    pub(crate) fn admits(&mut self, now: Mono) -> bool {
        self.budget.take(now)
    }

    /// The peer asks for the next piece of our digest.
    pub(crate) fn want_piece(&mut self, wanted: PieceWanted) -> Result<(), Misbehaved> {
        if !self.sending.as_ref().is_some_and(|s| s.expects(wanted)) {
            return Err("it asks for a piece of the digest that is not the next one".into());
        }
        self.outbox.piece = true;
        Ok(())
    }

    /// The peer has not what our digest of `sequence` was told to differ from. It is sent the whole of each once.
    pub(crate) fn want_digest(&mut self, sequence: u64) {
        if self.digest_told == Some(sequence) && self.digest_whole != Some(sequence) {
            self.digest_told = None;
            self.outbox.digest = true;
        }
    }
}

impl Budget {
    fn take(&mut self, now: Mono) -> bool {
        let earned = now.since(self.at).as_millis() / EVERY.as_millis();
        if let Ok(earned @ 1..) = u32::try_from(earned.min(u128::from(BURST))) {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.at = now;
        }
        let admits = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admits
    }
}
