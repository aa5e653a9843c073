//! The static rules of `iptables-nft`: a marked packet goes to its queue. There is no bypass flag:
//! without a listener the kernel drops.

use std::io;

use super::apply::{ApplyError, Tools};
use crate::{
    capture::nfqueue::QueueNumbers,
    marks::{LOCAL_QUEUE, LOCAL_QUEUE_MASK, MASK, TO_POD, TO_POD_SYN},
};

/// One static rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticRule {
    /// The xtables table.
    pub table: &'static str,
    /// Its chain.
    pub chain: &'static str,
    /// Our bits of the packet mark, and the bits they are looked for in.
    pub mark: (u32, u32),
    /// The queue.
    pub queue: u16,
}

/// The rules for `queues`.
#[must_use]
pub fn static_rules(queues: QueueNumbers) -> Vec<StaticRule> {
    let rule = |table, chain, mark, queue| StaticRule {
        table,
        chain,
        mark,
        queue,
    };
    let local = (LOCAL_QUEUE, LOCAL_QUEUE_MASK);
    vec![
        rule(
            "raw",
            "PREROUTING",
            (TO_POD_SYN, MASK),
            queues.network_syn(),
        ),
        rule("raw", "PREROUTING", (TO_POD, MASK), queues.network()),
        rule("mangle", "POSTROUTING", (TO_POD, MASK), queues.network()),
        rule("mangle", "POSTROUTING", local, queues.local()),
        rule("mangle", "INPUT", local, queues.local()),
    ]
}

impl StaticRule {
    /// The arguments behind `iptables-nft` for `verb`: `-C`, `-I` or `-D`.
    #[must_use]
    pub fn arguments(&self, verb: &str) -> Vec<String> {
        let (value, mask) = self.mark;
        let text = format!(
            "-t {} {verb} {} -m mark --mark {value:#x}/{mask:#x} -m comment --comment landbridge \
             -j NFQUEUE --queue-num {}",
            self.table, self.chain, self.queue
        );
        text.split(' ').map(str::to_owned).collect()
    }
}

/// Puts in what is missing; returns how many rules that were.
///
/// # Errors
/// When `iptables-nft` refuses.
pub fn ensure(tools: &Tools, queues: QueueNumbers) -> Result<usize, ApplyError> {
    let mut added = 0;
    for rule in static_rules(queues) {
        if !is_present(tools, &rule)? {
            tools.iptables(&rule.arguments("-I"))?;
            added += 1;
        }
    }
    Ok(added)
}

/// Takes our rules out, and the tables that are empty without them.
///
/// # Errors
/// When `iptables-nft` refuses.
pub fn remove(tools: &Tools, queues: QueueNumbers) -> Result<(), ApplyError> {
    for rule in static_rules(queues) {
        while is_present(tools, &rule)? {
            tools.iptables(&rule.arguments("-D"))?;
        }
    }
    for table in ["raw", "mangle"] {
        // It goes only when nothing of others is in it: iptables makes it again when asked.
        let listing = tools.nft_list(&["list", "table", "ip", table])?;
        if listing.is_some_and(|text| is_empty(&text)) {
            tools.nft(&format!("delete table ip {table}\n"))?;
        }
    }
    Ok(())
}

fn is_present(tools: &Tools, rule: &StaticRule) -> Result<bool, ApplyError> {
    match tools.iptables(&rule.arguments("-C")) {
        Ok(()) => Ok(true),
        Err(ApplyError::Refused { code: Some(1), .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a listing of a table holds base chains with policy accept, and nothing else.
fn is_empty(listing: &str) -> bool {
    listing
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && *line != "}")
        .all(|line| {
            line.starts_with("table ")
                || line.starts_with("chain ")
                || (line.starts_with("type ") && line.ends_with("policy accept;"))
        })
}

impl From<io::Error> for ApplyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rule_has_a_bypass_and_each_queue_is_fed() {
        let queues = QueueNumbers { base: 100 };
        let rules = static_rules(queues);
        for rule in &rules {
            assert!(!rule.arguments("-I").join(" ").contains("bypass"));
        }
        for queue in [100, 101, 102] {
            assert!(rules.iter().any(|rule| rule.queue == queue));
        }
        assert_eq!(
            rules[0].arguments("-I").join(" "),
            "-t raw -I PREROUTING -m mark --mark 0x100/0xf00 -m comment --comment landbridge \
             -j NFQUEUE --queue-num 100"
        );
    }

    #[test]
    fn a_table_with_anything_in_it_is_not_empty() {
        let empty = "table ip raw {\n\tchain PREROUTING {\n\t\ttype filter hook prerouting \
                     priority raw; policy accept;\n\t}\n}\n";
        assert!(is_empty(empty));
        let rule = empty.replace(
            "accept;\n",
            "accept;\n\t\tcounter packets 0 bytes 0 accept\n",
        );
        assert!(!is_empty(&rule));
        assert!(!is_empty(&empty.replace("policy accept", "policy drop")));
    }
}
