//! What is not believed although a key of its trust domain signed it: pods that changed, what was
//! revoked, and what a peer may not claim here. Every identity passes here, whoever judges it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use identity::{
    BundleStore, ClaimLimits, Claims, SpiffeId, TrustDomain, UnixMillis,
    fault::{self, Fault},
};
use policy::{
    DropReason, Explanation, KnownKeys, Matcher,
    expression::{self, ExpressionError, Labels},
    model::{ClusterMatch, NamespaceMatch, WorkloadSelector},
};
use serde::{Deserialize, Serialize};

use crate::credentials::PodStates;

/// Most revocations of one trust domain.
pub const MAX_REVOCATIONS: usize = 2048;
/// Longest reason in bytes.
pub const MAX_REASON: usize = 256;
/// Longest selector in bytes.
pub const MAX_SELECTOR: usize = 2048;

/// What is revoked. It is of one trust domain, which stands beside it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Target {
    /// Everything of the trust domain.
    Cluster,
    /// One SPIFFE ID.
    Identity(SpiffeId),
    /// One credential, by its `cti`.
    Credential(CredentialId),
    /// Every pod whose labels fit, in the form of [`policy::expression`].
    Labels {
        /// Of the pod's labels.
        pods: String,
        /// Of its namespace's labels; all namespaces when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespaces: Option<String>,
    },
}

/// The `cti` of a credential (RFC 8392, section 3.1.7), 32 hex digits for people.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialId(pub [u8; 16]);

/// Text that is not 32 hex digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a credential is named by 32 hex digits, not by {0:?}")]
pub struct CredentialIdError(String);

impl FromStr for CredentialId {
    type Err = CredentialIdError;

    fn from_str(text: &str) -> Result<Self, CredentialIdError> {
        let wrong = || CredentialIdError(text.chars().take(100).collect());
        let mut id = [0; 16];
        // A sign is no digit, though numbers may have one.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(id))
    }
}

impl TryFrom<String> for CredentialId {
    type Error = CredentialIdError;
    fn try_from(text: String) -> Result<Self, CredentialIdError> {
        text.parse()
    }
}

impl From<CredentialId> for String {
    fn from(id: CredentialId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Identity(id) => write!(f, "identity {id}"),
            Self::Credential(id) => write!(f, "credential {id}"),
            Self::Labels {
                pods,
                namespaces: None,
            } => write!(f, "labels {pods}"),
            Self::Labels {
                pods,
                namespaces: Some(namespaces),
            } => write!(f, "labels {pods} in namespaces {namespaces}"),
        }
    }
}

/// One revocation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// What.
    pub target: Target,
    /// Why, in the operator's words.
    pub reason: String,
    /// Since when.
    pub at: UnixMillis,
}

/// A revocation that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// A SPIFFE ID of another trust domain.
    #[error("{0} is not of {1}")]
    OtherDomain(SpiffeId, TrustDomain),
    /// A selector makes no sense.
    #[error("{selector:?}: {error}")]
    Selector {
        /// The selector.
        selector: String,
        /// What is wrong with it.
        error: ExpressionError,
    },
    /// A reason or selector is too long, or there is no reason.
    #[error("{0}")]
    Text(&'static str),
    /// Too many.
    #[error("more than {MAX_REVOCATIONS} revocations of one trust domain")]
    TooMany,
}

/// What restricts one trust domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restrictions {
    /// What its credentials may claim.
    pub limits: ClaimLimits,
    /// What of it is revoked, sorted.
    pub revoked: Vec<Revocation>,
    /// Which pods of this cluster it may meet: those whose own claims keep to this.
    #[serde(default, skip_serializing_if = "ClaimLimits::is_empty")]
    pub offer: ClaimLimits,
    /// What holds because its gateway was not heard of for too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<Away>,
}

/// What holds of a trust domain whose gateway is away for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Away {
    /// Nothing of it is admitted.
    Closed {
        /// When it was heard last.
        since: UnixMillis,
    },
    /// Its bundle has no end.
    Kept,
}

impl Restrictions {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let limits = self.limits.is_empty() && self.offer.is_empty();
        limits && self.revoked.is_empty() && self.away.is_none()
    }

    /// Whether all of the domain is revoked, and why.
    #[must_use]
    pub fn cluster(&self) -> Option<&Revocation> {
        let mut revoked = self.revoked.iter();
        revoked.find(|revocation| revocation.target == Target::Cluster)
    }
}

