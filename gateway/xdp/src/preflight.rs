//! What would go wrong, found before anything is changed, with what to do about it.

use std::{
    ffi::OsStr,
    fmt, fs,
    path::{Path, PathBuf},
};

use nix::sys::{
    resource::{Resource, getrlimit},
    utsname::uname,
};

use crate::{
    AttachMode, FramePool, Nic, XdpError,
    attach::{pinned_link, too_few_queues},
    bpffs::{BpfFs, StateLock},
    features::driver_redirects,
    steer::MAX_QUEUES,
    sys,
};

/// What a gateway is about to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its state directory.
    pub state: PathBuf,
    /// The names of its interfaces.
    pub interfaces: Vec<String>,
    /// Where the steering program shall run.
    pub mode: AttachMode,
    /// Bytes of packet memory in all.
    pub memory: u64,
}

/// Something that keeps a gateway from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. Remedy: {}", self.what, self.remedy)
    }
}

/// Everything that stands against `plan`. Nothing is changed, and an empty list is no promise: a
/// driver may still refuse.
#[must_use]
pub fn preflight(plan: &Plan) -> Vec<Problem> {
    let mut problems = Problems::default();
    problems.process(plan);
    problems.state_directory(plan);
    let mut nics = Vec::new();
    for name in &plan.interfaces {
        match Nic::query(name) {
            Ok(nic) => nics.push(nic),
            Err(e) => problems.error(e),
        }
    }
    for nic in &nics {
        problems.nic(plan, nic);
    }
    problems.queues(&nics);
    problems.0
}

/// The oldest kernel with all that is used: bpf links for XDP (5.9), a UMEM shared by queues of
/// several NICs (5.10).
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// The largest MTU of a veth whose program takes packets in one buffer: a page less headroom (258),
/// Ethernet (14) and `skb_shared_info` (320).
const VETH_MAX_MTU: u32 = 3504;

