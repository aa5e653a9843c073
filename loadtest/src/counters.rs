//! What gateways and agents dropped, by reason: their counters before and after a run.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::netns::Home;

/// Longest answer in bytes.
const MAX_ANSWER: u64 = 16 * 1024 * 1024;
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What the kernel counts as lost in front of a gateway.
const KERNEL_LOSSES: [&str; 4] = ["missed", "rx_dropped", "rx_ring_full", "tx_invalid"];

/// Counters of one enforcer by reason.
type Counts = BTreeMap<String, u64>;

/// Somebody who counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A URL that answers in Prometheus' text format.
    Metrics(String),
    /// The admin socket of a gateway or agent on this machine.
    Admin {
        /// Its name.
        role: String,
        /// Where it listens.
        socket: PathBuf,
    },
}

/// Packets dropped for one reason during a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Gateway or agent.
    pub enforcer: String,
    /// The word of `docs/spec`, or `kernel:INTERFACE:WHAT` for what never reached the gateway.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// All that is to be asked, and what it said before the run.
pub struct Watch {
    home: Home,
    before: Vec<(Source, Counts)>,
}

impl Watch {
    /// Reads all of `sources` for the first time.
    ///
    /// # Errors
    /// When one does not answer, or counts nothing of ours.
    pub fn begin(home: Home, sources: Vec<Source>) -> Result<Self> {
        let mut before = Vec::new();
        for source in sources {
            let counts = home.run(|| source.read())?;
            before.push((source, counts));
        }
        Ok(Self { home, before })
    }

    /// What was dropped since, and who could not be asked any more, in words.
    pub fn end(&self) -> (Vec<Drops>, Vec<String>) {
        let (mut drops, mut problems) = (Vec::new(), Vec::new());
        for (source, before) in &self.before {
            match self.home.run(|| source.read()) {
                Ok(after) => {
                    let enforcer = source.name();
                    if before.iter().any(|(r, n)| after.get(r).unwrap_or(&0) < n) {
                        problems.push(format!(
                            "{enforcer} counts less than before: it was restarted"
                        ));
                        continue;
                    }
                    drops.extend(difference(enforcer, before, &after));
                }
                Err(e) => problems.push(format!("{e:#}")),
            }
        }
        (drops, problems)
    }
}

fn difference(enforcer: &str, before: &Counts, after: &Counts) -> Vec<Drops> {
    let more = after.iter().filter_map(|(reason, count)| {
        let packets = count.checked_sub(*before.get(reason).unwrap_or(&0))?;
        (packets > 0).then(|| Drops {
            enforcer: enforcer.into(),
            reason: reason.clone(),
            packets,
        })
    });
    more.collect()
}

impl Source {
    fn name(&self) -> &str {
        match self {
            Self::Metrics(url) => url,
            Self::Admin { role, .. } => role,
        }
    }

    fn read(&self) -> Result<Counts> {
        match self {
            Self::Metrics(url) => {
                let text = get(url).with_context(|| format!("no metrics from {url}"))?;
                match parse_metrics(&text) {
                    counts if counts.is_empty() => bail!(
                        "{url} serves no landbridge_packets_dropped_total and no \
                         landbridge_agent_dropped_total: is it a gateway's or an agent's /metrics?"
                    ),
                    counts => Ok(counts),
                }
            }
            Self::Admin { role, socket } => {
                let answer = ask(socket).with_context(|| {
                    format!("no answer from {role} at {} (needs root)", socket.display())
                })?;
                parse_counters(&answer)
            }
        }
    }
}

fn ask(socket: &PathBuf) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(b"{\"op\":\"counters\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn parse_counters(answer: &Value) -> Result<Counts> {
    let Some(dropped) = answer["dropped"].as_object() else {
        bail!("no \"dropped\" in {answer}");
    };
    let number = |(reason, count): (&String, &Value)| Some((reason.clone(), count.as_u64()?));
    let mut counts: Counts = dropped.iter().filter_map(number).collect();
    for (interface, losses) in answer["kernel"].as_object().into_iter().flatten() {
        for what in KERNEL_LOSSES {
            if let Some(count) = losses[what].as_u64() {
                counts.insert(format!("kernel:{interface}:{what}"), count);
            }
        }
    }
    Ok(counts)
}

