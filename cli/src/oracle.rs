//! What the policies of a configuration folder say of two of its pods, computed from the files
//! alone: no gateway, agent or packet is asked. Both ends are: the source's cluster for egress, the
//! destination's for ingress.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    net::IpAddr,
    path::Path,
};

use anyhow::{Context, Result, bail};
use identity::{Claims, TrustDomain, Workload};
use observe::DescribedPod;
use policy::{
    Decision, DropReason, Explanation, KnownKeys, Peer, Query, RuleRef, Table,
    model::{Direction, PolicySet},
};
use serde::Serialize;
use serde_json::json;
use sources::{ClusterConfig, Problem, World};

use crate::{admin, demo::Running};

/// More problems of a folder than that hide the first of them.
const MOST_TOLD: usize = 20;

/// The worlds of all clusters with their compiled policies.
pub struct Oracle {
    worlds: Vec<World>,
    tables: BTreeMap<TrustDomain, Table>,
    /// Those that agents enforce at this moment, by their nodes, where they were asked.
    live: BTreeMap<TrustDomain, BTreeMap<String, Table>>,
    /// What each cluster announces of its policies to the others.
    announced: BTreeMap<TrustDomain, Table>,
    known: KnownKeys,
    /// Clusters with the addresses of their pods, where a folder tells them.
    owners: Vec<ClusterConfig>,
    /// Which pods have an address: clusters may use the same ones.
    addresses: BTreeMap<IpAddr, Vec<String>>,
}

/// A pod of one of the clusters.
#[derive(Clone, Debug)]
pub struct End {
    /// What its credential would say.
    pub claims: Claims,
    /// As its source describes it.
    pub workload: Workload,
}

impl End {
    /// Called `name`, for an agent or gateway that may know nothing of it.
    pub fn described(&self, name: String) -> DescribedPod {
        DescribedPod {
            name,
            trust_domain: self.claims.trust_domain().clone(),
            workload: self.workload.clone(),
        }
    }
}

/// What one end says of a connection.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Half {
    /// Policy decides.
    Decided(Explanation),
    /// Refused before policy is asked, and why.
    NoIdentity(String),
    /// Nothing is enforced, and why.
    Unenforced(String),
}

/// Both ends' answers, when both are protected.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of the source's cluster.
    pub egress: Explanation,
    /// Of the destination's cluster.
    pub ingress: Explanation,
}

impl Oracle {
    /// Reads the folder `dir` where a person can still correct it: as a whole or not at all.
    ///
    /// # Errors
    /// When it cannot be read, or an object in it is refused: the first problems, one per line.
    pub fn load(dir: &Path) -> Result<Self> {
        let (oracle, problems) = Self::in_force(dir)?;
        let mut told: Vec<_> = refused(&problems).map(|p| p.to_string()).collect();
        if told.is_empty() {
            return Ok(oracle);
        }
        let more = told.len().saturating_sub(MOST_TOLD);
        told.truncate(MOST_TOLD);
        if more > 0 {
            let dir = dir.display();
            told.push(format!(
                "and {more} more: `landbridge policy lint {dir}` tells all"
            ));
        }
        bail!(
            "{} is not usable as it is; nothing was changed.\n  - {}",
            dir.display(),
            told.join("\n  - ")
        )
    }

    /// What gateways and agents that start now have in force, and what is wrong with the folder
    /// `dir`: an object that is refused is refused alone.
    ///
    /// # Errors
    /// When there is no usable Federation.
    pub fn in_force(dir: &Path) -> Result<(Self, Vec<Problem>)> {
        let worlds = sources::load_once(dir)?;
        let mut problems: Vec<_> = worlds.iter().flat_map(|w| w.problems.clone()).collect();
        problems.sort();
        problems.dedup();
        let mut oracle = Self::of(worlds)?;
        if let Some(world) = oracle.worlds.first() {
            oracle.owners = world.federation.clusters.clone();
        }
        for (domain, table) in &oracle.tables {
            let announced = policy::compile(&table.digest_part());
            let announced = announced.with_context(|| format!("the digest of {domain}"))?;
            oracle.announced.insert(domain.clone(), announced);
        }
        Ok((oracle, problems))
    }

