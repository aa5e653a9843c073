//! Two gateways as processes, in namespaces.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use quic::SecretHash;
use serde_json::{Value, json};

use crate::namespaces::Namespaces;

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const SECRET: &[u8] = b"a secret of node1";

/// East and west, joined on the WAN side, each with one node whose pod's address is on loopback.
pub struct World {
    pub namespaces: Namespaces,
    directory: tempfile::TempDir,
}

impl World {
    pub fn new(test: &str) -> Self {
        let names = ["east", "west", "east-node", "west-node"];
        let world = Self {
            namespaces: Namespaces::new(test, &names),
            directory: tempfile::tempdir().unwrap(),
        };
        let n = &world.namespaces;
        n.join(("east", "wan0"), ("west", "wan0"));
        for (i, cluster) in [(1, "east"), (2, "west")] {
            let node = format!("{cluster}-node");
            n.join((cluster, "lan0"), (&node, "up0"));
            n.ip(cluster, &format!("addr add 192.0.2.{i}/24 dev wan0"));
            n.ip(cluster, "link set wan0 up");
            n.ip(cluster, &format!("addr add 172.16.{i}.1/24 dev lan0"));
            n.ip(cluster, "link set lan0 up");
            n.ip(
                cluster,
                &format!("route add 10.{i}.1.0/24 via 172.16.{i}.11"),
            );
            n.run(cluster, "sysctl -qw net.ipv4.ip_forward=1");
            n.run(cluster, "ethtool -K wan0 tx off");
            n.ip(&node, &format!("addr add 172.16.{i}.11/24 dev up0"));
            n.ip(&node, &format!("addr add 10.{i}.1.10/32 dev lo"));
            n.ip(&node, "link set up0 up");
            n.ip(
                &node,
                &format!("route add default via 172.16.{i}.1 src 10.{i}.1.10"),
            );
            n.run(&node, "ethtool -K up0 tx off");
        }
        // What a kernel that forwards in clear would do with a packet from east to west.
        n.ip("east", "route add 10.2.0.0/16 via 192.0.2.2");
        world.write("federation.yaml", FEDERATION);
        for cluster in ["east", "west"] {
            fs::create_dir(world.path("conf").join(cluster)).unwrap();
            world.write(&format!("{cluster}/pods.yaml"), PODS);
        }
        for cluster in ["east", "west"] {
            world.configure(cluster, "");
        }
        let pins = ["east", "west"].map(|cluster| world.init(cluster));
        world.configure("east", &peer("west", 2, &pins[1]));
        world.configure("west", &peer("east", 1, &pins[0]));
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path("conf").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn configure(&self, cluster: &str, peers: &str) {
        let i = number(cluster);
        let (conf, state) = (self.path("conf"), self.path(cluster));
        let (conf, state) = (conf.display(), state.display());
        let hash = SecretHash::of(SECRET);
        let text = format!(
            "cluster: {cluster}\nname: gw1\nsource: {{folder: {conf}}}\nstateDir: {state}\n\
             wan: {{interface: wan0, address: 192.0.2.{i}}}\n\
             lan: {{interface: lan0, address: 172.16.{i}.1}}\nmetrics: 127.0.0.1:9464\n\
             peers: [{peers}]\nnodes: [{{name: node1, address: 172.16.{i}.11, enrolSecretHash: \
             \"{hash}\"}}]\n"
        );
        fs::write(self.path(&format!("{cluster}.yaml")), text).unwrap();
    }

    pub fn init(&self, cluster: &str) -> String {
        self.try_init(cluster, cluster).unwrap()
    }

    /// The pin of the gateway of `cluster`, whose program runs where that of `at` does, or what it says.
    pub fn try_init(&self, cluster: &str, at: &str) -> Result<String, String> {
        let output = self
            .gateway(at)
            .args(["init", "--config"])
            .arg(self.path(&format!("{cluster}.yaml")))
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        Ok(answer["rootPin"].as_str().unwrap().into())
    }

    pub fn start(&self, cluster: &str) -> Gateway<'_> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{cluster}.log")))
            .unwrap();
        self.start_with(cluster, Stdio::from(log))
    }

