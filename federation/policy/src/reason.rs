//! Why a packet was dropped: one closed list for the metric label, the flow log and `explain`.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident => $word:literal,)+) => {
        /// Why a packet was dropped. Denied by a rule, denied by default and malformed are never
        /// the same word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum DropReason {
            $($(#[doc = $doc])+ #[serde(rename = $word)] $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the list.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word that metrics, flow logs and `explain` use.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// What it means, in a sentence for an operator.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii()),+ }
            }
        }
    };
}

reasons! {
    /// A rule of a policy denies it.
    DeniedByRule => "denied-by-rule",
    /// The pod is isolated and no rule allows it, or the default for its scope denies.
    DeniedByDefault => "denied-by-default",
    /// A rule tests a label key that the peer's cluster does not carry.
    LabelNotCarried => "label-not-carried",
    /// The destination's cluster announced that it would deny it.
    PeerDenies => "peer-denies",
    /// An allowing rule requires an agent's proof and the identity is only attested by a gateway.
    AssuranceTooLow => "assurance-too-low",
    /// The identity, credential or cluster was revoked.
    Revoked => "revoked",
    /// The credential claims a namespace, service account or label that its cluster may not claim here.
    ClaimNotAccepted => "claim-not-accepted",
    /// The pod is not offered to the other end's cluster.
    NotOffered => "not-offered",
    /// The peer's gateway was not heard of for longer than the operator allows.
    PeerAway => "peer-away",
    /// An address of an identity network spoke without marker, HELLO or REPLY.
    NoIdentity => "no-identity",
    /// The local pod has no credential yet.
    NoCredential => "no-credential",
    /// A local pod sent our marker, option or magic itself.
    SpoofedIdentity => "spoofed-identity",
    /// A packet came from a pod's port with another source address.
    SpoofedSource => "spoofed-source",
    /// The nonce was used before for another connection.
    Replay => "replay",
    /// HELLO is older than 45 s or more than 30 s ahead of this clock.
    Stale => "stale",
    /// The segment proof names a known key and does not hold.
    BadProof => "bad-proof",
    /// The MAC of REPLY or CONFIRM does not hold.
    BadMac => "bad-mac",
    /// HELLO or REPLY names another destination, sequence number or credential than the packet.
    TranscriptMismatch => "transcript-mismatch",
    /// The credential is malformed or its signature does not hold.
    BadCredential => "bad-credential",
    /// The credential is outside its validity.
    CredentialExpired => "credential-expired",
    /// No bundle is held for the credential's trust domain, or no key of it signed this.
    UnknownIssuer => "unknown-issuer",
    /// The bundle of the trust domain expired or is empty.
    BundleExpired => "bundle-expired",
    /// The credential's trust domain does not own the address that sent it.
    WrongTrustDomain => "wrong-trust-domain",
    /// A SYN came on a tuple where ours is outstanding.
    SimultaneousOpen => "simultaneous-open",
    /// The segment fits no flow.
    UnknownFlow => "unknown-flow",
    /// The segment is older than the newest handshake of the flow.
    Superseded => "superseded",
    /// The TCP options leave no room for ours.
    NoOptionSpace => "no-option-space",
    /// A protocol between identity networks that is not carried yet.
    UnsupportedProtocol => "unsupported-protocol",
    /// The packet cannot be parsed.
    Malformed => "malformed",
    /// A fragment that cannot be judged.
    Fragment => "fragment",
    /// The time to live ran out.
    TtlExceeded => "ttl-exceeded",
    /// The packet does not fit the path and must not be fragmented.
    TooBig => "too-big",
    /// The next hop's link address is not resolved.
    NoNeighbour => "no-neighbour",
    /// No route or peer serves the destination.
    NoRoute => "no-route",
    /// No security association with the peer gateway is in place.
    NoTunnel => "no-tunnel",
    /// The tunnel packet names an unknown association.
    TunnelUnknownSpi => "tunnel-unknown-spi",
    /// The tunnel packet does not authenticate.
    TunnelBadAuth => "tunnel-bad-auth",
    /// The tunnel packet was seen before or is older than the window.
    TunnelReplay => "tunnel-replay",
    /// The inner source or destination does not belong to the tunnel's ends.
    TunnelInnerAddress => "tunnel-inner-address",
    /// A shared bucket or rate limit is empty.
    RateLimited => "rate-limited",
    /// The budget for signature checks is spent.
    VerifyBudget => "verify-budget",
    /// A full table refuses the new flow.
    TableFull => "table-full",
    /// The kernel dropped it because the queue to the agent was full.
    QueueFull => "queue-full",
    /// The kernel dropped it because no agent listens.
    NoAgent => "no-agent",
    /// The policy or trust data is older than allowed, or not yet complete.
    NotReady => "not-ready",
    /// A transmit ring was full.
    TxFull => "tx-full",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
