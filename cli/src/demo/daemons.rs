//! Configuration, secrets and start of the gateways and agents.
//!
//! Each gateway makes its keys first and says the pin of its root; then the pins are handed to the
//! other gateways and to the agents, and every process is started.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    by_token, http,
    interrupt::Interrupts,
    journal::Journal,
    netns,
    plan::{
        AGENT_METRICS, Cluster, GATEWAY_METRICS, NODE_PORT, Node, POOL, PSP_PORT, Plan, QUIC_PORT,
    },
    preflight::Binaries,
    process::{self, ProcessId, Spec},
    state::{State, make_private},
    wait,
};

/// How long a gateway or agent may take until it is ready.
const READY: Duration = Duration::from_secs(30);

/// A process that was started, with what is needed to judge it.
pub struct Started {
    /// Names its log.
    pub role: String,
    /// Where it runs.
    pub netns: String,
    /// Which one.
    pub id: ProcessId,
    /// Where it serves `/readyz`, inside its namespace.
    pub readiness: SocketAddr,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewayConfig<'a> {
    cluster: &'a str,
    name: &'a str,
    source: Source,
    state_dir: PathBuf,
    wan: Wan,
    lan: Lan,
    metrics: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    federation_prefixes: &'a [Ipv4Net],
    peers: Vec<Peer<'a>>,
    introductions: &'a str,
    nodes: Vec<NodeConfig<'a>>,
}

#[derive(Serialize)]
struct Source {
    folder: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wan {
    interface: &'static str,
    address: String,
    quic_port: u16,
    psp_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lan {
    interface: &'static str,
    address: String,
    node_port: u16,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer<'a> {
    cluster: &'a str,
    endpoint: String,
    root_pin: &'a str,
    while_declared: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeConfig<'a> {
    name: &'a str,
    address: String,
    enrol_secret_hash: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentConfig<'a> {
    cluster: &'a str,
    node: &'a str,
    source: Source,
    state_dir: PathBuf,
    uplink: &'static str,
    gateway: AgentGateway<'a>,
    enrol_secret_file: PathBuf,
    metrics: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    name_servers: &'a [Ipv4Addr],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentGateway<'a> {
    endpoint: String,
    root_pin: &'a str,
}

/// What `landbridge-gateway init` prints.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Initialised {
    root_pin: String,
}

/// Starts all gateways and agents of `plan`.
pub fn start(
    plan: &Plan,
    state: &State,
    binaries: &Binaries,
    journal: &Journal,
    interrupts: &Interrupts,
) -> Result<Vec<Started>> {
    let secrets = enrolment_secrets(plan, state)?;
    let mut pins = BTreeMap::new();
    for cluster in &plan.clusters {
        interrupts.check()?;
        write_gateway_config(plan, cluster, state, &BTreeMap::new(), &secrets)?;
        pins.insert(cluster.name.clone(), initialise(cluster, state, binaries)?);
    }
    let mut started = Vec::new();
    for cluster in &plan.clusters {
        write_gateway_config(plan, cluster, state, &pins, &secrets)?;
        started.push(start_gateway(cluster, state, &binaries.gateway, journal)?);
        for node in &cluster.nodes {
            interrupts.check()?;
            let pin = pins.get(&cluster.name).map_or("", String::as_str);
            write_agent_config(plan, cluster, node, state, pin)?;
            started.push(start_agent(cluster, node, state, &binaries.agent, journal)?);
        }
    }
    Ok(started)
}

/// Starts the gateway of `cluster`, which was configured before.
pub fn start_gateway(
    cluster: &Cluster,
    state: &State,
    program: &Path,
    journal: &Journal,
) -> Result<Started> {
    let config = config_file(&state.gateway(cluster));
    let role = cluster.gateway_role();
    let what = spec(state, &role, &cluster.gateway.netns, program, &config);
    Ok(Started {
        id: process::start(journal, state.dir(), &what)?,
        netns: cluster.gateway.netns.clone(),
        readiness: GATEWAY_METRICS.parse()?,
        role,
    })
}

/// Starts the agent of `node`, which was configured before.
pub fn start_agent(
    cluster: &Cluster,
    node: &Node,
    state: &State,
    program: &Path,
    journal: &Journal,
) -> Result<Started> {
    let config = config_file(&state.agent(cluster, node));
    let role = cluster.agent_role(node);
    let what = spec(state, &role, &node.netns, program, &config);
    Ok(Started {
        id: process::start(journal, state.dir(), &what)?,
        netns: node.netns.clone(),
        readiness: AGENT_METRICS.parse()?,
        role,
    })
}

/// Closes what the process with this role will serve, for the time before it runs.
pub fn close(state: &State, netns: &str, program: &Path, dir: &Path) -> Result<()> {
    netns::inside(netns, || {
        let mut command = Command::new(program);
        command.args(["close", "--config"]).arg(config_file(dir));
        netns::output(command.env(process::MARK, state.dir()))
    })?;
    Ok(())
}

/// Waits until all of `started` answer 200 at `/readyz`.
///
/// # Errors
/// When one ends, or is not ready in time: what it said last.
pub fn wait_ready(started: &[Started], state: &State, interrupts: &Interrupts) -> Result<()> {
    for one in started {
        let mut last = String::from("it did not answer");
        let outcome = wait::for_some(READY, || {
            if interrupts.came() {
                return Some(Err("interrupted".to_string()));
            }
            if !one.id.is_alive() {
                return Some(Err(format!("{} ended by itself", one.role)));
            }
            match netns::inside(&one.netns, || {
                http::get(one.readiness, "/readyz", Duration::from_secs(1))
            }) {
                Ok(answer) if answer.status == 200 => Some(Ok(())),
                Ok(answer) => {
                    last = answer.body.trim().to_string();
                    None
                }
                Err(_) => None,
            }
        });
        let why = match outcome {
            Some(Ok(())) => continue,
            Some(Err(why)) => why,
            None => format!(
                "{} was not ready after {} s: {last}",
                one.role,
                READY.as_secs()
            ),
        };
        interrupts.check()?;
        let log = state.log(&one.role);
        bail!(
            "{why}\nthe end of {}:\n{}",
            log.display(),
            process::tail(&log, 25)
        );
    }
    Ok(())
}

fn spec<'a>(
    state: &State,
    role: &str,
    netns: &'a str,
    program: &'a Path,
    config: &Path,
) -> Spec<'a> {
    Spec {
        role: role.into(),
        netns,
        program,
        args: vec![
            "run".into(),
            "--config".into(),
            config.display().to_string(),
        ],
        log: state.log(role),
    }
}

