//! Does an identity fit a selector, and if not, which requirement failed?
//!
//! Three answers, not two: a label key that a cluster does not carry is *unknown*, and what depends
//! on it is [`Fit::Unknown`]. The logic is Kleene's: what another part excludes for certain is
//! [`Fit::No`] whatever the unknown key may hold. Nothing here allocates.

use std::{net::IpAddr, sync::Arc};

use identity::{Assurance, Claims, TrustDomain};
use ipnet::IpNet;

use crate::{
    KnownKeys, Peer, Query,
    canonical::canonical_workloads,
    model::{
        ClusterMatch, Direction, DomainPattern, LabelSelector, NamespaceMatch, Operator, Part,
        PeerMatch, PortMatch, PortSpec, Requirement, Rule, Term, WorkloadSelector,
    },
};

/// Whether something fits, with the requirement that stands in the way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fit<'a> {
    Yes,
    /// It depends on what is not carried.
    Unknown(Mismatch<'a>),
    No(Mismatch<'a>),
}

impl<'a> Fit<'a> {
    /// Both must fit: no is stronger than unknown, unknown than yes.
    pub(crate) fn and(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Fit::Yes => other(),
            Fit::No(_) => self,
            Fit::Unknown(_) => match other() {
                no @ Fit::No(_) => no,
                Fit::Yes | Fit::Unknown(_) => self,
            },
        }
    }

    /// Every one of `fits`.
    fn all(fits: impl IntoIterator<Item = Self>) -> Self {
        let mut unknown = Fit::Yes;
        for fit in fits {
            match (fit, unknown) {
                (Fit::No(_), _) => return fit,
                (Fit::Unknown(_), Fit::Yes) => unknown = fit,
                _ => {}
            }
        }
        unknown
    }

    /// Any of `fits`; `None` of them is `none`.
    fn any(fits: impl IntoIterator<Item = Self>, none: Self) -> Self {
        let mut best = none;
        for fit in fits {
            match (fit, best) {
                (Fit::Yes, _) => return fit,
                (Fit::Unknown(_), Fit::No(_)) | (Fit::No(_), Fit::No(_)) => best = fit,
                _ => {}
            }
        }
        best
    }

    /// The same with another reason for a no.
    fn with_no(self, mismatch: Mismatch<'a>) -> Self {
        match self {
            Fit::No(_) => Fit::No(mismatch),
            Fit::Yes | Fit::Unknown(_) => self,
        }
    }

    fn of(fits: bool, mismatch: Mismatch<'a>) -> Self {
        if fits { Fit::Yes } else { Fit::No(mismatch) }
    }
}

/// The requirement that failed: what was found and what was wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mismatch<'a> {
    Cluster {
        found: &'a TrustDomain,
        wanted: &'a ClusterMatch,
    },
    Namespace {
        found: &'a str,
        wanted: &'a [String],
    },
    ServiceAccount {
        found: &'a str,
        wanted: &'a [String],
    },
    Label {
        whose: Whose,
        key: &'a str,
        found: Option<&'a str>,
        wanted: &'a Operator,
    },
    /// No part of a choice holds.
    NoChoice {
        whose: Whose,
        wanted: &'a Term,
    },
    NotCarried {
        whose: Whose,
        domain: &'a TrustDomain,
        key: &'a str,
    },
    /// A workload is wanted and the peer is a plain address.
    NotAWorkload,
    /// An address is wanted and the caller does not know the workload's.
    NoAddress,
    Outside {
        address: IpAddr,
        cidr: IpNet,
    },
    Excepted {
        address: IpAddr,
        except: IpNet,
    },
    /// No name that the subject was told of the address fits.
    Domain {
        names: &'a [Arc<str>],
        wanted: &'a DomainPattern,
    },
    Ports {
        protocol: u8,
        port: u16,
        wanted: &'a [PortMatch],
        /// The pod whose names count.
        destination: Option<&'a Claims>,
    },
    /// One of those that the rule leaves out.
    NotPorts {
        protocol: u8,
        port: u16,
        unwanted: &'a PortMatch,
    },
    Assurance {
        found: Assurance,
        wanted: Assurance,
    },
}

/// Whose label is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Whose {
    Pod,
    Namespace,
}

/// What every match depends on besides its two sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// The cluster that owns the policy.
    pub own: &'a TrustDomain,
    pub known: &'a KnownKeys,
}

/// A selector that stands in no policy, to be asked about one workload after the other.
#[derive(Clone, Debug)]
pub struct Matcher {
    selector: WorkloadSelector,
    own: TrustDomain,
}

