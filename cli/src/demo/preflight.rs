//! What the machine must offer, looked at before anything is changed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use super::{netns, plan::Plan};

/// Programs that the demo runs, and the Debian package of each.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
];

/// The programs of this project that the demo starts.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// This program, for the servers in the pods.
    pub own: PathBuf,
    /// `landbridge-gateway`.
    pub gateway: PathBuf,
    /// `landbridge-agent`.
    pub agent: PathBuf,
}

impl Binaries {
    /// Those that lie beside this program.
    pub fn beside_own() -> Result<Self> {
        let own = env::current_exe()?;
        let beside = own.parent().unwrap_or(Path::new("/")).to_path_buf();
        Ok(Self {
            own,
            gateway: beside.join("landbridge-gateway"),
            agent: beside.join("landbridge-agent"),
        })
    }
}

/// Checks everything and reports all that is missing at once.
///
/// # Errors
/// A list of what is missing, each with its remedy.
pub fn check(enforcement: bool) -> Result<Binaries> {
    root()?;
    let mut missing: Vec<_> = TOOLS.iter().filter_map(|(t, p)| lacks(t, p)).collect();
    let binaries = binaries(enforcement, &mut missing)?;
    if missing.is_empty() {
        kernel(enforcement, &mut missing);
    }
    if missing.is_empty() {
        return Ok(binaries);
    }
    bail!(
        "the demo cannot start here; nothing was changed.\n  - {}",
        missing.join("\n  - ")
    )
}

/// Whether this process may do what the demo does.
///
/// # Errors
/// When it is not root's.
pub fn root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    bail!(
        "the demo works with network namespaces, which needs root; nothing was changed.\n\
         Run it again as root, for example with sudo."
    )
}

/// The complaint about a program that cannot be run by its name.
fn lacks(tool: &str, package: &str) -> Option<String> {
    let is_in = |dir: &Path| dir.join(tool).is_file();
    let path = env::var_os("PATH").unwrap_or_default();
    if env::split_paths(&path).any(|dir| is_in(&dir)) {
        return None;
    }
    let hidden = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .into_iter()
        .find(|dir| is_in(Path::new(dir)));
    Some(match hidden {
        Some(dir) => {
            format!("the program {tool} is in {dir}, which PATH lacks: export PATH=$PATH:{dir}")
        }
        None => format!("the program {tool} is not installed: apt-get install {package}"),
    })
}

fn binaries(enforcement: bool, missing: &mut Vec<String>) -> Result<Binaries> {
    let binaries = Binaries::beside_own()?;
    if enforcement {
        for (file, package) in [
            (&binaries.gateway, "landbridge-gateway"),
            (&binaries.agent, "landbridge-agent"),
        ] {
            if !file.is_file() {
                missing.push(format!(
                    "{} does not exist: cargo build -p {package}",
                    file.display()
                ));
            }
        }
    }
    Ok(binaries)
}

/// Tries every kernel feature in a namespace that ends with the attempt.
fn kernel(enforcement: bool, missing: &mut Vec<String>) {
    let attempts: &[(&str, &[&str])] = &[
        (
            "virtual Ethernet pairs (CONFIG_VETH)",
            &[
                "ip", "link", "add", "lbprobe0", "type", "veth", "peer", "name", "lbprobe1",
            ],
        ),
        (
            "Ethernet bridges (CONFIG_BRIDGE)",
            &["ip", "link", "add", "lbprobe2", "type", "bridge"],
        ),
        (
            "nftables (CONFIG_NF_TABLES)",
            &["nft", "add", "table", "inet", "lbprobe"],
        ),
        (
            "connection tracking (CONFIG_NF_CONNTRACK, CONFIG_NFT_CT)",
            &[
                "nft",
                "add table inet lbprobe; add chain inet lbprobe c; \
               add rule inet lbprobe c ct mark 1 accept",
            ],
        ),
        (
            "packet queues for iptables (CONFIG_NETFILTER_XT_TARGET_NFQUEUE)",
            &[
                "iptables",
                "-w",
                "-t",
                "raw",
                "-A",
                "PREROUTING",
                "-j",
                "NFQUEUE",
            ],
        ),
    ];
    let result = netns::inside_new(|| {
        let failed = |(_, line): &&(&str, &[&str])| {
            line.split_first()
                .is_some_and(|(tool, args)| netns::run(Command::new(tool).args(args)).is_err())
        };
        let wanted = if enforcement { attempts.len() } else { 2 };
        Ok(attempts[..wanted]
            .iter()
            .filter(failed)
            .map(|(feature, _)| *feature)
            .collect::<Vec<_>>())
    });
    let remedy = "use a kernel that has it, such as Debian's linux-image-amd64";
    match result {
        Ok(failed) => missing.extend(
            failed
                .iter()
                .map(|feature| format!("this kernel lacks {feature}: {remedy}")),
        ),
        Err(e) => missing.push(format!(
            "{e:#}: in a container, start it privileged or use a virtual machine"
        )),
    }
    if !enforcement {
        return;
    }
    let lists = |file: &str, word: &str| {
        fs::read_to_string(file).is_ok_and(|t| t.split_whitespace().any(|w| w == word))
    };
    if !lists("/proc/net/protocols", "XDP") {
        missing.push(format!(
            "this kernel lacks AF_XDP sockets (CONFIG_XDP_SOCKETS): {remedy}"
        ));
    }
    if !lists("/proc/filesystems", "bpf") {
        missing.push(format!(
            "this kernel lacks the bpf file system (CONFIG_BPF_SYSCALL): {remedy}"
        ));
    }
}

/// Refuses to touch namespaces of our names that this demo's journal does not know: they are
/// another demo's.
///
/// # Errors
/// A list of them, with the remedy.
pub fn check_names(plan: &Plan) -> Result<()> {
    let existing = netns::names();
    let infrastructure = plan.clusters.iter().flat_map(|c| {
        let nodes = c.nodes.iter().map(|n| &n.netns);
        nodes.chain([&c.lan, &c.gateway.netns])
    });
    let pods = plan.pods().map(|(_, pod)| &pod.netns);
    let taken: Vec<_> = infrastructure
        .chain(pods)
        .chain([&plan.wan])
        .filter(|name| existing.contains(*name))
        .map(String::as_str)
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    bail!(
        "these network namespaces exist already, and no demo in this state directory made them: \
         {}; nothing was changed.\nEnd the demo that made them (landbridge demo down --state \
         ITS-DIRECTORY), or remove each with ip netns delete NAME.",
        taken.join(", ")
    )
}
