//! What runs inside a pod: the built-in server, or the command that the pod's annotation names.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};

use super::{
    journal::{Journal, POD},
    netns,
    plan::{Cluster, Plan, Pod},
    process::{self, ProcessId, Spec},
    state::State,
    wait,
};

/// How long a server may take until it listens.
const LISTENS: Duration = Duration::from_secs(10);

/// Starts what runs in every pod, and waits until each built-in server listens.
///
/// # Errors
/// When a built-in server does not. A command of the configuration is its author's affair.
pub fn start_all(plan: &Plan, state: &State, own: &Path, journal: &Journal) -> Result<()> {
    let mut started = Vec::new();
    for (cluster, pod) in plan.pods() {
        if let Some(id) = start(cluster, pod, state, own, journal)? {
            started.push((cluster, pod, id));
        }
    }
    for (cluster, pod, id) in started {
        wait_listening(cluster, pod, id, state)?;
    }
    Ok(())
}

/// Starts what runs in `pod`; `None` when it declares neither port nor command.
pub fn start(
    cluster: &Cluster,
    pod: &Pod,
    state: &State,
    own: &Path,
    journal: &Journal,
) -> Result<Option<ProcessId>> {
    let (program, args) = match &pod.command {
        Some(command) => (Path::new("/bin/sh"), vec!["-c".into(), command.clone()]),
        None if pod.ports.is_empty() => return Ok(None),
        None => {
            let ports: Vec<_> = pod.ports.iter().map(u16::to_string).collect();
            let args = ["demo-server", "--pod", &full_name(cluster, pod), "--ports"];
            let args = args.map(String::from).into_iter();
            (own, args.chain([ports.join(",")]).collect())
        }
    };
    let role = role(cluster, pod);
    let spec = Spec {
        netns: &pod.netns,
        program,
        args,
        log: state.log(&role),
        role,
    };
    process::start(journal, state.dir(), &spec).map(Some)
}

/// Waits until the built-in server of `pod` listens on all its ports.
pub fn wait_listening(cluster: &Cluster, pod: &Pod, id: ProcessId, state: &State) -> Result<()> {
    if pod.command.is_some() {
        return Ok(());
    }
    let listens = || pod.ports.iter().all(|port| listening(&pod.netns, *port));
    if wait::until(LISTENS, || !id.is_alive() || listens()) && id.is_alive() {
        return Ok(());
    }
    let log = state.log(&role(cluster, pod));
    bail!(
        "the server of {} does not listen; the end of {}:\n{}",
        full_name(cluster, pod),
        log.display(),
        process::tail(&log, 10)
    )
}

/// `cluster/namespace/pod`.
pub fn full_name(cluster: &Cluster, pod: &Pod) -> String {
    format!("{}/{}/{}", cluster.name, pod.namespace, pod.name)
}

/// Names its log.
pub fn role(cluster: &Cluster, pod: &Pod) -> String {
    format!("{POD}{}-{}-{}", cluster.name, pod.namespace, pod.name)
}

/// Whether a TCP socket of the namespace listens on `port`, without a connection that rules and
/// counters would see. Shape of /proc/net/tcp: proc(5); state 0A is TCP_LISTEN.
fn listening(netns: &str, port: u16) -> bool {
    let text = netns::inside(netns, || {
        Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?)
    });
    text.is_ok_and(|text| {
        text.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().and_then(|a| a.rsplit_once(':'));
            let is_port = local.is_some_and(|(_, p)| u16::from_str_radix(p, 16) == Ok(port));
            is_port && fields.nth(1) == Some("0A")
        })
    })
}