/// [`Restrictions`] in a form that is asked quickly.
#[derive(Clone, Debug)]
pub struct Restricted {
    from: Restrictions,
    cluster: bool,
    identities: BTreeSet<SpiffeId>,
    credentials: BTreeSet<[u8; 16]>,
    labels: Vec<Matcher>,
}

impl PartialEq for Restricted {
    fn eq(&self, other: &Self) -> bool {
        self.from == other.from
    }
}

impl Restricted {
    /// Takes what restricts `domain`.
    ///
    /// # Errors
    /// [`RevocationError`].
    pub fn new(domain: &TrustDomain, from: Restrictions) -> Result<Self, RevocationError> {
        if from.revoked.len() > MAX_REVOCATIONS {
            return Err(RevocationError::TooMany);
        }
        let mut made = Self {
            cluster: false,
            identities: BTreeSet::new(),
            credentials: BTreeSet::new(),
            labels: Vec::new(),
            from: Restrictions::default(),
        };
        for revocation in &from.revoked {
            made.add(domain, revocation)?;
        }
        made.from = from;
        Ok(made)
    }

    /// What it was made of.
    #[must_use]
    pub fn restrictions(&self) -> &Restrictions {
        &self.from
    }

    fn add(&mut self, domain: &TrustDomain, of: &Revocation) -> Result<(), RevocationError> {
        if of.reason.is_empty() || of.reason.len() > MAX_REASON {
            return Err(RevocationError::Text("a reason has 1 to 256 bytes"));
        }
        match &of.target {
            Target::Cluster => self.cluster = true,
            Target::Identity(id) if id.trust_domain() != domain => {
                return Err(RevocationError::OtherDomain(id.clone(), domain.clone()));
            }
            Target::Identity(id) => drop(self.identities.insert(id.clone())),
            Target::Credential(id) => drop(self.credentials.insert(id.0)),
            Target::Labels { pods, namespaces } => {
                let namespaces = namespaces
                    .as_deref()
                    .map(|text| read(text, Labels::OfNamespaces))
                    .transpose()?;
                let selector = WorkloadSelector {
                    clusters: ClusterMatch::Any,
                    namespaces: namespaces.map_or(NamespaceMatch::Any, NamespaceMatch::Labels),
                    pods: read(pods, Labels::OfWorkloads)?,
                    service_accounts: Vec::new(),
                };
                self.labels.push(Matcher::new(&selector, domain.clone()));
            }
        }
        Ok(())
    }

    fn check(&self, claims: &Claims, known: &KnownKeys) -> Result<(), DropReason> {
        let revoked = self.cluster
            || self.credentials.contains(&claims.id)
            || self.identities.contains(&claims.subject)
            || self
                .labels
                .iter()
                .any(|labels| labels.may_fit(claims, known));
        if revoked && !fault::is(Fault::RevocationIgnored) {
            return Err(DropReason::Revoked);
        }
        if matches!(self.from.away, Some(Away::Closed { .. })) {
            return Err(DropReason::PeerAway);
        }
        match self.from.limits.check(claims) {
            Err(_) if !fault::is(Fault::LimitsIgnored) => Err(DropReason::ClaimNotAccepted),
            _ => Ok(()),
        }
    }

    /// Why `claims` are not believed, in words.
    fn why(&self, claims: &Claims, known: &KnownKeys) -> Option<String> {
        let hit = self.from.revoked.iter().find(|revocation| {
            let only = Restrictions {
                revoked: vec![(*revocation).clone()],
                ..Restrictions::default()
            };
            let only = Self::new(claims.trust_domain(), only);
            only.is_ok_and(|only| only.check(claims, known).is_err())
        });
        if let Some(Revocation { target, reason, at }) = hit {
            return Some(format!("{target} is revoked since {at}: {reason}"));
        }
        if let Some(Away::Closed { since }) = self.from.away {
            return Some(format!(
                "its cluster was heard last at {since}, longer ago than the operator allows"
            ));
        }
        let violation = self.from.limits.check(claims).err()?;
        Some(violation.to_string())
    }
}

fn read(text: &str, labels: Labels) -> Result<policy::model::LabelSelector, RevocationError> {
    if text.len() > MAX_SELECTOR {
        return Err(RevocationError::Text("a selector has at most 2048 bytes"));
    }
    expression::parse(text, labels).map_err(|error| RevocationError::Selector {
        selector: text.to_owned(),
        error,
    })
}

