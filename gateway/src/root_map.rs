//! The pin of the cluster's root in a ConfigMap, from which agents that run as pods have it.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use quic::ClusterRoot;
use sources::{ConfigMapWriter, Source};
use tokio::time::{self, MissedTickBehavior};
use tracing::{info, warn};

use crate::config::Config;

/// The key under which it stands there: what an agent finds as a file of that name.
const KEY: &str = "rootPin";
/// How often it is looked whether another root signs. Nothing is asked of anybody then.
const LOOK: Duration = Duration::from_secs(5);

/// Who writes it, if the configuration says where.
///
/// # Errors
/// When nothing says how to reach the API server.
pub async fn writer(config: &Config) -> anyhow::Result<Option<ConfigMapWriter>> {
    let name = config
        .agents
        .as_ref()
        .and_then(|agents| agents.root_config_map.as_ref());
    let (Some(name), Source::Kubernetes(server)) = (name, &config.source) else {
        return Ok(None);
    };
    Ok(Some(ConfigMapWriter::new(server, name).await?))
}

/// Writes the pin of the root that signs, whenever it is another one.
pub async fn keep(writer: ConfigMapWriter, root: Arc<ArcSwap<ClusterRoot>>) {
    let mut written = None;
    let mut said = String::new();
    let mut looks = time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let pin = root.load().pin();
        if written == Some(pin) {
            continue;
        }
        match writer.set(KEY, &pin.to_string()).await {
            Ok(()) => {
                info!(%pin, "agents find it in {writer:?}");
                written = Some(pin);
            }
            Err(error) => {
                let words = format!("{:#}", anyhow::Error::from(error));
                if said != words {
                    warn!("agents do not hear of the root: {writer:?}: {words}");
                    said = words;
                }
            }
        }
    }
}
