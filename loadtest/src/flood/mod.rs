//! `flood`: SYNs that nobody means to complete, at a fixed rate.
//!
//! Packets leave by a raw IPv4 socket: the kernel finds route and neighbour as for any program, and the
//! source address may be anybody's.

mod forge;
mod record;
mod send;

use std::{
    cell::RefCell,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::PathBuf,
    process::ExitCode,
    rc::Rc,
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    forge::{Forge, Recipe, Sources},
    send::{Sender, Sent},
};
use crate::{
    options::{Common, duration, rate},
    outcome::Failure,
    report::{Better, Report, number},
    run::Run,
};

/// Arguments of `flood`.
#[derive(Clone, Debug, Args)]
pub struct FloodArgs {
    /// HOST:PORT, or with --demo also CLUSTER/NAMESPACE/POD:PORT; IPv4
    target: String,
    /// What is sent
    #[arg(long, value_enum)]
    kind: Kind,
    /// Packets in a second
    #[arg(long, value_name = "PER_SECOND", default_value = "1000", value_parser = rate)]
    rate: f64,
    /// Where packets claim to come from: an address, or a prefix of which each packet takes another one.
    /// The own address unless said otherwise. Replayed packets keep theirs
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_parser = Sources::parse)]
    source: Option<Sources>,
    /// SYNs recorded by tcpdump. Replayed ones are taken from here; forged ones get the credential, the
    /// destination and the key id of the first, as an attacker can who sees the wire
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Record them now, inside this network namespace, such as that of a pod's node: somebody must connect
    /// meanwhile (root)
    #[arg(long, value_name = "NETNS", conflicts_with = "pcap")]
    record: Option<String>,
    /// How long to record, at most
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration, requires = "record")]
    record_for: Duration,
    /// How many to record, at most
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000), requires = "record")]
    record_count: u32,
    /// Also flood a target outside of private and documentation ranges: only with the consent of whoever
    /// runs it and the network before it
    #[arg(long)]
    allow_public: bool,
    #[command(flatten)]
    common: Common,
}

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Plain SYNs. From a pod its node agent signs them; the pod's kernel, which knows no such connection,
    /// refuses the answers
    Valid,
    /// SYNs with a HELLO whose segment proof does not hold
    Forged,
    /// SYNs as they were recorded
    Replayed,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Forged => "forged",
            Self::Replayed => "replayed",
        }
    }
}

/// Runs it.
pub fn run(args: &FloodArgs) -> Result<ExitCode> {
    let recorded = args.recorded()?;
    if let Some(recorded) = &recorded {
        let many = if recorded.len() == 1 { "SYN" } else { "SYNs" };
        crate::say::complain!("{} {many} with a HELLO recorded", recorded.len());
    }
    let place = args.common.prepare(&args.target)?;
    let target = args.check(place.target)?;
    let own = own_address(target)?;
    let recipe = args.recipe(target, recorded, own)?;
    let sender = Sender::open(*target.ip())?;
    let run = Run::new(args.common.duration);
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).context("the kernel gives no random bytes")?;
    let forge = Forge::new(recipe, u64::from_ne_bytes(seed));
    let counts = sender.start(forge, args.rate, run.begin, run.length, run.stop_flag())?;
    let seen = counts.clone();
    let before = RefCell::new(0);
    let line = move || {
        let sent = seen.sent.load(Ordering::Relaxed);
        let recent = sent - before.replace(sent);
        format!("{} packets/s", number(recent as f64))
    };
    let sent = run.block_on(line, wait(&run, &counts))?;
    let mut report = Report::new("flood", &args.target, args.common.place_name(), &run)
        .with("kind", args.kind.word())
        .with("rate", args.rate);
    if let Some(source) = &args.source {
        report = report.with("source", source.to_string());
    }
    sent.tell(&mut report, args.rate);
    report.drops(&place.watch);
    report.print(args.common.output);
    Ok(run.exit_code())
}