    /// The pods of the folder of `running`, and what the agents beside them enforce at this moment.
    ///
    /// # Errors
    /// When there is no usable Federation, or an agent does not answer.
    pub fn live(running: &Running) -> Result<Self> {
        let (mut oracle, _) = Self::in_force(&running.config())?;
        for (name, end) in oracle.ends()? {
            let domain = end.claims.trust_domain().clone();
            let Entry::Vacant(place) = oracle
                .live
                .entry(domain)
                .or_default()
                .entry(end.workload.node.clone())
            else {
                continue;
            };
            let (role, dir) = running.agent_beside(&end).context(name)?;
            let answer = admin::ask(&dir, &json!({"op": "policies"}));
            let set: PolicySet = serde_json::from_value(answer.with_context(|| role.clone())?)
                .with_context(|| format!("the policies of {role}"))?;
            place.insert(policy::compile(&set).context(role)?);
        }
        Ok(oracle)
    }

    /// For `worlds`, and without what clusters announce to each other.
    ///
    /// # Errors
    /// When policies cannot be compiled.
    pub fn of(worlds: Vec<World>) -> Result<Self> {
        let mut tables = BTreeMap::new();
        for world in &worlds {
            let table = policy::compile(&world.policies);
            let table = table.with_context(|| format!("the policies of {}", world.cluster.name))?;
            tables.insert(world.cluster.trust_domain.clone(), table);
        }
        let mut addresses: BTreeMap<IpAddr, Vec<String>> = BTreeMap::new();
        for world in &worlds {
            for pod in &world.workloads {
                let name = world.pod_name(&pod.namespace, &pod.pod);
                if let Some(address) = pod.address {
                    addresses.entry(address).or_default().push(name);
                }
            }
        }
        Ok(Self {
            worlds,
            addresses,
            owners: Vec::new(),
            tables,
            live: BTreeMap::new(),
            announced: BTreeMap::new(),
            known: KnownKeys::all(),
        })
    }

    /// The worlds, in the order of the Federation.
    pub fn worlds(&self) -> impl Iterator<Item = &World> {
        self.worlds.iter()
    }

    /// The pod called `CLUSTER/NAMESPACE/POD`.
    ///
    /// # Errors
    /// When the name has another form, or there is no such cluster or pod: those that there are.
    pub fn end(&self, name: &str) -> Result<End> {
        let (world, workload) = World::find(&self.worlds, name)?;
        Ok(End {
            claims: workload.claims(&world.cluster.trust_domain)?,
            workload: workload.clone(),
        })
    }

    /// The cluster whose pods have addresses such as `address`, where a folder says so.
    pub fn owner(&self, address: IpAddr) -> Option<&str> {
        let has = |c: &&ClusterConfig| c.pod_ranges.iter().any(|r| r.seen().contains(&address));
        Some(&self.owners.iter().find(has)?.name)
    }

    /// The names of the pods that have `address`.
    pub fn at(&self, address: IpAddr) -> &[String] {
        self.addresses.get(&address).map_or(&[], Vec::as_slice)
    }

    /// What the source's cluster says of egress, and the destination's of ingress.
    pub fn ask(&self, from: &End, to: &End, protocol: u8, port: u16) -> Answer {
        let explain = |direction, subject: &End, peer: &End| {
            let peer = Peer::Identity {
                claims: &peer.claims,
                address: peer.workload.address,
            };
            self.explain(direction, subject, peer, protocol, port)
        };
        Answer {
            egress: explain(Direction::Egress, from, to),
            ingress: explain(Direction::Ingress, to, from),
        }
    }