// include/uapi/linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Problem {
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    fn error(&mut self, error: XdpError) {
        match error {
            XdpError::Misconfigured { what, remedy } => self.add(what, remedy),
            other => self.add(other.to_string(), "see the kernel's log (`dmesg`)"),
        }
    }

    fn process(&mut self, plan: &Plan) {
        let release = uname().map(|name| name.release().to_string_lossy().into_owned());
        let release = release.unwrap_or_default();
        if kernel_version(&release).is_none_or(|version| version < OLDEST_KERNEL) {
            let (major, minor) = OLDEST_KERNEL;
            self.add(
                format!(
                    "the kernel is {}, {major}.{minor} is needed",
                    release.trim()
                ),
                "run a newer kernel",
            );
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let capabilities = effective_capabilities(&status).unwrap_or(0);
        let has = |cap: u32| capabilities >> cap & 1 == 1;
        let mut missing = Vec::new();
        for (cap, name, why) in [
            (CAP_NET_ADMIN, "CAP_NET_ADMIN", "attach to interfaces"),
            (CAP_NET_RAW, "CAP_NET_RAW", "open AF_XDP sockets"),
            (CAP_BPF, "CAP_BPF", "load the steering program"),
        ] {
            let held = has(cap) || (cap == CAP_BPF && has(CAP_SYS_ADMIN));
            if !held {
                missing.push(format!("{name} (to {why})"));
            }
        }
        if !has(CAP_SYS_ADMIN) && !BpfFs::is_mounted(&BpfFs::place(&plan.state)) {
            missing.push("CAP_SYS_ADMIN (to mount a BPF file system)".into());
        }
        if !missing.is_empty() {
            self.add(
                format!("this process lacks {}", missing.join(", ")),
                format!(
                    "run it as root or with these capabilities; without CAP_SYS_ADMIN mount one \
                     first: `mount -t bpf bpffs {} -o mode=0700`",
                    BpfFs::place(&plan.state).display()
                ),
            );
        }
        if let Err(e) = sys::open()
            && e.raw_os_error() == Some(libc::EAFNOSUPPORT)
        {
            self.add(
                "this kernel has no AF_XDP sockets",
                "run a kernel with CONFIG_XDP_SOCKETS, as distributions build it",
            );
        }
        if !has(CAP_IPC_LOCK) {
            let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
            if limit < plan.memory {
                self.add(
                    format!(
                        "{} MiB of packet memory must be locked and the limit is {} KiB",
                        plan.memory >> 20,
                        limit >> 10
                    ),
                    "give the process CAP_IPC_LOCK, or raise the limit (`ulimit -l`, \
                     `LimitMEMLOCK=`)",
                );
            }
        }
    }

    fn state_directory(&mut self, plan: &Plan) {
        // Taking the lock makes the directory; a directory that is not there has no holder.
        if plan.state.exists()
            && let Err(e) = StateLock::take(&plan.state)
        {
            self.error(e);
        }
        let place = BpfFs::place(&plan.state);
        if !BpfFs::is_mounted(&place) && mounts_die_with_us() {
            self.add(
                "mounts of this process vanish with it (it runs in a mount namespace of its own), \
                 and the attachment with them: a crash would let the kernel route in clear",
                format!(
                    "enter a network namespace by `nsenter --net=` instead of `ip netns exec`, or \
                     mount `{}` from outside first: `mount -t bpf bpffs {0} -o mode=0700`",
                    place.display()
                ),
            );
        }
    }

    fn nic(&mut self, plan: &Plan, nic: &Nic) {
        let name = &nic.name;
        let limit = match (nic.is_veth(), plan.mode) {
            (true, AttachMode::Driver) => VETH_MAX_MTU,
            _ => FramePool::MAX_MTU,
        };
        let peer = nic.peer.and_then(|index| Nic::query_index(index).ok());
        for nic in std::iter::once(nic).chain(&peer) {
            if nic.mtu > limit {
                self.add(
                    format!(
                        "the MTU of {} is {}, at most {limit} is possible",
                        nic.name, nic.mtu
                    ),
                    format!("`ip link set dev {} mtu {limit}`", nic.name),
                );
            }
        }
        if plan.mode == AttachMode::Driver {
            // Kernels before 6.3 do not tell; the attachment will.
            let no_xdp = driver_redirects(nic.index).is_ok_and(|redirects| !redirects);
            if let Some(peer) = peer.filter(|p| p.tx_queues > nic.rx_queues) {
                self.add(
                    format!(
                        "{name} has {} receive queues and its veth peer {} transmits on {}",
                        nic.rx_queues, peer.name, peer.tx_queues
                    ),
                    format!(
                        "`ethtool -L {name} rx {0}` or `ethtool -L {1} tx {2}`",
                        peer.tx_queues, peer.name, nic.rx_queues
                    ),
                );
            } else if no_xdp && nic.is_veth() {
                // The one reason for which a veth says so; its far end is where we cannot look.
                let (what, remedy) = too_few_queues(nic);
                self.add(what, remedy);
            } else if no_xdp {
                self.add(
                    format!("the driver of {name} has no XDP with redirection"),
                    "set `xdpMode: skb` for the interface (slower), or use another NIC",
                );
            }
        }
        if nic.rx_queues > MAX_QUEUES {
            self.add(
                format!(
                    "{name} has {} receive queues, {MAX_QUEUES} can be served",
                    nic.rx_queues
                ),
                format!("`ethtool -L {name} rx {MAX_QUEUES} tx {MAX_QUEUES}`"),
            );
        }
        if nic.tx_queues < nic.rx_queues {
            self.add(
                format!(
                    "{name} has {} receive and {} transmit queues",
                    nic.rx_queues, nic.tx_queues
                ),
                format!("`ethtool -L {name} rx {0} tx {0}`", nic.tx_queues),
            );
        }
        let pin = BpfFs::place(&plan.state).join(name).join("link");
        if nic.program.is_some() && pinned_link(&pin, nic).is_none() {
            self.add(
                format!("another XDP program is attached to {name}"),
                format!("stop the process that attached it, or `ip link set dev {name} xdp off`"),
            );
        }
        if nic.mac == [0; 6] {
            self.add(
                format!("{name} has no Ethernet address"),
                "name an Ethernet interface in the configuration",
            );
        }
    }

    /// One thread owns queue N of every interface, so all have the same queues.
    fn queues(&mut self, nics: &[Nic]) {
        for pair in nics.windows(2) {
            let [a, b] = pair else { continue };
            if a.rx_queues != b.rx_queues {
                self.add(
                    format!(
                        "{} has {} receive queues and {} has {}",
                        a.name, a.rx_queues, b.name, b.rx_queues
                    ),
                    format!(
                        "give both the same number: `ethtool -L {} ...`, `ethtool -L {} ...`",
                        a.name, b.name
                    ),
                );
            }
        }
    }
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `CapEff` of /proc/self/status.
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Whether this process has a mount namespace that ends with it. `ip netns exec` makes one, in which
/// /sys carries the name of the network namespace; a service manager may too.
fn mounts_die_with_us() -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/mnt")).ok();
    // PID 1 may be hidden from us; then only the trace of `ip netns exec` is looked for.
    let apart =
        matches!((namespace("self"), namespace("1")), (Some(own), Some(first)) if own != first);
    apart || sysfs_source().is_some_and(|source| Path::new("/run/netns").join(source).exists())
}

/// The source of the topmost mount on /sys (proc(5), mountinfo: after `-`, type and source).
fn sysfs_source() -> Option<std::ffi::OsString> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = mounts.lines().rev().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        let on_sys = place.split(' ').nth(4) == Some("/sys");
        on_sys.then(|| what.split(' ').nth(1))?
    })?;
    Some(OsStr::new(source).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(kernel_version("6.1.0-18-amd64\n"), Some((6, 1)));
        assert_eq!(kernel_version("5.10-rc1"), Some((5, 10)));
        assert!(kernel_version("5.9.16") < Some(OLDEST_KERNEL));
        assert_eq!(kernel_version("what"), None);
    }

    #[test]
    fn capabilities_are_read() {
        let status = "Name:\tx\nCapEff:\t0000008000003000\n";
        assert_eq!(
            effective_capabilities(status),
            Some(1 << 39 | 1 << 13 | 1 << 12)
        );
        assert_eq!(effective_capabilities("CapPrm:\t1\n"), None);
    }

    #[test]
    fn every_problem_comes_with_a_remedy_and_nothing_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        let plan = Plan {
            state: state.clone(),
            interfaces: vec!["lo".into(), "lb-nothing".into()],
            mode: AttachMode::Driver,
            memory: 64 << 20,
        };
        let problems = preflight(&plan);
        let has = |what: &str| problems.iter().any(|p| p.to_string().contains(what));
        assert!(has("no network interface \"lb-nothing\""), "{problems:#?}");
        assert!(has("lo has no Ethernet address"), "{problems:#?}");
        assert!(has("the MTU of lo is 65536"), "{problems:#?}");
        assert!(problems.iter().all(|p| !p.remedy.is_empty()));
        assert!(!state.exists());
    }
}
