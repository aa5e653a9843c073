//! What a gateway, in its role as issuer, and the agent of a node of its cluster say to each other:
//! CBOR, one message to a frame. docs/spec/node-protocol.md.

use std::{fmt, net::IpAddr};

use handshake::{
    admission::Restrictions,
    keys::{MacKey, SegmentKey},
};
use identity::{IdentityRange, SignedCredential, TrustDomain, UnixMillis};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::peer_messages::AnnouncedRange;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest message in bytes, checked before it is decoded.
pub const MAX_NODE_MESSAGE: usize = 1 << 20;
/// The version that both ends say; another one is refused.
pub const NODE_PROTOCOL: u16 = 3;

/// Most pods in one [`ToIssuer::Want`].
pub const MAX_WANTED: usize = 512;
/// Most keys in one [`ToIssuer::Keys`].
pub const MAX_KEYS_ANNOUNCED: usize = 4;

/// From an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToIssuer {
    /// The first message of a session.
    Hello {
        /// [`NODE_PROTOCOL`].
        version: u16,
        /// Which life of the issuer the agent last talked to.
        boot: Boot,
        /// The position up to which it has that life's records.
        position: u64,
        /// Its clock.
        clock: UnixMillis,
    },
    /// The agent's public keys, the one in use first. Others are withdrawn.
    Keys(Vec<AgentPublicKey>),
    /// Credentials are wanted for these pods of this node, naming this key.
    Want {
        /// One of the keys announced.
        key: AgentPublicKey,
        /// The pods' UIDs, at most [`MAX_WANTED`].
        pods: Vec<String>,
    },
}

/// From the issuer: a message and its number. Welcome has 0, what follows counts up; an agent that
/// sees a gap says Hello again, and everything is said anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered(pub u64, pub ToNode);

/// What the issuer says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNode {
    /// The answer to Hello. What follows up to [`ToNode::Synced`] is all there is.
    Welcome {
        /// [`NODE_PROTOCOL`].
        version: u16,
        /// Whose issuer this is.
        trust_domain: TrustDomain,
        /// Which life of it.
        boot: Boot,
        /// Its clock.
        clock: UnixMillis,
    },
    /// The bundle of a trust domain as a JWK set, or that it is no member any more.
    Bundle {
        /// Whose.
        trust_domain: TrustDomain,
        /// The bundle.
        jwks: Option<String>,
    },
    /// What restricts a trust domain: what its credentials may claim, and what of it is revoked. None
    /// when nothing does.
    Restrictions {
        /// Which.
        trust_domain: TrustDomain,
        /// What restricts it.
        restrictions: Restrictions,
    },
    /// A cluster that this one has joined, and what it is called here; or that it has left it.
    Cluster {
        /// Which.
        trust_domain: TrustDomain,
        /// What is to be known of it.
        cluster: Option<JoinedCluster>,
    },
    /// SHA-256 of the X.509 root that signs SVIDs now. An agent whose own SVID another root signed gets
    /// a new one.
    SigningRoot(#[serde(with = "serde_bytes")] [u8; 32]),
    /// The identity networks, all of them.
    Ranges(Vec<IdentityRange>),
    /// The segment keys that are valid, the one that makes proofs first.
    SegmentKeys(Vec<SegmentKeyGrant>),
    /// Nodes of this cluster that changed.
    Registry {
        /// As they are now.
        nodes: Vec<NodeEntry>,
        /// Nodes that left.
        removed: Vec<String>,
    },
    /// Signed records of pods that were relabelled or deleted, of this cluster and of others.
    Records {
        /// To be said in the next Hello.
        position: u64,
        /// Older records were thrown away that this agent has not seen.
        missed: bool,
        /// The records.
        records: Vec<RelayedRecord>,
    },
    /// Credentials that were asked for, or that changed.
    Credentials(Vec<GrantedCredential>),
    /// Everything that the issuer has was sent: what was not named since Welcome is no more.
    Synced,
}

/// A cluster that no configuration names: it was joined by a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinedCluster {
    /// What policies call it here.
    pub name: String,
    /// Its pod ranges.
    pub ranges: Vec<AnnouncedRange>,
}

