//! What people see of the peers, in words.

use handshake::admission::Away;
use identity::{IdentityRange, Now, TrustDomain, UnixMillis};
use serde::{Deserialize, Serialize};

use super::{Peering, peer::Peer};

/// How long a peer may take to enforce what it announced.
const CONVERGES_MS: u64 = 30_000;

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// This cluster.
    pub trust_domain: TrustDomain,
    /// The sequence of the own bundle.
    pub bundle_sequence: u64,
    /// The sequence of the own digest.
    pub digest_sequence: u64,
    /// The hash of the own policy, in hex.
    pub policy_hash: Option<String>,
    /// What the operator has to put right here.
    pub problems: Vec<String>,
    /// The peers, by name.
    pub peers: Vec<PeerStatus>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// Its cluster.
    pub trust_domain: TrustDomain,
    /// It greeted us on a session that stands.
    pub connected: bool,
    /// Since when it is so, RFC 3339.
    pub since: String,
    /// When it was heard last, RFC 3339, unless it is connected.
    pub heard: Option<String>,
    /// What becomes of it when it stays away, such as `1h:closed`.
    pub away: Option<String>,
    /// Its newest bundle.
    pub bundle_sequence: Option<u64>,
    /// When that ends, RFC 3339.
    pub bundle_expires_at: Option<String>,
    /// Its newest digest.
    pub digest_sequence: Option<u64>,
    /// The digest of this cluster's policy that it is told: its sequence.
    pub told_sequence: Option<u64>,
    /// The hash that stands in it, in hex.
    pub told_hash: Option<String>,
    /// The hash of the policy that it announced, in hex.
    pub announced_hash: Option<String>,
    /// The hash of the policy that it enforces, in hex.
    pub enforced_hash: Option<String>,
    /// Its clock minus ours.
    pub clock_offset_ms: Option<i64>,
    /// Associations to it and from it.
    pub tunnel_send: usize,
    /// See `tunnel_send`.
    pub tunnel_receive: usize,
    /// Its pod ranges that are believed, as they are seen here.
    pub ranges: Vec<String>,
    /// What is wrong, in sentences.
    pub problems: Vec<String>,
}

impl Peering {
    /// What people are to see at `now`.
    #[must_use]
    pub fn status(&self, now: UnixMillis) -> Status {
        let unsaved = self
            .unsaved
            .iter()
            .map(|key| format!("{key} cannot be stored: nothing is said or believed until it is"));
        let own = self.own.problem.iter().cloned();
        let own = self.standing_problem().into_iter().chain(own);
        Status {
            trust_domain: self.config.trust_domain.clone(),
            bundle_sequence: self.own.state.bundle_sequence,
            digest_sequence: self.own_digest().map_or(0, |digest| digest.sequence),
            policy_hash: self.own_digest().map(|digest| hex(&digest.hash)),
            problems: own.chain(unsaved).collect(),
            peers: self
                .peers
                .iter()
                .map(|(domain, peer)| self.peer_status(domain, peer, now))
                .collect(),
        }
    }

    fn peer_status(&self, domain: &TrustDomain, peer: &Peer, now: UnixMillis) -> PeerStatus {
        let bundle = self.bundles.bundle(domain);
        let tunnel = peer.tunnel.state();
        PeerStatus {
            trust_domain: domain.clone(),
            connected: peer.is_connected(),
            since: peer.since.to_string(),
            heard: (!peer.is_connected()).then(|| peer.contact.unix.to_string()),
            away: peer.config.away.map(|rule| rule.to_string()),
            bundle_sequence: bundle.map(|bundle| bundle.sequence),
            bundle_expires_at: bundle.map(|bundle| bundle.expires_at.to_string()),
            digest_sequence: peer.digest.as_ref().map(|digest| digest.sequence),
            told_sequence: self.digest_for(domain).map(|digest| digest.sequence),
            told_hash: self.digest_for(domain).map(|digest| hex(&digest.hash)),
            announced_hash: peer.digest.as_ref().map(|digest| hex(&digest.hash)),
            enforced_hash: peer.enforcing.map(|(enforcing, _)| hex(&enforcing.hash)),
            clock_offset_ms: peer.clock.offset(),
            tunnel_send: tunnel.send.len(),
            tunnel_receive: tunnel.receive.len(),
            ranges: peer.ranges.iter().map(words).collect(),
            problems: self.problems(domain, peer, now),
        }
    }

    fn problems(&self, domain: &TrustDomain, peer: &Peer, now: UnixMillis) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(revocation) = self.revoked_cluster(domain) {
            let (at, reason) = (revocation.at, &revocation.reason);
            problems.push(format!("revoked here since {at}: {reason}"));
        } else if !peer.is_connected() {
            let why = peer.failure.as_ref();
            let why = why.map_or("no attempt yet".into(), |(at, why)| {
                format!("{why} (at {at})")
            });
            problems.push(format!("not reachable since {}: {why}", peer.since));
        } else if let Some((at, why)) = &peer.failure {
            // The session stands, and somebody else was refused in its name.
            problems.push(format!(
                "at {at} a connection in its name was refused: {why}"
            ));
        }
        match self.bundles.bundle(domain) {
            None => problems.push("its bundle is not known: none of its pods is believed".into()),
            Some(bundle) if bundle.is_empty() => {
                problems.push("its bundle is empty: it withdrew every key".into());
            }
            Some(_) if peer.away == Some(Away::Kept) => {}
            Some(bundle) if bundle.expires_at <= now => problems.push(format!(
                "its bundle expired at {}: none of its pods is believed, flows that stand go on",
                bundle.expires_at
            )),
            Some(_) => {}
        }
        problems.extend(peer.away_problem(Now {
            unix: now,
            ..self.now
        }));
        problems.extend(peer.clock.problem(now));
        problems.extend(peer.enforcing_problem(now));
        problems.extend(peer.problems.values().cloned());
        problems
    }
}

impl Peer {
    pub(super) fn is_connected(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.hello.is_some())
    }

    /// Whether what it enforces is what it announced.
    fn enforcing_problem(&self, now: UnixMillis) -> Option<String> {
        let (digest, (enforcing, since)) = (self.digest.as_ref()?, self.enforcing?);
        if enforcing.hash == digest.hash {
            return None;
        }
        if enforcing.sequence == digest.sequence || enforcing.sequence == 0 {
            return Some(format!(
                "it enforces a policy that it did not announce: {} instead of {}",
                short(&enforcing.hash),
                short(&digest.hash)
            ));
        }
        let late = now.0.saturating_sub(since.0) > CONVERGES_MS;
        late.then(|| {
            format!(
                "it announced policy {} and enforces {} still, since {since}",
                digest.sequence, enforcing.sequence
            )
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Enough for people to tell two apart.
fn short(hash: &[u8]) -> String {
    hex(hash.get(..6).unwrap_or(hash))
}

/// `PREFIX`, or `PREFIX (there PREFIX)` where its owner has it elsewhere.
fn words(range: &IdentityRange) -> String {
    match range.real {
        Some(real) => format!("{} (there {real})", range.prefix),
        None => range.prefix.to_string(),
    }
}
