//! What a run has to say, for people and for programs. docs/loadtest.md describes every field; a change
//! of meaning raises the number in [`SCHEMA`].

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    counters::{Drops, Watch},
    recorder::{Recorder, Times},
    run::Run,
    say::{Output, say},
};

/// Form and version of the JSON.
pub const SCHEMA: &str = "landbridge-loadtest/1";

/// The report of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// The subcommand.
    pub command: String,
    /// Where to, as it was asked for.
    pub target: String,
    /// The namespace or pod it ran in, unless it was the one it was started in.
    pub from: Option<String>,
    /// What else was asked for.
    pub settings: BTreeMap<String, Value>,
    /// When it began, in seconds since 1970-01-01T00:00:00Z.
    pub started_at: u64,
    /// How long was measured.
    pub seconds: f64,
    /// Whether Ctrl-C ended it early.
    pub interrupted: bool,
    /// Attempts that came to what they should.
    pub succeeded: u64,
    /// Attempts that did not, by kind.
    pub failed: BTreeMap<String, u64>,
    /// Bytes that arrived and whose checksums held, of a transfer.
    pub checked_bytes: Option<u64>,
    /// What `compare` compares.
    pub figures: Vec<Figure>,
    /// Distributions of times by name: `response`, `service`, `late`.
    pub times: BTreeMap<String, Distribution>,
    /// Successes and failures of each second.
    pub per_second: Vec<(u64, u64)>,
    /// What gateways and agents dropped meanwhile.
    pub drops: Vec<Drops>,
    /// What a reader must know to judge the figures.
    pub notes: Vec<String>,
}

/// A number to compare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// Of what.
    pub unit: String,
    /// How much.
    pub value: f64,
    /// Which way is up.
    pub better: Better,
}

/// Which way is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// How many were measured.
    pub count: u64,
    /// The shortest.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// Half are at most this.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

impl Distribution {
    /// Of times in nanoseconds; `None` of no times.
    pub fn of(times: &Times) -> Option<Self> {
        if times.is_empty() {
            return None;
        }
        // To a tenth of a microsecond: more is noise of the histogram.
        let us = |ns: f64| (ns / 100.0).round() / 10.0;
        let quantile = |q| us(times.value_at_quantile(q) as f64);
        Some(Self {
            count: times.len(),
            min: us(times.min() as f64),
            mean: us(times.mean()),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: us(times.max() as f64),
        })
    }
}

impl Report {
    /// Of a run that is over. `figures` and `settings` are for the caller to add.
    pub fn new(command: &str, target: &str, from: Option<&str>, run: &Run) -> Self {
        let age = run.begin.elapsed();
        let began = SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH);
        let since = began.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self {
            schema: SCHEMA.into(),
            command: command.into(),
            target: target.into(),
            from: from.map(Into::into),
            settings: BTreeMap::new(),
            started_at: since.as_secs(),
            seconds: run.measured().as_secs_f64(),
            interrupted: run.interrupted(),
            succeeded: 0,
            failed: BTreeMap::new(),
            checked_bytes: None,
            figures: Vec::new(),
            times: BTreeMap::new(),
            per_second: Vec::new(),
            drops: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.settings.insert(name.into(), value.into());
        self
    }

    /// Adds a figure.
    pub fn figure(&mut self, name: &str, unit: &str, value: f64, better: Better) {
        self.figures.push(Figure {
            name: name.into(),
            unit: unit.into(),
            value,
            better,
        });
    }