    /// What is enforced beside `subject`. A pod of an unprotected namespace enforces nothing, counts
    /// as its address within its cluster, and cannot prove itself to another; a pod is never kept from
    /// itself.
    ///
    /// # Errors
    /// When `peer` counts as its address and has none.
    pub fn half(
        &self,
        direction: Direction,
        subject: &End,
        peer: &End,
        protocol: u8,
        port: u16,
    ) -> Result<Half> {
        Ok(match standing(subject, peer)? {
            Standing::Settled(half) => half,
            Standing::Asked(peer) => {
                Half::Decided(self.explain(direction, subject, peer, protocol, port))
            }
        })
    }

    /// The same without an account of it, for many questions.
    ///
    /// # Errors
    /// As [`Oracle::half`].
    pub fn verdict(
        &self,
        direction: Direction,
        subject: &End,
        peer: &End,
        protocol: u8,
        port: u16,
    ) -> Result<Brief> {
        let peer = match standing(subject, peer)? {
            Standing::Settled(half) => {
                let reason = (!half.is_allowed()).then_some(DropReason::NoIdentity);
                return Ok(Brief {
                    reason,
                    ..Brief::default()
                });
            }
            Standing::Asked(peer) => peer,
        };
        let (table, query) = self.question(direction, subject, peer, protocol, port);
        let verdict = table.decide(&query);
        let reason = |decision| match decision {
            Decision::Allow => None,
            Decision::Drop { reason, .. } => Some(reason),
        };
        Ok(Brief {
            reason: reason(verdict.decision),
            rule: verdict.rule,
            staged: verdict.staged.map(|staged| {
                Box::new(Brief {
                    reason: reason(staged.decision),
                    rule: staged.rule,
                    staged: None,
                })
            }),
        })
    }

    /// Every pod of every cluster, by name.
    ///
    /// # Errors
    /// When a pod's identity cannot be made.
    pub fn ends(&self) -> Result<Vec<(String, End)>> {
        let mut ends = Vec::new();
        for world in &self.worlds {
            for workload in &world.workloads {
                let name = world.pod_name(&workload.namespace, &workload.pod);
                let claims = workload.claims(&world.cluster.trust_domain)?;
                let workload = workload.clone();
                ends.push((name, End { claims, workload }));
            }
        }
        Ok(ends)
    }

    /// What is enforced beside `subject` towards `peer`, which is outside of all clusters.
    pub fn half_to_outside(
        &self,
        direction: Direction,
        subject: &End,
        peer: Peer<'_>,
        protocol: u8,
        port: u16,
    ) -> Half {
        match unprotected(subject) {
            Some(half) => half,
            None => Half::Decided(self.explain(direction, subject, peer, protocol, port)),
        }
    }

    /// What the cluster of `subject` says of `peer`.
    fn explain(
        &self,
        direction: Direction,
        subject: &End,
        peer: Peer<'_>,
        protocol: u8,
        port: u16,
    ) -> Explanation {
        let (table, query) = self.question(direction, subject, peer, protocol, port);
        table.explain(&query)
    }

    /// What is asked, and the table of the cluster of `subject`, which is asked.
    fn question<'a>(
        &'a self,
        direction: Direction,
        subject: &'a End,
        peer: Peer<'a>,
        protocol: u8,
        port: u16,
    ) -> (&'a Table, Query<'a>) {
        let domain = subject.claims.trust_domain();
        let query = Query {
            direction,
            subject: &subject.claims,
            peer: self.seen_by(domain, peer),
            protocol,
            port,
            known: &self.known,
        };
        let live = self.live.get(domain);
        let live = live.and_then(|nodes| nodes.get(&subject.workload.node));
        // Every end is of a world, and every world has a table.
        (live.unwrap_or_else(|| &self.tables[domain]), query)
    }

    /// With the address at which the cluster `domain` sees it: rules of that cluster speak of it.
    fn seen_by<'a>(&self, domain: &TrustDomain, peer: Peer<'a>) -> Peer<'a> {
        let mut worlds = self.worlds.iter();
        let world = worlds.find(|world| world.cluster.trust_domain == *domain);
        match (peer, world) {
            (Peer::Identity { claims, address }, Some(world)) => {
                let seen = |address| world.federation.seen_at(claims.trust_domain(), address);
                let address = address.map(seen);
                Peer::Identity { claims, address }
            }
            (peer, _) => peer,
        }
    }

    /// What the cluster of `from` knows of the destination's answer, by what that one announces;
    /// `None` inside of one cluster, which has nothing to announce to itself.
    pub fn announced(&self, from: &End, to: &End, protocol: u8, port: u16) -> Option<Explanation> {
        let domain = to.claims.trust_domain();
        if from.claims.trust_domain() == domain {
            return None;
        }
        Some(self.announced.get(domain)?.explain(&Query {
            direction: Direction::Ingress,
            subject: &to.claims,
            peer: Peer::Identity {
                claims: &from.claims,
                address: None,
            },
            protocol,
            port,
            known: &self.known,
        }))
    }

    /// Whether the digest of `domain` lets `from` reach that port of any of its pods.
    pub fn may_admit(&self, domain: &TrustDomain, from: &End, protocol: u8, port: u16) -> bool {
        let table = self.announced.get(domain);
        table.is_none_or(|table| table.may_admit(&from.claims, protocol, port))
    }
}

