//! Two nodes and their pods as network namespaces, and an agent with a made-up enforcer in each.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

pub mod agent;
pub mod binary;
pub mod fake;
pub mod gateway;
pub mod nodes;
pub mod syn;
pub mod talk;

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

/// How long a connection may take that should come about, and how long we wait for one that should
/// not: more than one SYN retransmission.
pub const SOON: Duration = Duration::from_secs(5);
pub const REFUSED: Duration = Duration::from_millis(1500);

/// False when this machine cannot run the test; said loudly, and a failure in CI.
pub fn can_run() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "these tests need root"
    );
    eprintln!("\n*** SKIPPED: this test needs root and network namespaces ***\n");
    false
}

/// A network namespace that goes away with its value.
pub struct Netns {
    pub name: String,
}

impl Netns {
    pub fn new(part: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lbt-agent-{}-{count}-{part}", std::process::id());
        sh(&format!("ip netns add {name}"));
        let netns = Self { name };
        netns.sh("ip link set lo up");
        netns
    }

    /// Runs `work` on a thread inside.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let file = File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// Runs a command inside; panics when it fails.
    pub fn sh(&self, command: &str) -> String {
        sh(&format!("nsenter --net={} {command}", self.path()))
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    pub fn listen(&self, port: u16) -> TcpListener {
        self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
    }

    pub fn connect(&self, to: &str, timeout: Duration) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| TcpStream::connect_timeout(&to, timeout))
    }

    /// From a port that is chosen here.
    pub fn connect_from(
        &self,
        port: u16,
        to: &str,
        timeout: Duration,
    ) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
            socket.connect_timeout(&to.into(), timeout)?;
            Ok(socket.into())
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("was in namespace {} (removed now)", self.name);
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

pub fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Two nodes on one link. `a` and `b` are pods of the first, `c` of the second.
pub struct World {
    pub a: Netns,
    pub b: Netns,
    pub c: Netns,
    pub node1: Netns,
    pub node2: Netns,
    pub state: tempfile::TempDir,
}

pub const A: &str = "10.1.1.10";
pub const B: &str = "10.1.1.11";
pub const C: &str = "10.1.2.10";
pub const NODE1: &str = "172.16.1.11";
pub const NODE2: &str = "172.16.1.12";

impl World {
    /// Pods by interfaces of their own.
    pub fn routed() -> Self {
        let world = Self::nodes();
        routed_pod(&world.node1, "vetha", &world.a, A);
        routed_pod(&world.node1, "vethb", &world.b, B);
        routed_pod(&world.node2, "vethc", &world.c, C);
        world
    }

    /// The pods of the first node on a bridge.
    pub fn bridged() -> Self {
        let world = Self::nodes();
        let node = &world.node1;
        node.sh("ip link add br0 type bridge");
        node.sh("ip addr add 10.1.1.1/24 dev br0");
        node.sh("ip link set br0 up");
        for (port, pod, address) in [("vetha", &world.a, A), ("vethb", &world.b, B)] {
            pair(node, port, pod);
            node.sh(&format!("ip link set {port} master br0"));
            pod.sh(&format!("ip addr add {address}/24 dev eth0"));
            pod.sh("ip route add default via 10.1.1.1");
        }
        routed_pod(&world.node2, "vethc", &world.c, C);
        world
    }

    fn nodes() -> Self {
        let world = Self {
            a: Netns::new("a"),
            b: Netns::new("b"),
            c: Netns::new("c"),
            node1: Netns::new("n1"),
            node2: Netns::new("n2"),
            state: tempfile::tempdir().unwrap(),
        };
        sh(&format!(
            "ip link add up0 netns {} type veth peer name up0 netns {}",
            world.node1.name, world.node2.name
        ));
        for (node, own, other, pods) in [
            (&world.node1, NODE1, NODE2, "10.1.2.0/24"),
            (&world.node2, NODE2, NODE1, "10.1.1.0/24"),
        ] {
            node.sh("sysctl -qw net.ipv4.ip_forward=1");
            node.sh(&format!("ip addr add {own}/24 dev up0"));
            node.sh("ip link set up0 up");
            node.sh(&format!("ip route add {pods} via {other}"));
        }
        world
    }
}

fn pair(node: &Netns, link: &str, pod: &Netns) {
    sh(&format!(
        "ip link add {link} netns {} type veth peer name eth0 netns {}",
        node.name, pod.name
    ));
    node.sh(&format!("ip link set {link} up"));
    pod.sh("ip link set eth0 up");
}

fn routed_pod(node: &Netns, link: &str, pod: &Netns, address: &str) {
    pair(node, link, pod);
    node.sh(&format!("ip link set {link} address ee:ee:ee:ee:ee:ee"));
    node.sh(&format!("ip route add {address}/32 dev {link}"));
    pod.sh(&format!("ip addr add {address}/32 dev eth0"));
    pod.sh("ip route add 169.254.1.1 dev eth0 scope link");
    pod.sh("ip route add default via 169.254.1.1");
    pod.sh("ip neigh add 169.254.1.1 lladdr ee:ee:ee:ee:ee:ee dev eth0");
}
