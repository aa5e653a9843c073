//! Whom a cluster trusts, and by what it is: whom it has joined, what is revoked, its keys.

mod introduce;
mod join;
mod keys;
mod revoke;
mod time;

pub use introduce::{
    AcceptClusterArgs, IntroduceArgs, IntroductionsArgs, accept, introduce, introductions,
};
pub use join::{
    InviteArgs, JoinArgs, LeaveArgs, MembersArgs, RemoveArgs, invite, join, leave, members, remove,
};
pub use keys::{KeysArgs, RotateArgs, keys, rotate};
pub use revoke::{RevocationsArgs, RevokeArgs, UnrevokeArgs, revocations, revoke, unrevoke};

use anyhow::Result;
use observe::TrustRequest;
use serde_json::{Value, json};

use crate::{admin, gateway::GatewayArg};
use time::seconds;

/// Asks the gateway that is meant.
fn ask(gateway: &GatewayArg, request: &TrustRequest) -> Result<Value> {
    let mut line = json!(request);
    line["op"] = "trust".into();
    let directory = gateway.state_dir()?;
    match request {
        TrustRequest::Rotate(_) | TrustRequest::Join(_) => {
            admin::ask_within(&directory, &line, admin::PATIENCE)
        }
        _ => admin::ask(&directory, &line),
    }
}
