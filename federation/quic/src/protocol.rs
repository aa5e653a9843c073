//! The protocols, by ALPN, and who may speak which.

use std::fmt;

use identity::{SpiffeError, SpiffeId, TrustDomain};

use crate::{SessionError, VerifyError};

/// What a connection is for (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Gateway to gateway of another cluster.
    Peer,
    /// Agent to a gateway of its cluster.
    Node,
    /// Gateway to a gateway that does not know it yet.
    Join,
    /// A node without an X.509-SVID, or with one that ends soon, asks a gateway for one.
    Enrol,
}

/// What a SPIFFE ID of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Gateway,
    Agent,
}

/// `spiffe://<trust domain>/landbridge/gateway/<name>`.
///
/// # Errors
/// When `name` is no path segment.
pub fn gateway_id(trust_domain: &TrustDomain, name: &str) -> Result<SpiffeId, SpiffeError> {
    named(trust_domain, "gateway", name)
}

/// `spiffe://<trust domain>/landbridge/agent/<node>`.
///
/// # Errors
/// When `node` is no path segment.
pub fn agent_id(trust_domain: &TrustDomain, node: &str) -> Result<SpiffeId, SpiffeError> {
    named(trust_domain, "agent", node)
}

/// The node whose agent `id` names.
#[must_use]
pub fn agent_node(id: &SpiffeId) -> Option<&str> {
    match role(id) {
        Some((Role::Agent, node)) => Some(node),
        _ => None,
    }
}

fn named(trust_domain: &TrustDomain, role: &str, name: &str) -> Result<SpiffeId, SpiffeError> {
    // A name with a slash would be more than one segment.
    if name.contains('/') {
        return Err(SpiffeError::Segment(name.into()));
    }
    format!("spiffe://{trust_domain}/landbridge/{role}/{name}").parse()
}

fn role(id: &SpiffeId) -> Option<(Role, &str)> {
    let (role, name) = id.path().strip_prefix("/landbridge/")?.split_once('/')?;
    match role {
        _ if name.contains('/') => None,
        "gateway" => Some((Role::Gateway, name)),
        "agent" => Some((Role::Agent, name)),
        _ => None,
    }
}

impl Protocol {
    /// The name in the TLS handshake.
    #[must_use]
    pub fn alpn(self) -> &'static [u8] {
        self.name().as_bytes()
    }

    /// Whether it is spoken with whoever has no certificate that is believed.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Enrol | Self::Join)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Peer => "landbridge-peer/1",
            Self::Node => "landbridge-node/1",
            Self::Enrol => "landbridge-enrol/1",
            Self::Join => "landbridge-join/1",
        }
    }

    pub(crate) fn from_alpn(name: &[u8]) -> Option<Self> {
        [Self::Peer, Self::Node, Self::Enrol, Self::Join]
            .into_iter()
            .find(|protocol| protocol.alpn() == name)
    }

    /// Whether `peer` may be at the other end. `dialled`: we dialled it.
    pub(crate) fn check(
        self,
        own: &TrustDomain,
        peer: &SpiffeId,
        dialled: bool,
    ) -> Result<(), SessionError> {
        let (wanted, same_domain) = match self {
            Self::Peer if peer.trust_domain() == own => {
                return Err(VerifyError::OwnDomain(peer.clone()).into());
            }
            Self::Peer => (Role::Gateway, false),
            Self::Node | Self::Enrol | Self::Join if dialled => (Role::Gateway, true),
            Self::Node | Self::Enrol => (Role::Agent, true),
            // Who comes to join shows no certificate, because none of its could be believed.
            Self::Join => return Err(VerifyError::UnknownDomain(peer.clone()).into()),
        };
        let right_role = role(peer).is_some_and(|(role, _)| role == wanted);
        if right_role && (peer.trust_domain() == own) == same_domain {
            return Ok(());
        }
        Err(SessionError::NotPermitted {
            id: peer.clone(),
            protocol: self,
            wanted: match (wanted, same_domain) {
                (Role::Gateway, false) => "a gateway of another cluster",
                (Role::Gateway, true) => "a gateway of this cluster",
                (Role::Agent, _) => "an agent of this cluster",
            },
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_end_has_its_role() {
        let (east, west) = (
            TrustDomain::new("east").unwrap(),
            TrustDomain::new("west").unwrap(),
        );
        let gateway = |td| gateway_id(td, "gw1").unwrap();
        let agent = |td| agent_id(td, "node1").unwrap();
        let pod = SpiffeId::workload(&west, "landbridge", "gateway").unwrap();
        let allowed: &[(Protocol, SpiffeId, bool, bool)] = &[
            (Protocol::Peer, gateway(&west), true, true),
            (Protocol::Peer, gateway(&west), false, true),
            (Protocol::Peer, gateway(&east), false, false),
            (Protocol::Peer, agent(&west), false, false),
            (Protocol::Peer, pod, false, false),
            (Protocol::Node, agent(&east), false, true),
            (Protocol::Node, agent(&west), false, false),
            (Protocol::Node, gateway(&east), false, false),
            (Protocol::Node, gateway(&east), true, true),
            (Protocol::Node, agent(&east), true, false),
            (Protocol::Enrol, agent(&east), false, true),
            (Protocol::Enrol, gateway(&west), true, false),
            (Protocol::Join, gateway(&east), true, true),
            (Protocol::Join, gateway(&west), true, false),
            (Protocol::Join, gateway(&west), false, false),
            (Protocol::Join, gateway(&east), false, false),
        ];
        for (protocol, id, dialled, expected) in allowed {
            let checked = protocol.check(&east, id, *dialled);
            assert_eq!(
                checked.is_ok(),
                *expected,
                "{protocol} {id} dialled: {dialled}"
            );
        }
    }

    #[test]
    fn a_name_with_a_slash_is_refused() {
        let east = TrustDomain::new("east").unwrap();
        assert!(agent_id(&east, "a/b").is_err());
        assert!(gateway_id(&east, "").is_err());
        let deep = "spiffe://east/landbridge/agent/a/b".parse().unwrap();
        assert_eq!(agent_node(&deep), None);
        assert_eq!(agent_node(&agent_id(&east, "n1").unwrap()), Some("n1"));
    }
}