/// Until the sending thread has ended.
async fn wait(run: &Rc<Run>, counts: &Sent) -> Result<Sent> {
    run.over().await;
    while !counts.ended.load(Ordering::Acquire) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(counts.clone())
}

impl Sent {
    fn tell(&self, report: &mut Report, asked: f64) {
        report.succeeded = self.sent.load(Ordering::Relaxed);
        let unsent = self.unsent.load(Ordering::Relaxed);
        if unsent > 0 {
            report.failed.insert(Failure::Other.word().into(), unsent);
            report
                .notes
                .push("other: the kernel took these packets not; its queues were full".into());
        }
        let rate = report.succeeded as f64 / report.seconds.max(f64::EPSILON);
        report.figure("packets per second", "1/s", rate, Better::Higher);
        if rate < asked * 0.99 && !report.interrupted {
            report.notes.push(format!(
                "{} packets/s were asked for: this host sends no more by one thread",
                number(asked)
            ));
        }
    }
}

impl FloodArgs {
    /// SYNs to play or to copy from. Before anything else: they may have to be taken in another namespace.
    fn recorded(&self) -> Result<Option<Vec<Vec<u8>>>> {
        if self.kind == Kind::Valid && (self.pcap.is_some() || self.record.is_some()) {
            bail!(
                "--kind valid sends plain SYNs and copies from none: leave --pcap and --record out"
            );
        }
        let recorded = match (&self.pcap, &self.record) {
            (Some(path), _) => record::from_file(path)?,
            (_, Some(netns)) => {
                record::from_wire(netns, self.record_count as usize, self.record_for)?
            }
            _ if self.kind == Kind::Replayed => bail!(
                "there is nothing to play again: name a capture of SYNs with --pcap, or record some \
                 with --record NETNS while somebody connects"
            ),
            _ => return Ok(None),
        };
        if recorded.is_empty() {
            bail!(
                "no SYN with a HELLO was seen: record on the uplink of the client's node, where its \
                 agent has signed, while somebody connects"
            );
        }
        Ok(Some(recorded))
    }

    fn check(&self, target: SocketAddr) -> Result<SocketAddrV4> {
        let SocketAddr::V4(target) = target else {
            bail!("{target}: floods are IPv4 so far");
        };
        let ip = target.ip();
        // RFC 2544: for benchmarks.
        let benchmark = matches!(ip.octets(), [198, 18 | 19, ..]);
        // RFC 6598: behind the NAT of a provider, used for pods.
        let shared = matches!(ip.octets(), [100, 64..=127, ..]);
        let closed =
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_documentation();
        if !(self.allow_public || closed || benchmark || shared) {
            bail!(
                "{ip} is a public address; with the consent of whoever runs it, say --allow-public"
            );
        }
        Ok(target)
    }

    fn recipe(
        &self,
        target: SocketAddrV4,
        recorded: Option<Vec<Vec<u8>>>,
        own: Ipv4Addr,
    ) -> Result<Recipe> {
        let sources = self.source.unwrap_or(Sources::one(own));
        Ok(match (self.kind, recorded) {
            (Kind::Replayed, Some(packets)) => {
                let to = packets[0].get(16..20).unwrap_or_default();
                if to != target.ip().octets() {
                    bail!(
                        "the SYNs were recorded on the way to {}, not to {}",
                        to.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
                        target.ip()
                    );
                }
                Recipe::Replayed(packets)
            }
            (Kind::Forged, recorded) => {
                let template = recorded.as_ref().and_then(|packets| packets.first());
                Recipe::forged(sources, target, template.map(Vec::as_slice))?
            }
            _ => Recipe::plain(sources, target)?,
        })
    }
}

/// The address that this host would use towards `target`.
fn own_address(target: SocketAddrV4) -> Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("cannot open a socket")?;
    socket
        .connect(target)
        .with_context(|| format!("there is no route to {}", target.ip()))?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(ip) => bail!("{ip} is no IPv4 address"),
    }
}
