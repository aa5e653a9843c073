//! X.509-SVIDs of a SPIFFE Workload API, in place of those of a root of the gateway's own. docs/spire.md.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, bail};
use identity::{Now, TrustDomain};
use observe::AuditLog;
use quic::{Pin, Svid, gateway_id};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use workload_api::{Issued, Standing, Wanted};

use crate::{clock::Clock, config::Config, keys::ForeignRoots, start::Keys};

/// How long a gateway that starts waits for its X.509-SVID.
const FIRST_SVID: Duration = Duration::from_secs(60);

impl Keys {
    /// Takes the certificate that a Workload API issued, and the roots that come with it.
    ///
    /// # Errors
    /// When its key cannot be used, or the audit log does not take it.
    pub fn adopt(&mut self, issued: &Issued, audit: &AuditLog, now: Now) -> anyhow::Result<()> {
        self.svid = Some(Svid::received(&issued.chain, &issued.key)?);
        let roots = foreign_roots(issued);
        audit.write("trust", &about_foreign(&roots))?;
        self.store.set_foreign(roots);
        self.peering.set_own_keys(self.store.own_keys(), now);
        Ok(())
    }
}

/// The roots that a Workload API says.
pub fn foreign_roots(issued: &Issued) -> ForeignRoots {
    ForeignRoots {
        roots: issued.roots.clone(),
        shown: issued.root,
    }
}

/// The line of the audit log.
pub fn about_foreign(roots: &ForeignRoots) -> Value {
    let pins = roots.roots.iter().map(|root| Pin::of(root).to_string());
    let pins: Vec<_> = pins.collect();
    json!({"do": "key", "key": "root", "step": "workload-api", "roots": pins, "shown": roots.shown})
}

/// Begins to follow the Workload API, if one is configured. To be called within a runtime.
///
/// # Errors
/// When the gateway's name is none.
pub fn follow(
    config: &Config,
    domain: &TrustDomain,
    clock: Clock,
) -> anyhow::Result<Option<watch::Receiver<Standing>>> {
    let Some(source) = &config.svid else {
        return Ok(None);
    };
    let id = gateway_id(domain, &config.name).context("name")?;
    let what = "this gateway";
    let (following, standing) =
        workload_api::follow(source.workload_api.clone(), Wanted { id, what });
    tokio::spawn(following.run(move || clock.now().unix));
    Ok(Some(standing))
}

/// Waits for the first X.509-SVID.
///
/// # Errors
/// What the Workload API said instead, after a minute.
pub async fn first(standing: &mut watch::Receiver<Standing>) -> anyhow::Result<Arc<Issued>> {
    let issued = standing.wait_for(|standing| standing.issued.is_some());
    if let Ok(Ok(standing)) = timeout(FIRST_SVID, issued).await
        && let Some(issued) = &standing.issued
    {
        return Ok(Arc::clone(issued));
    }
    let why = standing.borrow().problem.clone();
    bail!("there is no X.509-SVID for this gateway: {why}")
}
