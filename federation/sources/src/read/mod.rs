//! Objects -> values of `identity` and `policy`, checked as an API server would check them.

mod admin_policies;
mod cluster_network_policy;
mod common;
mod federation;
mod federation_peers;
mod federation_policy;
mod foreign;
mod kind;
mod names;
mod namespace;
mod network_policy;
mod network_set;
mod node;
mod object;
mod ordered;
mod peer;
mod pod;
mod policy_ports;
mod scope;
mod selector;
mod team;
mod unreadable;
mod workload;
mod zones;

pub(crate) use federation::federation;
pub(crate) use kind::{Kind, ObjectKey};
pub(crate) use namespace::{NamespaceObject, OLD_ANNOTATION};
pub(crate) use network_policy::default_deny;
pub(crate) use object::{Object, Reading, is_foreign, key, read};
pub(crate) use pod::{PodObject, default_uid};
pub(crate) use scope::CLUSTER_ANNOTATION;
pub(crate) use unreadable::{closed, guess};
