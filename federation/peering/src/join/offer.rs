//! What two clusters that never met tell each other: who each is, and that it is. docs/spec/join.md,
//! section 2.

use std::{collections::BTreeMap, net::SocketAddr};

use identity::{
    AwayRule, ClaimLimits, IssuerKey, MAX_BUNDLE, TrustBundle, TrustDomain, UnixMillis,
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{
    InvitationId, Token, TokenKey,
    token::{MAX_ENDPOINTS, Side},
};
use crate::{
    introductions::Introduced,
    peer_messages::{AnnouncedRange, MAX_PEER_RANGES},
};

/// Longest request and answer in bytes.
pub const MAX_JOIN: usize = MAX_BUNDLE + (64 << 10);
/// The version that both ends say; another one is refused.
const VERSION: u16 = 1;
/// Separates this signature from that of every other object.
const CONTEXT: &str = "join-offer";
/// Longest name of a cluster in bytes: a DNS label.
const MAX_NAME: usize = 63;

/// What a cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// The cluster.
    pub trust_domain: TrustDomain,
    /// What it calls itself, a DNS label.
    pub name: String,
    /// Its bundle as a JWK set.
    pub bundle: String,
    /// SHA-256 of the root in it that its gateways' certificates lead to.
    #[serde(with = "serde_bytes")]
    pub pin: [u8; 32],
    /// Where its gateways listen.
    pub endpoints: Vec<SocketAddr>,
    /// Its pod ranges.
    pub ranges: Vec<AnnouncedRange>,
    /// Its clock.
    pub clock: UnixMillis,
}

/// An offer that was signed by a key of the bundle in it, for one connection.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bound {
    offer: Offer,
    #[serde(with = "serde_bytes")]
    binding: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    version: u16,
    #[serde(with = "serde_bytes")]
    id: [u8; 8],
    #[serde(with = "serde_bytes")]
    offer: Vec<u8>,
    #[serde(with = "serde_bytes")]
    proof: [u8; 32],
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Accepted {
        #[serde(with = "serde_bytes")]
        offer: Vec<u8>,
        #[serde(with = "serde_bytes")]
        proof: [u8; 32],
    },
    Refused(String),
}

/// Why what the other end says is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It is no message of this protocol.
    #[error("it does not speak this protocol, or another version of it")]
    Malformed,
    /// It has not the token.
    #[error("it does not prove that it has the token")]
    Proof,
    /// What it says of itself does not hold together.
    #[error("what it says of itself does not hold: {0}")]
    Inconsistent(String),
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// A request that was read; who made it is not known before [`Self::open`].
#[derive(Debug)]
pub struct Asked {
    /// Of which invitation.
    pub id: InvitationId,
    offer: Vec<u8>,
    proof: [u8; 32],
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// [`OfferError::Malformed`].
    pub fn read(bytes: &[u8]) -> Result<Self, OfferError> {
        let request: Request = decode(bytes)?;
        if request.version != VERSION {
            return Err(OfferError::Malformed);
        }
        Ok(Self {
            id: InvitationId(request.id),
            offer: request.offer,
            proof: request.proof,
        })
    }

    /// What the joiner says of itself, when it has the token of `key` and the keys of its bundle, on the
    /// connection of `binding`.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn open(
        &self,
        key: &TokenKey,
        binding: &[u8; 32],
        now: UnixMillis,
    ) -> Result<Offer, OfferError> {
        if !key.holds(Side::Joiner, binding, &self.offer, &self.proof) {
            return Err(OfferError::Proof);
        }
        open(&self.offer, binding, now)
    }
}

/// What the joiner sends.
#[must_use]
pub fn request(token: &Token, own: &Offer, signer: &IssuerKey, binding: &[u8; 32]) -> Vec<u8> {
    let offer = sign(own, signer, binding);
    encode(&Request {
        version: VERSION,
        id: token.id.0,
        proof: token.key().proof(Side::Joiner, binding, &offer),
        offer,
    })
}

/// What the inviter answers who may join.
#[must_use]
pub fn accepted(key: &TokenKey, own: &Offer, signer: &IssuerKey, binding: &[u8; 32]) -> Vec<u8> {
    let offer = sign(own, signer, binding);
    encode(&Answer::Accepted {
        proof: key.proof(Side::Inviter, binding, &offer),
        offer,
    })
}

/// What the inviter answers who may not, in a sentence for its operator.
#[must_use]
pub fn refused(why: &str) -> Vec<u8> {
    encode(&Answer::Refused(why.chars().take(500).collect()))
}

/// What the inviter says of itself in its answer to the holder of `token`.
///
/// # Errors
/// [`OfferError`]: it may be a refusal.
pub fn answered(
    token: &Token,
    bytes: &[u8],
    binding: &[u8; 32],
    now: UnixMillis,
) -> Result<Offer, OfferError> {
    let (offer, proof) = match decode(bytes)? {
        Answer::Refused(why) => {
            return Err(OfferError::Refused(why.chars().take(500).collect()));
        }
        Answer::Accepted { offer, proof } => (offer, proof),
    };
    if !token.key().holds(Side::Inviter, binding, &offer, &proof) {
        return Err(OfferError::Proof);
    }
    let offer = open(&offer, binding, now)?;
    if offer.trust_domain != token.trust_domain || offer.pin != token.pin {
        let what = "it is another cluster than the token says".into();
        return Err(OfferError::Inconsistent(what));
    }
    Ok(offer)
}