/// A verdict in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brief {
    /// Why it is dropped; `None` when it is allowed.
    pub reason: Option<DropReason>,
    /// The rule that decided, where one did.
    pub rule: Option<RuleRef>,
    /// What it would be with staged policies, where they change it.
    pub staged: Option<Box<Brief>>,
}

/// Whether policy is asked.
enum Standing<'a> {
    /// It is not.
    Settled(Half),
    /// It is, about this peer.
    Asked(Peer<'a>),
}

fn standing<'a>(subject: &End, peer: &'a End) -> Result<Standing<'a>> {
    let name = |end: &End| end.claims.display_name();
    let is_remote = subject.claims.trust_domain() != peer.claims.trust_domain();
    let unproven = [peer, subject].into_iter().find(|e| e.workload.unprotected);
    if let Some(who) = unproven.filter(|_| is_remote) {
        return Ok(Standing::Settled(Half::NoIdentity(format!(
            "dropped ({}) because {} is in an unprotected namespace and proves no identity, and across clusters both ends must",
            DropReason::NoIdentity,
            name(who)
        ))));
    }
    if let Some(half) = unprotected(subject) {
        return Ok(Standing::Settled(half));
    }
    if subject.claims.pod_uid == peer.claims.pod_uid {
        return Ok(Standing::Settled(Half::Unenforced(
            "allowed because no policy keeps a pod from itself".into(),
        )));
    }
    let address = peer.workload.address;
    Ok(Standing::Asked(
        match (peer.workload.unprotected, address) {
            (false, _) => Peer::Identity {
                claims: &peer.claims,
                address,
            },
            (true, Some(address)) => Peer::Address(address),
            (true, None) => bail!("{} has no address", name(peer)),
        },
    ))
}

/// What a pod of an unprotected namespace enforces.
fn unprotected(subject: &End) -> Option<Half> {
    let namespace = subject.claims.namespace();
    let because = format!("allowed because namespace {namespace} is unprotected");
    (subject.workload.unprotected).then_some(Half::Unenforced(because))
}

impl Half {
    /// Whether the connection is not refused here.
    pub fn is_allowed(&self) -> bool {
        match self {
            Self::Decided(explanation) => explanation.verdict.is_allowed(),
            Self::NoIdentity(_) => false,
            Self::Unenforced(_) => true,
        }
    }
}

impl fmt::Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided(explanation) => f.write_str(explanation.to_string().trim_end()),
            Self::NoIdentity(because) | Self::Unenforced(because) => f.write_str(because),
        }
    }
}

impl Answer {
    /// Whether both ends allow it.
    pub fn is_allowed(&self) -> bool {
        self.egress.verdict.is_allowed() && self.ingress.verdict.is_allowed()
    }
}

/// Those that are more than warnings.
pub fn refused(problems: &[Problem]) -> impl Iterator<Item = &Problem> {
    problems.iter().filter(|p| !p.is_warning())
}
