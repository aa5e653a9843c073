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

/// TCP connections in the namespace whose other end has `port`.
pub fn connections(netns: &str, port: u16) -> Result<usize> {
    let sockets = tcp_sockets(netns)?;
    Ok(sockets.iter().filter(|it| it.remote == port).count())
}

/// Whether a TCP socket of the namespace listens on `port`, without a connection that rules and
/// counters would see.
fn listening(netns: &str, port: u16) -> bool {
    tcp_sockets(netns).is_ok_and(|all| all.iter().any(|it| it.local == port && it.listens))
}

/// A TCP socket over IPv4.
struct TcpSocket {
    local: u16,
    remote: u16,
    listens: bool,
}

/// Reads /proc/net/tcp, whose shape is in proc(5); state 0A is TCP_LISTEN.
fn tcp_sockets(netns: &str) -> Result<Vec<TcpSocket>> {
    let text = netns::inside(netns, || {
        Ok(std::fs::read_to_string("/proc/thread-self/net/tcp")?)
    })?;
    let socket = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let mut port = || u16::from_str_radix(fields.next()?.rsplit_once(':')?.1, 16).ok();
        Some(TcpSocket {
            local: port()?,
            remote: port()?,
            listens: fields.next()? == "0A",
        })
    };
    Ok(text.lines().skip(1).filter_map(socket).collect())
}
