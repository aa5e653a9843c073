//! `landbridge explain`: which rule decides a connection, at both ends, without sending a packet.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use policy::Explanation;
use serde_json::{Value, json};

use crate::{
    admin,
    demo::{self, Running, StateArg},
    oracle::{End, Oracle},
    say::say,
};

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who connects, as CLUSTER/NAMESPACE/POD
    from: String,
    /// To whom, as CLUSTER/NAMESPACE/POD
    to: String,
    /// The destination port as the pod gets it
    #[arg(long, short)]
    port: u16,
    /// The protocol
    #[arg(long, value_enum, default_value = "tcp")]
    protocol: Protocol,
    /// Ask the files of this configuration folder, and no running agent
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    #[command(flatten)]
    state: StateArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Protocols with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// The IP protocol number.
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Both ends' explanations.
struct Both {
    egress: Explanation,
    ingress: Explanation,
    /// Whom was asked.
    asked: String,
}

/// Explains.
///
/// # Errors
/// When a name is wrong, or an end cannot be asked. A denied connection is no error.
pub fn run(args: &ExplainArgs) -> Result<()> {
    let both = match &args.config {
        Some(folder) => from_files(args, &Oracle::load(folder)?, folder.display().to_string())?,
        None => from_agents(args, &demo::running(&args.state)?)?,
    };
    let allowed = both.egress.verdict.is_allowed() && both.ingress.verdict.is_allowed();
    if args.json {
        say!(
            "{}",
            json!({"allowed": allowed, "egress": both.egress, "ingress": both.ingress})
        );
        return Ok(());
    }
    let word = if allowed { "allowed" } else { "denied" };
    say!("{} -> {} port {}: {word}", args.from, args.to, args.port);
    say!("(asked: {})\n", both.asked);
    say!("{}", both.egress.to_string().trim_end());
    say!("\n{}", both.ingress.to_string().trim_end());
    Ok(())
}

fn from_files(args: &ExplainArgs, oracle: &Oracle, asked: String) -> Result<Both> {
    let (from, to) = (oracle.end(&args.from)?, oracle.end(&args.to)?);
    let answer = oracle.ask(&from, &to, args.protocol.number(), args.port);
    Ok(Both {
        egress: answer.egress,
        ingress: answer.ingress,
        asked,
    })
}

/// The agents beside both pods say what they enforce at this moment.
fn from_agents(args: &ExplainArgs, running: &Running) -> Result<Both> {
    // The files say where the pods are, and refuse a name that is wrong.
    let oracle = Oracle::load(&running.config())?;
    let (from, to) = (oracle.end(&args.from)?, oracle.end(&args.to)?);
    let request = json!({
        "op": "explain", "from": args.from, "to": args.to, "port": args.port,
        "protocol": args.protocol.word(),
    });
    let mut asked = Vec::new();
    let mut ask = |end: &End, direction: &str| -> Result<Explanation> {
        let (role, dir) = running.agent_beside(end)?;
        let answer = admin::ask(&dir, &request)?;
        asked.push(role.clone());
        explanations(&answer)
            .into_iter()
            .find(|e| serde_json::to_value(e.direction).is_ok_and(|d| d == direction))
            .with_context(|| format!("{role} explains no {direction}: {answer}"))
    };
    let egress = ask(&from, "egress")?;
    let ingress = ask(&to, "ingress")?;
    if egress.port != args.port || ingress.port != args.port {
        bail!("the agents explained another port");
    }
    Ok(Both {
        egress,
        ingress,
        asked: format!("agents {}", asked.join(" and ")),
    })
}

/// Every explanation in an answer, however it is wrapped.
pub fn explanations(answer: &Value) -> Vec<Explanation> {
    if let Ok(explanation) = serde_json::from_value(answer.clone()) {
        return vec![explanation];
    }
    match answer {
        Value::Array(parts) => parts.iter().flat_map(explanations).collect(),
        Value::Object(parts) => parts.values().flat_map(explanations).collect(),
        _ => Vec::new(),
    }
}
