//! Whether this machine can run an agent, checked before anything is changed; each refusal says
//! what to do about it.

use std::{fs, io, process::Command};

use nix::{sys::utsname::uname, unistd::geteuid};

use crate::{
    capture::nfqueue,
    conntrack::Conntrack,
    rules::{CounterValues, RuleSet, install, statics},
};

/// Matching the input interface after routing came with this kernel.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// Something that is missing, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is wrong.
    pub what: String,
    /// What helps.
    pub remedy: &'static str,
}

/// Everything that is missing for `rules`; nothing is changed.
#[must_use]
pub fn check(rules: &RuleSet) -> Vec<Missing> {
    if !geteuid().is_root() {
        // Every other check would fail for this reason alone.
        return vec![Missing {
            what: "not root".into(),
            remedy: "run the agent as root, or with CAP_NET_ADMIN and CAP_NET_RAW as uid 0",
        }];
    }
    let mut missing = Vec::new();
    missing.extend(kernel());
    missing.extend(nft(rules));
    missing.extend(iptables(rules));
    missing.extend(kernel_part(
        nfqueue::probe(),
        "NFQUEUE",
        "load the module nfnetlink_queue",
    ));
    missing.extend(kernel_part(
        Conntrack::open().and_then(|mut table| table.marked().map(drop)),
        "connection tracking",
        "load the module nf_conntrack_netlink",
    ));
    missing
}

fn kernel() -> Option<Missing> {
    let release = uname().ok()?.release().to_string_lossy().into_owned();
    let version = version(&release)?;
    (version < OLDEST_KERNEL).then(|| Missing {
        what: format!(
            "kernel {release} is older than {}.{}",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        ),
        remedy: "use a newer kernel",
    })
}

/// The first two numbers of a release such as `6.18.44-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn nft(rules: &RuleSet) -> Option<Missing> {
    use std::{io::Write as _, process::Stdio};
    let child = Command::new("nft")
        .args(["--check", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let output = child.and_then(|mut child| {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(install(rules, &CounterValues::new()).as_bytes())?;
        }
        child.wait_with_output()
    });
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(Missing {
            what: format!("nft refuses our rules: {}", first_line(&output.stderr)),
            remedy: "use nft 1.0 or newer and a kernel with nf_tables, its conntrack, NAT and limit \
                     expressions and the bridge family",
        }),
        Err(error) => Some(absent("nft", &error, "install the package nftables")),
    }
}

fn iptables(rules: &RuleSet) -> Option<Missing> {
    let remedy = "install the package iptables (1.8 or newer), which contains iptables-nft";
    let version = match Command::new("iptables-nft").arg("--version").output() {
        Ok(output) => output,
        Err(error) => return Some(absent("iptables-nft", &error, remedy)),
    };
    let text = first_line(&version.stdout);
    if !text.contains("nf_tables") {
        return Some(Missing {
            what: format!("iptables-nft writes to the legacy tables: {text}"),
            remedy: "point iptables-nft at xtables-nft-multi, not at xtables-legacy-multi",
        });
    }
    // Asking for a rule that is not there makes the program look up target and matches.
    let rule = statics::static_rules(rules.queues).into_iter().next()?;
    let asked = Command::new("iptables-nft")
        .args(rule.arguments("-C"))
        .output()
        .ok()?;
    let said = first_line(&asked.stderr);
    let unknown = said.contains("Couldn't load")
        || said.contains("not found")
        || asked.status.code() == Some(2);
    unknown.then(|| Missing {
        what: format!("iptables-nft knows no NFQUEUE target: {said}"),
        remedy: "use a kernel with CONFIG_NETFILTER_XT_TARGET_NFQUEUE, XT_MATCH_MARK, \
                 XT_MATCH_COMMENT and NFT_COMPAT",
    })
}

fn kernel_part(tried: io::Result<()>, what: &str, remedy: &'static str) -> Option<Missing> {
    let error = tried.err()?;
    Some(match error.kind() {
        io::ErrorKind::PermissionDenied => Missing {
            what: format!("{what} may not be used: {error}"),
            remedy: "give the agent CAP_NET_ADMIN in this network namespace",
        },
        _ => Missing {
            what: format!("{what} does not work: {error}"),
            remedy,
        },
    })
}

fn absent(program: &str, error: &io::Error, remedy: &'static str) -> Missing {
    Missing {
        what: format!("{program} cannot be run: {error}"),
        remedy,
    }
}

/// Legacy iptables rules, which run beside ours: worth a warning, nothing more.
#[must_use]
pub fn legacy_tables() -> Vec<String> {
    let tables = fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default();
    tables.lines().map(str::to_owned).collect()
}

fn first_line(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_have_two_numbers() {
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("next"), None);
    }
}
