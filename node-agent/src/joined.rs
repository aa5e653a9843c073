//! The clusters that this one has joined, as the gateway tells them: policies name them, and no file of
//! the folder does. Kept on disk, because a restarted agent must understand its policies before it has
//! heard from the gateway.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use identity::TrustDomain;
use peering::node_messages::JoinedCluster;
use quic::{read_secret, write_secret};
use sources::{ClusterConfig, PodRange};

/// In the state directory.
const FILE: &str = "joined";
/// The longest file in bytes.
const MAX: u64 = 16 << 20;

/// Those that were known when this process ended.
///
/// # Errors
/// When the file is damaged.
pub fn load(state: &Path) -> anyhow::Result<Vec<ClusterConfig>> {
    let path = state.join(FILE);
    let Some(stored) = read_secret(&path, MAX)? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&stored)
        .with_context(|| format!("{}: remove it, the gateway says it again", path.display()))
}

/// Stores them.
///
/// # Errors
/// When the disk does not take it.
pub fn store(state: &Path, clusters: &[ClusterConfig]) -> anyhow::Result<()> {
    write_secret(&state.join(FILE), &serde_json::to_vec(clusters)?)?;
    Ok(())
}

/// As a source takes them.
#[must_use]
pub fn clusters(told: &BTreeMap<TrustDomain, JoinedCluster>) -> Vec<ClusterConfig> {
    let cluster = |(domain, told): (&TrustDomain, &JoinedCluster)| {
        let ranges = told.ranges.iter().map(|range| PodRange {
            id: range.range_id,
            // Where it is seen here: what it is at home, the gateway alone needs to know.
            cidr: range.prefix,
            map_to: None,
        });
        ClusterConfig::joined(&told.name, domain.clone(), ranges.collect())
    };
    told.iter().map(cluster).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use peering::peer_messages::AnnouncedRange;

    use super::*;

    #[test]
    fn what_the_gateway_told_is_known_after_a_restart() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(load(state.path()).unwrap(), []);
        let cluster = JoinedCluster {
            name: "west".into(),
            ranges: vec![AnnouncedRange {
                range_id: 1,
                prefix: "10.2.0.0/16".parse().unwrap(),
            }],
        };
        let domain = TrustDomain::new("west.example").unwrap();
        let told = clusters(&BTreeMap::from([(domain.clone(), cluster)]));
        assert_eq!((&*told[0].name, &told[0].trust_domain), ("west", &domain));
        store(state.path(), &told).unwrap();
        assert_eq!(load(state.path()).unwrap(), told);
        write_secret(&state.path().join(FILE), b"[").unwrap();
        let error = format!("{:#}", load(state.path()).unwrap_err());
        assert!(error.contains("the gateway says it again"), "{error}");
    }
}