/// Names one life of an issuer process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot(#[serde(with = "serde_bytes")] pub [u8; 8]);

/// An X25519 public key of an agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentPublicKey(#[serde(with = "serde_bytes")] pub [u8; 32]);

impl fmt::Debug for AgentPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .take(8)
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A segment key. Never printed, overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentKeyGrant {
    /// Names the key on the wire; never all zero.
    #[serde(with = "serde_bytes")]
    pub id: [u8; 8],
    /// The key.
    pub secret: SegmentSecret,
}

impl From<&SegmentKeyGrant> for SegmentKey {
    fn from(grant: &SegmentKeyGrant) -> Self {
        Self {
            id: grant.id,
            key: MacKey::from_bytes(*grant.secret.expose()),
        }
    }
}

impl fmt::Debug for SegmentKeyGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SegmentKeyGrant(")?;
        self.id
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}

/// The 32 bytes of a segment key. No formatting; overwritten when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct SegmentSecret(#[serde(with = "serde_bytes")] [u8; 32]);

impl SegmentSecret {
    /// Takes 32 secret bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the one place that makes MACs of them.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What the cluster knows of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Its name.
    pub node: String,
    /// The keys of its agent, the one in use first; none when no agent ever came.
    pub agent_keys: Vec<AgentPublicKey>,
    /// The addresses of its protected pods.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its pods in `unprotected` namespaces.
    pub unprotected: Vec<IpAddr>,
}

/// A signed record and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayedRecord {
    /// Whose bundle to check it with.
    pub trust_domain: TrustDomain,
    /// [`identity::SignedRecord`].
    #[serde(with = "serde_bytes")]
    pub record: Vec<u8>,
}

/// A credential for a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedCredential {
    /// The pod's UID.
    pub pod_uid: String,
    /// The credential.
    pub credential: SignedCredential,
    /// For how many more seconds it is valid: timers go by this, and no clock is compared.
    pub valid_for: u32,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeMessageError {
    /// More than [`MAX_NODE_MESSAGE`].
    #[error("{0} bytes, at most {MAX_NODE_MESSAGE} are allowed")]
    TooLarge(usize),
    /// Not CBOR of the form, or bytes follow it.
    #[error("not a message of this protocol")]
    Malformed,
    /// A list in it is longer than allowed.
    #[error("a list is longer than allowed")]
    TooMany,
}

impl ToIssuer {
    /// Reads a message.
    ///
    /// # Errors
    /// [`NodeMessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeMessageError> {
        let message = decode(bytes)?;
        let too_many = match &message {
            Self::Hello { .. } => false,
            Self::Keys(keys) => keys.len() > MAX_KEYS_ANNOUNCED,
            Self::Want { pods, .. } => pods.len() > MAX_WANTED,
        };
        if too_many {
            return Err(NodeMessageError::TooMany);
        }
        Ok(message)
    }

    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

