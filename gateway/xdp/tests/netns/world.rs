//! Namespaces made and removed by the test itself.
//!
//! ```text
//!   <prefix>-peer                         <prefix>-gw
//!   p0 192.0.2.2/24, fd00::2/64  <veth>  x0 192.0.2.1/24, fd00::1/64   (XDP)
//!                                         out0, route 10.2.0.0/16: what the kernel would forward in
//!                                         clear
//! ```

use std::{
    fs::File,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// How long anything may take before the test says that it did not happen.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Two network namespaces joined by a veth, and a state directory.
pub struct World {
    pub peer: String,
    pub gateway: String,
    pub state: tempfile::TempDir,
}

impl World {
    /// `None`, said loudly, without root; under CI that is a failure.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "network namespaces need root"
            );
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("lbt-xdp-{}-{number}", std::process::id());
        let world = Self {
            peer: format!("{prefix}-peer"),
            gateway: format!("{prefix}-gw"),
            state: tempfile::tempdir().unwrap(),
        };
        let (peer, gateway) = (&world.peer, &world.gateway);
        ip(&format!("netns add {peer}"));
        ip(&format!("netns add {gateway}"));
        ip(&format!(
            "link add x0 netns {gateway} type veth peer name p0 netns {peer}"
        ));
        ip(&format!(
            "-n {gateway} link add out0 type veth peer name out1"
        ));
        // The kernel's own chatter would count as forwarded.
        world.run(gateway, "sysctl -qw net.ipv6.conf.out0.disable_ipv6=1");
        world.run(gateway, "sysctl -qw net.ipv4.ip_forward=1");
        for line in [
            "link set out0 up",
            "link set out1 up",
            "addr add 192.0.2.1/24 dev x0",
            "addr add fd00::1/64 dev x0 nodad",
            "link set x0 up",
            "addr add 203.0.113.1/24 dev out0",
            "neigh add 203.0.113.2 lladdr 02:00:00:00:00:07 dev out0",
            "route add 10.2.0.0/16 via 203.0.113.2",
        ] {
            ip(&format!("-n {gateway} {line}"));
        }
        for line in [
            "addr add 192.0.2.2/24 dev p0",
            "link set p0 addrgenmode none",
            "link set p0 up",
            "route add 10.2.0.0/16 via 192.0.2.1",
        ] {
            ip(&format!("-n {peer} {line}"));
        }
        // XDP sees packets before a checksum that was left to hardware is filled in.
        world.run(&world.peer, "ethtool -K p0 tx off");
        Some(world)
    }

    /// The state directory of the gateway.
    pub fn state(&self) -> PathBuf {
        self.state.path().join("gw")
    }

    /// Runs `f` on a thread inside `namespace`.
    pub fn within<T: Send>(&self, namespace: &str, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    enter(namespace);
                    f()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A UDP socket of `namespace` that gives up after [`PATIENCE`].
    pub fn udp(&self, namespace: &str, address: &str) -> UdpSocket {
        let socket = self.within(namespace, || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Runs a command line inside `namespace`.
    pub fn run(&self, namespace: &str, line: &str) {
        ip(&format!("netns exec {namespace} {line}"));
    }

    /// Waits until the gateway's kernel has forwarded so many packets in clear, and no more.
    pub fn until_forwarded(&self, count: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.forwarded_in_clear() < count && Instant::now() < deadline {
            thread::yield_now();
        }
        assert_eq!(self.forwarded_in_clear(), count);
    }

    /// Packets that the gateway's kernel forwarded in clear.
    pub fn forwarded_in_clear(&self) -> u64 {
        let counters = self.within(&self.gateway, || {
            std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
        });
        let line = counters
            .lines()
            .find_map(|l| l.trim().strip_prefix("out0:"))
            .unwrap();
        // /proc/net/dev: eight columns of receipt, then bytes and packets sent.
        line.split_whitespace().nth(9).unwrap().parse().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the namespaces were {} and {}", self.peer, self.gateway);
        }
        for state in ["gw", "other"] {
            let place = self.state.path().join(state).join("bpf");
            let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
        }
        for name in [&self.peer, &self.gateway] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Moves the calling thread into the network namespace `name`.
pub fn enter(name: &str) {
    let file = File::open(Path::new("/run/netns").join(name)).unwrap();
    setns(file, CloneFlags::CLONE_NEWNET).unwrap();
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split(' ')).output().unwrap();
    assert!(
        output.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
