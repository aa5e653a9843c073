//! `landbridge explain`: which rule decides a connection, at both ends, without sending a packet.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use policy::{Decision, DropReason, Explanation, model::Direction};
use serde_json::{Value, json};

use crate::{
    admin,
    demo::{self, Running, StateArg},
    oracle::{Half, Oracle},
    party::Party,
    say::{Output, say},
    service::Service,
};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who connects: CLUSTER/NAMESPACE/POD, an address, or a name of the DNS
    #[arg(long, value_name = "POD|ADDRESS|NAME")]
    from: String,
    /// To whom, named in the same way
    #[arg(long, value_name = "POD|ADDRESS|NAME")]
    to: String,
    /// The destination port as the pod gets it, by number or name, such as 80/tcp or http
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    port: Service,
    /// Ask the files of this configuration folder, and no running agent
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    #[command(flatten)]
    state: StateArg,
    /// For people or for programs
    #[arg(long, short, value_enum, default_value = "text")]
    output: Output,
}

/// What both ends say.
struct Both {
    egress: Half,
    ingress: Half,
    /// The destination's answer as its cluster announced it to the source's; only across clusters.
    announced: Option<Explanation>,
    /// The port and protocol.
    service: String,
    /// Who was asked.
    asked: String,
}

/// Explains.
///
/// # Errors
/// When a name is wrong, or an end cannot be asked. A denied connection is no error.
pub fn run(args: &ExplainArgs) -> Result<()> {
    let both = match &args.config {
        Some(folder) => from_files(args, &Oracle::load(folder)?, folder.display().to_string())?,
        None => from_enforcers(args, &demo::running(&args.state)?)?,
    };
    let allowed = both.egress.is_allowed() && both.ingress.is_allowed();
    if args.output == Output::Json {
        let Both {
            egress,
            ingress,
            announced,
            ..
        } = both;
        say!(
            "{}",
            json!({
                "allowed": allowed, "egress": egress, "ingress": ingress, "announced": announced,
            })
        );
        return Ok(());
    }
    let word = if allowed { "allowed" } else { "denied" };
    say!("{} -> {} {}: {word}", args.from, args.to, both.service);
    say!("(asked: {})\n", both.asked);
    say!("{}", both.egress);
    say!("\n{}", both.ingress);
    if let Some(announced) = &both.announced {
        let source = args.from.split('/').next().unwrap_or_default();
        say!("\nas announced to {source}: {}", announced.because);
        if let Half::Decided(enforced) = &both.ingress
            && enforced.verdict.decision != announced.verdict.decision
            && [enforced, announced]
                .iter()
                .all(|said| is_of_policy(said.verdict.decision))
        {
            say!("which is not what is enforced: `landbridge status` shows who is behind");
        }
    }
    Ok(())
}

/// Whether policies were asked: what a cluster revoked, or does not offer or accept, is its own and is
/// announced to nobody, so that the two ends say different things of it and nobody is behind.
fn is_of_policy(decision: Decision) -> bool {
    let Decision::Drop { reason, .. } = decision else {
        return true;
    };
    !matches!(
        reason,
        DropReason::NotOffered
            | DropReason::Revoked
            | DropReason::ClaimNotAccepted
            | DropReason::PeerAway
    )
}

fn from_files(args: &ExplainArgs, oracle: &Oracle, asked: String) -> Result<Both> {
    let (from, to) = ends(args, oracle)?;
    let (protocol, port) = args.port.at_party(&to)?;
    let [egress, ingress] = from.to(oracle, &to, protocol as u8, port)?;
    let announced = match (from.pod(), to.pod()) {
        (Some(from), Some(to)) => oracle.announced(from, to, protocol as u8, port),
        _ => None,
    };
    Ok(Both {
        egress,
        ingress,
        announced,
        service: format!("{port}/{}", protocol.word()),
        asked,
    })
}

/// The agents beside both pods say what they enforce at this moment, and the source's gateway what
/// the other cluster announced.
fn from_enforcers(args: &ExplainArgs, running: &Running) -> Result<Both> {
    // The files say where the pods are, and refuse a name that is wrong.
    let (oracle, _) = Oracle::in_force(&running.config())?;
    let (from, to) = ends(args, &oracle)?;
    let (protocol, port) = args.port.at_party(&to)?;
    let names = [name(&oracle, &args.from), name(&oracle, &args.to)];
    let pods = [from.pod(), to.pod()].into_iter().zip(&names);
    let described: Vec<_> = pods
        .filter_map(|(pod, name)| Some(pod?.described(name.to_string())))
        .collect();
    let request = json!({
        "op": "explain", "from": names[0], "to": names[1], "port": port,
        "protocol": protocol.word(), "described": described,
    });
    let mut asked = Vec::new();
    let mut ask = |(role, dir): (String, PathBuf), direction| -> Result<Explanation> {
        let answer = admin::ask(&dir, &request).with_context(|| role.clone())?;
        asked.push(role.clone());
        let explanation = explanation(&answer, direction);
        explanation.with_context(|| format!("{role} explains no {direction:?}: {answer}"))
    };
    let mut enforced = |direction, subject: &Party, by_files: Half| {
        match (by_files, subject.pod()) {
            (Half::Decided(_), Some(pod)) => {
                Ok(Half::Decided(ask(running.agent_beside(pod)?, direction)?))
            }
            // No table is asked, so no agent need be.
            (other, _) => anyhow::Ok(other),
        }
    };
    let [egress, ingress] = from.to(&oracle, &to, protocol as u8, port)?;
    let egress = enforced(Direction::Egress, &from, egress)?;
    let ingress = enforced(Direction::Ingress, &to, ingress)?;
    let announced = match (&ingress, from.pod(), to.pod()) {
        (Half::Decided(_), Some(from), Some(to))
            if from.claims.trust_domain() != to.claims.trust_domain() =>
        {
            Some(ask(running.gateway_of(from)?, Direction::Ingress)?)
        }
        _ => None,
    };
    Ok(Both {
        egress,
        ingress,
        announced,
        service: format!("{port}/{}", protocol.word()),
        asked: asked.join(", "),
    })
}

fn ends(args: &ExplainArgs, oracle: &Oracle) -> Result<(Party, Party)> {
    let (from, to) = (
        Party::find(oracle, &args.from)?,
        Party::find(oracle, &args.to)?,
    );
    if from.pod().is_none() && to.pod().is_none() {
        bail!("neither {} nor {} is a pod", args.from, args.to);
    }
    Ok((from, to))
}

/// As an agent is asked of it: an address means the pod that has it.
fn name<'a>(oracle: &'a Oracle, given: &'a str) -> &'a str {
    match given.parse().map(|address| oracle.at(address)) {
        Ok([pod]) => pod,
        _ => given,
    }
}

/// What an agent or gateway answered of one direction.
pub fn explanation(answer: &Value, direction: Direction) -> Option<Explanation> {
    let word = serde_json::to_value(direction).ok()?;
    serde_json::from_value(answer.get(word.as_str()?)?.clone()).ok()
}
