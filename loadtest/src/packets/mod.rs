//! `packets`: frames of an established connection, as fast as a path takes them.
//!
//! They leave by an AF_XDP socket: the kernel neither routes nor judges them on this host, so what is measured
//! begins behind the interface. They are data that the far end has had already, in frames of one size.

mod frame;
mod send;

use std::{net::SocketAddrV4, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;
use gateway_xdp::Nic;

use self::{frame::Template, send::Sender};
use crate::{
    options::{Common, duration, harmless, rate},
    report::{Better, Report},
    run::Run,
    tap,
};

/// Arguments of `packets`.
#[derive(Clone, Debug, Args)]
pub struct PacketsArgs {
    /// HOST:PORT, or with --demo also CLUSTER/NAMESPACE/POD:PORT; IPv4. Somebody must be sending to it on a
    /// connection that stands
    target: String,
    /// The interface that those packets leave by, and these too; with --netns that of another host
    #[arg(long, value_name = "NAME")]
    interface: String,
    /// The queue of the interface
    #[arg(long, value_name = "N", default_value_t = 0)]
    queue: u32,
    /// Length of the IP packets
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(40..))]
    size: u16,
    /// Packets in a second; without it as many as the interface takes
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// How long to wait for a packet to copy
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    record_for: Duration,
    /// Also send towards a target outside of private and documentation ranges: only with the consent of whoever
    /// runs it and the network before it
    #[arg(long)]
    allow_public: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: &PacketsArgs) -> Result<ExitCode> {
    let place = args.common.prepare(&args.target)?;
    let target = harmless(place.target, args.allow_public)?;
    let nic = Nic::query(&args.interface)?;
    if u32::from(args.size) > nic.mtu {
        bail!("{} takes packets of at most {} bytes", nic.name, nic.mtu);
    }
    let frame = args.record(&nic, target)?.frame(args.size.into())?;
    let sender = Sender::open(&nic, args.queue, &frame)?;
    let mode = sender.mode();
    let run = Run::new(args.common.duration);
    let sending = sender.start(args.rate, run.begin, run.length, run.stop_flag())?;
    let sent = run.block_on(sending.line(), sending.ended(&run))?;
    let mut report = Report::new("packets", &args.target, args.common.place_name(), &run)
        .with("interface", args.interface.as_str())
        .with("mode", mode)
        .with("size_bytes", args.size);
    if let Some(rate) = args.rate {
        report = report.with("rate", rate);
    }
    sent.tell(&mut report, args.rate);
    let bits = sent.sent() as f64 * f64::from(args.size) * 8.0 / report.seconds.max(f64::EPSILON);
    report.figure("sent", "Mbit/s", bits / 1e6, Better::Higher);
    report.notes.push(format!(
        "what arrived is for the far end to count: all carry DSCP {} (CS1)",
        frame::TOS >> 2
    ));
    report.drops(&place.watch);
    report.print(args.common.output);
    Ok(run.exit_code())
}

impl PacketsArgs {
    fn record(&self, nic: &Nic, target: SocketAddrV4) -> Result<Template> {
        let mut found = None;
        tap::watch(self.record_for, |frame| {
            found = Template::of(frame, nic.mac, target);
            found.is_some()
        })?;
        found.with_context(|| {
            format!(
                "no data for {target} left by {} within {:?}: let somebody send on a connection that stands, \
                 as `landbridge-loadtest latency {target} --rate 10` does",
                nic.name, self.record_for
            )
        })
    }
}