    /// Starts a gateway that writes its log to `stderr`.
    pub fn start_with(&self, cluster: &str, stderr: Stdio) -> Gateway<'_> {
        let child = self
            .gateway(cluster)
            .args(["run", "--config"])
            .arg(self.path(&format!("{cluster}.yaml")))
            .env("NO_COLOR", "1")
            .stderr(stderr)
            .spawn()
            .unwrap();
        Gateway {
            world: self,
            cluster: cluster.into(),
            child,
        }
    }

    /// Runs the gateway's program where the gateway of `cluster` is.
    fn gateway(&self, cluster: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!(
                "--net=/run/netns/{}",
                self.namespaces.name(cluster)
            ))
            .arg(env!("CARGO_BIN_EXE_landbridge-gateway"));
        command
    }

    /// Waits until `holds`.
    pub fn until(&self, what: &str, holds: impl Fn() -> bool) {
        Self::until_within(PATIENCE, what, holds);
    }

    /// Waits so long until `holds`.
    pub fn until_within(patience: Duration, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + patience;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Tries to connect from east's pod to west's, with a SYN that proves nothing.
    pub fn plain_connect(&self) -> std::io::Result<TcpStream> {
        self.namespaces.within("east-node", || {
            let to: SocketAddr = "10.2.1.10:80".parse().unwrap();
            TcpStream::connect_timeout(&to, Duration::from_millis(1500))
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for cluster in ["east", "west"] {
            if thread::panicking() {
                let log = fs::read_to_string(self.path(&format!("{cluster}.log")));
                eprintln!("== {cluster}\n{}", log.unwrap_or_default());
            }
            let place = self.path(cluster).join("bpf");
            let _ = nix::mount::umount2(&place, nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

/// A running process, killed at the latest when dropped.
pub struct Gateway<'w> {
    world: &'w World,
    cluster: String,
    pub child: Child,
}

impl Gateway<'_> {
    pub fn ask(&self, request: &Value) -> Option<Value> {
        let socket = self.world.path(&self.cluster).join("admin.sock");
        let mut stream = UnixStream::connect(socket).ok()?;
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    pub fn status(&self) -> Value {
        self.ask(&json!({"op": "status"})).unwrap_or(Value::Null)
    }

    /// Waits until the status is as `wanted` says.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{}: {what}: {status:#}",
                self.cluster
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn until_connected(&self) -> Value {
        self.until("connected, with a tunnel", |status| {
            let peer = &status["peers"][0];
            status["ready"] == true
                && peer["connected"] == true
                && peer["tunnel_send"] == 1
                && peer["digest_sequence"] != Value::Null
        })
    }

    pub fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, signal).unwrap();
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(mut self) {
        self.signal(Signal::SIGTERM);
        assert!(self.child.wait().unwrap().success(), "a clean exit");
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        // An error says that it ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the HTTP endpoint of `cluster`'s gateway answers.
pub fn http(world: &World, cluster: &str, path: &str) -> String {
    let mut stream = world
        .namespaces
        .within(cluster, || TcpStream::connect("127.0.0.1:9464").unwrap());
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn number(cluster: &str) -> u8 {
    if cluster == "east" { 1 } else { 2 }
}

pub fn peer(cluster: &str, i: u8, pin: &str) -> String {
    format!("{{cluster: {cluster}, endpoint: \"192.0.2.{i}:4433\", rootPin: \"{pin}\"}}")
}

pub const FEDERATION: &str = "
apiVersion: landbridge.io/v1alpha1
kind: Federation
metadata: {name: two}
spec:
  clusters:
  - {name: east, trustDomain: east.example, podRanges: [{id: 1, cidr: 10.1.0.0/16}], nodes: [node1]}
  - {name: west, trustDomain: west.example, podRanges: [{id: 1, cidr: 10.2.0.0/16}], nodes: [node1]}
";

pub const PODS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: front, namespace: shop, labels: {app: front}}
spec: {serviceAccountName: web, nodeName: node1, containers: [{name: c, image: x}]}
";