impl Matcher {
    /// Asks `selector`, which need not be in canonical form, as the cluster `own` means it.
    #[must_use]
    pub fn new(selector: &WorkloadSelector, own: TrustDomain) -> Self {
        let mut selector = selector.clone();
        canonical_workloads(&mut selector);
        Self { selector, own }
    }

    /// Whether the workload fits for certain, when `known` says which labels are carried.
    #[must_use]
    pub fn fits(&self, claims: &Claims, known: &KnownKeys) -> bool {
        matches!(self.fit(claims, known), Fit::Yes)
    }

    /// The same, where a label that is not carried may have any value: as a rule that denies reads
    /// it.
    #[must_use]
    pub fn may_fit(&self, claims: &Claims, known: &KnownKeys) -> bool {
        !matches!(self.fit(claims, known), Fit::No(_))
    }

    fn fit<'a>(&'a self, claims: &'a Claims, known: &'a KnownKeys) -> Fit<'a> {
        let own = &self.own;
        workload(&self.selector, claims, Context { own, known })
    }
}

/// Those of `claims` that fit `selector`, which need not be in canonical form, of a policy of the cluster
/// `own`; every label counts as carried.
pub fn selected<'c>(
    selector: &WorkloadSelector,
    own: &TrustDomain,
    claims: impl IntoIterator<Item = &'c Claims>,
) -> impl Iterator<Item = &'c Claims> {
    let (matcher, known) = (Matcher::new(selector, own.clone()), KnownKeys::all());
    claims
        .into_iter()
        .filter(move |claims| matcher.fits(claims, &known))
}

/// Does the workload fit the selector?
pub(crate) fn workload<'a>(
    selector: &'a WorkloadSelector,
    claims: &'a Claims,
    context: Context<'a>,
) -> Fit<'a> {
    cluster(&selector.clusters, claims.trust_domain(), context.own)
        .and(|| namespace(&selector.namespaces, claims, context))
        .and(|| labels(&selector.pods, Whose::Pod, claims, context))
        .and(|| {
            let (wanted, found) = (&selector.service_accounts, claims.service_account());
            Fit::of(
                wanted.is_empty() || contains(wanted, found),
                Mismatch::ServiceAccount { found, wanted },
            )
        })
}

/// Does the other end fit? An address counts for a workload only because it proved its identity.
pub(crate) fn peer<'a>(wanted: &'a PeerMatch, peer: Peer<'a>, context: Context<'a>) -> Fit<'a> {
    match (wanted, peer) {
        (PeerMatch::Workload(selector), Peer::Identity { claims, .. }) => {
            workload(selector, claims, context)
        }
        (PeerMatch::Workload(_), Peer::Address(_) | Peer::Named { .. } | Peer::Node) => {
            Fit::No(Mismatch::NotAWorkload)
        }
        (PeerMatch::Net { cidr, except }, peer) => match peer.address() {
            Some(address) => net(*cidr, except, address),
            None => Fit::No(Mismatch::NoAddress),
        },
        (PeerMatch::Domain(wanted), peer) => {
            let names = peer.names();
            Fit::of(
                names.iter().any(|name| wanted.fits(name)),
                Mismatch::Domain { names, wanted },
            )
        }
    }
}

/// Does the other end fit any of `wanted`? Nothing wanted is fitted by all.
pub(crate) fn peers<'a>(wanted: &'a [PeerMatch], other: Peer<'a>, context: Context<'a>) -> Fit<'a> {
    if wanted.is_empty() {
        return Fit::Yes;
    }
    Fit::any(
        wanted.iter().map(|one| peer(one, other, context)),
        Fit::No(Mismatch::NotAWorkload),
    )
}

/// Does the destination port fit what the rule says of ports? A name means what the destination pod means by
/// it: the subject on ingress, the peer on egress; a plain address has no names.
pub(crate) fn ports<'a>(rule: &'a Rule, query: &Query<'a>) -> Fit<'a> {
    let destination = match (query.direction, query.peer) {
        (Direction::Ingress, _) => Some(query.subject),
        (Direction::Egress, Peer::Identity { claims, .. }) => Some(claims),
        (Direction::Egress, Peer::Address(_) | Peer::Named { .. } | Peer::Node) => None,
    };
    let (protocol, port, wanted) = (query.protocol, query.port, &rule.ports);
    let fits = |wanted: &&PortMatch| {
        wanted.protocol == protocol
            && match &wanted.port {
                PortSpec::Any => true,
                PortSpec::Range(first, last) => (*first..=*last).contains(&port),
                PortSpec::Named(name) => destination.is_some_and(|pod| {
                    pod.named_ports
                        .iter()
                        .any(|p| p.protocol == protocol && p.port == port && p.name == *name)
                }),
            }
    };
    if let Some(unwanted) = rule.not_ports.iter().find(fits) {
        return Fit::No(Mismatch::NotPorts {
            protocol,
            port,
            unwanted,
        });
    }
    Fit::of(
        wanted.is_empty() || wanted.iter().any(|w| fits(&w)),
        Mismatch::Ports {
            protocol,
            port,
            wanted,
            destination,
        },
    )
}