    /// Adds what attempts came to. `things` names them; `open` says whether the clock began them.
    pub fn attempts(&mut self, recorder: &Recorder, things: &str, open: bool) {
        self.succeeded = recorder.succeeded();
        let failed = recorder.failed.iter();
        self.failed = failed.map(|(kind, n)| (kind.word().into(), *n)).collect();
        self.per_second.clone_from(&recorder.seconds);
        // What came after the end is no part of the rate.
        let whole = (self.seconds.floor() as usize).min(recorder.seconds.len());
        let rate = match whole {
            0 => recorder.succeeded() as f64 / self.seconds.max(f64::EPSILON),
            _ => recorder.seconds[..whole].iter().map(|s| s.0).sum::<u64>() as f64 / whole as f64,
        };
        self.figure(&format!("{things} per second"), "1/s", rate, Better::Higher);
        let all = recorder.succeeded() + recorder.failures();
        let failed = recorder.failures() as f64 / all.max(1) as f64;
        self.figure("failed", "%", 100.0 * failed, Better::Lower);
        let (name, times) = match open {
            true => ("response", &recorder.response),
            false => ("service", &recorder.service),
        };
        if let Some(d) = Distribution::of(times) {
            for (quantile, value) in [
                ("p50", d.p50),
                ("p90", d.p90),
                ("p99", d.p99),
                ("p99.9", d.p999),
                ("max", d.max),
            ] {
                self.figure(&format!("{name} {quantile}"), "us", value, Better::Lower);
            }
        }
        let mut add = |name: &str, times| {
            if let Some(distribution) = Distribution::of(times) {
                self.times.insert(name.into(), distribution);
            }
        };
        add("service", &recorder.service);
        if open {
            add("response", &recorder.response);
            add("late", &recorder.late);
        } else {
            self.notes.push(
                "closed loop: while the target stalls it is asked less, so the times leave the \
                 stalls out (coordinated omission); --rate measures with them"
                    .into(),
            );
        }
        if recorder
            .failed
            .contains_key(&crate::outcome::Failure::NoLocalPort)
        {
            self.notes.push(
                "no-local-port: this host ran out of local ports or descriptors; --close reset, a \
                 lower rate or a wider net.ipv4.ip_local_port_range helps"
                    .into(),
            );
        }
    }

    /// Adds what was dropped meanwhile.
    pub fn drops(&mut self, watch: &Watch) {
        let (drops, problems) = watch.end();
        self.drops = drops;
        self.notes.extend(problems);
    }

    /// Prints it.
    pub fn print(&self, form: Output) {
        match form {
            Output::Text => say!("{}", self.to_string().trim_end()),
            // A report holds no map with other keys than strings, so it always is JSON.
            Output::Json => say!("{}", serde_json::to_string_pretty(self).unwrap_or_default()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.command, self.target)?;
        if let Some(from) = &self.from {
            write!(f, " from {from}")?;
        }
        for (name, value) in &self.settings {
            match value {
                Value::String(text) => write!(f, ", {name} {text}")?,
                other => write!(f, ", {name} {other}")?,
            }
        }
        let early = if self.interrupted {
            ", interrupted"
        } else {
            ""
        };
        writeln!(f, ", {:.1} s{early}", self.seconds)?;
        if self.succeeded > 0 || !self.failed.is_empty() {
            let failed: u64 = self.failed.values().sum();
            write!(
                f,
                "  {:<12} {}, failed {failed}",
                "succeeded", self.succeeded
            )?;
            for (kind, count) in &self.failed {
                write!(f, ", {kind} {count}")?;
            }
            writeln!(f)?;
        }
        if let Some(bytes) = self.checked_bytes {
            writeln!(
                f,
                "  {:<12} {} bytes arrived as they were sent",
                "checked",
                number(bytes as f64)
            )?;
        }
        let in_times = |name: &str| {
            name.split_once(' ')
                .is_some_and(|(n, _)| self.times.contains_key(n))
        };
        for figure in self.figures.iter().filter(|figure| !in_times(&figure.name)) {
            writeln!(
                f,
                "  {:<28} {:>14} {}",
                figure.name,
                number(figure.value),
                figure.unit
            )?;
        }
        for (name, about) in [
            ("response", "from the intended start"),
            ("service", "from the real start"),
            ("late", "how late it was begun"),
        ] {
            if let Some(d) = self.times.get(name) {
                writeln!(
                    f,
                    "  {name:<12} p50 {}  p90 {}  p99 {}  p99.9 {}  max {}  ({about})",
                    time(d.p50),
                    time(d.p90),
                    time(d.p99),
                    time(d.p999),
                    time(d.max)
                )?;
            }
        }
        for drop in &self.drops {
            writeln!(
                f,
                "  dropped      {:>10} {} at {}",
                drop.packets, drop.reason, drop.enforcer
            )?;
        }
        for note in &self.notes {
            writeln!(f, "  note         {note}")?;
        }
        Ok(())
    }
}

/// Microseconds in the unit that people would use.
pub fn time(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// With thousands apart, and digits behind the point only where they matter.
pub fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && digit != '-' && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        // Writing to a string cannot fail.
        let _ = write!(out, ".{fraction}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(999.4), "999");
        assert_eq!(number(-1_234.0), "-1,234");
        assert_eq!(number(0.5), "0.50");
        assert_eq!(time(12.0), "12 us");
        assert_eq!(time(1_500.0), "1.50 ms");
        assert_eq!(time(2_500_000.0), "2.50 s");
    }
}