/// `bundles`, in which those have no end that are kept while their clusters are away.
#[must_use]
pub fn lasting(
    bundles: &BundleStore,
    domains: &BTreeMap<TrustDomain, Arc<Restricted>>,
) -> BundleStore {
    let is_kept = |of: &Restricted| of.from.away == Some(Away::Kept);
    let kept = domains.iter().filter(|(_, of)| is_kept(of));
    bundles.without_end(kept.map(|(domain, _)| domain))
}

/// What stands between a signature that holds and being believed.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    pods: PodStates,
    domains: BTreeMap<TrustDomain, Arc<Restricted>>,
    known: KnownKeys,
}

impl Admission {
    /// `pods`: those that were relabelled or deleted since their credential was issued. `domains`:
    /// what restricts each. `known`: which labels each carries; a revocation holds also where a
    /// label that it asks for is not carried.
    #[must_use]
    pub fn new(
        pods: PodStates,
        domains: BTreeMap<TrustDomain, Arc<Restricted>>,
        known: KnownKeys,
    ) -> Self {
        Self {
            pods,
            domains,
            known,
        }
    }

    /// Whether `claims` may be believed, which are those of the pod as it is now.
    ///
    /// # Errors
    /// [`DropReason::Revoked`], [`DropReason::PeerAway`] or [`DropReason::ClaimNotAccepted`].
    pub fn check(&self, claims: &Claims) -> Result<(), DropReason> {
        match self.domains.get(claims.trust_domain()) {
            None => Ok(()),
            Some(domain) => domain.check(claims, &self.known),
        }
    }

    /// Whether the pod of `claims`, of this cluster, is offered to the cluster `to`.
    ///
    /// # Errors
    /// [`DropReason::NotOffered`].
    pub fn offers(&self, claims: &Claims, to: &TrustDomain) -> Result<(), DropReason> {
        let domain = self.domains.get(to);
        match domain.filter(|_| claims.trust_domain() != to) {
            Some(domain) if !fault::is(Fault::OfferIgnored) => {
                (domain.from.offer.check(claims)).map_err(|_| DropReason::NotOffered)
            }
            _ => Ok(()),
        }
    }

    /// What the pod that once proved `claims` is by now, if it may be believed.
    ///
    /// # Errors
    /// As [`Self::check`]; a pod that is gone is revoked.
    pub fn newest(&self, claims: &Arc<Claims>) -> Result<Arc<Claims>, DropReason> {
        self.check(claims)?;
        let newest = self.pods.newest(claims).ok_or(DropReason::Revoked)?;
        if !Arc::ptr_eq(&newest, claims) {
            self.check(&newest)?;
        }
        Ok(newest)
    }

    /// Why `claims` are not believed, in words for people.
    #[must_use]
    pub fn why(&self, claims: &Claims) -> Option<String> {
        let domain = self.domains.get(claims.trust_domain())?;
        domain.why(claims, &self.known)
    }

    /// What `explained` says of these ends, if policy is asked at all.
    #[must_use]
    pub fn explain<'a>(
        &self,
        explained: Explanation,
        ends: impl IntoIterator<Item = &'a Claims>,
    ) -> Explanation {
        let ends: Vec<_> = ends.into_iter().collect();
        let mut all = ends.iter();
        let refused = all.find_map(|claims| Some((self.check(claims).err()?, *claims)));
        let Some((reason, claims)) = refused else {
            return self.explain_offer(explained, &ends);
        };
        let why = self.why(claims).unwrap_or_default();
        explained.refused_before(reason, format!("{}: {why}", claims.display_name()))
    }

    /// What `explained` says when one of the ends is not offered to the cluster of the other.
    fn explain_offer(&self, explained: Explanation, ends: &[&Claims]) -> Explanation {
        let pairs = ends
            .iter()
            .flat_map(|own| ends.iter().map(move |other| (own, other)));
        for (own, other) in pairs {
            let to = other.trust_domain();
            if self.offers(own, to).is_err() {
                let name = own.display_name();
                let words = format!("{name} is not offered to {to}");
                return explained.refused_before(DropReason::NotOffered, words);
            }
        }
        explained
    }

    /// Whether the same restrictions are in force in `other`.
    #[must_use]
    pub fn restricts_as(&self, other: &Self) -> bool {
        self.domains == other.domains
    }
}

#[cfg(test)]
mod tests;
