//! What the demo must show. Each fact is a function that looks, waits for conditions and says what
//! it saw; a fact that changes something puts it back.

mod address_reuse;
mod attack;
mod audited;
mod captured;
mod counters;
mod crash;
mod edit;
mod explained;
mod fast_path;
mod in_force;
mod live;
mod pairs;
mod plain_client;
mod reach;
mod secrets;
mod transfer;
mod trust;
mod wan;

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use self::pairs::Attempt;
pub use self::wan::Capture;
use super::{
    interrupt::Interrupts,
    journal::{self, Entry, Journal},
    plan::{Cluster, Node, Plan, Pod},
    process::ProcessId,
    state::State,
    tap::Verdict,
};
use crate::{
    admin,
    oracle::{End, Oracle},
};

/// The demo that is looked at, and what earlier facts found out.
pub struct Demo {
    /// Its network.
    pub plan: Plan,
    /// Its directory.
    pub state: State,
    /// Takes what facts make.
    pub journal: Journal,
    /// This program, for servers in pods that facts make.
    pub own: PathBuf,
    /// What the policies say.
    pub oracle: Oracle,
    /// What crosses the WAN meanwhile.
    pub capture: Capture,
    /// Ctrl-C ends a long wait.
    pub interrupts: Interrupts,
    /// How often a gateway is killed by the fact that kills it over and over.
    pub restarts: u32,
    /// Every pair of pods was tried, once for all facts.
    pub attempts: Option<Vec<Attempt>>,
}

/// One thing that must be true.
pub struct Fact {
    /// For `--only`.
    pub name: &'static str,
    /// What is true, as a sentence.
    pub title: &'static str,
    /// Looks.
    pub look: fn(&mut Demo) -> Result<Verdict>,
}

/// All facts, in the order in which they are looked at: quiet ones first, those that change
/// something later, and last those that judge what all others caused.
pub const ALL: &[Fact] = &[
    Fact {
        name: "trust",
        title: "each gateway holds the bundle and the policy digest that its peers announce",
        look: trust::look,
    },
    Fact {
        name: "secrets",
        title: "keys, secrets and admin sockets are readable by root alone",
        look: secrets::look,
    },
    Fact {
        name: "allowed-across",
        title: "pods of different clusters that policy allows talk, and see each other's address",
        look: reach::allowed_across,
    },
    Fact {
        name: "denied-across",
        title: "pods of different clusters that policy does not allow get no connection",
        look: reach::denied_across,
    },
    Fact {
        name: "allowed-inside",
        title: "pods on different nodes of a cluster that policy allows talk",
        look: reach::allowed_inside,
    },
    Fact {
        name: "denied-inside",
        title: "pods on different nodes of a cluster that policy denies get no connection",
        look: reach::denied_inside,
    },
    Fact {
        name: "allowed-same-node",
        title: "pods on one node that policy allows talk",
        look: reach::allowed_same_node,
    },
    Fact {
        name: "denied-same-node",
        title: "pods on one node that policy denies get no connection",
        look: reach::denied_same_node,
    },
    Fact {
        name: "refused-early",
        title: "what the other cluster would deny is refused before it crosses the WAN",
        look: reach::refused_early,
    },
    Fact {
        name: "plain-client",
        title: "a client without identity is refused, in its cluster and across clusters",
        look: plain_client::look,
    },
    Fact {
        name: "explained",
        title: "both ends name the rule that allows or denies a connection",
        look: explained::look,
    },
    Fact {
        name: "captured",
        title: "a gateway shows its packets with verdict and both identities, in a file that Wireshark reads",
        look: captured::look,
    },
    Fact {
        name: "audited",
        title: "every credential that was proven is in its issuer's audit log, which is one unbroken chain",
        look: audited::look,
    },
    Fact {
        name: "transfer",
        title: "100 MB from one cluster to the other arrive unchanged",
        look: transfer::look,
    },
    Fact {
        name: "fast-path",
        title: "an established transfer sends no packet through the agents' user space",
        look: fast_path::look,
    },
    Fact {
        name: "policy-saved",
        title: "a saved policy file is in force within 1 s, and its removal too",
        look: in_force::policy_saved,
    },
    Fact {
        name: "relabelled",
        title: "a relabelled pod is decided by its new labels within 1 s",
        look: in_force::relabelled,
    },
    Fact {
        name: "live-cut",
        title: "a live connection of a pod that is relabelled so that it is denied ends within 1 s",
        look: in_force::live_cut,
    },
    Fact {
        name: "live-kept",
        title: "a live connection of a pod that is relabelled and still allowed goes on",
        look: live::policy::kept,
    },
    Fact {
        name: "policy-deleted",
        title: "a live connection ends within 1 s after the policy that allowed it is deleted",
        look: live::policy::deleted,
    },
    Fact {
        name: "closed-port",
        title: "a port that nobody listens on is refused at once",
        look: live::services::closed_port,
    },
    Fact {
        name: "server-first",
        title: "a server that speaks first reaches a client that never speaks",
        look: live::services::server_speaks_first,
    },
    Fact {
        name: "withdrawn",
        title: "with its peer withdrawn a cluster loses every connection to it within 1 s",
        look: live::withdrawn::look,
    },
    Fact {
        name: "revoked",
        title: "an identity or a cluster that is revoked loses its connections within 1 s, until that is taken back",
        look: live::revoked::look,
    },
    Fact {
        name: "not-accepted",
        title: "a pod of a namespace that its cluster may not claim here is refused within 1 s",
        look: live::revoked::not_accepted,
    },
    Fact {
        name: "rotated",
        title: "keys of a cluster are exchanged while connections live and open, and no session ends",
        look: live::rotated::look,
    },
    Fact {
        name: "address-reused",
        title: "a new pod with the address of an allowed pod is refused",
        look: address_reuse::look,
    },
    Fact {
        name: "replayed",
        title: "a recorded SYN that is played back is refused as replay",
        look: attack::replayed::at_once,
    },
    Fact {
        name: "relayed",
        title: "a host that an allowed pod dials cannot pass the pod's proof on",
        look: attack::relayed::look,
    },
    Fact {
        name: "stripped",
        title: "a segment without its marker, REPLY or CONFIRM opens nothing",
        look: attack::stripped::look,
    },
    Fact {
        name: "spoofed-source",
        title: "no pod can send with the address of another",
        look: attack::spoofed::source,
    },
    Fact {
        name: "spoofed-identity",
        title: "no pod can write the marker or the HELLO that only its agent writes",
        look: attack::spoofed::marker,
    },
    Fact {
        name: "lost",
        title: "a connection comes up, and once, when its SYN, SYN-ACK or ACK is lost",
        look: attack::lost::look,
    },
    Fact {
        name: "altered",
        title: "HELLO, REPLY and CONFIRM with one bit flipped are dropped, each for its reason",
        look: attack::altered::handshake,
    },
    Fact {
        name: "altered-tunnel",
        title: "a tunnel packet with one bit flipped is dropped",
        look: attack::altered::tunnel,
    },
    Fact {
        name: "agent-killed",
        title: "without its agent a pod gets no new connection and keeps its old ones; afterwards all is known",
        look: crash::agent::killed,
    },
    Fact {
        name: "agent-stopped",
        title: "while its agent stands still a pod gets no new connection and keeps its old ones",
        look: crash::agent::stopped,
    },
    Fact {
        name: "gateway-killed",
        title: "a killed gateway lets nothing pass, works again within 2 s, and resets what it lost",
        look: crash::gateway::killed,
    },
    Fact {
        name: "replayed-later",
        title: "a SYN from before a gateway's restart is refused as replay after it",
        look: attack::replayed::after_restart,
    },
    Fact {
        name: "start-up",
        title: "no bare SYN passes from the first millisecond of an agent's and a gateway's life",
        look: crash::startup::look,
    },
    Fact {
        name: "restarts",
        title: "no two packets of the tunnel have the same key and counter, over restarts of a gateway",
        look: crash::restarts::look,
    },
    Fact {
        name: "counters",
        title: "every packet is accounted for at each gateway and agent",
        look: counters::look,
    },
    Fact {
        name: "wan",
        title: "only QUIC and encrypted tunnel packets crossed the WAN, none of them in clear",
        look: wan::look,
    },
];