/// Makes a one-time secret per node; each agent finds its own in a file that only root reads.
fn enrolment_secrets(plan: &Plan, state: &State) -> Result<BTreeMap<(String, String), String>> {
    let mut hashes = BTreeMap::new();
    for cluster in &plan.clusters {
        for node in &cluster.nodes {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).context("the kernel gives no random bytes")?;
            let text = hex::encode(secret);
            let dir = state.agent(cluster, node);
            make_private(&dir)?;
            write_private(&secret_file(&dir), text.as_bytes())?;
            let hash = format!("sha256:{}", hex::encode(Sha256::digest(&text)));
            hashes.insert((cluster.name.clone(), node.name.clone()), hash);
        }
    }
    Ok(hashes)
}

fn secret_file(agent_dir: &Path) -> PathBuf {
    agent_dir.join("enrol-secret")
}

fn initialise(cluster: &Cluster, state: &State, binaries: &Binaries) -> Result<String> {
    let config = config_file(&state.gateway(cluster));
    let said = netns::inside(&cluster.gateway.netns, || {
        netns::output(
            Command::new(&binaries.gateway)
                .args(["init", "--config"])
                .arg(&config)
                .env(process::MARK, state.dir()),
        )
    })?;
    let line = said.lines().last().unwrap_or_default();
    let initialised: Initialised = serde_json::from_str(line)
        .with_context(|| format!("landbridge-gateway init said {said:?}, not its root's pin"))?;
    Ok(initialised.root_pin)
}

fn write_gateway_config(
    plan: &Plan,
    cluster: &Cluster,
    state: &State,
    pins: &BTreeMap<String, String>,
    secrets: &BTreeMap<(String, String), String>,
) -> Result<PathBuf> {
    let dir = state.gateway(cluster);
    make_private(&dir)?;
    let strangers = plan.by_token;
    let peers = plan.clusters.iter();
    let peers = peers.filter(|c| c.name != cluster.name && !strangers);
    let config = GatewayConfig {
        cluster: &cluster.name,
        name: &cluster.gateway.name,
        source: source(plan, cluster, state)?,
        state_dir: dir.clone(),
        wan: Wan {
            interface: "wan0",
            address: cluster.gateway.wan.to_string(),
            quic_port: QUIC_PORT,
            psp_port: PSP_PORT,
        },
        lan: Lan {
            interface: "lan0",
            address: cluster.gateway.lan.to_string(),
            node_port: NODE_PORT,
        },
        metrics: GATEWAY_METRICS,
        federation_prefixes: if strangers { &[POOL] } else { &[] },
        peers: peers
            .filter_map(|peer| {
                Some(Peer {
                    cluster: &peer.name,
                    endpoint: format!("{}:{QUIC_PORT}", peer.gateway.wan),
                    root_pin: pins.get(&peer.name)?,
                    while_declared: cluster.declared_peers.contains(&peer.name),
                })
            })
            .collect(),
        introductions: match plan.introduced {
            true => "introduced",
            false => "listed",
        },
        nodes: cluster
            .nodes
            .iter()
            .filter_map(|node| {
                let key = (cluster.name.clone(), node.name.clone());
                Some(NodeConfig {
                    name: &node.name,
                    address: node.address.to_string(),
                    enrol_secret_hash: secrets.get(&key)?.clone(),
                })
            })
            .collect(),
    };
    write_yaml(&config_file(&dir), &config)
}

fn write_agent_config(
    plan: &Plan,
    cluster: &Cluster,
    node: &Node,
    state: &State,
    root_pin: &str,
) -> Result<PathBuf> {
    let dir = state.agent(cluster, node);
    let config = AgentConfig {
        cluster: &cluster.name,
        node: &node.name,
        source: source(plan, cluster, state)?,
        state_dir: dir.clone(),
        uplink: "up0",
        gateway: AgentGateway {
            endpoint: format!("{}:{NODE_PORT}", cluster.gateway.lan),
            root_pin,
        },
        enrol_secret_file: secret_file(&dir),
        metrics: AGENT_METRICS,
        name_servers: &plan.name_servers,
    };
    write_yaml(&config_file(&dir), &config)
}

/// One folder for all, or one of its own.
fn source(plan: &Plan, cluster: &Cluster, state: &State) -> Result<Source> {
    let folder = match plan.by_token {
        true => by_token::view(cluster, state)?,
        false => state.config(),
    };
    Ok(Source { folder })
}

fn config_file(dir: &Path) -> PathBuf {
    dir.join("config.yaml")
}

fn write_yaml(path: &Path, value: &impl Serialize) -> Result<PathBuf> {
    let text = serde_norway::to_string(value)?;
    write_private(path, text.as_bytes())?;
    Ok(path.into())
}

/// The file is never readable by others, not even while it is written.
fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content))
        .with_context(|| format!("cannot write {}", path.display()))
}
