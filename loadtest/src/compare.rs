//! `compare`: two reports side by side, and what got worse.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::Serialize;

use crate::{
    report::{Better, Report, SCHEMA, number},
    say::{Output, say},
};

/// The exit status that says "something got worse".
const WORSE: u8 = 3;

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The report of before, made with -o json
    before: PathBuf,
    /// The report of now
    after: PathBuf,
    /// How much worse a figure may be
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, value_parser = percent)]
    threshold: f64,
    /// Exit with 3 when a figure got worse beyond the threshold, or is no longer there
    #[arg(long)]
    fail_if_worse: bool,
    /// The form of the comparison
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percent) if percent >= 0.0 && percent.is_finite() => Ok(percent),
        _ => Err("it is a percentage, 0 or more".into()),
    }
}

/// Runs it.
pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let rows = compare(&before, &after, args.threshold);
    if rows.is_empty() {
        bail!("the reports have no figures");
    }
    let remarks = remarks(&before, &after);
    match args.output {
        Output::Json => {
            let value = serde_json::json!({"threshold_percent": args.threshold, "figures": rows, "remarks": remarks});
            say!("{value:#}");
        }
        Output::Text => {
            say!("{:<28} {:>14} {:>14} {:>8}", "", "before", "after", "ratio");
            for row in &rows {
                let value = |v: Option<f64>| v.map_or("-".into(), number);
                let ratio = row.ratio.map_or("-".into(), |r| format!("{r:.3}"));
                let name = format!("{} [{}]", row.name, row.unit);
                let line = format!(
                    "{name:<28} {:>14} {:>14} {ratio:>8}  {}",
                    value(row.before),
                    value(row.after),
                    row.verdict.word()
                );
                say!("{}", line.trim_end());
            }
            for remark in remarks {
                say!("{remark}");
            }
        }
    }
    let worse = rows.iter().any(|row| row.verdict.is_bad());
    Ok(match worse && args.fail_if_worse {
        true => ExitCode::from(WORSE),
        false => ExitCode::SUCCESS,
    })
}

fn read(path: &PathBuf) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let what = || format!("{} is no report made with -o json", path.display());
    let value: serde_json::Value = serde_json::from_slice(&text).with_context(what)?;
    match value["schema"].as_str() {
        Some(SCHEMA) => serde_json::from_value(value).with_context(what),
        Some(other) => bail!(
            "{} has the form {other:?}; this program reads {SCHEMA:?}",
            path.display()
        ),
        None => bail!(what()),
    }
}

/// A figure in both reports.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    name: String,
    unit: String,
    before: Option<f64>,
    after: Option<f64>,
    /// After by before.
    ratio: Option<f64>,
    verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Same,
    Better,
    Worse,
    /// Only in the report of before.
    Gone,
    /// Only in the report of now.
    New,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Same => "",
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Gone => "GONE",
            Self::New => "new",
        }
    }

    fn is_bad(self) -> bool {
        matches!(self, Self::Worse | Self::Gone)
    }
}

fn compare(before: &Report, after: &Report, threshold: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    for old in &before.figures {
        let new = after
            .figures
            .iter()
            .find(|new| new.name == old.name && new.unit == old.unit);
        rows.push(Row {
            name: old.name.clone(),
            unit: old.unit.clone(),
            before: Some(old.value),
            after: new.map(|new| new.value),
            ratio: new.and_then(|new| (old.value != 0.0).then(|| new.value / old.value)),
            verdict: new.map_or(Verdict::Gone, |new| {
                judge(old.value, new.value, old.better, threshold)
            }),
        });
    }
    for new in &after.figures {
        if !before
            .figures
            .iter()
            .any(|old| new.name == old.name && new.unit == old.unit)
        {
            rows.push(Row {
                name: new.name.clone(),
                unit: new.unit.clone(),
                before: None,
                after: Some(new.value),
                ratio: None,
                verdict: Verdict::New,
            });
        }
    }
    rows
}

/// From nothing to something is beyond any threshold.
fn judge(old: f64, new: f64, better: Better, threshold: f64) -> Verdict {
    let margin = old.abs() * threshold / 100.0;
    let gain = match better {
        Better::Higher => new - old,
        Better::Lower => old - new,
    };
    match gain {
        gain if gain < -margin => Verdict::Worse,
        gain if gain > margin => Verdict::Better,
        _ => Verdict::Same,
    }
}

/// What keeps the two from being the same measurement.
fn remarks(before: &Report, after: &Report) -> Vec<String> {
    let mut remarks = Vec::new();
    if before.command != after.command {
        remarks.push(format!(
            "not the same measurement: {} and {}",
            before.command, after.command
        ));
    }
    if before.settings != after.settings {
        remarks.push("the settings differ".into());
    }
    for (report, which) in [(before, "first"), (after, "second")] {
        if report.interrupted {
            remarks.push(format!("the {which} run was interrupted"));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_is_worse_in_the_direction_of_the_figure() {
        let verdicts = [
            (100.0, 89.0, Better::Higher, Verdict::Worse),
            (100.0, 91.0, Better::Higher, Verdict::Same),
            (100.0, 120.0, Better::Higher, Verdict::Better),
            (100.0, 120.0, Better::Lower, Verdict::Worse),
            (100.0, 80.0, Better::Lower, Verdict::Better),
            (0.0, 0.1, Better::Lower, Verdict::Worse),
            (0.0, 0.0, Better::Lower, Verdict::Same),
        ];
        for (old, new, better, expected) in verdicts {
            assert_eq!(
                judge(old, new, better, 10.0),
                expected,
                "{old} {new} {better:?}"
            );
        }
    }
}
