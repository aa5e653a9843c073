//! What can be asked of a gateway about whom its cluster trusts.

use handshake::admission::Target;
use serde::{Deserialize, Serialize};

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
}

impl TrustRequest {
    /// Whether it changes anything: then it is root's affair, and stands in the audit log.
    #[must_use]
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Revocations {})
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
