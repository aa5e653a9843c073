//! Does everything that one part of a rule matches match another one too?
//!
//! Yes is a proof, by the structure of the two alone; no is only that none was found. What a cluster does
//! not carry is kept in mind: where the narrower part is *unknown* for an identity, the wider one is unknown
//! or fits, never excluded.

use identity::TrustDomain;
use ipnet::IpNet;

use crate::{
    model::{
        ClusterMatch, DomainPattern, LabelSelector, NamespaceMatch, Operator, PeerMatch, PortMatch,
        PortSpec, Requirement, Rule, Scope, Term, WorkloadSelector,
    },
    selector::satisfies,
};

/// Where a rule is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane<'a> {
    pub own: &'a TrustDomain,
    pub scope: Scope,
}

/// A share of the other ends that a rule matches. All shares together are all that it matches.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Share<'a> {
    /// Every end of the local scope, whatever is known of it.
    Everybody,
    /// Every identity of the scope.
    Identities,
    /// The identities that fit.
    Selected(&'a WorkloadSelector),
    /// The identities whose address is known and lies there.
    IdentitiesAt(IpNet, &'a [IpNet]),
    /// The addresses without identity that lie there.
    Addresses(IpNet, &'a [IpNet]),
    /// The ends of which a name is known that fits.
    Named(&'a DomainPattern),
}

impl<'a> Lane<'a> {
    /// The shares of `peers` that there can be in this scope.
    pub fn shares(self, peers: &'a [PeerMatch]) -> Vec<Share<'a>> {
        let is_local = self.scope == Scope::Local;
        if peers.is_empty() {
            let all = if is_local {
                Share::Everybody
            } else {
                Share::Identities
            };
            return vec![all];
        }
        let mut shares = Vec::new();
        for peer in peers {
            match peer {
                PeerMatch::Workload(selector) if self.is_empty(selector) => {}
                PeerMatch::Workload(selector) => shares.push(Share::Selected(selector)),
                PeerMatch::Net { cidr, except } => {
                    shares.push(Share::IdentitiesAt(*cidr, except));
                    if is_local {
                        shares.push(Share::Addresses(*cidr, except));
                    }
                }
                PeerMatch::Domain(pattern) if is_local => shares.push(Share::Named(pattern)),
                PeerMatch::Domain(_) => {}
            }
        }
        shares
    }

    /// Whether any of `peers` matches all of `share`.
    pub fn covers(self, peers: &[PeerMatch], share: Share<'_>) -> bool {
        let covers = |peer: &PeerMatch| match (peer, share) {
            (PeerMatch::Workload(wide), Share::Identities | Share::IdentitiesAt(..)) => {
                self.is_everybody(wide)
            }
            (PeerMatch::Workload(wide), Share::Selected(narrow)) => {
                self.covers_workloads(wide, narrow)
            }
            (
                PeerMatch::Net { cidr, except },
                Share::IdentitiesAt(narrow, holes) | Share::Addresses(narrow, holes),
            ) => covers_net((*cidr, except), (narrow, holes)),
            (PeerMatch::Domain(wide), Share::Named(narrow)) => {
                wide == narrow || wide.below && wide.fits(&narrow.name)
            }
            // The address of an identity, or of a name, may not be known.
            (PeerMatch::Net { .. }, Share::Identities | Share::Selected(_) | Share::Named(_))
            | (PeerMatch::Workload(_), Share::Addresses(..) | Share::Named(_))
            | (
                PeerMatch::Domain(_),
                Share::Identities
                | Share::Selected(_)
                | Share::IdentitiesAt(..)
                | Share::Addresses(..),
            )
            | (_, Share::Everybody) => false,
        };
        peers.is_empty() || peers.iter().any(covers)
    }

    /// Whether every workload of this scope that fits `narrow` fits `wide`.
    pub fn covers_workloads(self, wide: &WorkloadSelector, narrow: &WorkloadSelector) -> bool {
        // Every field must be looked at: one that is added must not be forgotten here.
        let WorkloadSelector {
            clusters,
            namespaces,
            pods,
            service_accounts,
        } = wide;
        let accounts = &narrow.service_accounts;
        self.covers_clusters(clusters, &narrow.clusters)
            && covers_namespaces(namespaces, &narrow.namespaces)
            && covers_labels(pods, &narrow.pods)
            && (service_accounts.is_empty()
                || !accounts.is_empty() && is_subset(accounts, service_accounts))
    }

    fn is_everybody(self, selector: &WorkloadSelector) -> bool {
        let everybody = WorkloadSelector {
            clusters: ClusterMatch::Any,
            namespaces: NamespaceMatch::Any,
            pods: LabelSelector::default(),
            service_accounts: Vec::new(),
        };
        self.covers_workloads(selector, &everybody)
    }

    /// Whether no cluster of this scope is looked at.
    fn is_empty(self, selector: &WorkloadSelector) -> bool {
        let is_own = |listed: &Vec<TrustDomain>| listed.contains(self.own);
        match (&selector.clusters, self.scope) {
            (ClusterMatch::Own, scope) => scope == Scope::Remote,
            (ClusterMatch::Remote, scope) => scope == Scope::Local,
            (ClusterMatch::Any, _) => false,
            (ClusterMatch::Listed(listed), Scope::Local) => !is_own(listed),
            (ClusterMatch::Listed(listed), Scope::Remote) => listed.iter().all(|d| d == self.own),
        }
    }

    fn covers_clusters(self, wide: &ClusterMatch, narrow: &ClusterMatch) -> bool {
        match (wide, self.scope) {
            (ClusterMatch::Any, _)
            | (ClusterMatch::Own, Scope::Local)
            | (ClusterMatch::Remote, Scope::Remote) => true,
            (ClusterMatch::Own, Scope::Remote) | (ClusterMatch::Remote, Scope::Local) => false,
            (ClusterMatch::Listed(listed), Scope::Local) => listed.contains(self.own),
            (ClusterMatch::Listed(listed), Scope::Remote) => match narrow {
                ClusterMatch::Listed(narrow) => {
                    let remote = narrow.iter().filter(|d| *d != self.own);
                    remote.into_iter().all(|d| listed.contains(d))
                }
                ClusterMatch::Own | ClusterMatch::Any | ClusterMatch::Remote => false,
            },
        }
    }
}

fn covers_namespaces(wide: &NamespaceMatch, narrow: &NamespaceMatch) -> bool {
    match (wide, narrow) {
        (NamespaceMatch::Any, _) => true,
        (NamespaceMatch::Labels(wide), NamespaceMatch::Labels(narrow)) => {
            covers_labels(wide, narrow)
        }
        (NamespaceMatch::Labels(wide), NamespaceMatch::Any | NamespaceMatch::Names(_)) => {
            wide.0.is_empty()
        }
        (NamespaceMatch::Names(wide), NamespaceMatch::Names(narrow)) => is_subset(narrow, wide),
        (NamespaceMatch::Names(_), NamespaceMatch::Any | NamespaceMatch::Labels(_)) => false,
    }
}

fn covers_labels(wide: &LabelSelector, narrow: &LabelSelector) -> bool {
    wide.0.iter().all(|term| follows(term, narrow))
}

/// Whether `wanted` holds wherever all of `given` do. Only what `given` says of the same labels leads there, so
/// that `wanted` is unknown only where `given` is.
fn follows(wanted: &Term, given: &LabelSelector) -> bool {
    let by_itself = match wanted {
        Term::Label(wanted) => requirement_follows(wanted, given),
        Term::AnyOf(choices) => choices.iter().any(|choice| covers_labels(choice, given)),
    };
    // Of a choice that is given, every part must lead there.
    let by_choice = |term: &Term| match term {
        Term::AnyOf(choices) => choices.iter().all(|choice| follows(wanted, choice)),
        Term::Label(_) => false,
    };
    by_itself || given.0.contains(wanted) || given.0.iter().any(by_choice)
}

fn requirement_follows(wanted: &Requirement, given: &LabelSelector) -> bool {
    let of_key = given.0.iter().filter_map(|term| match term {
        Term::Label(given) if given.key == wanted.key => Some(&given.operator),
        Term::Label(_) | Term::AnyOf(_) => None,
    });
    let operators: Vec<&Operator> = of_key.collect();
    let may_be = |value: Option<&str>| operators.iter().all(|o| satisfies(o, value));
    // Where the label can only have some values, or be absent, each is tried.
    for operator in &operators {
        match operator {
            Operator::In(values) => {
                let mut possible = values.iter().map(|v| Some(v.as_str()));
                return possible.all(|v| !may_be(v) || satisfies(&wanted.operator, v));
            }
            Operator::DoesNotExist => return !may_be(None) || satisfies(&wanted.operator, None),
            Operator::NotIn(_) | Operator::Exists | Operator::Like(_) | Operator::NotLike(_) => {}
        }
    }
    // Else it can have values that nobody lists.
    match &wanted.operator {
        Operator::Exists => !operators.is_empty() && !may_be(None),
        Operator::NotIn(values) => !operators.is_empty() && !values.iter().any(|v| may_be(Some(v))),
        Operator::In(_) | Operator::DoesNotExist | Operator::Like(_) | Operator::NotLike(_) => {
            false
        }
    }
}

fn covers_net((wide, holes): (IpNet, &[IpNet]), (narrow, excepted): (IpNet, &[IpNet])) -> bool {
    // A hole matters where it meets the narrower block outside of that one's own holes.
    let matters = |hole: &IpNet| {
        let meets = hole.contains(&narrow) || narrow.contains(hole);
        meets && !excepted.iter().any(|own| own.contains(hole))
    };
    wide.contains(&narrow) && !holes.iter().any(matters)
}

/// Whether `wide` matches every port that `narrow` does by `port`, one of those it lists; `None` where it lists
/// none and matches every protocol and port.
pub(crate) fn covers_port(wide: &Rule, narrow: &Rule, port: Option<&PortMatch>) -> bool {
    let leaves_out = |unwanted: &PortMatch| {
        let is_other = port.is_some_and(|port| port.protocol != unwanted.protocol);
        is_other || is_among(&narrow.not_ports, unwanted)
    };
    let is_wanted = match port {
        _ if wide.ports.is_empty() => true,
        Some(port) => is_among(&wide.ports, port),
        None => false,
    };
    is_wanted && wide.not_ports.iter().all(leaves_out)
}

/// Whether `ports` leave nothing of `port` out.
fn is_among(ports: &[PortMatch], port: &PortMatch) -> bool {
    let of_protocol = || ports.iter().filter(|p| p.protocol == port.protocol);
    let ranges = || of_protocol().filter_map(|p| range(&p.port));
    match &port.port {
        PortSpec::Any => covers_range(ranges(), (0, u16::MAX)),
        PortSpec::Range(first, last) => covers_range(ranges(), (*first, *last)),
        PortSpec::Named(_) => {
            of_protocol().any(|p| p.port == port.port) || covers_range(ranges(), (0, u16::MAX))
        }
    }
}

fn range(port: &PortSpec) -> Option<(u16, u16)> {
    match port {
        PortSpec::Any => Some((0, u16::MAX)),
        PortSpec::Range(first, last) => Some((*first, *last)),
        PortSpec::Named(_) => None,
    }
}

/// Whether the ranges leave no port of `wanted` out.
fn covers_range(ranges: impl Iterator<Item = (u16, u16)>, wanted: (u16, u16)) -> bool {
    let mut ranges: Vec<(u16, u16)> = ranges.collect();
    ranges.sort_unstable();
    let mut next = u32::from(wanted.0);
    for (first, last) in ranges {
        if u32::from(first) > next {
            break;
        }
        next = next.max(u32::from(last).saturating_add(1));
    }
    next > u32::from(wanted.1)
}

fn is_subset(narrow: &[String], wide: &[String]) -> bool {
    narrow.iter().all(|one| wide.contains(one))
}
