//! What the policies of a configuration folder say of two of its pods, computed from the files
//! alone: no gateway, agent or packet is asked. Both ends are: the source's cluster for egress, the
//! destination's for ingress.

use std::path::Path;

use anyhow::{Context, Result, bail};
use identity::{Assurance, Claims, SpiffeId, UnixMillis, Workload};
use policy::{Explanation, KnownKeys, Peer, Query, Table, model::Direction};
use sources::World;

/// The worlds of all clusters with their compiled policies.
pub struct Oracle {
    clusters: Vec<(World, Table)>,
    known: KnownKeys,
}

/// A pod of one of the clusters.
#[derive(Clone, Debug)]
pub struct End {
    /// Its cluster's place.
    cluster: usize,
    /// What its credential would say.
    pub claims: Claims,
    /// As its source describes it.
    pub workload: Workload,
}

/// Both ends' answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Of the source's cluster.
    pub egress: Explanation,
    /// Of the destination's cluster.
    pub ingress: Explanation,
}

impl Oracle {
    /// Reads the folder `dir`.
    ///
    /// # Errors
    /// When it cannot be read, or an object in it is refused: every problem, one per line.
    pub fn load(dir: &Path) -> Result<Self> {
        let worlds = sources::load_once(dir)?;
        refuse_problems(dir, &worlds)?;
        let clusters = worlds
            .into_iter()
            .map(|world| {
                let table = policy::compile(&world.policies)
                    .with_context(|| format!("the policies of {}", world.cluster.name))?;
                Ok((world, table))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            clusters,
            known: KnownKeys::all(),
        })
    }

    /// The worlds, in the order of the Federation.
    pub fn worlds(&self) -> impl Iterator<Item = &World> {
        self.clusters.iter().map(|(world, _)| world)
    }

    /// The pod called `CLUSTER/NAMESPACE/POD`.
    ///
    /// # Errors
    /// When the name has another form, or there is no such cluster or pod: those that there are.
    pub fn end(&self, name: &str) -> Result<End> {
        let parts: Vec<_> = name.split('/').collect();
        let [cluster, namespace, pod] = parts[..] else {
            bail!("{name:?} is not CLUSTER/NAMESPACE/POD");
        };
        let names = || {
            self.worlds()
                .map(|w| w.cluster.name.as_str())
                .collect::<Vec<_>>()
        };
        let Some(index) = self.worlds().position(|w| w.cluster.name == cluster) else {
            bail!(
                "there is no cluster {cluster:?}; there are {}",
                names().join(", ")
            );
        };
        let world = &self.clusters[index].0;
        let Some(workload) = world.workload(namespace, pod) else {
            let pods = world.workloads.iter();
            let pods: Vec<_> = pods.map(|w| format!("{}/{}", w.namespace, w.pod)).collect();
            bail!(
                "cluster {cluster} has no pod {namespace}/{pod}; it has {}",
                pods.join(", ")
            );
        };
        let subject = SpiffeId::workload(
            &world.cluster.trust_domain,
            namespace,
            &workload.service_account,
        )?;
        Ok(End {
            cluster: index,
            claims: Claims {
                subject,
                issued_at: UnixMillis(0),
                expires_at: UnixMillis(u64::MAX),
                id: [0; 16],
                agent_key: [0; 32],
                pod: pod.into(),
                pod_uid: workload.uid.clone(),
                labels: workload.labels.clone(),
                namespace_labels: workload.namespace_labels.clone(),
                zone: workload.zone.clone(),
                named_ports: workload.named_ports.clone(),
                assurance: Assurance::Agent,
                generation: 0,
            },
            workload: workload.clone(),
        })
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

    /// What the cluster of `subject` says of `peer`.
    pub fn explain(
        &self,
        direction: Direction,
        subject: &End,
        peer: Peer<'_>,
        protocol: u8,
        port: u16,
    ) -> Explanation {
        self.clusters[subject.cluster].1.explain(&Query {
            direction,
            subject: &subject.claims,
            peer,
            protocol,
            port,
            known: &self.known,
        })
    }

    /// Whether `cluster`'s digest lets `from` reach that port of any of its pods.
    pub fn may_admit(&self, cluster: &str, from: &End, protocol: u8, port: u16) -> bool {
        let table = self
            .clusters
            .iter()
            .find(|(w, _)| w.cluster.name == cluster);
        table.is_none_or(|(_, table)| table.may_admit(&from.claims, protocol, port))
    }
}

impl Answer {
    /// Whether both ends allow it.
    pub fn is_allowed(&self) -> bool {
        self.egress.verdict.is_allowed() && self.ingress.verdict.is_allowed()
    }
}

/// A folder is taken as a whole or not at all where a person can still correct it.
fn refuse_problems(dir: &Path, worlds: &[World]) -> Result<()> {
    let mut problems: Vec<_> = worlds.iter().flat_map(|w| &w.problems).collect();
    problems.sort();
    problems.dedup();
    let refused: Vec<_> = problems
        .iter()
        .filter(|p| !p.is_warning())
        .map(ToString::to_string)
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    bail!(
        "{} is not usable as it is; nothing was changed.\n  - {}",
        dir.display(),
        refused.join("\n  - ")
    )
}
