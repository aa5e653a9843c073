//! What is taken from the kernel on each interface.

use std::sync::PoisonError;

use gateway_xdp::SteerConfig;
use ipnet::IpNet;
use sources::{PodRange, World};
use tracing::error;

use super::Hub;
use crate::config::Config;

impl Hub {
    /// Takes remote prefixes from the kernel: those of the whole federation, whether a peer is
    /// connected or not, so that nothing of ours is ever routed in clear.
    pub(super) fn steer(&mut self, world: &World) {
        let others = world.federation.clusters.iter();
        let others = others.filter(|c| c.trust_domain != self.own);
        let configured = others.flat_map(|c| c.pod_ranges.iter().map(PodRange::seen));
        let announced = self.control.peering().ranges();
        let announced = announced.iter().filter(|r| r.trust_domain != self.own);
        let claimed = announced.map(|r| r.prefix).chain(self.members.held());
        let mut prefixes: Vec<IpNet> = configured.chain(claimed).collect();
        prefixes.sort();
        prefixes.dedup();
        if prefixes == self.steered {
            return;
        }
        let attachments = std::sync::Arc::clone(&self.attachments);
        let mut attachments = attachments.lock().unwrap_or_else(PoisonError::into_inner);
        for attachment in attachments.iter_mut() {
            let name = attachment.nic().name.clone();
            let config = steering(&self.config, &name, &prefixes);
            if let Err(e) = attachment.configure(&config) {
                error!(interface = name, "steering is not up to date: {e}");
                self.problems
                    .insert(format!("steering {name}"), e.to_string());
                return;
            }
            self.problems.remove(&format!("steering {name}"));
        }
        self.steered = prefixes;
    }
}

/// What `interface` takes from the kernel.
#[must_use]
pub fn steering(config: &Config, interface: &str, prefixes: &[IpNet]) -> SteerConfig {
    let lan = interface == config.lan.interface;
    let wan = interface == config.wan.interface;
    let own = [
        lan.then_some(config.lan.address),
        wan.then_some(config.wan.address),
    ];
    SteerConfig {
        lan,
        wan,
        own: own.into_iter().flatten().collect(),
        redirect: match lan {
            true => prefixes.to_vec(),
            false => Vec::new(),
        },
        psp_port: config.wan.psp_port,
        vxlan: None,
    }
}
