//! What `landbridge policy` says of the folder of a demo, by the code that enforces.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Demo, probe::Protocol};

/// A connection that is asked about: a pod as `CLUSTER/NAMESPACE/POD` or an address at each end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// Who connects.
    pub from: String,
    /// To whom.
    pub to: String,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// The destination's port.
    pub port: u16,
}

/// What both ends decide.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Whether both allow it.
    pub allowed: bool,
    /// Both ends' accounts.
    pub because: String,
    /// Whether the end that denies it does not keep silent.
    pub rejected: bool,
}

/// The answers of `policy eval` to `questions`, in their order.
///
/// # Errors
/// When a question cannot be answered.
pub fn eval(demo: &Demo, questions: &[Question]) -> Result<Vec<Verdict>> {
    let queries: Vec<Value> = questions
        .iter()
        .map(|q| json!({"from": q.from, "to": q.to, "protocol": q.protocol, "port": q.port}))
        .collect();
    let line = json!({"objects": objects(&demo.config())?, "queries": queries});
    let mut child = Command::new(demo.program())
        .args(["policy", "eval"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no standard input")?;
    writeln!(input, "{line}")?;
    drop(input);
    let said = child.wait_with_output()?.stdout;
    let answer: Value = serde_json::from_slice(&said).context("policy eval")?;
    let verdicts = answer["verdicts"].as_array().cloned().unwrap_or_default();
    ensure!(
        verdicts.len() == questions.len(),
        "policy eval answers {answer:.300}"
    );
    verdicts.iter().zip(questions).map(verdict).collect()
}

fn verdict((answer, question): (&Value, &Question)) -> Result<Verdict> {
    ensure!(answer["error"].is_null(), "{question:?}: {answer}");
    let because = |end: &str| {
        answer[end]["because"]
            .as_str()
            .unwrap_or("nothing")
            .to_owned()
    };
    let end = match answer["egress"]["allowed"] == false {
        true => "egress",
        false => "ingress",
    };
    Ok(Verdict {
        allowed: answer["allowed"] == true,
        rejected: because(end).starts_with("rejected"),
        because: format!(
            "egress {}; ingress {}",
            because("egress"),
            because("ingress")
        ),
    })
}

/// What `policy table` says of every pair of pods at `ports`, all of TCP.
///
/// # Errors
/// When the folder is not usable as it is.
pub fn table(demo: &Demo, ports: &[u16]) -> Result<BTreeMap<Question, bool>> {
    matrix(demo, ports, &[demo.config().as_os_str()])
}

/// The same of what the agents enforce at this moment.
///
/// # Errors
/// When an agent does not answer.
pub fn live_table(demo: &Demo, ports: &[u16]) -> Result<BTreeMap<Question, bool>> {
    let state = demo.state().as_os_str();
    matrix(demo, ports, &["--live".as_ref(), "--state".as_ref(), state])
}

fn matrix(demo: &Demo, ports: &[u16], of: &[&OsStr]) -> Result<BTreeMap<Question, bool>> {
    let mut command = Command::new(demo.program());
    command.args(["policy", "table", "-o", "json"]).args(of);
    for port in ports {
        command.arg("--port").arg(format!("{port}/tcp"));
    }
    let output = command.output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "policy table: {complaint}");
    let said = String::from_utf8(output.stdout)?;
    said.lines()
        .map(|line| {
            let cell: Value = serde_json::from_str(line)?;
            let text = |key: &str| cell[key].as_str().unwrap_or_default().to_owned();
            let question = Question {
                from: text("from"),
                to: text("to"),
                protocol: Protocol::Tcp.word(),
                port: u16::try_from(cell["port"].as_u64().unwrap_or(0))?,
            };
            Ok((question, cell["allowed"] == true))
        })
        .collect()
}

/// All objects of a folder, each with its cluster.
fn objects(folder: &Path) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            objects.extend(documents(&path)?);
            continue;
        }
        let cluster = path.file_name().unwrap_or_default().to_string_lossy();
        for file in fs::read_dir(&path)? {
            for mut object in documents(&file?.path())? {
                object["metadata"]["annotations"]["landbridge.io/cluster"] = json!(cluster);
                objects.push(object);
            }
        }
    }
    Ok(objects)
}

fn documents(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path)?;
    let documents = serde_norway::Deserializer::from_str(&text).map(Value::deserialize);
    let documents: Result<Vec<Value>, _> = documents.collect();
    let mut documents = documents.with_context(|| path.display().to_string())?;
    documents.retain(|document| !document.is_null());
    Ok(documents)
}
