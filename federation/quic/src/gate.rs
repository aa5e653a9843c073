//! Whom a gateway gives an X.509-SVID: the judgement of one enrolment. It opens no socket and reads
//! no clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use identity::{Guesses, Mono, SpiffeId, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::{Pin, PinError, agent_id, agent_node, pki};

/// SHA-256 of a one-time secret, written as a [`Pin`]: a gateway never holds the secret itself.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(Pin);

impl SecretHash {
    /// The hash of `secret`. A secret has 256 bits of randomness, so one pass is enough.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(Pin::of(secret))
    }

    /// Whether `secret` is the one, in a time that does not depend on where it differs.
    fn matches(&self, secret: &[u8]) -> bool {
        verify_slices_are_equal(&self.0.0, &Pin::of(secret).0).is_ok()
    }
}

impl FromStr for SecretHash {
    type Err = PinError;
    fn from_str(s: &str) -> Result<Self, PinError> {
        s.parse().map(Self)
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A secret that was used, and for which key: it is good for that key again, since the answer may
/// have been lost, and for no other. To be stored before the SVID is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    secret: SecretHash,
    /// SHA-256 of the public key.
    key: Pin,
}

/// One enrolment.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// From where.
    pub source: IpAddr,
    /// The node that it says it is; empty when it shows an SVID.
    pub node: &'a str,
    /// The secret that it shows.
    pub secret: &'a [u8],
    /// The PKCS#10 request in DER.
    pub request: &'a [u8],
    /// The SVID that it shows, proven.
    pub peer: Option<&'a SpiffeId>,
}

/// Why there is no SVID for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnrolRefusal {
    /// One answer for both, so that nobody learns the names of nodes.
    #[error("unknown node, or the secret is wrong")]
    Unknown,
    /// The secret was used for another key.
    #[error("the secret of {0} was used before: make a new one")]
    Spent(String),
    /// Too many failures from this source.
    #[error("too many failed attempts: wait {0} s")]
    TooMany(u64),
    /// The request is none, or its signature does not hold.
    #[error("{0}")]
    Request(String),
    /// It shows the SVID of a node that is not configured any more.
    #[error("{0} is not a node of this cluster any more")]
    Gone(SpiffeId),
    /// Nobody vouches for its token.
    #[error("{0}")]
    Token(String),
    /// Its token is of a node that is not there.
    #[error("the cluster has no node {0}")]
    NoNode(String),
}

/// Judges enrolments.
#[derive(Debug)]
pub struct EnrolGate {
    trust_domain: TrustDomain,
    nodes: BTreeMap<String, SecretHash>,
    /// Those that a token may be of.
    members: BTreeSet<String>,
    spent: BTreeMap<String, Spent>,
    guesses: Guesses,
}

impl EnrolGate {
    /// For the nodes of `trust_domain`. `spent` is what was stored.
    #[must_use]
    pub fn new(
        trust_domain: TrustDomain,
        nodes: BTreeMap<String, SecretHash>,
        spent: BTreeMap<String, Spent>,
    ) -> Self {
        Self {
            trust_domain,
            nodes,
            members: BTreeSet::new(),
            spent,
            guesses: Guesses::default(),
        }
    }

    /// The nodes that may enrol by a token, and go on, from now on.
    pub fn set_members(&mut self, members: BTreeSet<String>) {
        self.members = members;
    }

    /// Whether somebody at `source` who shows a token is to be listened to at all.
    ///
    /// # Errors
    /// [`EnrolRefusal::TooMany`].
    pub fn may_show(&mut self, source: IpAddr, now: Mono) -> Result<(), EnrolRefusal> {
        let may_try = self.guesses.may_try(source, now);
        may_try.map_err(EnrolRefusal::TooMany)
    }

    /// The SPIFFE ID to sign for somebody at `source` whose token is of `node`, as somebody who can judge it
    /// says.
    ///
    /// # Errors
    /// [`EnrolRefusal`]; each counts as a failure of the source.
    pub fn judge_vouched(
        &mut self,
        source: IpAddr,
        node: Result<String, String>,
        now: Mono,
    ) -> Result<SpiffeId, EnrolRefusal> {
        let judged = node.map_err(EnrolRefusal::Token).and_then(|node| {
            let id = agent_id(&self.trust_domain, &node).ok();
            let id = id.filter(|_| self.members.contains(&node));
            id.ok_or(EnrolRefusal::NoNode(node))
        });
        if judged.is_err() {
            self.guesses.failed(source, now);
        }
        judged
    }

