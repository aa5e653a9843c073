//! What a gateway cannot run with is named, with the remedy, before anything is changed.

use std::{
    fs,
    net::UdpSocket,
    process::{Command, Stdio},
};

use crate::{
    namespaces::{Namespaces, root_or_skip},
    world::{FEDERATION, World},
};

/// A namespace whose interfaces each test makes as bad as it needs them.
struct Place {
    namespaces: Namespaces,
    directory: tempfile::TempDir,
}

impl Place {
    fn new(test: &str) -> Self {
        let place = Self {
            namespaces: Namespaces::new(test, &["gw", "far"]),
            directory: tempfile::tempdir().unwrap(),
        };
        let conf = place.directory.path().join("conf");
        fs::create_dir_all(conf.join("east")).unwrap();
        fs::create_dir(conf.join("west")).unwrap();
        fs::write(conf.join("federation.yaml"), FEDERATION).unwrap();
        place
    }

    /// Both interfaces as they should be.
    fn good(test: &str) -> Self {
        let place = Self::new(test);
        place.namespaces.join(("gw", "wan0"), ("far", "wan1"));
        place.namespaces.join(("gw", "lan0"), ("far", "lan1"));
        place.up();
        place
    }

    fn gw(&self, line: &str) {
        self.namespaces.ip("gw", line);
    }

    fn up(&self) {
        for (interface, address) in [("wan0", "192.0.2.1"), ("lan0", "172.16.1.1")] {
            self.gw(&format!("addr add {address}/24 dev {interface}"));
            self.gw(&format!("link set {interface} up"));
        }
    }

    /// What a gateway says that runs inside `wrapper`, a command with arguments, and does not start.
    fn refused_in(&self, wrapper: &str) -> String {
        let file = self.directory.path().join("east.yaml");
        let (conf, state) = (self.directory.path().join("conf"), self.state());
        let (conf, state) = (conf.display(), state.display());
        let text = format!(
            "cluster: east\nname: gw1\nsource: {{folder: {conf}}}\nstateDir: {state}\n\
             wan: {{interface: wan0, address: 192.0.2.1}}\n\
             lan: {{interface: lan0, address: 172.16.1.1}}\nmetrics: 127.0.0.1:9464\n"
        );
        fs::write(&file, text).unwrap();
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.namespaces.name("gw")))
            .args(wrapper.split_whitespace())
            .args([env!("CARGO_BIN_EXE_landbridge-gateway"), "run", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success());
        let said = String::from_utf8(output.stderr).unwrap();
        let links = self.namespaces.ip("gw", "link show");
        assert!(!links.contains("xdp"), "{links}");
        let bpf = self.state().join("bpf");
        let pins = fs::read_dir(bpf).map_or(0, Iterator::count);
        assert_eq!(pins, 0, "pinned or mounted");
        said
    }

    /// The same, and it left no trace at all.
    fn refused_untouched_in(&self, wrapper: &str) -> String {
        let said = self.refused_in(wrapper);
        assert!(!self.state().exists(), "{said}");
        said
    }

    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }
}

#[track_caller]
fn holds(said: &str, all: &[&str]) {
    for words in all {
        assert!(said.contains(words), "{words:?} in:\n{said}");
    }
}

#[test]
fn rights_limits_and_kernels_are_looked_at_first() {
    if !root_or_skip() {
        return;
    }
    let place = Place::good("bad-proc");
    // Root by name only.
    let said = place.refused_untouched_in("setpriv --bounding-set=-all --inh-caps=-all");
    holds(
        &said,
        &[
            "this process lacks CAP_NET_ADMIN (to attach to interfaces), CAP_NET_RAW (to open \
             AF_XDP sockets), CAP_BPF (to load the steering program), CAP_SYS_ADMIN (to mount a \
             BPF file system)",
            "run it as root or with these capabilities",
            "mount -t bpf bpffs",
        ],
    );
    let said = place.refused_untouched_in("setpriv --bounding-set=-sys_admin --inh-caps=-all");
    holds(&said, &["this process lacks CAP_SYS_ADMIN (to mount"]);
    let said = place.refused_untouched_in(
        "prlimit --memlock=65536 setpriv --bounding-set=-ipc_lock --inh-caps=-all",
    );
    holds(
        &said,
        &[
            "MiB of packet memory must be locked and the limit is 64 KiB",
            "give the process CAP_IPC_LOCK, or raise the limit",
        ],
    );
    let said = place.refused_untouched_in("setarch --uname-2.6");
    holds(&said, &["the kernel is 2.6.", "5.10 is needed", "newer"]);
    let name = place.namespaces.name("gw");
    let said = place.refused_untouched_in(&format!("ip netns exec {name}"));
    holds(
        &said,
        &[
            "mounts of this process vanish with it",
            "enter a network namespace by `nsenter --net=`",
        ],
    );
}

