//! `flood`: SYNs that nobody means to complete, at a fixed rate.
//!
//! Packets leave by a raw IPv4 socket: the kernel finds route and neighbour as for any program, and the
//! source address may be anybody's.

mod forge;
mod record;
mod send;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    forge::{Forge, Recipe, Sources},
    send::Sender,
};
use crate::{
    options::{Common, duration, harmless, rate},
    report::Report,
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
    let target = harmless(place.target, args.allow_public)?;
    let own = own_address(target)?;
    let recipe = args.recipe(target, recorded, own)?;
    let sender = Sender::open(*target.ip())?;
    let run = Run::new(args.common.duration);
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).context("the kernel gives no random bytes")?;
    let forge = Forge::new(recipe, u64::from_ne_bytes(seed));
    let sending = sender.start(forge, args.rate, run.begin, run.length, run.stop_flag())?;
    let sent = run.block_on(sending.line(), sending.ended(&run))?;
    let mut report = Report::new("flood", &args.target, args.common.place_name(), &run)
        .with("kind", args.kind.word())
        .with("rate", args.rate);
    if let Some(source) = &args.source {
        report = report.with("source", source.to_string());
    }
    sent.tell(&mut report, Some(args.rate));
    report.drops(&place.watch);
    report.print(args.common.output);
    Ok(run.exit_code())
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