    /// The nodes that may enrol from now on.
    pub fn set_nodes(&mut self, nodes: BTreeMap<String, SecretHash>) {
        self.nodes = nodes;
    }

    /// No secret is good any more that was not used yet: which of them were is not known.
    pub fn void_secrets(&mut self) {
        for (node, secret) in &self.nodes {
            let spent = self.spent.get(node);
            // For the key that used it, it stays good.
            if spent.is_none_or(|spent| spent.secret != *secret) {
                let nobody = Spent {
                    secret: *secret,
                    key: Pin([0; 32]),
                };
                self.spent.insert(node.clone(), nobody);
            }
        }
    }

    /// What must be stored before an SVID is handed out.
    #[must_use]
    pub fn spent(&self) -> &BTreeMap<String, Spent> {
        &self.spent
    }

    /// The SPIFFE ID to sign for, if the SVID or the secret it shows is good.
    ///
    /// # Errors
    /// [`EnrolRefusal`]; each counts as a failure of the source.
    pub fn judge(&mut self, asked: &Asked<'_>, now: Mono) -> Result<SpiffeId, EnrolRefusal> {
        let may_try = self.guesses.may_try(asked.source, now);
        may_try.map_err(EnrolRefusal::TooMany)?;
        let judged = match asked.peer {
            Some(peer) => self.renewal(peer),
            None => self.first(asked),
        };
        if judged.is_err() {
            self.guesses.failed(asked.source, now);
        }
        judged
    }

    fn renewal(&self, peer: &SpiffeId) -> Result<SpiffeId, EnrolRefusal> {
        match agent_node(peer) {
            Some(node) if self.nodes.contains_key(node) || self.members.contains(node) => {
                Ok(peer.clone())
            }
            _ => Err(EnrolRefusal::Gone(peer.clone())),
        }
    }

