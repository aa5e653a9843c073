//! What crosses the WAN while all other facts are looked at.
//!
//! Two captures on the bridge between the gateways: one of everything that is neither QUIC nor
//! tunnel, which must stay empty of IP; and one of QUIC and tunnel, in which no known payload may
//! stand in clear. A capture at the gateways' own interfaces would see neither direction, because
//! AF_XDP takes packets before any tap.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::{Demo, pairs};
use crate::demo::{
    content,
    http::{self, Connected},
    journal::{CAPTURE, Journal},
    pcap,
    plan::{PSP_PORT, Plan, QUIC_PORT},
    process::{self, ProcessId, Spec},
    state::State,
    tap::Verdict,
    wait,
};

/// Bytes kept of each packet: the outer headers and more than one whole block of known payload, so
/// that a packet in clear always shows a marker.
const SNAPLEN: usize = 128 + content::BLOCK + content::MARKER.len();
/// How long tcpdump may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both captures.
pub struct Capture {
    ours: Tap,
    foreign: Tap,
}

struct Tap {
    id: ProcessId,
    file: PathBuf,
    log: PathBuf,
}

impl Capture {
    /// Starts both and waits until they listen.
    pub fn start(plan: &Plan, state: &State, journal: &Journal) -> Result<Self> {
        let ours = format!("udp port {QUIC_PORT} or udp port {PSP_PORT}");
        Ok(Self {
            foreign: Tap::start("foreign", &format!("not ({ours})"), plan, state, journal)?,
            ours: Tap::start("ours", &ours, plan, state, journal)?,
        })
    }

    /// Where tunnel packets are kept.
    pub fn tunnel_file(&self) -> &Path {
        &self.ours.file
    }

    /// Ends both.
    pub fn stop(&self) -> Result<()> {
        self.ours.stop()?;
        self.foreign.stop()
    }
}

impl Tap {
    fn start(
        name: &str,
        filter: &str,
        plan: &Plan,
        state: &State,
        journal: &Journal,
    ) -> Result<Self> {
        let file = state.captures().join(format!("wan-{name}.pcap"));
        let log = state.log(&format!("{CAPTURE}{name}"));
        for old in [&file, &log] {
            if old.exists() {
                fs::remove_file(old).with_context(|| format!("cannot remove {}", old.display()))?;
            }
        }
        let (snaplen, path) = (SNAPLEN.to_string(), file.display().to_string());
        let args = [
            "-i",
            "br0",
            "--immediate-mode",
            "-n",
            "-U",
            "-Z",
            "root",
            "-B",
            "32768",
            "-s",
            &snaplen,
            "-w",
            &path,
            filter,
        ];
        let spec = Spec {
            role: format!("{CAPTURE}{name}"),
            netns: &plan.wan,
            program: Path::new("tcpdump"),
            args: args.map(String::from).to_vec(),
            log: log.clone(),
        };
        let id = process::start(journal, state.dir(), &spec)?;
        let tap = Self { id, file, log };
        let listens = || tap.said().contains("listening on");
        if !wait::until(PATIENCE, || listens() || !id.is_alive()) || !listens() {
            bail!("tcpdump does not listen: {}", tap.said());
        }
        Ok(tap)
    }

    fn stop(&self) -> Result<()> {
        self.id.signal(Signal::SIGTERM);
        if !wait::until(PATIENCE, || !self.id.is_alive()) {
            bail!("tcpdump (pid {}) does not end", self.id.pid);
        }
        Ok(())
    }

    fn said(&self) -> String {
        process::tail(&self.log, 10)
    }

    /// `N packets dropped by kernel`, as tcpdump says at its end.
    fn lost(&self) -> u64 {
        let said = self.said();
        said.lines()
            .find_map(|line| {
                line.strip_suffix(" packets dropped by kernel")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0)
    }
}

/// Ends the captures and judges them.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    // Something to see, should this be the only fact that is looked at.
    if let Some(pair) = pairs::allowed_across(demo)?
        && let Connected::Yes(mut stream) = pair.connect(demo, PATIENCE)?
    {
        http::get_on(&mut stream, "/bytes/100000", PATIENCE)?;
        // Whatever was sent before has then been written, too.
        let seen = || count_tunnel(&demo.capture.ours.file) > 0;
        wait::until(PATIENCE, seen);
    }
    demo.capture.stop()?;
    let (ours, foreign) = (&demo.capture.ours, &demo.capture.foreign);
    if foreign.lost() > 0 {
        bail!(
            "tcpdump missed {} packets that are neither QUIC nor tunnel",
            foreign.lost()
        );
    }
    let mut complaints = Vec::new();
    pcap::for_each(&foreign.file, |frame| {
        // The kernel of a gateway whose process is gone answers that nobody listens for QUIC.
        if pcap::refused_port(frame) == Some(QUIC_PORT) {
            return;
        }
        if let Some(packet) = pcap::describe_ip(frame) {
            complaints.push(packet);
        }
    })?;
    let (mut quic, mut psp, mut clear) = (0_u64, 0_u64, 0_u64);
    pcap::for_each(&ours.file, |frame| {
        match pcap::udp_ports(frame) {
            Some(ports) if ports.contains(&PSP_PORT) => psp += 1,
            _ => quic += 1,
        }
        if holds_marker(frame) {
            clear += 1;
        }
    })?;
    if !complaints.is_empty() {
        let total = complaints.len();
        complaints.truncate(8);
        bail!(
            "{total} IP packets were neither QUIC nor tunnel, such as:\n{}",
            complaints.join("\n")
        );
    }
    if clear > 0 {
        bail!("{clear} packets held payload in clear");
    }
    if psp == 0 {
        bail!("the capture holds no tunnel packet, so it proves nothing");
    }
    let lost = match ours.lost() {
        0 => String::new(),
        lost => format!(", and {lost} that tcpdump counted without keeping them"),
    };
    Ok(Verdict::Holds(format!(
        "{psp} tunnel and {quic} QUIC packets{lost}"
    )))
}

/// Tunnel packets in a capture that may still be written.
fn count_tunnel(file: &Path) -> u64 {
    let mut count = 0;
    // The end may be half a record.
    let _ = pcap::for_each(file, |frame| {
        let ports = pcap::udp_ports(frame);
        count += u64::from(ports.is_some_and(|ports| ports.contains(&PSP_PORT)));
    });
    count
}

fn holds_marker(frame: &[u8]) -> bool {
    let (first, length) = (content::MARKER[0], content::MARKER.len());
    frame
        .windows(length)
        .any(|window| window[0] == first && window == content::MARKER)
}