/// A question to an agent or gateway.
pub struct Enforcer {
    /// As its log is called.
    pub role: String,
    dir: PathBuf,
}

impl Demo {
    /// The process with this role.
    pub fn running(&self, role: &str) -> Result<Option<ProcessId>> {
        let entries = journal::read(&self.state.journal())?.unwrap_or_default();
        let ids = entries.into_iter().rev().filter_map(|entry| match entry {
            Entry::Process { role: of, id } if of == role => Some(id),
            _ => None,
        });
        Ok(ids.into_iter().find(|id| id.is_alive()))
    }

    /// The pod's place in the network.
    pub fn place(&self, end: &End) -> Result<(&Cluster, &Pod)> {
        let workload = &end.workload;
        self.plan
            .pods()
            .find(|(cluster, pod)| {
                cluster.trust_domain == end.claims.trust_domain().as_str()
                    && pod.namespace == workload.namespace
                    && pod.name == workload.pod
            })
            .with_context(|| format!("the network has no pod {}", end.claims.display_name()))
    }

    /// The agent beside a pod.
    pub fn agent_of(&self, end: &End) -> Result<Enforcer> {
        let (cluster, node) = self.node_of(end)?;
        Ok(self.agent(cluster, node))
    }

    /// The node that a pod is on.
    pub fn node_of(&self, end: &End) -> Result<(&Cluster, &Node)> {
        let (cluster, pod) = self.place(end)?;
        let node = cluster
            .node(&pod.node)
            .with_context(|| format!("{} has no node {}", cluster.name, pod.node))?;
        Ok((cluster, node))
    }

    /// The agent of a node.
    pub fn agent(&self, cluster: &Cluster, node: &Node) -> Enforcer {
        Enforcer {
            role: cluster.agent_role(node),
            dir: self.state.agent(cluster, node),
        }
    }

    /// The gateway of a cluster.
    pub fn gateway(&self, cluster: &Cluster) -> Enforcer {
        Enforcer {
            role: cluster.gateway_role(),
            dir: self.state.gateway(cluster),
        }
    }

    /// All gateways and agents.
    pub fn enforcers(&self) -> Vec<Enforcer> {
        self.plan
            .clusters
            .iter()
            .flat_map(|c| {
                let agents = c.nodes.iter().map(|n| self.agent(c, n));
                [self.gateway(c)].into_iter().chain(agents)
            })
            .collect()
    }
}

impl Enforcer {
    /// Asks one of the questions without arguments.
    pub fn ask(&self, op: &str) -> Result<Value> {
        self.request(&json!({ "op": op }))
    }

    /// Asks.
    pub fn request(&self, request: &Value) -> Result<Value> {
        admin::ask(&self.dir, request).with_context(|| self.role.clone())
    }

    /// A number of its counters; `dropped.REASON` for one of the reasons. What was never counted
    /// is 0.
    pub fn counter(&self, path: &str) -> Result<u64> {
        let counters = self.ask("counters")?;
        let pointer = format!("/{}", path.replace('.', "/"));
        Ok(counters
            .pointer(&pointer)
            .and_then(Value::as_u64)
            .unwrap_or(0))
    }
}