fn cluster<'a>(wanted: &'a ClusterMatch, found: &'a TrustDomain, own: &TrustDomain) -> Fit<'a> {
    let fits = match wanted {
        ClusterMatch::Own => found == own,
        ClusterMatch::Any => true,
        ClusterMatch::Remote => found != own,
        ClusterMatch::Listed(listed) => listed.contains(found),
    };
    Fit::of(fits, Mismatch::Cluster { found, wanted })
}

fn namespace<'a>(wanted: &'a NamespaceMatch, claims: &'a Claims, context: Context<'a>) -> Fit<'a> {
    match wanted {
        NamespaceMatch::Any => Fit::Yes,
        NamespaceMatch::Names(wanted) => {
            let found = claims.namespace();
            Fit::of(
                contains(wanted, found),
                Mismatch::Namespace { found, wanted },
            )
        }
        NamespaceMatch::Labels(selector) => labels(selector, Whose::Namespace, claims, context),
    }
}

fn labels<'a>(
    selector: &'a LabelSelector,
    whose: Whose,
    claims: &'a Claims,
    context: Context<'a>,
) -> Fit<'a> {
    Fit::all(selector.0.iter().map(|term| {
        match term {
            Term::Label(wanted) => requirement(wanted, whose, claims, context),
            Term::AnyOf(choices) => Fit::any(
                choices.iter().map(|c| labels(c, whose, claims, context)),
                Fit::No(Mismatch::NoChoice {
                    whose,
                    wanted: term,
                }),
            )
            .with_no(Mismatch::NoChoice {
                whose,
                wanted: term,
            }),
        }
    }))
}

fn requirement<'a>(
    requirement: &'a Requirement,
    whose: Whose,
    claims: &'a Claims,
    context: Context<'a>,
) -> Fit<'a> {
    let Requirement { key, operator } = requirement;
    let domain = claims.trust_domain();
    if !context.known.carries(domain, key) {
        return Fit::Unknown(Mismatch::NotCarried { whose, domain, key });
    }
    let found = match whose {
        Whose::Pod => claims.labels.value(key),
        Whose::Namespace => claims.namespace_labels.value(key),
    };
    let fits = satisfies(operator, found);
    Fit::of(
        fits,
        Mismatch::Label {
            whose,
            key,
            found,
            wanted: operator,
        },
    )
}

/// Whether `operator` holds of a label's value; `None` is a label that is absent.
pub(crate) fn satisfies(operator: &Operator, found: Option<&str>) -> bool {
    match operator {
        Operator::In(values) => found.is_some_and(|value| contains(values, value)),
        Operator::NotIn(values) => found.is_none_or(|value| !contains(values, value)),
        Operator::Exists => found.is_some(),
        Operator::DoesNotExist => found.is_none(),
        Operator::Like(part) => found.is_some_and(|value| holds(value, part)),
        Operator::NotLike(part) => found.is_none_or(|value| !holds(value, part)),
    }
}

pub(crate) fn holds(value: &str, part: &Part) -> bool {
    match part {
        Part::Contains(text) => value.contains(text.as_str()),
        Part::StartsWith(text) => value.starts_with(text.as_str()),
        Part::EndsWith(text) => value.ends_with(text.as_str()),
    }
}

fn net<'a>(cidr: IpNet, except: &[IpNet], address: IpAddr) -> Fit<'a> {
    if !cidr.contains(&address) {
        return Fit::No(Mismatch::Outside { address, cidr });
    }
    match except.iter().find(|hole| hole.contains(&address)) {
        Some(&except) => Fit::No(Mismatch::Excepted { address, except }),
        None => Fit::Yes,
    }
}

/// `sorted` is canonical (see `canonical.rs`), so a long list costs a binary search.
fn contains(sorted: &[String], value: &str) -> bool {
    sorted
        .binary_search_by(|one| one.as_str().cmp(value))
        .is_ok()
}