#[test]
fn interfaces_are_looked_at_all_at_once() {
    if !root_or_skip() {
        return;
    }
    let place = Place::new("bad-nic");
    let far = place.namespaces.name("far");
    // No driver XDP on the one, all that a veth can have against it on the other.
    place.gw("link add wan0 type bridge");
    place.gw(&format!(
        "link add lan0 numrxqueues 65 numtxqueues 1 mtu 9000 type veth \
         peer name lan1 netns {far} numrxqueues 65 numtxqueues 65 mtu 9000"
    ));
    place.up();
    let said = place.refused_untouched_in("env");
    holds(
        &said,
        &[
            "the driver of wan0 has no XDP with redirection. Remedy: set `xdpMode: skb`",
            "the MTU of lan0 is 9000, at most 3504 is possible. Remedy: `ip link set dev lan0 mtu",
            "lan0 has 65 receive queues, 64 can be served",
            "lan0 has 65 receive and 1 transmit queues",
            "lan0 has 65 receive queues and wan0 has 1",
        ],
    );
    place.gw("link del wan0");
    let said = place.refused_untouched_in("env");
    holds(&said, &["there is no network interface \"wan0\""]);
}

#[test]
fn what_only_the_nic_knows_is_taken_back() {
    if !root_or_skip() {
        return;
    }
    // The far ends lie in another namespace, where nobody can look beforehand.
    let place = Place::new("bad-far");
    let far = place.namespaces.name("far");
    place.namespaces.join(("gw", "lan0"), ("far", "lan1"));
    place.gw(&format!(
        "link add wan0 numrxqueues 1 numtxqueues 1 type veth \
         peer name wan1 netns {far} numrxqueues 2 numtxqueues 2"
    ));
    place.up();
    let said = place.refused_in("env");
    holds(
        &said,
        &[
            "wan0 has 1 receive queues and its veth peer transmits on more",
            "numrxqueues",
        ],
    );
    place.gw("link del wan0");
    place.namespaces.join(("gw", "wan0"), ("far", "wan1"));
    place.namespaces.ip("far", "link set wan1 mtu 9000");
    place.gw("addr add 192.0.2.1/24 dev wan0");
    place.gw("link set wan0 up");
    let said = place.refused_in("env");
    holds(
        &said,
        &[
            "the MTU of wan0 or of its veth peer is too large for XDP",
            "`ip link set dev wan0 mtu 3498`, and the same on its peer",
        ],
    );
}

#[test]
fn an_address_that_is_taken_or_another_machines_is_named() {
    if !root_or_skip() {
        return;
    }
    let place = Place::good("bad-addr");
    let holder = place
        .namespaces
        .within("gw", || UdpSocket::bind("172.16.1.1:4434").unwrap());
    let said = place.refused_untouched_in("env");
    holds(
        &said,
        &["lan.nodePort: cannot listen on 172.16.1.1:4434: Address already in use"],
    );
    drop(holder);
    place.gw("addr del 192.0.2.1/24 dev wan0");
    let said = place.refused_untouched_in("env");
    holds(
        &said,
        &["wan.quicPort: cannot listen on 192.0.2.1:4433: Cannot assign requested address"],
    );
}

#[test]
fn an_interface_that_another_program_has_is_left_to_it() {
    if !root_or_skip() {
        return;
    }
    let world = World::new("bad-other");
    let east = world.start("east");
    east.until("ready", |status| status["ready"] == true);
    let file = world.path("east.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let state = world.path("other");
    let text = text.replace(
        &format!("stateDir: {}", world.path("east").display()),
        &format!("stateDir: {}", state.display()),
    );
    fs::write(&file, text).unwrap();
    let mut second = world.start("east");
    assert!(!second.child.wait().unwrap().success());
    let log = fs::read_to_string(world.path("east.log")).unwrap();
    holds(
        &log,
        &[
            "another XDP program is attached to lan0. Remedy: stop the process that attached it",
            "another XDP program is attached to wan0",
        ],
    );
    assert!(!state.exists());
    east.until("still ready", |status| status["ready"] == true);
    east.terminate();
}
