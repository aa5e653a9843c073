//! Finds the few rules that could concern an identity, without asking all of them.
//!
//! Each selector hangs on the rarest thing that it requires (a namespace, a label value, a service
//! account, a cluster, a prefix of addresses); what requires nothing of the kind is asked always. The index may offer
//! rules that do not match; it must never hide one that could, known or unknown.
//!
//! It holds hashes instead of the things themselves: two that have one hash are offered together.
//! Where a rule hangs depends on what hung there before it, what is decided never does.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use identity::{Claims, Labels};
use ipnet::IpNet;

use crate::{
    KnownKeys,
    model::{
        ClusterMatch, LabelSelector, NamespaceMatch, Operator, PeerMatch, Requirement, Term,
        WorkloadSelector,
    },
    order::Id,
    selector::Whose,
    trie::{Mixer, Trie},
};

/// Rules by what they require of an identity or an address, for every lane and purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    hooks: Trie<Hook>,
    /// Where anything hangs at all, and how much.
    uses: Arc<BTreeMap<(Shelf, Family), u32>>,
    /// By shelf: the bits of the families in use. Most labels of a pod are of no interest to anybody,
    /// and are not looked for.
    bits: [u64; Shelf::COUNT],
    /// A bit for each shelf on which prefixes hang.
    prefixes: u16,
}

/// What hangs on one thing.
#[derive(Clone, Debug, Default)]
struct Hook {
    /// How many selectors require it, wherever they hang.
    wanted: u32,
    ids: Vec<Id>,
}

/// What is looked for, and in which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shelf {
    pub lane: u8,
    pub purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Rules that are found by the subject.
    Subject,
    /// Rules that are found by the peer, because that is rarer.
    Peer,
    /// Allow rules, found by the peer alone.
    Admission,
    /// Policies that isolate, found by the subject.
    Isolation,
}

