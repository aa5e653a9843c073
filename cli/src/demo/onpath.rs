//! Somebody on the path: sees, holds back, alters and sends frames at the ports of a switch.
//!
//! A frame that a bridge's rules drop is still seen at the port where it came in, because taps stand
//! before the bridge. So what is held back can be sent on later, as it was or altered.

use std::{
    io::{ErrorKind, Write},
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use pnet_datalink::{Channel, Config, DataLinkReceiver, DataLinkSender};

use super::netns;
use crate::demo::segment::Segment;

/// How often a reader that waits looks at the clock.
const LOOK: Duration = Duration::from_millis(20);
/// Longest frame: an MTU of 9,000 and headers.
const FRAME: usize = 9_216;

/// An interface of a namespace, for whole frames.
pub struct Tap {
    name: String,
    receiver: Box<dyn DataLinkReceiver>,
    sender: Box<dyn DataLinkSender>,
}

impl Tap {
    /// Opens `interface` in the namespace `netns`.
    ///
    /// # Errors
    /// When there is no such interface, or no right to open it.
    pub fn open(netns: &str, interface: &str) -> Result<Self> {
        let name = format!("{netns}:{interface}");
        let channel = netns::inside(netns, || {
            let found = pnet_datalink::interfaces()
                .into_iter()
                .find(|it| it.name == interface)
                .with_context(|| format!("there is no interface {name}"))?;
            let config = Config {
                read_buffer_size: FRAME,
                write_buffer_size: FRAME,
                read_timeout: Some(LOOK),
                ..Config::default()
            };
            pnet_datalink::channel(&found, config).with_context(|| format!("cannot open {name}"))
        })?;
        match channel {
            Channel::Ethernet(sender, receiver) => Ok(Self {
                name,
                receiver,
                sender,
            }),
            _ => bail!("{name} is no Ethernet interface"),
        }
    }

    /// The next frame, in either direction, that `wanted` takes.
    ///
    /// # Errors
    /// When none comes within `limit`.
    pub fn next(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&[u8]) -> bool,
    ) -> Result<Vec<u8>> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            match self.receiver.next() {
                Ok(frame) if wanted(frame) => return Ok(frame.to_vec()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
                Err(e) => return Err(e).with_context(|| format!("reading {}", self.name)),
            }
        }
        bail!(
            "the expected packet did not pass {} within {} ms",
            self.name,
            limit.as_millis()
        )
    }

    /// Sends `frame` out of the interface.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let sent = self.sender.send_to(frame, None);
        sent.unwrap_or_else(|| Err(ErrorKind::OutOfMemory.into()))
            .with_context(|| format!("sending on {}", self.name))
    }
}

/// One direction of a TCP connection, and which of its segments.
#[derive(Clone, Copy, Debug)]
pub struct Which {
    /// Source address and port.
    pub from: (Ipv4Addr, u16),
    /// Destination address and port.
    pub to: (Ipv4Addr, u16),
    /// Which segments.
    pub kind: Kind,
}

/// Segments of a connection that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// All without SYN.
    Later,
}

impl Which {
    /// Whether `frame` is one of them.
    pub fn takes(&self, frame: &[u8]) -> bool {
        Segment::parse(frame).is_some_and(|segment| {
            let kind = match (segment.flags.syn(), segment.flags.ack()) {
                (true, false) => Kind::Syn,
                (true, true) => Kind::SynAck,
                (false, _) => Kind::Later,
            };
            (segment.from, segment.to, kind) == (self.from, self.to, self.kind)
        })
    }

    /// The same in nft's words.
    fn rule(&self) -> String {
        let ((from, sport), (to, dport)) = (self.from, self.to);
        let flags = match self.kind {
            Kind::Syn => "& (syn | ack) == syn",
            Kind::SynAck => "& (syn | ack) == syn | ack",
            Kind::Later => "& syn == 0",
        };
        format!(
            "ip saddr {from} ip daddr {to} tcp sport {sport} tcp dport {dport} tcp flags {flags}"
        )
    }
}

/// Frames that a bridge does not pass on until this is dropped.
pub struct Held {
    netns: String,
}

/// The table that holds them.
const TABLE: &str = "demo-check";

impl Held {
    /// Holds back the segments `which` at all ports of the bridges in `netns`.
    pub fn segments(netns: &str, which: &Which) -> Result<Self> {
        Self::frames(netns, &which.rule())
    }

    /// Holds back what the nft expression `matching` takes.
    pub fn frames(netns: &str, matching: &str) -> Result<Self> {
        let script = format!(
            "table bridge {TABLE} {{\n chain forward {{\n  \
             type filter hook forward priority 0\n  {matching} counter drop\n }}\n}}\n"
        );
        // One at a time: what an interrupted check left is replaced.
        nft(
            netns,
            &format!("table bridge {TABLE}\ndelete table bridge {TABLE}\n{script}"),
        )?;
        Ok(Self {
            netns: netns.into(),
        })
    }

    /// Lets them pass again.
    pub fn release(mut self) -> Result<()> {
        self.undo()
    }

    fn undo(&mut self) -> Result<()> {
        let netns = std::mem::take(&mut self.netns);
        if netns.is_empty() {
            return Ok(());
        }
        nft(&netns, &format!("delete table bridge {TABLE}\n"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // A fact that failed reports its own error, not this one.
        let _ = self.undo();
    }
}

fn nft(netns: &str, script: &str) -> Result<()> {
    let output = netns::inside(netns, || {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run nft")?;
        if let Some(mut input) = child.stdin.take() {
            // A child that gave up closes its end; its exit status says why.
            let _ = input.write_all(script.as_bytes());
        }
        child.wait_with_output().context("cannot run nft")
    })?;
    if !output.status.success() {
        bail!(
            "nft in {netns} failed: {}\nits script was:\n{script}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
