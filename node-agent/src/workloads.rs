//! The agent's X.509-SVID and the roots of its cluster, where a SPIFFE Workload API issues them.
//! docs/spire.md.

use anyhow::Context;
use identity::TrustDomain;
use quic::{Anchor, Identity, Svid, Trust, agent_id};
use tokio::sync::watch::Receiver;
use tracing::error;
use workload_api::{Following, Issued, Standing, Wanted, follow};

use crate::config::SvidSource;

/// What is followed, and what comes of it, for two who look.
pub struct Source {
    /// For the session.
    pub workloads: Workloads,
    /// For people.
    pub standing: Receiver<Standing>,
}

/// What the session needs.
pub struct Workloads {
    /// Asks, once it runs.
    pub following: Following,
    /// What it says.
    pub issued: Watched,
}

impl Source {
    /// For the agent of `node`.
    ///
    /// # Errors
    /// When the node's name is no part of a SPIFFE ID.
    pub fn new(source: &SvidSource, own: &TrustDomain, node: &str) -> anyhow::Result<Self> {
        let id = agent_id(own, node).context("node")?;
        let what = "this node's agent";
        let (following, standing) = follow(source.workload_api.clone(), Wanted { id, what });
        let issued = Watched(standing.clone());
        Ok(Self {
            workloads: Workloads { following, issued },
            standing,
        })
    }
}

/// What a Workload API issues, as it changes.
pub struct Watched(Receiver<Standing>);

impl Watched {
    /// The first X.509-SVID; the gateway is believed by the roots that come with it. `None` when nobody
    /// follows any more.
    pub async fn first(&mut self, trust: &Trust) -> Option<Identity> {
        loop {
            let standing = self.0.borrow_and_update().clone();
            if let Some(issued) = standing.issued
                && let Some(svid) = take(&issued, trust)
            {
                return Some(Identity::new(svid));
            }
            self.0.changed().await.ok()?;
        }
    }

    /// From now on new sessions use what is issued last, and sessions that stand go on.
    pub async fn follow(&mut self, identity: &Identity, trust: &Trust) {
        while self.0.changed().await.is_ok() {
            let standing = self.0.borrow_and_update().clone();
            if let Some(issued) = standing.issued
                && let Some(svid) = take(&issued, trust)
            {
                identity.set(svid);
            }
        }
    }
}

fn take(issued: &Issued, trust: &Trust) -> Option<Svid> {
    let roots = Anchor::Roots(issued.roots.clone());
    trust.set(issued.id.trust_domain().clone(), roots);
    match Svid::received(&issued.chain, &issued.key) {
        Ok(svid) => Some(svid),
        Err(e) => {
            error!("the X.509-SVID of the Workload API: {e}");
            None
        }
    }
}
