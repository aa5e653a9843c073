//! The gateways know each other: what one holds of a peer is what the peer announces of itself.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Demo;
use crate::demo::{tap::Verdict, wait};

/// How long an exchange that just began may take.
const EXCHANGED: Duration = Duration::from_secs(5);

/// Compares every gateway's own bundle and digest with what each peer holds of them.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let mut last = None;
    let done = wait::until(EXCHANGED, || match compare(demo) {
        Ok(notes) => {
            last = Some(Ok(notes));
            true
        }
        Err(e) => {
            last = Some(Err(e));
            false
        }
    });
    match last {
        Some(Ok(notes)) if done => Ok(Verdict::Holds(notes.join("; "))),
        Some(Err(e)) => Err(e),
        _ => bail!("there was no time to look"),
    }
}

fn compare(demo: &Demo) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    for cluster in &demo.plan.clusters {
        let own = demo.gateway(cluster).ask("status")?;
        for other in demo.plan.clusters.iter().filter(|c| c.name != cluster.name) {
            let holder = demo.gateway(other);
            let status = holder.ask("status")?;
            let held = peer(&status, &cluster.trust_domain)
                .with_context(|| format!("{} lists no peer {}", holder.role, cluster.name))?;
            if held["connected"] != true {
                bail!(
                    "{} is not connected to {}: {held}",
                    holder.role,
                    cluster.name
                );
            }
            for what in ["bundle_sequence", "digest_sequence", "digest_hash"] {
                if own["own"][what] != held[what] || held[what].is_null() {
                    bail!(
                        "{} holds {what} {} of {}, which announces {}",
                        holder.role,
                        held[what],
                        cluster.name,
                        own["own"][what]
                    );
                }
            }
            notes.push(format!(
                "{} holds bundle {} and digest {} of {}",
                holder.role, held["bundle_sequence"], held["digest_sequence"], cluster.name
            ));
        }
    }
    Ok(notes)
}

fn peer<'a>(status: &'a Value, trust_domain: &str) -> Option<&'a Value> {
    let peers = status["peers"].as_array()?;
    peers.iter().find(|p| p["trust_domain"] == trust_domain)
}
