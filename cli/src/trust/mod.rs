//! Whom a cluster trusts: whom it has joined, and what is revoked.

mod join;
mod revoke;

pub use join::{
    InviteArgs, JoinArgs, LeaveArgs, MembersArgs, RemoveArgs, invite, join, leave, members, remove,
};
pub use revoke::{RevocationsArgs, RevokeArgs, UnrevokeArgs, revocations, revoke, unrevoke};

use anyhow::Result;
use observe::TrustRequest;
use serde_json::{Value, json};

use crate::{admin, gateway::GatewayArg};

/// Asks the gateway that is meant.
fn ask(gateway: &GatewayArg, request: &TrustRequest) -> Result<Value> {
    let mut line = json!(request);
    line["op"] = "trust".into();
    admin::ask(&gateway.state_dir()?, &line)
}
