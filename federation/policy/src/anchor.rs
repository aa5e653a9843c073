//! What a selector requires and what an identity has, as hashes: by them the index finds rules, and
//! leaves out those that cannot fit without looking at them.

use identity::{Claims, Labels, TrustDomain};
use ipnet::IpNet;

use crate::{
    KnownKeys, Peer, Query,
    model::{
        ClusterMatch, LabelSelector, NamespaceMatch, Operator, PeerMatch, PortMatch, PortSpec,
        Requirement, Rule, Term, WorkloadSelector,
    },
    selector::Whose,
    shared::Mixer,
};

/// One thing that a selector requires of every workload it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Anchor<'a> {
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
pub(crate) enum Family {
    Cluster,
    Namespace,
    ServiceAccount,
    Label(Whose, String),
    /// Prefixes of one length.
    Length(u8),
}

/// An [`Anchor`] in two words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// Of its family.
    pub family: u64,
    /// Of itself.
    pub whole: u64,
}

/// A set of anchors, one of which everything has that fits.
pub(crate) type Choice<'a> = Vec<Anchor<'a>>;

/// What is to be found by one index: choices of anchors, each of which is complete. Without one it
/// is offered always.
pub(crate) struct Wanted<'a>(pub(crate) Vec<Choice<'a>>);

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

    /// A bit for each thing that nothing else can stand for. An address is no part of an identity.
    fn needs(&self) -> u64 {
        let single = self.0.iter().filter_map(|choice| match &choice[..] {
            [Anchor::Net(_)] => None,
            [one] => Some(bit(one.mark().whole)),
            _ => None,
        });
        single.fold(0, |all, bit| all | bit)
    }
}

impl Anchor<'_> {
    pub(crate) fn key(&self) -> Option<Self> {
        match *self {
            Self::Label(whose, key, _) => Some(Self::Key(whose, key)),
            _ => None,
        }
    }

    pub(crate) fn family(&self) -> Option<Family> {
        match *self {
            Self::Always | Self::Key(..) => None,
            Self::Cluster(_) => Some(Family::Cluster),
            Self::Namespace(_) => Some(Family::Namespace),
            Self::ServiceAccount(_) => Some(Family::ServiceAccount),
            Self::Label(whose, key, _) => Some(Family::Label(whose, key.to_owned())),
            Self::Net(net) => Some(Family::Length(net.prefix_len())),
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        let family = self.family_hash();
        let mut mixer = Mixer(family);
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
        let whole = mixer.0;
        Mark { family, whole }
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
}

impl Family {
    /// The same as [`Mark::family`] of its anchors.
    pub(crate) fn hash(&self) -> u64 {
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

fn family_hash(kind: u64, key: &str) -> u64 {
    let mut mixer = Mixer(kind);
    mixer.text(key);
    mixer.0
}

/// One of 64 for each hash; several may have one.
pub(crate) fn bit(hash: u64) -> u64 {
    1 << (hash >> 58)
}

/// What an identity has that rules could ask for.
pub(crate) struct Marks<'a> {
    domain: &'a TrustDomain,
    known: &'a KnownKeys,
    all: Vec<Mark>,
}

impl<'a> Marks<'a> {
    pub(crate) fn of(claims: &'a Claims, known: &'a KnownKeys) -> Self {
        let domain = claims.trust_domain();
        let names = [
            Anchor::Cluster(domain.as_str()),
            Anchor::Namespace(claims.namespace()),
            Anchor::ServiceAccount(claims.service_account()),
        ];
        let pod = labels(Whose::Pod, &claims.labels);
        let namespace = labels(Whose::Namespace, &claims.namespace_labels);
        let count = names.len() + claims.labels.len() + claims.namespace_labels.len();
        let mut all = Vec::with_capacity(count);
        let anchors = names.into_iter().chain(pod).chain(namespace);
        all.extend(anchors.map(|anchor| anchor.mark()));
        Self { domain, known, all }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Mark> {
        self.all.iter().copied()
    }

    /// Whether any label of it may be unknown.
    pub(crate) fn is_narrowed(&self) -> bool {
        self.known.is_narrowed(self.domain)
    }

    /// Whether the value of `key` is known, or known to be absent.
    pub(crate) fn carries(&self, key: &str) -> bool {
        self.known.carries(self.domain, key)
    }

    /// A bit for each thing that it has, or may have.
    fn bits(&self) -> u64 {
        match self.is_narrowed() {
            true => u64::MAX,
            false => self.all.iter().fold(0, |all, mark| all | bit(mark.whole)),
        }
    }
}

fn labels(whose: Whose, labels: &Labels) -> impl Iterator<Item = Anchor<'_>> {
    let labels = labels.into_iter();
    labels.map(move |(key, value)| Anchor::Label(whose, key, value))
}

/// What a rule needs, a bit for each thing, of which several may have one. Who lacks a bit does not fit; who has
/// them all may.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// All of them of the subject.
    subject: u64,
    /// All of them of the peer.
    peer: u64,
    /// One of them of the destination port.
    ports: u64,
}

impl Needs {
    pub(crate) fn rule(subject: &Wanted<'_>, peers: &[Wanted<'_>], rule: &Rule) -> Self {
        let subject = subject.needs();
        let of_any = peers.iter().map(Wanted::needs).reduce(|a, b| a & b);
        let ports = match &rule.ports[..] {
            [] => u64::MAX,
            some => some.iter().fold(0, |all, one| all | port_bits(one)),
        };
        Self {
            subject,
            peer: of_any.unwrap_or_default(),
            ports,
        }
    }

    pub(crate) fn subject(subject: &Wanted<'_>) -> Self {
        Self {
            subject: subject.needs(),
            peer: 0,
            ports: u64::MAX,
        }
    }
}

/// What a question has of what rules need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    subject: u64,
    peer: u64,
    port: u64,
}

impl Offer {
    /// Of both ends; `peer` is not there when that is no workload.
    pub(crate) fn new(query: &Query<'_>, subject: &Marks<'_>, peer: Option<&Marks<'_>>) -> Self {
        debug_assert_eq!(peer.is_some(), matches!(query.peer, Peer::Identity { .. }));
        Self {
            subject: subject.bits(),
            peer: peer.map(Marks::bits).unwrap_or_default(),
            port: port_bit(query.protocol, query.port),
        }
    }

    /// Of the peer alone, for whom nothing is known of the subject.
    pub(crate) fn by_peer(peer: &Marks<'_>, protocol: u8, port: u16) -> Self {
        Self {
            subject: u64::MAX,
            peer: peer.bits(),
            port: port_bit(protocol, port),
        }
    }

    pub(crate) fn may_fit(self, needs: Needs) -> bool {
        needs.subject & !self.subject == 0
            && needs.peer & !self.peer == 0
            && needs.ports & self.port != 0
    }
}

/// More ports than that mostly have all bits.
const MANY_PORTS: u16 = 128;

fn port_bits(wanted: &PortMatch) -> u64 {
    match wanted.port {
        PortSpec::Range(first, last) if last.saturating_sub(first) < MANY_PORTS => {
            let bits = (first..=last).map(|port| port_bit(wanted.protocol, port));
            bits.fold(0, |all, bit| all | bit)
        }
        PortSpec::Range(..) | PortSpec::Any | PortSpec::Named(_) => u64::MAX,
    }
}

fn port_bit(protocol: u8, port: u16) -> u64 {
    let mut mixer = Mixer(u64::from(protocol));
    mixer.word(u64::from(port));
    bit(mixer.0)
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