/// One thing that a selector requires of every workload it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Anchor<'a> {
    /// Nothing: what hangs here is offered always.
    Always,
    Cluster(&'a str),
    Namespace(&'a str),
    ServiceAccount(&'a str),
    Label(Whose, &'a str, &'a str),
    /// Any value of the key: for those of whom it is unknown.
    Key(Whose, &'a str),
    Net(IpNet),
}

/// Anchors that are looked for by one part of an identity or address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Cluster,
    Namespace,
    ServiceAccount,
    Label(Whose, String),
    /// Prefixes of one length.
    Length(u8),
}

/// A set of anchors, one of which everything has that fits.
type Choice<'a> = Vec<Anchor<'a>>;

/// What is to be found by one index: choices of anchors, each of which is complete. Without one it
/// is offered always.
pub(crate) struct Wanted<'a>(Vec<Choice<'a>>);

impl<'a> Wanted<'a> {
    pub(crate) fn workload(selector: &'a WorkloadSelector) -> Self {
        Self(choices(selector))
    }

    pub(crate) fn peer(peer: &'a PeerMatch) -> Self {
        Self(peer_choices(peer))
    }

    pub(crate) fn everything() -> Self {
        Self(Vec::new())
    }
}

impl Index {
    /// Counts what `wanted` requires.
    pub(crate) fn count(&mut self, shelf: Shelf, wanted: &Wanted<'_>) {
        for anchor in wanted.0.iter().flatten() {
            self.hooks.at(hash(shelf, anchor)).wanted += 1;
        }
    }

    /// How many would be offered beside what hangs there already, in the rarest place; the most
    /// there can be when nothing that can be looked up is required.
    pub(crate) fn cost(&self, shelf: Shelf, wanted: &Wanted<'_>) -> u32 {
        self.best(shelf, wanted).map_or(u32::MAX, |(cost, _)| cost)
    }

    fn best<'w, 'a>(&self, shelf: Shelf, wanted: &'w Wanted<'a>) -> Option<(u32, &'w Choice<'a>)> {
        let count = |anchor: &Anchor<'_>| {
            let hook = self.hooks.get(hash(shelf, anchor));
            hook.map_or(0, |hook| hook.wanted)
        };
        let cost = |choice: &Choice<'_>| {
            let counts = choice.iter().map(count);
            counts.fold(0, u32::saturating_add)
        };
        let costs = wanted.0.iter().map(|choice| (cost(choice), choice));
        costs.min()
    }

    /// `id` is offered for everything that `wanted` could fit.
    pub(crate) fn hang(&mut self, shelf: Shelf, wanted: &Wanted<'_>, id: Id) {
        let Some((_, choice)) = self.best(shelf, wanted) else {
            return self.hooks.at(hash(shelf, &Anchor::Always)).ids.push(id);
        };
        for anchor in choice {
            self.hooks.at(hash(shelf, anchor)).ids.push(id);
            if let Some(key) = anchor.key() {
                self.hooks.at(hash(shelf, &key)).ids.push(id);
            }
            if let Some(family) = anchor.family() {
                self.bits[shelf.number()] |= bit(anchor.family_hash());
                if matches!(family, Family::Length(_)) {
                    self.prefixes |= 1 << shelf.number();
                }
                *Arc::make_mut(&mut self.uses)
                    .entry((shelf, family))
                    .or_default() += 1;
            }
        }
    }

    /// Takes `id` from wherever it hangs for `wanted`, which was counted before.
    pub(crate) fn unhang(&mut self, shelf: Shelf, wanted: &Wanted<'_>, id: Id) {
        self.take(shelf, &Anchor::Always, id, 0);
        for anchor in wanted.0.iter().flatten() {
            if !self.take(shelf, anchor, id, 1) {
                continue;
            }
            if let Some(key) = anchor.key() {
                self.take(shelf, &key, id, 0);
            }
            if let Some(family) = anchor.family() {
                self.use_less(shelf, family);
            }
        }
    }

    fn use_less(&mut self, shelf: Shelf, family: Family) {
        let uses = Arc::make_mut(&mut self.uses);
        let key = (shelf, family);
        let Some(count) = uses.get_mut(&key) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        uses.remove(&key);
        if self.uses.range(shelf.lengths()).next().is_none() {
            self.prefixes &= !(1 << shelf.number());
        }
        let families = self
            .uses
            .range(shelf.families())
            .map(|((_, family), _)| family);
        self.bits[shelf.number()] = families.fold(0, |bits, f| bits | bit(f.hash()));
    }

    /// Whether `id` hung there, once less. What nothing requires any more is forgotten.
    fn take(&mut self, shelf: Shelf, anchor: &Anchor<'_>, id: Id, wanted: u32) -> bool {
        let hash = hash(shelf, anchor);
        let place = |hook: &Hook| hook.ids.iter().position(|one| *one == id);
        let Some(place) = self.hooks.get(hash).map(place) else {
            return false;
        };
        if place.is_none() && wanted == 0 {
            return false;
        }
        let hook = self.hooks.at(hash);
        hook.wanted -= wanted;
        if let Some(place) = place {
            hook.ids.swap_remove(place);
        }
        if hook.wanted == 0 && hook.ids.is_empty() {
            self.hooks.remove(hash);
        }
        place.is_some()
    }

    /// Tells `out` what could concern an identity, in any order, possibly twice.
    pub(crate) fn offer(
        &self,
        shelf: Shelf,
        claims: &Claims,
        known: &KnownKeys,
        mut out: impl FnMut(&[Id]),
    ) {
        let domain = claims.trust_domain();
        self.tell(shelf, &Anchor::Always, &mut out);
        let names = [
            Anchor::Cluster(domain.as_str()),
            Anchor::Namespace(claims.namespace()),
            Anchor::ServiceAccount(claims.service_account()),
        ];
        let pod = labels(Whose::Pod, &claims.labels);
        let namespace = labels(Whose::Namespace, &claims.namespace_labels);
        let in_use = self.bits[shelf.number()];
        for anchor in names.into_iter().chain(pod).chain(namespace) {
            let family = anchor.family_hash();
            if in_use & bit(family) != 0
                && let Some(hook) = self.hooks.get(anchor.hash_in(family, shelf))
            {
                out(&hook.ids);
            }
        }
        if known.is_narrowed(domain) {
            // The value of such a key is unknown, so any could be it.
            for ((_, family), _) in self.uses.range(shelf.families()) {
                if let Family::Label(whose, key) = family
                    && !known.carries(domain, key)
                {
                    self.tell(shelf, &Anchor::Key(*whose, key), &mut out);
                }
            }
        }
    }

    /// Tells `out` what could concern an address, whether or not it has an identity.
    pub(crate) fn offer_address(&self, shelf: Shelf, address: IpAddr, mut out: impl FnMut(&[Id])) {
        if self.prefixes & (1 << shelf.number()) == 0 {
            return;
        }
        for ((_, family), _) in self.uses.range(shelf.lengths()) {
            // A length that this family of addresses does not have is no prefix of the address.
            if let Family::Length(length) = family
                && let Ok(net) = IpNet::new(address, *length)
            {
                self.tell(shelf, &Anchor::Net(net.trunc()), &mut out);
            }
        }
    }

    /// Tells `out` what could concern anything.
    pub(crate) fn offer_always(&self, shelf: Shelf, mut out: impl FnMut(&[Id])) {
        self.tell(shelf, &Anchor::Always, &mut out);
    }

    fn tell(&self, shelf: Shelf, anchor: &Anchor<'_>, out: &mut impl FnMut(&[Id])) {
        if let Some(hook) = self.hooks.get(hash(shelf, anchor)) {
            out(&hook.ids);
        }
    }
}

