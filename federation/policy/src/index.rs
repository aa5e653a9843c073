//! Finds the few rules that could concern an identity, without asking all of them.
//!
//! Each selector hangs on the rarest thing that it requires (a namespace, a label value, a service
//! account, a cluster, a prefix of addresses); what requires nothing of the kind is asked always. The index may offer
//! rules that do not match; it must never hide one that could, known or unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use identity::Claims;
use ipnet::IpNet;

use crate::{
    KnownKeys,
    model::{
        ClusterMatch, LabelSelector, NamespaceMatch, Operator, PeerMatch, Requirement, Term,
        WorkloadSelector,
    },
    selector::Whose,
};

/// One thing that a selector requires of every workload it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Anchor<'a> {
    Cluster(&'a str),
    Namespace(&'a str),
    ServiceAccount(&'a str),
    Label(Whose, &'a str, &'a str),
    Net(IpNet),
}

/// Numbers of entries by what they require of an identity.
#[derive(Clone, Debug, Default)]
pub(crate) struct SelectorIndex {
    /// Entries that are asked for every identity.
    always: Vec<u32>,
    clusters: BTreeMap<String, Vec<u32>>,
    namespaces: BTreeMap<String, Vec<u32>>,
    accounts: BTreeMap<String, Vec<u32>>,
    pod_labels: BTreeMap<String, BTreeMap<String, Vec<u32>>>,
    namespace_labels: BTreeMap<String, BTreeMap<String, Vec<u32>>>,
    nets: BTreeMap<IpNet, Vec<u32>>,
    /// The lengths of the prefixes in `nets`.
    net_lengths: BTreeSet<u8>,
}

/// A set of anchors, one of which everything has that fits.
type Choice<'a> = Vec<Anchor<'a>>;

/// How rare the anchors of a set of selectors are.
#[derive(Debug, Default)]
pub(crate) struct Census<'a>(BTreeMap<Anchor<'a>, usize>);

impl<'a> Census<'a> {
    /// Counts what `selector` requires.
    pub(crate) fn count(&mut self, selector: &'a WorkloadSelector) {
        self.count_choices(choices(selector));
    }

    /// Counts what a peer requires.
    pub(crate) fn count_peer(&mut self, peer: &'a PeerMatch) {
        self.count_choices(peer_choices(peer));
    }

    fn count_choices(&mut self, choices: Vec<Choice<'a>>) {
        for anchor in choices.into_iter().flatten() {
            *self.0.entry(anchor).or_default() += 1;
        }
    }

    /// How many entries would be offered beside an entry under its best anchors; the most there can
    /// be when the selector requires nothing that can be looked up.
    pub(crate) fn cost(&self, selector: &WorkloadSelector) -> usize {
        self.best(choices(selector))
            .map_or(usize::MAX, |(cost, _)| cost)
    }

    /// The same for any of some peers; none of them means every peer.
    pub(crate) fn cost_of_peers(&self, peers: &[PeerMatch]) -> usize {
        if peers.is_empty() {
            return usize::MAX;
        }
        let costs = peers.iter().map(|p| self.best(peer_choices(p)));
        let costs = costs.map(|best| best.map_or(usize::MAX, |(cost, _)| cost));
        costs.fold(0, usize::saturating_add)
    }

    fn best<'s>(&self, choices: Vec<Choice<'s>>) -> Option<(usize, Choice<'s>)> {
        let cost = |anchors: &Choice<'_>| {
            let counts = anchors.iter().map(|a| self.0.get(a).copied().unwrap_or(0));
            counts.fold(0_usize, usize::saturating_add)
        };
        choices
            .into_iter()
            .map(|anchors| (cost(&anchors), anchors))
            .min()
    }
}

impl SelectorIndex {
    /// `id` is offered for every identity.
    pub(crate) fn insert_always(&mut self, id: u32) {
        self.always.push(id);
    }

    /// `id` is offered for identities that `selector` could fit.
    pub(crate) fn insert(&mut self, selector: &WorkloadSelector, id: u32, census: &Census<'_>) {
        self.insert_best(choices(selector), id, census);
    }

    /// `id` is offered for the other ends that `peer` could fit.
    pub(crate) fn insert_peer(&mut self, peer: &PeerMatch, id: u32, census: &Census<'_>) {
        self.insert_best(peer_choices(peer), id, census);
    }

    fn insert_best(&mut self, choices: Vec<Choice<'_>>, id: u32, census: &Census<'_>) {
        let Some((_, anchors)) = census.best(choices) else {
            return self.insert_always(id);
        };
        for anchor in anchors {
            let list = match anchor {
                Anchor::Cluster(name) => entry(&mut self.clusters, name),
                Anchor::Namespace(name) => entry(&mut self.namespaces, name),
                Anchor::ServiceAccount(name) => entry(&mut self.accounts, name),
                Anchor::Label(Whose::Pod, key, value) => {
                    entry(entry(&mut self.pod_labels, key), value)
                }
                Anchor::Label(Whose::Namespace, key, value) => {
                    entry(entry(&mut self.namespace_labels, key), value)
                }
                Anchor::Net(net) => {
                    self.net_lengths.insert(net.prefix_len());
                    self.nets.entry(net).or_default()
                }
            };
            list.push(id);
        }
    }

