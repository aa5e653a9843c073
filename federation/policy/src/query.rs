//! The question that `decide` answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use identity::{BundleStore, Claims, TrustDomain};

use crate::model::{Direction, Scope};

/// May this connection be? A connection between two pods of one cluster is asked twice: egress of
/// its source and ingress of its destination must both be allowed.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Seen from `subject`.
    pub direction: Direction,
    /// The pod of the cluster that owns the table.
    pub subject: &'a Claims,
    /// The other end.
    pub peer: Peer<'a>,
    /// The IP protocol number.
    pub protocol: u8,
    /// The destination port as the destination pod gets it, after every translation; of ICMP and ICMPv6 type and
    /// code ([`crate::model::icmp`]); 0 for any other protocol without ports.
    pub port: u16,
    /// Which label keys the clusters carry.
    pub known: &'a KnownKeys,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub enum Peer<'a> {
    /// A workload that proved its identity. Only then does its address count for an `ipBlock`.
    Identity {
        /// What it proved.
        claims: &'a Claims,
        /// Its address as this cluster sees it, where the caller knows it.
        address: Option<IpAddr>,
    },
    /// An address outside the identity networks. The caller has refused an address inside them
    /// that proved nothing before it asks.
    Address(IpAddr),
    /// Such an address, or one that is not known, with the names that the subject was told of it by DNS, in lower
    /// case and without a dot at the end. Only the names of answers that are still valid.
    Named {
        /// The address, where the caller knows it.
        address: Option<IpAddr>,
        /// The names.
        names: &'a [Arc<str>],
    },
    /// The node that the pod runs on: a local socket, never a source address seen on a wire.
    Node,
}

impl Query<'_> {
    /// Where the peer stands, seen from the cluster `own`.
    #[must_use]
    pub fn scope(&self, own: &TrustDomain) -> Scope {
        match self.peer {
            Peer::Identity { claims, .. } if claims.trust_domain() != own => Scope::Remote,
            Peer::Identity { .. } | Peer::Address(_) | Peer::Named { .. } | Peer::Node => {
                Scope::Local
            }
        }
    }
}

impl<'a> Peer<'a> {
    /// Its address, as far as it is known.
    #[must_use]
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Identity { address, .. } | Self::Named { address, .. } => address,
            Self::Address(address) => Some(address),
            Self::Node => None,
        }
    }

    /// The names that the subject was told of it.
    pub(crate) fn names(self) -> &'a [Arc<str>] {
        match self {
            Self::Named { names, .. } => names,
            Self::Identity { .. } | Self::Address(_) | Self::Node => &[],
        }
    }
}

/// Which label keys each cluster puts into its credentials. A key outside is *unknown*: neither
/// its presence nor its absence in a credential says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKeys {
    /// Only the clusters that carry less than everything; absent when there is none.
    narrowed: Option<Arc<BTreeMap<TrustDomain, BTreeSet<String>>>>,
}

impl KnownKeys {
    /// Every cluster carries every label.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// What each cluster published with its bundle.
    #[must_use]
    pub fn published(bundles: &BundleStore) -> Self {
        let mut known = Self::all();
        for bundle in bundles.iter() {
            if let Some(keys) = &bundle.carried_labels {
                known.narrow(bundle.trust_domain.clone(), keys.iter().cloned());
            }
        }
        known
    }

    /// `domain` carries only `keys`, of pods and of namespaces.
    pub fn narrow(&mut self, domain: TrustDomain, keys: impl IntoIterator<Item = String>) {
        let narrowed = Arc::make_mut(self.narrowed.get_or_insert_default());
        narrowed.insert(domain, keys.into_iter().collect());
    }

    /// Whether `domain` carries the label `key`.
    #[must_use]
    pub fn carries(&self, domain: &TrustDomain, key: &str) -> bool {
        self.of(domain).is_none_or(|keys| keys.contains(key))
    }

    /// Whether `domain` carries less than every label.
    #[must_use]
    pub fn is_narrowed(&self, domain: &TrustDomain) -> bool {
        self.of(domain).is_some()
    }

    fn of(&self, domain: &TrustDomain) -> Option<&BTreeSet<String>> {
        self.narrowed.as_ref()?.get(domain)
    }

    /// Whether every cluster carries the label `key`.
    pub(crate) fn all_carry(&self, key: &str) -> bool {
        let mut narrowed = self.narrowed.iter().flat_map(|narrowed| narrowed.values());
        narrowed.all(|keys| keys.contains(key))
    }

    /// Whether both are one value, or say of every cluster that it carries everything. Two that are equal
    /// need not be.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (&self.narrowed, &other.narrowed) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}