    fn first(&mut self, asked: &Asked<'_>) -> Result<SpiffeId, EnrolRefusal> {
        // An unknown node takes as long as a wrong secret.
        let known = self.nodes.get(asked.node).copied();
        let hash = known.unwrap_or(SecretHash(Pin([0; 32])));
        if !hash.matches(asked.secret) || known.is_none() {
            return Err(EnrolRefusal::Unknown);
        }
        let key = pki::request_key_hash(asked.request)
            .map_err(|e| EnrolRefusal::Request(e.to_string()))?;
        let using = Spent {
            secret: hash,
            key: Pin(key),
        };
        match self.spent.get(asked.node) {
            Some(spent) if spent.secret == hash && *spent != using => {
                return Err(EnrolRefusal::Spent(asked.node.into()));
            }
            _ => {}
        }
        let id = agent_id(&self.trust_domain, asked.node).map_err(|_| EnrolRefusal::Unknown)?;
        self.spent.insert(asked.node.into(), using);
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::SvidRequest;

    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn gate() -> EnrolGate {
        let nodes = BTreeMap::from([("node1".to_owned(), SecretHash::of(SECRET))]);
        EnrolGate::new(TrustDomain::new("east").unwrap(), nodes, BTreeMap::new())
    }

    fn asked<'a>(node: &'a str, secret: &'a [u8], request: &'a [u8]) -> Asked<'a> {
        Asked {
            source: SOURCE,
            node,
            secret,
            request,
            peer: None,
        }
    }

    fn at(secs: u64) -> Mono {
        Mono(Duration::from_secs(secs))
    }

    #[test]
    fn a_secret_is_good_for_one_key() {
        let mut gate = gate();
        let (mine, other) = (
            SvidRequest::generate().unwrap(),
            SvidRequest::generate().unwrap(),
        );
        let id = gate
            .judge(&asked("node1", SECRET, mine.der()), at(0))
            .unwrap();
        assert_eq!(id.to_string(), "spiffe://east/landbridge/agent/node1");
        assert_eq!(
            gate.judge(&asked("node1", SECRET, mine.der()), at(0))
                .as_ref(),
            Ok(&id),
            "the answer may have been lost"
        );
        assert_eq!(
            gate.judge(&asked("node1", SECRET, other.der()), at(0)),
            Err(EnrolRefusal::Spent("node1".into()))
        );
        // After a restart too.
        let spent = gate.spent().clone();
        let mut gate = EnrolGate::new(TrustDomain::new("east").unwrap(), gate.nodes, spent);
        assert!(
            gate.judge(&asked("node1", SECRET, other.der()), at(0))
                .is_err()
        );
        // On a state of the past it is not known which were used: none is good but for its own key.
        let void = Vec::from(*b"used since");
        gate.set_nodes(BTreeMap::from([
            ("node1".to_owned(), SecretHash::of(SECRET)),
            ("node3".to_owned(), SecretHash::of(&void)),
        ]));
        gate.void_secrets();
        assert_eq!(
            gate.judge(&asked("node3", &void, other.der()), at(0)),
            Err(EnrolRefusal::Spent("node3".into()))
        );
        assert_eq!(
            gate.judge(&asked("node1", SECRET, mine.der()), at(0)),
            Ok(id.clone())
        );
        // A new secret is a new chance.
        gate.set_nodes(BTreeMap::from([(
            "node1".to_owned(),
            SecretHash::of(b"new"),
        )]));
        assert_eq!(
            gate.judge(&asked("node1", b"new", other.der()), at(0)),
            Ok(id)
        );
    }

    #[test]
    fn a_wrong_secret_and_an_unknown_node_get_one_answer() {
        let mut gate = gate();
        let request = SvidRequest::generate().unwrap();
        for (node, secret) in [("node1", &b"wrong"[..]), ("node1", b""), ("node2", SECRET)] {
            let judged = gate.judge(&asked(node, secret, request.der()), at(0));
            assert_eq!(judged, Err(EnrolRefusal::Unknown));
        }
        assert!(gate.spent().is_empty());
    }

    #[test]
    fn a_request_that_is_none_spends_nothing() {
        let mut gate = gate();
        let mut request = SvidRequest::generate().unwrap().der().to_vec();
        *request.last_mut().unwrap() ^= 1;
        for request in [&request[..], b"", &[0x30; 5000]] {
            let judged = gate.judge(&asked("node1", SECRET, request), at(0));
            assert!(
                matches!(judged, Err(EnrolRefusal::Request(_))),
                "{judged:?}"
            );
        }
        assert!(gate.spent().is_empty());
    }

    #[test]
    fn guesses_are_limited_per_source_and_forgiven_in_time() {
        let mut gate = gate();
        let request = SvidRequest::generate().unwrap();
        for _ in 0..5 {
            let judged = gate.judge(&asked("node1", b"guess", request.der()), at(0));
            assert_eq!(judged, Err(EnrolRefusal::Unknown));
        }
        let right = asked("node1", SECRET, request.der());
        assert_eq!(gate.judge(&right, at(0)), Err(EnrolRefusal::TooMany(11)));
        assert_eq!(gate.judge(&right, at(9)), Err(EnrolRefusal::TooMany(2)));
        let mut elsewhere = right;
        elsewhere.source = "192.0.2.8".parse().unwrap();
        assert!(
            gate.judge(&elsewhere, at(9)).is_ok(),
            "another source is not affected"
        );
        assert!(gate.judge(&right, at(10)).is_ok());
    }

    #[test]
    fn an_svid_is_renewed_while_its_node_is_configured() {
        let mut gate = gate();
        let id = agent_id(&TrustDomain::new("east").unwrap(), "node1").unwrap();
        let mut renewal = asked("", b"", b"");
        renewal.peer = Some(&id);
        assert_eq!(gate.judge(&renewal, at(0)).as_ref(), Ok(&id));
        gate.set_nodes(BTreeMap::new());
        assert_eq!(
            gate.judge(&renewal, at(0)),
            Err(EnrolRefusal::Gone(id.clone()))
        );
    }
}