    /// Adds to `out` what could concern an identity, in any order, possibly twice.
    pub(crate) fn offer(&self, claims: &Claims, known: &KnownKeys, out: &mut Vec<u32>) {
        self.offer_always(out);
        let by_name = [
            (&self.clusters, claims.trust_domain().as_str()),
            (&self.namespaces, claims.namespace()),
            (&self.accounts, claims.service_account()),
        ];
        for (map, name) in by_name {
            if let Some(list) = map.get(name) {
                out.extend(list);
            }
        }
        let by_label = [
            (&self.pod_labels, &claims.labels),
            (&self.namespace_labels, &claims.namespace_labels),
        ];
        let domain = claims.trust_domain();
        for (map, labels) in by_label {
            if map.is_empty() {
                continue;
            }
            for (key, value) in labels {
                if let Some(list) = map.get(key).and_then(|values| values.get(value)) {
                    out.extend(list);
                }
            }
            if known.is_narrowed(domain) {
                // The value of such a key is unknown, so any could be it.
                let unknown = map.iter().filter(|(key, _)| !known.carries(domain, key));
                out.extend(unknown.flat_map(|(_, values)| values.values().flatten()));
            }
        }
    }

    /// Adds to `out` what could concern an address, whether or not it has an identity.
    pub(crate) fn offer_address(&self, address: IpAddr, out: &mut Vec<u32>) {
        for length in &self.net_lengths {
            // A length that this family does not have is no prefix of the address.
            let Ok(net) = IpNet::new(address, *length) else {
                continue;
            };
            if let Some(list) = self.nets.get(&net.trunc()) {
                out.extend(list);
            }
        }
    }

    /// Adds to `out` what could concern anything.
    pub(crate) fn offer_always(&self, out: &mut Vec<u32>) {
        out.extend(&self.always);
    }
}

fn entry<'m, T: Default>(map: &'m mut BTreeMap<String, T>, key: &str) -> &'m mut T {
    // Looked up first: `entry` alone would copy the key each time.
    if !map.contains_key(key) {
        map.insert(key.into(), T::default());
    }
    map.entry(key.into()).or_default()
}

/// Each choice is a complete set: a workload that fits the selector has one anchor of it, or a key
/// of it is unknown.
fn choices(selector: &WorkloadSelector) -> Vec<Choice<'_>> {
    let mut out = Vec::new();
    if let ClusterMatch::Listed(listed) = &selector.clusters {
        out.push(listed.iter().map(|c| Anchor::Cluster(c.as_str())).collect());
    }
    match &selector.namespaces {
        NamespaceMatch::Any => {}
        NamespaceMatch::Names(names) => {
            out.push(names.iter().map(|n| Anchor::Namespace(n)).collect());
        }
        NamespaceMatch::Labels(labels) => push_labels(&mut out, Whose::Namespace, labels),
    }
    push_labels(&mut out, Whose::Pod, &selector.pods);
    if !selector.service_accounts.is_empty() {
        let accounts = selector.service_accounts.iter();
        out.push(accounts.map(|a| Anchor::ServiceAccount(a)).collect());
    }
    out
}

fn peer_choices(peer: &PeerMatch) -> Vec<Choice<'_>> {
    match peer {
        PeerMatch::Workload(selector) => choices(selector),
        PeerMatch::Net { cidr, .. } => vec![vec![Anchor::Net(*cidr)]],
        PeerMatch::Domain(_) => Vec::new(),
    }
}

fn push_labels<'a>(out: &mut Vec<Choice<'a>>, whose: Whose, selector: &'a LabelSelector) {
    for term in &selector.0 {
        out.extend(term_choice(whose, term));
    }
}

/// What one term requires.
fn term_choice(whose: Whose, term: &Term) -> Option<Choice<'_>> {
    match term {
        // Nothing hangs on an empty list, yet an unknown key must still be asked for.
        Term::Label(Requirement {
            key,
            operator: Operator::In(values),
        }) if !values.is_empty() => Some(
            values
                .iter()
                .map(|v| Anchor::Label(whose, key, v))
                .collect(),
        ),
        Term::Label(_) => None,
        // Each part must require something, or what fits that part would not be found.
        Term::AnyOf(parts) => {
            let parts: Option<Vec<_>> = parts.iter().map(|p| shortest(whose, p)).collect();
            parts.filter(|p| !p.is_empty()).map(|p| p.concat())
        }
    }
}

/// The fewest anchors that all labels of `selector` together require.
fn shortest(whose: Whose, selector: &LabelSelector) -> Option<Choice<'_>> {
    let choices = selector.0.iter().filter_map(|t| term_choice(whose, t));
    choices.min_by_key(Vec::len)
}
