//! What can be asked of a gateway about whom its cluster trusts.

use std::fmt;

use handshake::admission::Target;
use identity::{AwayRule, ClaimLimits};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `{"op":"trust","do":"revoke",...}`. A trust domain is named by itself or by its cluster's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TrustRequest {
    /// Something is believed no more, from now on.
    Revoke {
        /// Whose.
        of: String,
        /// What.
        target: Target,
        /// Why, for everybody who meets it.
        reason: String,
    },
    /// It is believed again.
    Restore {
        /// Whose.
        of: String,
        /// What.
        target: Target,
    },
    /// All that is revoked.
    Revocations {},
    /// Makes a token for a cluster to join this one.
    Invite(InviteRequest),
    /// Joins the cluster that made a token.
    Join(JoinRequest),
    /// The clusters that were joined.
    Members {},
    /// Introduces two peers to each other.
    Introduce {
        /// Their names or trust domains.
        clusters: [String; 2],
        /// For how many seconds it holds when this cluster is not heard any more; 30 days when it is
        /// left out.
        #[serde(default)]
        ttl: Option<u32>,
    },
    /// Takes that back.
    Withdraw {
        /// Their names or trust domains.
        clusters: [String; 2],
    },
    /// Takes a cluster that was introduced to this one, whatever the configuration says.
    Accept {
        /// Its trust domain, or what its introducer calls it.
        cluster: String,
        /// What it is to be called here.
        #[serde(default)]
        name: Option<String>,
    },
    /// Who is introduced to whom here, and what others introduce.
    Introductions {},
    /// One of them is a member no more.
    Remove {
        /// Its name or trust domain.
        cluster: String,
    },
    /// This cluster leaves all of them.
    Leave {},
    /// The keys by which this cluster is believed, and where each is in its life.
    Keys {},
    /// A key is exchanged: the next one is published now.
    Rotate(RotateRequest),
    /// A backup is made of the state directory.
    Backup {
        /// SHA-256 of it, in hex.
        sha256: String,
    },
    /// The gateway goes on with a state of the past.
    ConfirmRestore {
        /// Although what was revoked since is lost.
        #[serde(default)]
        without_revocations: bool,
    },
}

/// What keys a cluster is believed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyKind {
    /// The X.509 root, which signs the SVIDs of gateways and agents.
    Root,
    /// The key that signs credentials, records, policy digests and revocations.
    IssuerKey,
}

impl KeyKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Root, Self::IssuerKey];

    /// As people and programs call it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::IssuerKey => "issuer-key",
        }
    }
}

/// Which key is exchanged, and how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// Of which kind.
    pub key: KeyKind,
    /// How many seconds it is published before it is used; as by itself when it is left out.
    #[serde(default)]
    pub use_after: Option<u32>,
    /// How many seconds after that the one before it is believed; as by itself when it is left out.
    #[serde(default)]
    pub retire_after: Option<u32>,
    /// Also when somebody who believes this cluster is away and may not hear of it in time.
    #[serde(default)]
    pub anyway: bool,
}

/// What a token is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRequest {
    /// What who comes is to be called here; their own name when it is left out.
    #[serde(default)]
    pub name: Option<String>,
    /// For how many seconds it is good.
    #[serde(default)]
    pub ttl: Option<u32>,
    /// What their credentials may claim here.
    #[serde(default)]
    pub accept: ClaimLimits,
    /// Which pods of this cluster they may meet.
    #[serde(default)]
    pub offer: ClaimLimits,
    /// They may introduce others.
    #[serde(default)]
    pub introducer: bool,
    /// What becomes of them when they stay away.
    #[serde(default)]
    pub away: Option<AwayRule>,
}

/// A token that was brought.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The token.
    pub token: String,
    /// What the cluster that made it is to be called here; its own name when it is left out.
    #[serde(default)]
    pub name: Option<String>,
    /// What its credentials may claim here.
    #[serde(default)]
    pub accept: ClaimLimits,
    /// Which pods of this cluster it may meet.
    #[serde(default)]
    pub offer: ClaimLimits,
    /// It may introduce others.
    #[serde(default)]
    pub introducer: bool,
    /// What becomes of it when it stays away.
    #[serde(default)]
    pub away: Option<AwayRule>,
}

/// A token is a secret until it was used.
impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest")
            .field("name", &self.name)
            .field("accept", &self.accept)
            .field("offer", &self.offer)
            .field("away", &self.away)
            .finish_non_exhaustive()
    }
}

impl TrustRequest {
    /// Whether it changes anything: then it is root's affair, and stands in the audit log.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(
            self,
            Self::Revocations {} | Self::Members {} | Self::Keys {} | Self::Introductions {}
        )
    }

    /// What the audit log says of it: all but a token.
    #[must_use]
    pub fn about(&self) -> Value {
        let mut about = json!(self);
        if let Some(token) = about.get_mut("token") {
            *token = "(a token)".into();
        }
        about
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use handshake::admission::{CredentialId, Target};

    use super::*;
    use crate::Request;

    #[test]
    fn requests_about_trust_are_read_strictly() {
        let read = |more: &str| {
            let text = format!(r#"{{"op":"trust",{more}}}"#);
            serde_json::from_str::<Request>(&text)
        };
        let id = "07".repeat(16);
        let revoke = format!(
            r#""do":"revoke","of":"west","target":{{"credential":"{id}"}},"reason":"lost""#
        );
        let expected = TrustRequest::Revoke {
            of: "west".into(),
            target: Target::Credential(CredentialId([7; 16])),
            reason: "lost".into(),
        };
        assert_eq!(read(&revoke).unwrap(), Request::Trust(expected));
        let invite = r#""do":"invite","ttl":60,"accept":{"namespaces":["shop"]}"#;
        assert!(read(invite).is_ok());
        let join = TrustRequest::Join(JoinRequest {
            token: "lbj1.secret".into(),
            name: None,
            accept: ClaimLimits::default(),
            offer: ClaimLimits::default(),
            introducer: false,
            away: None,
        });
        let shown = format!("{join:?} {}", join.about());
        assert!(!shown.contains("secret"), "{shown}");
        let cluster = r#""do":"restore","of":"west","target":"cluster""#;
        assert!(read(cluster).is_ok());
        for wrong in [
            r#""do":"revoke","of":"west","target":"cluster""#,
            r#""do":"revocations","of":"west""#,
            r#""do":"trust""#,
            r#""do":"restore","of":"west","target":{"identity":"west"}"#,
            r#""do":"restore","of":"west","target":{"labels":{"pod":"x"}}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
