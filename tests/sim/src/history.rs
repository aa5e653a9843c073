//! What was true when: every version of every policy and every look that a pod ever had, and the
//! naive model's verdict on any of them.

use std::{collections::BTreeMap, net::IpAddr};

use identity::{Claims, Mono};
use policy::model::{Direction, PolicySet};

use crate::{
    naive::{Oracle, Other},
    objects::{Objects, Offer},
};

/// All versions. A verdict is worked out from the raw objects once for each combination of versions:
/// they never change, so to remember it hides nothing.
#[derive(Debug, Default)]
pub struct History {
    /// By cluster, oldest first.
    policies: Vec<Vec<Version<PolicySet>>>,
    looks: Vec<Version<Look>>,
    /// What the first of two clusters offers to the second, and since when.
    offers: BTreeMap<(usize, usize), (Option<Offer>, Mono)>,
    verdicts: BTreeMap<Question, bool>,
}

/// Something that held until it was replaced.
#[derive(Debug)]
struct Version<T> {
    what: T,
    until: Option<Mono>,
}

/// A pod with the labels that it had for a time.
#[derive(Debug)]
struct Look {
    name: String,
    generation: u64,
    /// Nobody may talk with it.
    revoked: bool,
    /// The clusters that do not take it.
    refused_by: Vec<usize>,
    /// Its cluster, and those to which it is not offered.
    cluster: usize,
    hidden_from: Vec<usize>,
    address: IpAddr,
    claims: Claims,
}

impl Look {
    /// Whether its own cluster, which is `at`, offers it to that of `other`. Others cannot know.
    fn is_offered(&self, at: usize, other: &Self) -> bool {
        self.cluster != at || !self.hidden_from.contains(&other.cluster)
    }

    fn is_admitted(&self, at: usize) -> bool {
        !self.revoked && !self.refused_by.contains(&at)
    }
}

/// A version of the policies of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyVersion {
    cluster: usize,
    number: usize,
}

/// Numbers of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    direction: Direction,
    policy: PolicyVersion,
    subject: usize,
    other: usize,
    port: u16,
}

/// Versions of a pod that somebody may still go by, by number.
pub type Looks = Vec<usize>;

fn is_revoked(objects: &Objects, address: IpAddr) -> bool {
    let cluster = objects.cluster_of(address).map(|n| &objects.clusters[n]);
    let pod = objects.pod(address);
    cluster.is_some_and(|cluster| pod.is_some_and(|pod| cluster.has_revoked(pod)))
}

/// The clusters to which the pod at `address` is not offered.
fn hidden_from(objects: &Objects, address: IpAddr) -> Vec<usize> {
    let own = objects.cluster_of(address).expect("it is of a cluster");
    let others = 0..objects.clusters.len();
    let offered = |other: &usize| {
        let pod = objects.pod(address);
        pod.is_some_and(|pod| objects.clusters[own].offers(*other, pod))
    };
    others.filter(|other| !offered(other)).collect()
}

impl History {
    /// Takes what is true from `now` on.
    pub fn take(&mut self, objects: &Objects, now: Mono) {
        self.policies
            .resize_with(objects.clusters.len(), Default::default);
        for (cluster, versions) in objects.clusters.iter().zip(&mut self.policies) {
            let last = versions.last_mut();
            if last.as_ref().is_some_and(|v| v.what == cluster.policies) {
                continue;
            }
            if let Some(last) = last {
                last.until = Some(now);
            }
            versions.push(Version {
                what: cluster.policies.clone(),
                until: None,
            });
        }
        let all = 0..objects.clusters.len();
        let pairs = all
            .clone()
            .flat_map(|own| all.clone().map(move |to| (own, to)));
        for (own, to) in pairs {
            let offer = objects.clusters[own].offers.get(&to).copied();
            let held = self.offers.entry((own, to)).or_insert((offer, now));
            if held.0 != offer {
                *held = (offer, now);
            }
        }
        for version in self.looks.iter_mut().filter(|v| v.until.is_none()) {
            let look = &version.what;
            let same = objects.pod(look.address).is_some_and(|pod| {
                pod.name == look.name
                    && pod.generation == look.generation
                    && is_revoked(objects, look.address) == look.revoked
                    && hidden_from(objects, look.address) == look.hidden_from
            });
            if !same {
                version.until = Some(now);
            }
        }
        for (address, pod) in objects.clusters.iter().flat_map(|c| &c.pods) {
            let mut held = self.looks.iter().filter(|v| v.until.is_none());
            if held.any(|v| v.what.name == pod.name) {
                continue;
            }
            let own = objects.cluster_of(*address).expect("it is of a cluster");
            let others = objects.clusters.iter().enumerate();
            let refused_by = others.filter(|(_, at)| !at.accepts(own, pod.namespace));
            let look = Look {
                name: pod.name.clone(),
                generation: pod.generation,
                revoked: is_revoked(objects, *address),
                refused_by: refused_by.map(|(number, _)| number).collect(),
                cluster: own,
                hidden_from: hidden_from(objects, *address),
                address: *address,
                claims: objects.claims(*address).expect("it is there"),
            };
            self.looks.push(Version {
                what: look,
                until: None,
            });
        }
    }

    /// The looks of the pod `name`, without those that are `over` for the cluster `by`: they were replaced at
    /// a time by which everybody asked knows.
    pub fn looks_of(&self, name: &str, by: usize, over: impl Fn(Mono) -> bool) -> Looks {
        self.looks_where(|look| look.name == name, by, over)
    }

