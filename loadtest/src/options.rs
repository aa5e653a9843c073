//! What all measurements take: where from, where to, how long, and whose counters are read.

use std::{
    net::{SocketAddr, SocketAddrV4, ToSocketAddrs},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    counters::{Source, Watch},
    demo::Demo,
    netns::{self, Home},
    say::Output,
};

/// Where a demo lives unless another directory is named.
const DEFAULT_STATE: &str = "/run/landbridge-demo";

/// Arguments of every measurement.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// How long: 10s, 500ms, 2m, or seconds
    #[arg(short, long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub duration: Duration,
    /// The form of the report
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
    /// Run inside this network namespace, as `ip netns` names it (root)
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    netns: Option<String>,
    /// A demo on this machine: pods can be named, and the counters of all its gateways and agents
    /// are read
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_STATE)]
    demo: Option<PathBuf>,
    /// With --demo: run inside this pod, named CLUSTER/NAMESPACE/POD (root)
    #[arg(long, value_name = "POD", requires = "demo")]
    from: Option<String>,
    /// Read drops by reason from this /metrics of a gateway or agent; may be repeated. It is asked from
    /// the network namespace that the program was started in
    #[arg(long, value_name = "URL")]
    metrics: Vec<String>,
}

/// A measurement's surroundings.
pub struct Place {
    /// Where to.
    pub target: SocketAddr,
    /// Counters as they were before.
    pub watch: Watch,
}

impl Common {
    /// Reads the counters, then enters the namespace, then resolves `target` there. Before any thread
    /// is started: only this one and its children move.
    ///
    /// # Errors
    /// When one of them cannot be done; the remedy is in the words.
    pub fn prepare(&self, target: &str) -> Result<Place> {
        let demo = self.demo.as_deref().map(Demo::open).transpose()?;
        let watch = self.enter(demo.as_ref())?;
        let target = resolve(target, demo.as_ref())?;
        Ok(Place { target, watch })
    }

    fn enter(&self, demo: Option<&Demo>) -> Result<Watch> {
        let urls = self.metrics.iter().cloned().map(Source::Metrics);
        let enforcers = demo.map(Demo::enforcers).unwrap_or_default();
        let sockets = enforcers
            .into_iter()
            .map(|(role, socket)| Source::Admin { role, socket });
        let watch = Watch::begin(Home::here()?, urls.chain(sockets).collect())?;
        let pod = match (&self.from, demo) {
            (Some(name), Some(demo)) => Some(demo.pod(name)?.netns.as_str()),
            _ => None,
        };
        if let Some(name) = pod.or(self.netns.as_deref()) {
            netns::enter(name)?;
        }
        Ok(watch)
    }

    /// Where it runs, for the report.
    pub fn place_name(&self) -> Option<&str> {
        self.from.as_deref().or(self.netns.as_deref())
    }
}

/// `HOST:PORT`, or a pod of the demo.
pub fn resolve(target: &str, demo: Option<&Demo>) -> Result<SocketAddr> {
    if target.contains('/') {
        let Some(demo) = demo else {
            bail!("{target:?} names a pod; say of which demo with --demo, or give HOST:PORT");
        };
        return demo.target(target);
    }
    let mut found = target
        .to_socket_addrs()
        .with_context(|| format!("{target:?} is no HOST:PORT, such as 10.2.1.10:8080"))?;
    found
        .next()
        .with_context(|| format!("{target:?} has no address"))
}

/// Where packets may be sent that nobody asked for: inside private, benchmark and documentation ranges,
/// elsewhere only with `consent`.
pub fn harmless(target: SocketAddr, consent: bool) -> Result<SocketAddrV4> {
    let SocketAddr::V4(target) = target else {
        bail!("{target}: raw packets are IPv4 so far");
    };
    let ip = target.ip();
    // RFC 2544: for benchmarks.
    let benchmark = matches!(ip.octets(), [198, 18 | 19, ..]);
    // RFC 6598: behind the NAT of a provider, used for pods.
    let shared = matches!(ip.octets(), [100, 64..=127, ..]);
    let closed = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_documentation();
    if !(consent || closed || benchmark || shared) {
        bail!("{ip} is a public address; with the consent of whoever runs it, say --allow-public");
    }
    Ok(target)
}

/// `10s`, `500ms`, `2m`, `1h` or seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        unit => return Err(format!("unit {unit:?} is not known; use ms, s, m or h")),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "it is a number and a unit, such as 10s or 500ms".to_string())?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("it must be longer than nothing".into()),
    }
}

/// A rate: above zero.
pub fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e7 => Ok(rate),
        _ => Err("it is a number per second, above 0 and at most 10000000".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn times_are_read_with_their_units() {
        let ms = |text| duration(text).unwrap().as_millis();
        assert_eq!(
            [ms("10"), ms("1.5s"), ms("20ms"), ms("2m"), ms("1h")],
            [10_000, 1_500, 20, 120_000, 3_600_000]
        );
        for wrong in ["", "s", "0", "-1", "10 s", "3d", "nan", "1e400"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-3", "x", "inf", "nan", "1e9"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rate("0.5"), Ok(0.5));
    }

    #[test]
    fn a_pod_needs_a_demo_and_an_address_a_port() {
        let words = |target| format!("{:#}", resolve(target, None).unwrap_err());
        assert!(words("west/shop/api:8080").contains("--demo"));
        assert!(words("10.2.1.10").contains("HOST:PORT"));
        let target = resolve("127.0.0.1:80", None).unwrap();
        assert_eq!(target, "127.0.0.1:80".parse().unwrap());
    }
}