fn sign(own: &Offer, signer: &IssuerKey, binding: &[u8; 32]) -> Vec<u8> {
    let bound = Bound {
        offer: own.clone(),
        binding: *binding,
    };
    signer.sign(CONTEXT, &encode(&bound))
}

/// The offer in `signed`, which holds by the bundle in it: whoever made it has a key of it.
fn open(signed: &[u8], binding: &[u8; 32], now: UnixMillis) -> Result<Offer, OfferError> {
    let inconsistent = |what: &dyn ToString| OfferError::Inconsistent(what.to_string());
    // The payload says by which key it is to be checked, so it is read first and believed later.
    let payload = identity::unproven_payload(signed).ok_or(OfferError::Malformed)?;
    let Bound { offer, binding: of } = decode(payload)?;
    let bundle = TrustBundle::from_jwks(offer.trust_domain.clone(), &offer.bundle);
    let bundle = bundle.map_err(|e| inconsistent(&e))?;
    bundle
        .open(CONTEXT, signed, now)
        .map_err(|e| inconsistent(&e))?;
    if of != *binding {
        return Err(inconsistent(&"it was made for another connection"));
    }
    let pinned = |root: &Vec<u8>| <[u8; 32]>::from(Sha256::digest(root)) == offer.pin;
    if !bundle.x509_roots.iter().any(pinned) {
        return Err(inconsistent(
            &"its bundle does not hold the root that it names",
        ));
    }
    let lists = offer.ranges.len() <= MAX_PEER_RANGES && offer.endpoints.len() <= MAX_ENDPOINTS;
    if !lists || !is_label(&offer.name) {
        return Err(OfferError::Malformed);
    }
    Ok(offer)
}

/// RFC 1123: what a cluster may be called.
pub(crate) fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    (1..=MAX_NAME).contains(&bytes.len())
        && bytes.iter().all(inner)
        && bytes.first() != Some(&b'-')
        && bytes.last() != Some(&b'-')
}

/// A cluster that joined, or that was joined: what has to survive a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// What it is called here.
    pub name: String,
    /// The cluster.
    pub trust_domain: TrustDomain,
    /// SHA-256 of its root certificate in DER.
    pub pin: [u8; 32],
    /// Those of other roots, by any of which it may be met first.
    #[serde(default)]
    pub roots: Vec<[u8; 32]>,
    /// Where its gateways listen.
    pub endpoints: Vec<SocketAddr>,
    /// Its pod ranges, as it has them.
    pub ranges: Vec<AnnouncedRange>,
    /// By number: where a range is seen here, when that is elsewhere.
    #[serde(default)]
    pub mapped: BTreeMap<u16, IpNet>,
    /// What its credentials may claim here.
    #[serde(default)]
    pub accept: ClaimLimits,
    /// Which pods of this cluster it may meet.
    #[serde(default)]
    pub offer: ClaimLimits,
    /// What becomes of it when it stays away.
    #[serde(default)]
    pub away: Option<AwayRule>,
    /// Since when it is one.
    pub since: UnixMillis,
    /// It may introduce others.
    #[serde(default)]
    pub introducer: bool,
    /// By whom it was introduced, the one first on whose word it was taken; none when it was joined by a
    /// token, and is a member by itself.
    #[serde(default)]
    pub introduced: Vec<Introduced>,
}

impl Member {
    /// The cluster that made `offer`, called `name` here.
    #[must_use]
    pub fn new(
        offer: Offer,
        name: String,
        mapped: BTreeMap<u16, IpNet>,
        accept: ClaimLimits,
        since: UnixMillis,
    ) -> Self {
        Self {
            name,
            trust_domain: offer.trust_domain,
            pin: offer.pin,
            roots: Vec::new(),
            endpoints: offer.endpoints,
            ranges: offer.ranges,
            mapped,
            accept,
            offer: ClaimLimits::default(),
            away: None,
            since,
            introducer: false,
            introduced: Vec::new(),
        }
    }

    /// Its pod ranges where they are seen here.
    pub fn seen(&self) -> impl Iterator<Item = AnnouncedRange> {
        self.ranges.iter().map(|range| AnnouncedRange {
            range_id: range.range_id,
            prefix: *self.mapped.get(&range.range_id).unwrap_or(&range.prefix),
        })
    }
}

fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing to memory does not fail, and every type here has a form in CBOR.
    let written = ciborium::into_writer(message, &mut bytes);
    debug_assert!(written.is_ok());
    bytes
}

fn decode<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, OfferError> {
    if bytes.len() > MAX_JOIN {
        return Err(OfferError::Malformed);
    }
    let message = ciborium::de::from_reader_with_recursion_limit(&mut bytes, 16);
    let message = message.map_err(|_| OfferError::Malformed)?;
    match bytes.is_empty() {
        true => Ok(message),
        false => Err(OfferError::Malformed),
    }
}
