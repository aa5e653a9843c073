//! `landbridge capture`: the packets of a gateway, which tcpdump does not see.

mod pcapng;

use std::{
    fs::{OpenOptions, Permissions},
    io::{self, BufWriter, ErrorKind, IsTerminal, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::UnixStream,
    runtime,
    signal::unix::{SignalKind, signal},
    time::{sleep_until, timeout},
};

use crate::gateway::GatewayArg;
use pcapng::{Packet, Writer};

/// A gateway that captures says something every second.
const SILENCE: Duration = Duration::from_secs(10);
/// The interfaces of the file, in this order.
const PLACES: [&str; 3] = ["lan", "wan", "tunnel"];

/// Arguments of `capture`.
#[derive(Debug, Args)]
pub struct CaptureArgs {
    #[command(flatten)]
    gateway: GatewayArg,
    /// Only packets from and to this cluster
    #[arg(long, value_name = "CLUSTER")]
    peer: Option<String>,
    /// Only packets of which an end fits: a SPIFFE ID, CLUSTER/NAMESPACE/POD (* is any), or labels
    /// such as app=web,env!=prod,tier in (a,b),!legacy
    #[arg(long, value_name = "SELECTOR")]
    identity: Option<String>,
    /// Only what passes between gateways, as it is there
    #[arg(long, conflicts_with = "plain")]
    sealed: bool,
    /// Only packets in clear
    #[arg(long)]
    plain: bool,
    /// The file, which is replaced; - is standard output
    #[arg(long, short, value_name = "FILE.pcapng")]
    write: PathBuf,
    /// End after so many packets of the file
    #[arg(long, short, value_name = "N")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, short, value_name = "SECONDS")]
    duration: Option<u64>,
    /// The most packets in a second; more are counted as lost
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    rate: u32,
    /// The most bytes of a packet that are kept
    #[arg(long, value_name = "BYTES", default_value_t = 65_535)]
    snaplen: u32,
}

/// The first line of the gateway.
#[derive(Debug, Deserialize)]
struct About {
    gateway: String,
    lan: String,
    wan: String,
    snaplen: u32,
}

/// A later one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Said {
    Packet {
        at: u64,
        place: String,
        inbound: bool,
        length: u32,
        bytes: String,
        comment: String,
    },
    Counts {
        captured: u64,
        lost: u64,
    },
}

/// Why a capture ended.
enum End {
    /// It was asked to.
    Asked,
    /// Whoever reads the standard output has enough.
    Enough,
    /// The gateway ended it.
    Gateway,
}

/// Captures.
///
/// # Errors
/// When the gateway refuses, says nothing or ends, or the file cannot be written; what came until then is in the file.
pub fn run(args: &CaptureArgs) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(capture(args))
}

async fn capture(args: &CaptureArgs) -> Result<()> {
    let dir = args.gateway.state_dir()?;
    let (about, mut lines) = begin(args, &dir).await?;
    let mut file = File::create(args, &about)?;
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let begun = tokio::time::Instant::now();
    let limit = begun
        + args
            .duration
            .map_or(Duration::from_secs(1 << 32), Duration::from_secs);
    let end = loop {
        tokio::select! {
            _ = interrupt.recv() => break Ok(End::Asked),
            _ = terminate.recv() => break Ok(End::Asked),
            () = sleep_until(limit) => break Ok(End::Asked),
            line = timeout(SILENCE, lines.next_line()) => match next(line, &mut file) {
                Ok(None) if args.count.is_some_and(|most| file.packets >= most) => break Ok(End::Asked),
                Ok(None) => {}
                Ok(Some(end)) => break Ok(end),
                Err(e) => break Err(e),
            },
        }
    };
    let closed = file.close();
    eprintln!(
        "{}{} packets from {} in {}, {} lost",
        file.again,
        file.packets,
        about.gateway,
        args.write.display(),
        file.lost
    );
    match end? {
        End::Enough => Ok(()),
        End::Asked => closed.with_context(|| args.write.display().to_string()),
        End::Gateway => bail!("{}: the gateway ended the capture", dir.display()),
    }
}