    /// The looks of all pods that had `address`, without those that are `over` for the cluster `by`.
    pub fn looks_at(&self, address: IpAddr, by: usize, over: impl Fn(Mono) -> bool) -> Looks {
        self.looks_where(|look| look.address == address, by, over)
    }

    /// The address of a look.
    #[must_use]
    pub fn address(&self, look: usize) -> IpAddr {
        self.looks[look].what.address
    }

    fn looks_where(
        &self,
        wanted: impl Fn(&Look) -> bool,
        by: usize,
        over: impl Fn(Mono) -> bool,
    ) -> Looks {
        let versions = self.looks.iter().enumerate();
        versions
            .filter(|(_, version)| wanted(&version.what))
            .filter(|(number, _)| !self.told_until(*number, by).is_some_and(&over))
            .map(|(number, _)| number)
            .collect()
    }

    /// Until when a look held, as the cluster `by` is told. Another cluster hears that a pod is another or gone
    /// while what it is, or was last, is offered to it; that a pod is revoked, or no more, hears everybody.
    fn told_until(&self, number: usize, by: usize) -> Option<Mono> {
        let mut version = &self.looks[number];
        let (first, own) = (version.what.generation, version.what.cluster);
        if own == by {
            return version.until;
        }
        // What is told goes by the offer at that time, which may be later.
        let offered_since = self.offers.get(&(own, by)).map(|(_, since)| *since);
        let is_told = |look: &Look, at: Mono| {
            !look.hidden_from.contains(&by) && offered_since.is_some_and(|since| since < at)
        };
        for next in &self.looks[number + 1..] {
            if next.what.name != version.what.name {
                continue;
            }
            let at = version.until?;
            // Revoked by labels that it was not told of, it is not for the other cluster.
            let is_over = match next.what.generation == first {
                true => next.what.revoked != version.what.revoked,
                false => is_told(&next.what, at),
            };
            if is_over {
                return Some(at);
            }
            version = next;
        }
        version.until.filter(|at| is_told(&version.what, *at))
    }

    /// The version of the policies of `cluster` that is true now.
    #[must_use]
    pub fn newest(&self, cluster: usize) -> PolicyVersion {
        PolicyVersion {
            cluster,
            number: self.policies[cluster].len() - 1,
        }
    }

    /// Whether these policies allow this half of a connection to `port`, for some of the looks.
    pub fn allows(
        &mut self,
        direction: Direction,
        policy: PolicyVersion,
        (subjects, others): (&Looks, &Looks),
        port: u16,
    ) -> bool {
        let pairs = subjects
            .iter()
            .flat_map(|subject| others.iter().map(move |other| (*subject, *other)));
        pairs.into_iter().any(|(subject, other)| {
            self.verdict(Question {
                direction,
                policy,
                subject,
                other,
                port,
            })
        })
    }

    /// Whether the cluster `at` takes some of these looks, whatever its policies say.
    #[must_use]
    pub fn admits(&self, at: usize, looks: &Looks) -> bool {
        let mut looks = looks.iter().map(|look| &self.looks[*look].what);
        looks.any(|look| look.is_admitted(at))
    }

    /// Whether the cluster `at` offers some of these looks to the clusters of some of the others, where they
    /// are its own.
    #[must_use]
    pub fn offers(&self, at: usize, (ones, others): (&Looks, &Looks)) -> bool {
        let look = |number: &usize| &self.looks[*number].what;
        let mut pairs = ones
            .iter()
            .flat_map(|one| others.iter().map(move |other| (one, other)));
        pairs.any(|(one, other)| {
            let (one, other) = (look(one), look(other));
            one.is_offered(at, other) && other.is_offered(at, one)
        })
    }

    /// Whether some of these looks are offered to the cluster `other`.
    #[must_use]
    pub fn offered_to(&self, other: usize, looks: &Looks) -> bool {
        let mut looks = looks.iter().map(|look| &self.looks[*look].what);
        looks.any(|look| !look.hidden_from.contains(&other))
    }

    /// The pods that there are and that were never offered to the cluster `to` of those of `from`.
    pub fn never_offered(&self, from: usize, to: usize) -> impl Iterator<Item = &str> {
        let there = self.looks.iter().filter(|version| version.until.is_none());
        let there = there.map(|version| &version.what);
        let of = there.filter(move |look| look.cluster == from);
        let never = of.filter(move |look| {
            let mut all = self.looks.iter().map(|version| &version.what);
            all.all(|other| other.name != look.name || other.hidden_from.contains(&to))
        });
        never.map(|look| look.name.as_str())
    }

    fn verdict(&mut self, question: Question) -> bool {
        if let Some(known) = self.verdicts.get(&question) {
            return *known;
        }
        let PolicyVersion { cluster, number } = question.policy;
        let set = self.policies[cluster][number].what.clone();
        let oracle = Oracle {
            policies: BTreeMap::from([(set.cluster.clone(), set)]),
            carried: BTreeMap::new(),
        };
        let [subject, other] =
            [question.subject, question.other].map(|look| &self.looks[look].what);
        let admitted = subject.is_admitted(cluster)
            && other.is_admitted(cluster)
            && subject.is_offered(cluster, other)
            && other.is_offered(cluster, subject);
        let verdict = admitted
            && oracle
                .judge(
                    question.direction,
                    &subject.claims,
                    Other::Pod(&other.claims, Some(other.address)),
                    wire::ip::TCP,
                    question.port,
                )
                .is_allowed();
        self.verdicts.insert(question, verdict);
        verdict
    }
}