impl Numbered {
    /// Reads a message.
    ///
    /// # Errors
    /// [`NodeMessageError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, NodeMessageError> {
        decode(bytes)
    }

    /// The message as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NodeMessageError> {
    if bytes.len() > MAX_NODE_MESSAGE {
        return Err(NodeMessageError::TooLarge(bytes.len()));
    }
    let mut rest = bytes;
    let message = ciborium::from_reader(&mut rest).map_err(|_| NodeMessageError::Malformed)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(NodeMessageError::Malformed)
    }
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail, and every type here has a form in CBOR.
    let written = ciborium::into_writer(message, &mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use handshake::admission::{Away, CredentialId, Revocation, Target};

    use super::*;

    fn samples() -> Vec<ToNode> {
        let domain = TrustDomain::new("east").unwrap();
        vec![
            ToNode::Welcome {
                version: 1,
                trust_domain: domain.clone(),
                boot: Boot([1; 8]),
                clock: UnixMillis(5),
            },
            ToNode::Bundle {
                trust_domain: domain.clone(),
                jwks: Some("{}".into()),
            },
            ToNode::Restrictions {
                trust_domain: domain.clone(),
                restrictions: Restrictions {
                    limits: serde_json::from_str(r#"{"namespaces":["shop","team-*"]}"#).unwrap(),
                    revoked: vec![Revocation {
                        target: Target::Credential(CredentialId([7; 16])),
                        reason: "lost".into(),
                        at: UnixMillis(5),
                    }],
                    offer: serde_json::from_str(r#"{"namespaces":["public"]}"#).unwrap(),
                    away: Some(Away::Closed {
                        since: UnixMillis(6),
                    }),
                },
            },
            ToNode::Cluster {
                trust_domain: domain.clone(),
                cluster: Some(JoinedCluster {
                    name: "west".into(),
                    ranges: vec![AnnouncedRange {
                        range_id: 1,
                        prefix: "10.2.0.0/16".parse().unwrap(),
                    }],
                }),
            },
            ToNode::SigningRoot([8; 32]),
            ToNode::Ranges(vec![IdentityRange {
                prefix: "10.1.0.0/16".parse().unwrap(),
                trust_domain: domain.clone(),
                range_id: 1,
                real: None,
            }]),
            ToNode::SegmentKeys(vec![SegmentKeyGrant {
                id: [7; 8],
                secret: SegmentSecret::from_bytes([9; 32]),
            }]),
            ToNode::Registry {
                nodes: vec![NodeEntry {
                    node: "node1".into(),
                    agent_keys: vec![AgentPublicKey([3; 32])],
                    addresses: vec!["10.1.1.10".parse().unwrap(), "fd00::1".parse().unwrap()],
                    unprotected: vec![],
                }],
                removed: vec!["node2".into()],
            },
            ToNode::Records {
                position: u64::MAX,
                missed: false,
                records: vec![RelayedRecord {
                    trust_domain: domain,
                    record: vec![0xd2; 700],
                }],
            },
            ToNode::Credentials(vec![GrantedCredential {
                pod_uid: "uid".into(),
                credential: SignedCredential::from_bytes(&[1; 960]).unwrap(),
                valid_for: 580,
            }]),
            ToNode::Synced,
        ]
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in samples() {
            let message = Numbered(u64::MAX, message);
            assert_eq!(Numbered::decode(&message.encode()), Ok(message));
        }
        let want = ToIssuer::Want {
            key: AgentPublicKey([1; 32]),
            pods: vec!["a".into(), "b".into()],
        };
        assert_eq!(ToIssuer::decode(&want.encode()), Ok(want));
    }

    #[test]
    fn limits_hold_before_and_after_decoding() {
        let long = vec![0; MAX_NODE_MESSAGE + 1];
        assert_eq!(
            Numbered::decode(&long),
            Err(NodeMessageError::TooLarge(MAX_NODE_MESSAGE + 1))
        );
        let many = ToIssuer::Want {
            key: AgentPublicKey([1; 32]),
            pods: vec![String::new(); MAX_WANTED + 1],
        };
        assert_eq!(
            ToIssuer::decode(&many.encode()),
            Err(NodeMessageError::TooMany)
        );
        let many = ToIssuer::Keys(vec![AgentPublicKey([1; 32]); MAX_KEYS_ANNOUNCED + 1]);
        assert_eq!(
            ToIssuer::decode(&many.encode()),
            Err(NodeMessageError::TooMany)
        );
        let mut trailing = Numbered(1, ToNode::Synced).encode();
        trailing.push(0);
        assert_eq!(
            Numbered::decode(&trailing),
            Err(NodeMessageError::Malformed)
        );
    }

    /// Threat row 39.
    #[test]
    fn no_formatting_shows_a_segment_key() {
        let shown = format!("{:?}", samples());
        assert!(shown.contains("SegmentKeyGrant(0707070707070707)"));
        assert!(
            !shown.contains("9, 9") && !shown.contains("0909"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Numbered::decode(&bytes);
            let _ = ToIssuer::decode(&bytes);
        }

        #[test]
        fn changed_messages_never_panic(which: prop::sample::Index, at: prop::sample::Index, byte: u8) {
            let message = samples().swap_remove(which.index(samples().len()));
            let mut bytes = Numbered(1, message).encode();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Numbered::decode(&bytes);
        }
    }
}