fn parse_metrics(text: &str) -> Counts {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(parse_line).collect()
}

/// One sample: `name{label="value",...} number`. Our values hold no quotes, so none is unescaped.
fn parse_line(line: &str) -> Option<(String, u64)> {
    let (name, rest) = line.split_once('{')?;
    let (labels, value) = rest.rsplit_once('}')?;
    let count = value.split_ascii_whitespace().next()?.parse::<f64>().ok()?;
    let label = |wanted: &str| {
        labels.split(',').find_map(|label| {
            let (name, value) = label.split_once('=')?;
            (name == wanted).then(|| value.trim_matches('"').to_owned())
        })
    };
    let reason = match name {
        "landbridge_packets_dropped_total" | "landbridge_agent_dropped_total" => label("reason")?,
        "landbridge_kernel_packets_total" => {
            let what = label("what")?;
            if !KERNEL_LOSSES.contains(&what.as_str()) {
                return None;
            }
            format!("kernel:{}:{what}", label("interface")?)
        }
        _ => return None,
    };
    Some((reason, count as u64))
}

/// `GET url`, as much HTTP as a scrape needs.
fn get(url: &str) -> Result<String> {
    let Some(rest) = url.strip_prefix("http://") else {
        bail!("only http:// can be asked; for HTTPS, put a proxy before it");
    };
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, "/metrics".into()),
    };
    let address = match host.contains(':') {
        true => host.to_owned(),
        false => format!("{host}:80"),
    };
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // HTTP/1.0, so that no answer comes in chunks.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("it answers {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;

    use super::*;

    const BEFORE: &str = "# TYPE landbridge_packets_dropped_total counter\n\
        landbridge_packets_dropped_total{reason=\"bad-proof\"} 10\n\
        landbridge_packets_dropped_total{reason=\"replay\"} 3\n\
        landbridge_packets_total{fate=\"forwarded\"} 7\n\
        landbridge_kernel_packets_total{interface=\"lan0\",what=\"rx_ring_full\"} 1\n\
        landbridge_kernel_packets_total{interface=\"lan0\",what=\"redirected\"} 99\n\n";

    #[test]
    fn drops_are_the_difference_by_reason() {
        let before = parse_metrics(BEFORE);
        assert_eq!(before.len(), 3, "{before:?}");
        let after = BEFORE.replace("} 10", "} 1e3").replace("} 1\n", "} 2\n");
        let drops = difference("gw", &before, &parse_metrics(&after));
        let told: Vec<_> = drops
            .iter()
            .map(|d| (d.reason.as_str(), d.packets))
            .collect();
        assert_eq!(told, [("bad-proof", 990), ("kernel:lan0:rx_ring_full", 1)]);
    }

    #[test]
    fn an_admin_socket_says_the_same() {
        let answer = serde_json::json!({
            "received": 5, "dropped": {"replay": 2}, "kernel": {"lan0": {"missed": 4, "redirected": 9}},
        });
        let counts = parse_counters(&answer).unwrap();
        let expected = [("kernel:lan0:missed".into(), 4), ("replay".into(), 2)];
        assert_eq!(counts, expected.into());
        assert!(parse_counters(&serde_json::json!({"error": "x"})).is_err());
    }

    #[test]
    fn a_page_without_our_counters_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            for body in [BEFORE, "go_goroutines 5\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut head = [0; 1024];
                let read = stream.read(&mut head).unwrap();
                assert!(head[..read].starts_with(b"GET /metrics HTTP/1.0\r\n"));
                write!(stream, "HTTP/1.1 200 OK\r\n\r\n{body}").unwrap();
            }
        });
        let source = Source::Metrics(url);
        assert_eq!(source.read().unwrap().len(), 3);
        let error = format!("{:#}", source.read().unwrap_err());
        assert!(error.contains("is it a gateway's"), "{error}");
        server.join().unwrap();
    }
}
