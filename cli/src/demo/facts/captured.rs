//! What a gateway shows of its packets, read by Wireshark's own reader.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Demo, Enforcer, pairs};
use crate::{
    demo::{
        http::{self, Connected},
        journal::CAPTURE,
        plan::PSP_PORT,
        process::{self, ProcessId, Spec},
        tap::Verdict,
        wait,
    },
    oracle::End,
};

/// How long a capture may take to begin, to show what passed, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection that must not come up is watched.
const WATCHED: Duration = Duration::from_millis(300);
/// A port that nobody may reach: discard (RFC 863).
const DENIED: u16 = 9;

/// A packet as tshark tells it.
struct Frame {
    interface: String,
    tcp_port: Option<u16>,
    udp_port: Option<u16>,
    comment: String,
}

/// Captures at both gateways while a connection across clusters is made and another is refused.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let denied = pairs::Pair {
        port: DENIED,
        ..pair.clone()
    };
    let from = demo.place(&pair.from)?.0.clone();
    let near = demo.gateway(&from);
    let far = demo.gateway(demo.place(&pair.to)?.0);
    let id = pair.from.claims.subject.to_string();
    let filter = ["--plain", "--peer", &from.name, "--identity", &id];
    let captures = [
        Capture::start(demo, &near, &[])?,
        Capture::start(demo, &far, &filter)?,
    ];
    let seen = (|| {
        let Connected::Yes(mut stream) = pair.connect(demo, PATIENCE)? else {
            bail!("{} was not connected", pair.name());
        };
        http::echo(&mut stream).context("the echo")?;
        if let Connected::Yes(_) = denied.connect(demo, WATCHED)? {
            bail!("{} was connected", denied.name());
        }
        let shown = || shows(&captures, &pair).is_ok();
        wait::until(PATIENCE, shown);
        shows(&captures, &pair)
    })();
    for capture in &captures {
        capture.stop()?;
    }
    let reason = seen?;
    audited(&near)?;
    Ok(Verdict::Holds(format!(
        "{}: both identities at both gateways; port {DENIED}: {reason}",
        pair.name()
    )))
}

/// Whether both files show what they must; the reason for which the other connection was refused.
fn shows(captures: &[Capture; 2], pair: &pairs::Pair) -> Result<String> {
    let [near, far] = [captures[0].frames()?, captures[1].frames()?];
    let tunnel = near
        .iter()
        .filter(|frame| frame.interface.starts_with("wan"));
    for frame in tunnel.clone() {
        if frame.tcp_port.is_some() {
            bail!("a TCP segment is in clear on {}", frame.interface);
        }
    }
    let sealed = |frame: &&Frame| frame.udp_port == Some(PSP_PORT) && frame.proves(pair);
    if !tunnel.clone().any(|frame| sealed(&frame)) {
        bail!("the near gateway shows no tunnel packet of the connection");
    }
    for (side, frames) in [("near", &near), ("far", &far)] {
        let plain = |frame: &Frame| frame.tcp_port == Some(pair.port) && frame.proves(pair);
        if !frames.iter().any(plain) {
            bail!("the {side} gateway shows no segment of the connection with both identities");
        }
    }
    if let Some(frame) = far.iter().find(|frame| frame.udp_port.is_some()) {
        bail!("--plain shows a tunnel packet: {}", frame.comment);
    }
    let refused = near.iter().chain(&far).find_map(|frame| {
        let reason = frame.comment.lines().next()?.strip_prefix("dropped: ")?;
        let presented = frame.tcp_port == Some(DENIED) && frame.names(&pair.from);
        presented.then(|| reason.to_owned())
    });
    refused.context("neither gateway shows the refused SYN with its reason")
}

impl Frame {
    fn names(&self, end: &End) -> bool {
        self.comment.contains(&end.claims.subject.to_string())
    }

    /// It went on, and says of both ends that they are proven.
    fn proves(&self, pair: &pairs::Pair) -> bool {
        self.comment.starts_with("forwarded")
            && self.comment.matches("(proven)").count() == 2
            && self.names(&pair.from)
            && self.names(&pair.to)
    }
}

/// A capture that runs.
struct Capture {
    id: ProcessId,
    file: PathBuf,
}

impl Capture {
    /// Starts it and waits until the gateway says that it runs.
    fn start(demo: &Demo, gateway: &Enforcer, filter: &[&str]) -> Result<Self> {
        let name = format!("{CAPTURE}{}", gateway.role);
        let file = demo
            .state
            .captures()
            .join(format!("{}.pcapng", gateway.role));
        let mut args = vec!["capture".to_owned()];
        args.extend(filter.iter().map(ToString::to_string));
        let [dir, path] = [&gateway.dir, &file].map(|path| path.display().to_string());
        args.extend(["--gateway".into(), dir, "--write".into(), path]);
        let log = demo.state.log(&name);
        let spec = Spec {
            role: name,
            netns: &demo.plan.wan,
            program: &demo.own,
            args,
            log: log.clone(),
        };
        let id = process::start(&demo.journal, demo.state.dir(), &spec)?;
        let runs = || {
            gateway
                .ask("status")
                .is_ok_and(|status| !status["capture"].is_null())
        };
        if !wait::until(PATIENCE, runs) {
            process::end(&[id], PATIENCE);
            bail!("{}: no capture: {}", gateway.role, process::tail(&log, 3));
        }
        Ok(Self { id, file })
    }

    /// As Ctrl-C does.
    fn stop(&self) -> Result<()> {
        self.id.signal(Signal::SIGINT);
        if !wait::until(PATIENCE, || !self.id.is_alive()) {
            process::end(&[self.id], PATIENCE);
            bail!("a capture does not end");
        }
        Ok(())
    }

    fn frames(&self) -> Result<Vec<Frame>> {
        read(&self.file)
    }
}

fn read(file: &Path) -> Result<Vec<Frame>> {
    let fields = [
        "frame.interface_name",
        "tcp.dstport",
        "udp.dstport",
        "frame.comment",
    ];
    let mut command = Command::new("tshark");
    command.args(["-n", "-T", "json", "-r"]).arg(file);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let told = command.output().context("cannot run tshark")?;
    if told.stdout.is_empty() {
        bail!("tshark: {}", String::from_utf8_lossy(&told.stderr));
    }
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).context("tshark")?;
    let frames = told.as_array().context("tshark tells no list")?;
    Ok(frames
        .iter()
        .map(|frame| {
            let field = |name: &str| frame["_source"]["layers"][name][0].as_str();
            let port = |name| field(name).and_then(|port| port.parse().ok());
            Frame {
                interface: field("frame.interface_name").unwrap_or_default().to_owned(),
                tcp_port: port("tcp.dstport"),
                udp_port: port("udp.dstport"),
                comment: field("frame.comment").unwrap_or_default().to_owned(),
            }
        })
        .collect())
}

/// Both the beginning and the end are written down.
fn audited(gateway: &Enforcer) -> Result<()> {
    let path = gateway.dir.join("audit.log");
    let missing = || -> Result<Option<&str>> {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let last = text.lines().rev().take(2).collect::<Vec<_>>().join("\n");
        let events = ["capture-begins", "capture-ends"];
        Ok(events.into_iter().find(|event| !last.contains(event)))
    };
    let whole = || matches!(missing(), Ok(None));
    if !wait::until(PATIENCE, whole) {
        bail!("{}: no {:?}", path.display(), missing()?);
    }
    Ok(())
}