fn labels(whose: Whose, labels: &Labels) -> impl Iterator<Item = Anchor<'_>> {
    let labels = labels.into_iter();
    labels.map(move |(key, value)| Anchor::Label(whose, key, value))
}

impl<'a> Anchor<'a> {
    fn key(&self) -> Option<Self> {
        match self {
            Self::Label(whose, key, _) => Some(Self::Key(*whose, key)),
            _ => None,
        }
    }

    fn family(&self) -> Option<Family> {
        match *self {
            Self::Always | Self::Key(..) => None,
            Self::Cluster(_) => Some(Family::Cluster),
            Self::Namespace(_) => Some(Family::Namespace),
            Self::ServiceAccount(_) => Some(Family::ServiceAccount),
            Self::Label(whose, key, _) => Some(Family::Label(whose, key.to_owned())),
            Self::Net(net) => Some(Family::Length(net.prefix_len())),
        }
    }

    fn family_hash(&self) -> u64 {
        match *self {
            Self::Always => family_hash(0, ""),
            Self::Cluster(_) => family_hash(1, ""),
            Self::Namespace(_) => family_hash(2, ""),
            Self::ServiceAccount(_) => family_hash(3, ""),
            Self::Label(Whose::Pod, key, _) => family_hash(4, key),
            Self::Label(Whose::Namespace, key, _) => family_hash(5, key),
            Self::Key(Whose::Pod, key) => family_hash(6, key),
            Self::Key(Whose::Namespace, key) => family_hash(7, key),
            Self::Net(net) => family_hash(256 + u64::from(net.prefix_len()), ""),
        }
    }

    fn hash_in(&self, family: u64, shelf: Shelf) -> u64 {
        let mut mixer = Mixer(family);
        mixer.word(shelf.number() as u64);
        match *self {
            Self::Always | Self::Key(..) => {}
            Self::Cluster(name) | Self::Namespace(name) | Self::ServiceAccount(name) => {
                mixer.text(name);
            }
            Self::Label(_, _, value) => mixer.text(value),
            Self::Net(IpNet::V4(net)) => mixer.word(u64::from(net.addr().to_bits())),
            Self::Net(IpNet::V6(net)) => {
                let bits = net.addr().to_bits();
                mixer.word((bits >> 64) as u64);
                mixer.word(bits as u64);
                // Not as an IPv4 address.
                mixer.word(6);
            }
        }
        mixer.0
    }
}

impl Family {
    /// The same as [`Anchor::family_hash`] of its anchors.
    fn hash(&self) -> u64 {
        match self {
            Self::Cluster => family_hash(1, ""),
            Self::Namespace => family_hash(2, ""),
            Self::ServiceAccount => family_hash(3, ""),
            Self::Label(Whose::Pod, key) => family_hash(4, key),
            Self::Label(Whose::Namespace, key) => family_hash(5, key),
            Self::Length(length) => family_hash(256 + u64::from(*length), ""),
        }
    }
}

impl Shelf {
    /// How many there are.
    const COUNT: usize = 16;

    fn number(self) -> usize {
        usize::from(self.lane % 4) * 4 + self.purpose as usize
    }

    /// Where in a map everything of it stands.
    fn families(self) -> std::ops::RangeInclusive<(Self, Family)> {
        (self, Family::Cluster)..=(self, Family::Length(u8::MAX))
    }

    fn lengths(self) -> std::ops::RangeInclusive<(Self, Family)> {
        (self, Family::Length(0))..=(self, Family::Length(u8::MAX))
    }
}

fn family_hash(kind: u64, key: &str) -> u64 {
    let mut mixer = Mixer(kind);
    mixer.text(key);
    mixer.0
}

/// One of 64 for each family; several may have one.
fn bit(family: u64) -> u64 {
    1 << (family >> 58)
}

fn hash(shelf: Shelf, anchor: &Anchor<'_>) -> u64 {
    anchor.hash_in(anchor.family_hash(), shelf)
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
