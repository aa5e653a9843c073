//! Putting the rules into the kernel with `nft` and `iptables-nft`, and keeping them there.
//!
//! The table is the closing half and comes first; the static rules feed the queue and come second.
//! Going away it is the other way round, so that no packet passes unjudged in between.

use std::{
    io::{self, Write as _},
    process::{Command, Output, Stdio},
};

use super::{CounterValues, RuleSet, TABLE, delta, install, remove, statics};

/// Why rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A program cannot be run.
    #[error("cannot run a firewall program: {0}")]
    Io(io::Error),
    /// A program refused.
    #[error("{program} refused{}: {message}", exit(*.code))]
    Refused {
        /// The program.
        program: &'static str,
        /// Its exit status.
        code: Option<i32>,
        /// What it said.
        message: String,
    },
}

fn exit(code: Option<i32>) -> String {
    code.map(|code| format!(" (status {code})"))
        .unwrap_or_default()
}

/// The programs that write rules. They act on the network namespace of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tools;

impl Tools {
    /// Runs `nft -f -` on `text`, one transaction.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing is changed then.
    pub fn nft(&self, text: &str) -> Result<(), ApplyError> {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // When nft ends early its own message says more than a broken pipe.
            let _ = stdin.write_all(text.as_bytes());
        }
        checked("nft", &child.wait_with_output()?)
    }

    /// What `nft` prints; `None` when what is asked for does not exist.
    ///
    /// # Errors
    /// When it cannot be run, or fails for another reason.
    pub fn nft_list(&self, arguments: &[&str]) -> Result<Option<String>, ApplyError> {
        let output = Command::new("nft")
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
            // It is said in words only; any other failure is not taken for an absence.
            false if said.contains("No such file or directory") => Ok(None),
            false => checked("nft", &output).map(|()| None),
        }
    }

    /// Runs `iptables-nft`.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn iptables(&self, arguments: &[String]) -> Result<(), ApplyError> {
        let output = Command::new("iptables-nft")
            .args(arguments)
            .stdin(Stdio::null())
            .output()?;
        checked("iptables-nft", &output)
    }
}

fn checked(program: &'static str, output: &Output) -> Result<(), ApplyError> {
    match output.status.success() {
        true => Ok(()),
        false => Err(ApplyError::Refused {
            program,
            code: output.status.code(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// The rules in force.
#[derive(Debug)]
pub struct Firewall {
    tools: Tools,
    rules: RuleSet,
}

impl Firewall {
    /// Puts `rules` in force, in place of those that an earlier process left; its counters go on.
    /// The way through is closed at every moment of it.
    ///
    /// # Errors
    /// [`ApplyError`]; what is in force already stays, and it is closed.
    pub fn adopt(tools: Tools, rules: RuleSet) -> Result<Self, ApplyError> {
        let counters = read_counters(tools)?.unwrap_or_default();
        tools.nft(&install(&rules, &counters))?;
        statics::ensure(&tools, rules.queues)?;
        Ok(Self { tools, rules })
    }

    /// Changes to `rules`.
    ///
    /// # Errors
    /// [`ApplyError`]; the earlier rules stay in force.
    pub fn update(&mut self, rules: RuleSet) -> Result<(), ApplyError> {
        let queues = self.rules.queues;
        match delta(&self.rules, &rules) {
            Some(nothing) if nothing.is_empty() => {}
            Some(text) => self.tools.nft(&text)?,
            None => {
                let counters = read_counters(self.tools)?.unwrap_or_default();
                self.tools.nft(&install(&rules, &counters))?;
                statics::ensure(&self.tools, rules.queues)?;
                if queues != rules.queues {
                    statics::remove(&self.tools, queues)?;
                }
            }
        }
        self.rules = rules;
        Ok(())
    }

    /// Puts back what somebody else took out; returns whether anything was missing. The way
    /// through stayed closed where a static rule was gone, and open where the table was.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn repair(&mut self) -> Result<bool, ApplyError> {
        let table_gone = self
            .tools
            .nft_list(&["list", "chain", "inet", "landbridge", "check"])?
            .is_none();
        if table_gone {
            self.tools
                .nft(&install(&self.rules, &CounterValues::new()))?;
        }
        let added = statics::ensure(&self.tools, self.rules.queues)?;
        Ok(table_gone || added > 0)
    }

    /// Packets by counter.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn counters(&self) -> Result<CounterValues, ApplyError> {
        Ok(read_counters(self.tools)?.unwrap_or_default())
    }

    /// The rules in force.
    #[must_use]
    pub fn rules(&self) -> &RuleSet {
        &self.rules
    }

    /// Takes every rule and table of ours away: what was closed is open afterwards.
    ///
    /// # Errors
    /// [`ApplyError`]; what is left is closed.
    pub fn remove(self) -> Result<(), ApplyError> {
        statics::remove(&self.tools, self.rules.queues)?;
        self.tools.nft(&remove())
    }
}

/// The counters of our tables, `None` when there are none.
///
/// # Errors
/// When `nft` cannot be run.
pub fn read_counters(tools: Tools) -> Result<Option<CounterValues>, ApplyError> {
    let [family, name] = TABLE
        .split_once(' ')
        .map(|(a, b)| [a, b])
        .unwrap_or_default();
    let ours = tools.nft_list(&["list", "counters", "table", family, name])?;
    let bridge = tools.nft_list(&["list", "counters", "table", "bridge", name])?;
    Ok(ours.map(|text| {
        let mut values = parse_counters(&text);
        for (name, packets) in parse_counters(&bridge.unwrap_or_default()) {
            // A frame between ports that cannot be judged counts like a packet without a judge.
            let name = if name == "unfiltered" {
                "unqueued".to_owned()
            } else {
                name
            };
            *values.entry(name).or_default() += packets;
        }
        values
    }))
}

/// Reads `counter NAME { packets N bytes M }`, on one line or on several.
fn parse_counters(listing: &str) -> CounterValues {
    let mut values = CounterValues::new();
    let mut words = listing.split_ascii_whitespace();
    let mut name = None;
    while let Some(word) = words.next() {
        match (word, name.take()) {
            ("counter", _) => name = words.next(),
            ("packets", Some(counter)) => {
                let packets = words
                    .next()
                    .and_then(|n| n.parse().ok())
                    .unwrap_or_default();
                values.insert(counter.to_owned(), packets);
            }
            (_, kept) => name = kept,
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_a_listing() {
        let text = "table inet landbridge {\n\tcounter queued {\n\t\tpackets 12 bytes 700\n\t}\n\
                    \tcounter fast {\n\t\tpackets 3 bytes 1\n\t}\n}\n";
        let values = parse_counters(text);
        assert_eq!(values.get("queued"), Some(&12));
        assert_eq!(values.get("fast"), Some(&3));
        assert_eq!(values.len(), 2);
    }
}
