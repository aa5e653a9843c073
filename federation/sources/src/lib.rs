//! Where configuration comes from: a folder of YAML manifests, or a Kubernetes API server.
//! The only crate that names Kubernetes types; what leaves it are `identity` and `policy` values.
//!
//! It reads and translates, and decides nothing. An object that cannot be read is refused alone: a
//! [`Problem`] says what, where and what was expected, its last accepted version stays in force, and
//! every other object goes on.

mod allot;
mod assemble;
mod config_map;
pub mod crd;
mod decode;
mod documents;
mod draft;
mod elsewhere;
mod end_name;
mod fault;
mod federation;
mod files;
mod folder;
mod kubernetes;
mod lint;
mod locate;
mod objects;
mod placed;
mod problem;
mod read;
pub mod secret;
mod source;
mod store;
pub mod strict;
mod suggest;
mod tokens;
mod watcher;
mod world;
mod yaml;

#[cfg(test)]
mod store_tests;

pub use allot::{FIRST_POD, Place, Request, allotment, node_prefix};
pub use config_map::{ConfigMapError, ConfigMapWriter};
pub use end_name::EndName;
pub use fault::FieldPath;
pub use federation::{ClusterConfig, FederationConfig, GatewayConfig, PodRange};
pub use folder::{FolderSource, Joined, LoadError, load_once};
pub use kubernetes::{ConnectError, KubernetesSource, Viewer};
pub use lint::lint;
pub use objects::{DEFAULT_CLUSTER, worlds_of};
pub use problem::{Effect, Problem};
pub use source::{Source, SourceError};
pub use tokens::{TokenError, TokenReviewer};
pub use world::{ContainerPort, FederationPeerConfig, NoSuchPod, NodeSpec, PodSpec, World};
