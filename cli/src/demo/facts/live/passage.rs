//! Two pods of different clusters between which, for a while, policies of ours allow everything.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context, Result};

use super::super::{
    Demo,
    edit::Edited,
    in_force,
    pairs::{self, Distance, Pair, TCP},
};
use crate::{
    demo::plan::{Cluster, Pod},
    oracle::Oracle,
};

/// The policies are gone when it is dropped.
pub struct Passage {
    /// Who may connect to whom; the port is one that nobody listens on.
    pub pair: Pair,
    /// The destination's policy, which alone lets the connection in.
    pub admits: Edited,
    /// The source's, in case its pod is isolated.
    lets_out: Edited,
}

/// The file that they are saved in, one in each cluster.
const FILE: &str = "zz-demo-check.yaml";
/// Where the search for a port begins that nobody listens on.
const PORT: u16 = 40_000;

impl Passage {
    /// Opens one between the first pair that policy denies, waits until it is in force, and serves
    /// `port` if somebody listens there; `None` when no pair will do.
    pub fn open(demo: &Demo) -> Result<Option<Self>> {
        let denied = pairs::all(demo)?.into_iter().filter(|pair| {
            pair.distance() == Distance::Across && !pair.answer.ingress.verdict.is_allowed()
        });
        for mut pair in denied {
            let (source, from) = demo.place(&pair.from)?;
            let (target, to) = demo.place(&pair.to)?;
            pair.port = (PORT..)
                .find(|it| !to.ports.contains(it))
                .context("no port")?;
            let passage = Self {
                lets_out: save(demo, source, from, ("egress", "to"), (target, to))?,
                admits: save(demo, target, to, ("ingress", "from"), (source, from))?,
                pair,
            };
            let (now, _) = Oracle::in_force(&demo.state.config())?;
            let pair = &passage.pair;
            if now.ask(&pair.from, &pair.to, TCP, pair.port).is_allowed() {
                return Ok(Some(passage));
            }
        }
        Ok(None)
    }

    /// Where its server would listen.
    pub fn address(&self, demo: &Demo) -> Result<SocketAddr> {
        self.pair.address(demo)
    }

    /// Takes both policies back, and waits until they are not in force any more.
    pub fn lets_nothing_stay(self, demo: &Demo) -> Result<()> {
        let (pair, since) = (self.pair.clone(), self.undo()?);
        in_force::takes_effect(demo, &pair, false, since).map(drop)
    }

    fn undo(self) -> Result<Instant> {
        self.lets_out.undo()?;
        self.admits.undo()
    }
}

fn save(
    demo: &Demo,
    cluster: &Cluster,
    pod: &Pod,
    (direction, peers): (&str, &str),
    (other, peer): (&Cluster, &Pod),
) -> Result<Edited> {
    let policy = format!(
        "apiVersion: landbridge.io/v1alpha1\n\
         kind: FederationPolicy\n\
         metadata: {{name: demo-check, namespace: {}}}\n\
         spec:\n  order: 1\n  isolates: None\n  {direction}:\n  - name: check\n    \
         action: Allow\n    {peers}:\n    - {{clusters: [{}], namespaces: [{}]}}\n",
        pod.namespace, other.name, peer.namespace
    );
    let path = demo.state.config().join(&cluster.name).join(FILE);
    Edited::save(path, &policy).map(|(edited, _)| edited)
}
