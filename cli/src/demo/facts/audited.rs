//! Every signature of an issuer stands in its audit log.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{Demo, live, pairs};
use crate::demo::tap::Verdict;

/// The logs are unbroken, and hold the credentials that both ends of a live connection proved.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let _stream = live::established(demo, &pair)?;
    let gateway = demo.gateway(demo.place(&pair.to)?.0);
    let flows = gateway.ask("flows")?;
    let proven = |end: &str| -> Result<String> {
        let flow = flows.as_array().and_then(|all| all.last());
        let id = flow.and_then(|flow| flow[end]["credential"].as_str());
        Ok(id
            .with_context(|| format!("no {end} in {flows}"))?
            .to_owned())
    };
    let mut notes = Vec::new();
    for (of, id) in [
        (&pair.from, proven("initiator")?),
        (&pair.to, proven("responder")?),
    ] {
        let cluster = demo.place(of)?.0;
        let path = demo.state.gateway(cluster).join("audit.log");
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        let lines = || {
            text.split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
        };
        let (count, problems) = observe::verify_audit(lines());
        if let Some(problem) = problems.first() {
            bail!("{}: line {} {}", path.display(), problem.line, problem.what);
        }
        let signed: BTreeSet<String> = lines()
            .filter_map(|line| serde_json::from_slice::<Value>(line).ok())
            .filter(|line| line["event"] == "signed")
            .filter_map(|line| Some(line["credential"].as_str()?.to_owned()))
            .collect();
        ensure!(
            signed.contains(&id),
            "{}: {id}, which {} proved, is not among {} credentials",
            path.display(),
            of.claims.display_name(),
            signed.len()
        );
        notes.push(format!(
            "{}: {count} lines, {} credentials",
            cluster.name,
            signed.len()
        ));
    }
    Ok(Verdict::Holds(notes.join(", ")))
}
