//! The next snapshot of what this node decides by.

use std::sync::Arc;

use handshake::node::NodeSnapshot;
use peering::member::AgentMember;
use policy::Table;
use sources::World;

use crate::local::LocalPods;

/// Pods that are not `local` are left out, whatever their credentials.
#[must_use]
pub fn build(
    epoch: u64,
    world: &World,
    policy: &Arc<Table>,
    member: &AgentMember,
    local: &LocalPods,
) -> NodeSnapshot {
    let declared = || world.federation.networks().unwrap_or_default();
    member.snapshot(epoch, policy, declared, |address, workload| {
        let served = local.served.get(&address);
        served.is_some_and(|served| served.uid == workload.uid)
    })
}