/// Asks, and reads the first line.
async fn begin(args: &CaptureArgs, dir: &Path) -> Result<(About, Lines<BufReader<UnixStream>>)> {
    let socket = dir.join("admin.sock");
    let view = match (args.plain, args.sealed) {
        (true, _) => Some("plain"),
        (_, true) => Some("sealed"),
        (false, false) => None,
    };
    let request = json!({
        "op": "capture", "peer": args.peer, "identity": args.identity, "view": view,
        "rate": args.rate, "snaplen": args.snaplen,
    });
    let talk = async {
        let mut stream = UnixStream::connect(&socket).await?;
        stream.write_all(format!("{request}\n").as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        let first = timeout(SILENCE, lines.next_line()).await??;
        anyhow::Ok((first.unwrap_or_default(), lines))
    };
    let (first, lines) = talk
        .await
        .with_context(|| format!("no answer from {}", socket.display()))?;
    let answer: Value = serde_json::from_str(&first)
        .with_context(|| format!("{} answered no JSON: {first:.200}", socket.display()))?;
    if let Some(error) = answer.get("error") {
        bail!(
            "{}: {}",
            socket.display(),
            error.as_str().unwrap_or_default()
        );
    }
    let about = About::deserialize(&answer["capture"])
        .with_context(|| format!("{} answered {first:.200}", socket.display()))?;
    Ok((about, lines))
}

type Line = Result<io::Result<Option<String>>, tokio::time::error::Elapsed>;

/// Writes what a line says; why the capture is over, if it is.
fn next(line: Line, file: &mut File) -> Result<Option<End>> {
    let line = line.context("the gateway says nothing any more")?;
    let Some(line) = line.context("the gateway")? else {
        return Ok(Some(End::Gateway));
    };
    let said =
        serde_json::from_str(&line).with_context(|| format!("the gateway said {line:.200}"))?;
    match file.take(&said) {
        Ok(()) => Ok(None),
        Err(e) => match e.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(ErrorKind::BrokenPipe) => Ok(Some(End::Enough)),
            _ => Err(e.context("the file cannot be written")),
        },
    }
}

/// The file that grows.
struct File {
    writer: Writer<BufWriter<Box<dyn Write>>>,
    packets: u64,
    captured: u64,
    lost: u64,
    /// Where progress is shown: what takes the line back.
    again: &'static str,
}

impl File {
    fn create(args: &CaptureArgs, about: &About) -> Result<Self> {
        let path = &args.write;
        let create = || -> io::Result<Box<dyn Write>> {
            if path == Path::new("-") {
                return Ok(Box::new(io::stdout()));
            }
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(path)?;
            // Packets in clear are nobody else's, whoever made the file; a pipe or device has a mode of its own.
            if file.metadata()?.is_file() {
                file.set_permissions(Permissions::from_mode(0o600))?;
            }
            Ok(Box::new(file))
        };
        let words = format!("landbridge capture, gateway {}", about.gateway);
        let interfaces = [
            (about.lan.as_str(), "towards the nodes, in clear"),
            (about.wan.as_str(), "towards the peers, sealed"),
            (
                "tunnel",
                "packets that were in clear inside the tunnel only; their Ethernet headers are made up",
            ),
        ];
        let writer = create().and_then(|out| {
            let out = BufWriter::with_capacity(1 << 16, out);
            Writer::new(out, &words, &interfaces, about.snaplen)
        });
        Ok(Self {
            writer: writer.with_context(|| format!("cannot write {}", path.display()))?,
            packets: 0,
            captured: 0,
            lost: 0,
            again: if io::stderr().is_terminal() {
                "\r\x1b[K"
            } else {
                ""
            },
        })
    }

    fn take(&mut self, said: &Said) -> Result<()> {
        match said {
            Said::Packet {
                at,
                place,
                inbound,
                length,
                bytes,
                comment,
            } => {
                let interface = PLACES.iter().position(|known| known == place);
                let interface = interface.with_context(|| format!("a packet at {place}"))?;
                let mut bytes = BASE64_STANDARD.decode(bytes)?;
                let mut length = *length;
                if place == "tunnel" {
                    bytes.splice(..0, made_up_header(&bytes));
                    length += 14;
                }
                self.writer.packet(&Packet {
                    interface: interface as u32,
                    at: *at,
                    inbound: *inbound,
                    length,
                    bytes: &bytes,
                    comment,
                })?;
                self.packets += 1;
            }
            Said::Counts { captured, lost } => {
                (self.captured, self.lost) = (*captured, *lost);
                // Whoever reads along sees everything within a second.
                self.writer.flush()?;
                if !self.again.is_empty() {
                    eprint!("{}{} packets, {} lost", self.again, self.packets, self.lost);
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos() as u64;
        self.writer.statistics(0, now, [self.captured, self.lost])?;
        self.writer.flush()
    }
}

/// tcpdump opens no file whose interfaces are not of one kind, so IP packets get an Ethernet header.
fn made_up_header(packet: &[u8]) -> [u8; 14] {
    let mut header = [0; 14];
    let ether_type = match packet.first().map(|byte| byte >> 4) {
        Some(6) => [0x86, 0xdd],
        _ => [0x08, 0x00],
    };
    header[12..].copy_from_slice(&ether_type);
    header
}
