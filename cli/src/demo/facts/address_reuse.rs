//! An address is no identity: whoever gets an allowed pod's address gets nothing with it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use identity::Labels;
use serde_norway::Value;

use super::{
    Demo,
    edit::{self, Edited},
    in_force,
    pairs::{self, Distance, Pair, TCP},
};
use crate::{
    demo::{
        http::Connected,
        net,
        plan::{Cluster, Pod},
        pods,
        process::{self, ProcessId},
        tap::Verdict,
        wait,
    },
    oracle::Oracle,
};

/// How long the refused connection is watched: two SYNs.
const WATCHED: Duration = Duration::from_millis(1500);
/// How long the new pod may wait for its credential.
const CREDENTIAL: Duration = Duration::from_secs(5);

/// Replaces the source of an allowed pair by another pod with the same address and no labels.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = allowed_by_labels(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed that a pod without labels is denied".into(),
        ));
    };
    let (cluster, pod) = demo.place(&pair.from)?;
    let (cluster, pod) = (cluster.clone(), pod.clone());
    let impostor = Pod {
        name: "demo-check".into(),
        netns: format!("{}-demo-check", pod.netns),
        veth: "p-demo-check".into(),
        ports: Vec::new(),
        command: None,
        ..pod.clone()
    };
    let (path, mut documents, place) = edit::find_pod(
        &demo.state.config().join(&cluster.name),
        &pod.namespace,
        &pod.name,
    )?;
    documents[place] = manifest(&impostor)?;
    in_force::expect_now(demo, &pair, true)?;

    stop_processes(demo, &cluster, &pod)?;
    net::remove_pod(&cluster, &pod)?;
    let (edited, _) = Edited::save(path, &edit::text(&documents)?)?;
    let outcome = net::add_pod(&cluster, &impostor, &demo.journal)
        .and_then(|()| refused(demo, &pair, &cluster, &impostor));

    // Everything back as it was, whatever came of it.
    let removed = net::remove_pod(&cluster, &impostor);
    let put_back = edited.undo();
    let restored = restore(demo, &cluster, &pod);
    let note = outcome?;
    removed?;
    let since = put_back?;
    restored?;
    in_force::expect_now(demo, &pair, true)
        .with_context(|| format!("{} ms after all was put back", since.elapsed().as_millis()))?;
    Ok(Verdict::Holds(note))
}

/// A pair across clusters that policy allows, and would not if the source had no labels and the default
/// service account.
fn allowed_by_labels(demo: &Demo) -> Result<Option<Pair>> {
    for pair in pairs::all(demo)? {
        if pair.distance() != Distance::Across || !pair.answer.is_allowed() {
            continue;
        }
        let mut bare = pair.from.clone();
        bare.workload.labels = Labels::default();
        bare.workload.service_account = "default".into();
        bare.claims = bare.workload.claims(pair.from.claims.trust_domain())?;
        let answer = demo.oracle.ask(&bare, &pair.to, TCP, pair.port);
        if !answer.is_allowed() {
            return Ok(Some(pair));
        }
    }
    Ok(None)
}

/// The new pod has a credential of its own, and is refused where the old one was allowed.
fn refused(demo: &Demo, pair: &Pair, cluster: &Cluster, impostor: &Pod) -> Result<String> {
    let (now, _) = Oracle::in_force(&demo.state.config())?;
    let from = now.end(&pods::full_name(cluster, impostor))?;
    let try_from_there = |to: &Pair, limit: Duration| {
        let address = to.address(demo)?;
        crate::demo::netns::inside(&impostor.netns, || {
            Ok(crate::demo::http::connect(address, limit))
        })
    };
    if let Connected::Yes(_) = try_from_there(pair, WATCHED)? {
        bail!("{} was connected from the new pod", pair.name());
    }
    // Without this, a pod that is refused everything for lack of a credential would do.
    let agent = demo.agent_of(&pair.from)?;
    let judged = || {
        let waiting = agent.counter("dropped.no-credential");
        let attempt = try_from_there(pair, Duration::from_millis(300));
        let refused = matches!(attempt, Ok(Connected::Refused(_) | Connected::Silence));
        refused
            && waiting.is_ok_and(|n| agent.counter("dropped.no-credential").is_ok_and(|m| n == m))
    };
    if !wait::until(CREDENTIAL, judged) {
        bail!("the new pod got no credential: {}", agent.ask("counters")?);
    }
    let friend = pairs::all(demo)?.into_iter().find(|other| {
        other.from.claims == pair.from.claims
            && now.ask(&from, &other.to, TCP, other.port).is_allowed()
    });
    let Some(friend) = friend else {
        return Ok(format!(
            "with address {} and a credential of its own, {}:{} is refused",
            impostor.address,
            pair.to.claims.display_name(),
            pair.port
        ));
    };
    let connected = || {
        let attempt = try_from_there(&friend, Duration::from_millis(300));
        matches!(attempt, Ok(Connected::Yes(_)))
    };
    if !wait::until(CREDENTIAL, connected) {
        bail!(
            "the new pod did not reach {}:{} either, which policy allows it",
            friend.to.claims.display_name(),
            friend.port
        );
    }
    if let Connected::Yes(_) = try_from_there(pair, WATCHED)? {
        bail!(
            "{} was connected from the new pod once it had a credential",
            pair.name()
        );
    }
    Ok(format!(
        "with address {}, {}:{} is refused and {}:{} is not",
        impostor.address,
        pair.to.claims.display_name(),
        pair.port,
        friend.to.claims.display_name(),
        friend.port
    ))
}

fn restore(demo: &Demo, cluster: &Cluster, pod: &Pod) -> Result<()> {
    net::add_pod(cluster, pod, &demo.journal)?;
    if let Some(id) = pods::start(cluster, pod, &demo.state, &demo.own, &demo.journal)? {
        pods::wait_listening(cluster, pod, id, &demo.state)?;
    }
    Ok(())
}

/// Ends what runs in the pod, so that its namespace can go.
fn stop_processes(demo: &Demo, cluster: &Cluster, pod: &Pod) -> Result<()> {
    let role = pods::role(cluster, pod);
    let ids: Vec<ProcessId> = demo.running(&role)?.into_iter().collect();
    process::end(&ids, Duration::from_secs(2));
    Ok(())
}

fn manifest(pod: &Pod) -> Result<Value> {
    let text = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: {}}}\n\
         spec:\n  nodeName: {}\n  containers: [{{name: main, image: none}}]\n\
         status: {{podIP: {}}}\n",
        pod.name, pod.namespace, pod.node, pod.address
    );
    Ok(serde_norway::from_str(&text)?)
}
