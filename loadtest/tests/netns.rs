//! Raw packets between two namespaces of this test: what a flood sends is what a wire shows.
#![allow(clippy::unwrap_used)]

use std::{
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use landbridge_netns::possible;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_landbridge-loadtest");

/// Two namespaces with a link between them; removed when dropped.
struct Pair([String; 2]);

impl Pair {
    fn new(name: &str) -> Self {
        let own = format!("lbt-loadtest-{}-{name}", std::process::id());
        let pair = ["a", "b"].map(|end| format!("{own}-{end}"));
        let [a, b] = &pair;
        let mut commands = vec![format!("netns add {a}"), format!("netns add {b}")];
        commands.push(format!(
            "-n {a} link add to-b type veth peer name to-a netns {b}"
        ));
        for (name, link, address) in [(a, "to-b", "198.18.0.1"), (b, "to-a", "198.18.0.2")] {
            commands.push(format!("-n {name} address add {address}/24 dev {link}"));
            commands.push(format!("-n {name} link set {link} up"));
        }
        let made = Self(pair.clone());
        for command in commands {
            let output = Command::new("ip")
                .args(command.split(' '))
                .output()
                .unwrap();
            assert!(output.status.success(), "{command}: {output:?}");
        }
        made
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn flood(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["flood", "198.18.0.2:8080", "-o", "json"]);
    command.args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn forged_syns_cross_the_wire_and_can_be_recorded_and_played_again() {
    if !possible("the flood").unwrap() {
        return;
    }
    let pair = Pair::new("flood");
    let [a, b] = &pair.0;
    // Records five of the forged ones at the far end, and plays them from the near one.
    let replayed = flood(&["--kind", "replayed", "--rate", "1000", "-d", "100ms"])
        .args([
            "--netns",
            a,
            "--record",
            b,
            "--record-count",
            "5",
            "--record-for",
            "30s",
        ])
        .spawn()
        .unwrap();
    let forged = flood(&[
        "--kind",
        "forged",
        "--rate",
        "200",
        "-d",
        "1h",
        "--source",
        "198.18.0.64/26",
    ])
    .args(["--netns", a])
    .spawn()
    .unwrap();
    let replayed = replayed.wait_with_output().unwrap();
    let pid = rustix::process::Pid::from_child(&forged);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let forged = forged.wait_with_output().unwrap();
    assert_eq!(forged.status.code(), Some(130));
    let stderr = String::from_utf8_lossy(&replayed.stderr);
    assert!(stderr.contains("5 SYNs with a HELLO recorded"), "{stderr}");
    let report = report(&replayed);
    assert_eq!(report["failed"], serde_json::json!({}));
    let sent = report["succeeded"].as_u64().unwrap();
    // Fewer than a hundred on a busy machine.
    assert!((1..=100).contains(&sent), "{sent}");
}

#[test]
fn what_a_flood_cannot_do_is_explained() {
    for (arguments, remedy) in [
        (&["--kind", "replayed"][..], "--pcap"),
        (&["--kind", "valid", "--pcap", "x"], "leave --pcap"),
        (
            &["--kind", "forged", "--pcap", "/etc/hostname"],
            "no capture",
        ),
        (
            &["--kind", "forged", "--source", "10.1"],
            "IPv4 address or prefix",
        ),
    ] {
        let output = flood(arguments).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr.contains(remedy), "{arguments:?}: {stderr}");
    }
    let public = Command::new(PROGRAM)
        .args(["flood", "8.8.8.8:53", "--kind", "forged"])
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&public.stderr);
    assert!(stderr.contains("--allow-public"), "{stderr}");
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Running {
    fn start(netns: &str, words: &str) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns, PROGRAM]);
        let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
        // `ip netns exec` becomes the program: its process is this one.
        Self(quiet.args(words.split(' ')).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inside(netns: &str, words: &str) -> String {
    let output = Command::new("ip")
        .args(["netns", "exec", netns])
        .args(words.split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{words}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Packets and bytes of the first counter of a rule set.
fn counted(netns: &str) -> (u64, u64) {
    let rules = inside(netns, "nft -j list ruleset");
    let rules: Value = serde_json::from_str(&rules).unwrap();
    let parts = rules["nftables"].as_array().unwrap().iter();
    let expressions = parts.filter_map(|part| part["rule"]["expr"].as_array());
    let counter = expressions
        .flatten()
        .find_map(|e| e.get("counter"))
        .unwrap();
    let number = |name: &str| counter[name].as_u64().unwrap();
    (number("packets"), number("bytes"))
}

#[test]
fn frames_of_a_connection_arrive_in_the_length_and_number_that_were_sent() {
    if !possible("the AF_XDP sender").unwrap() {
        return;
    }
    let pair = Pair::new("packets");
    let [a, b] = &pair.0;
    let _server = Running::start(b, "server --listen 198.18.0.2:8080");
    let end = Instant::now() + Duration::from_secs(30);
    while inside(b, "ss -Hltn sport = :8080").is_empty() {
        assert!(Instant::now() < end, "the server does not listen");
        thread::yield_now();
    }
    let packets = |more: &str| {
        Command::new(PROGRAM)
            .args("packets 198.18.0.2:8080 --interface to-b -o json --netns".split(' '))
            .arg(a)
            .args(more.split(' '))
            .output()
            .unwrap()
    };
    let silence = packets("--record-for 50ms");
    let stderr = String::from_utf8_lossy(&silence.stderr);
    assert!(stderr.contains("latency 198.18.0.2:8080"), "{stderr}");

    let _talk = Running::start(a, "latency 198.18.0.2:8080 --rate 100 -d 1h");
    for (size, rest) in [(64, "--rate 2000 -d 250ms"), (1_400, "-d 250ms")] {
        let rules = [
            "flush ruleset".into(),
            "add table netdev t".into(),
            "add chain netdev t c { type filter hook ingress device to-a priority 0; }".into(),
            format!("add rule netdev t c ip dscp cs1 ip length {size} counter drop"),
        ];
        for rule in rules {
            inside(b, &format!("nft {rule}"));
        }
        let report = report(&packets(&format!("--size {size} {rest}")));
        let sent = report["succeeded"].as_u64().unwrap();
        let (arrived, bytes) = counted(b);
        assert_eq!(bytes, arrived * size);
        assert_eq!(report["settings"]["mode"], "copy");
        match report["settings"]["rate"].as_f64() {
            // Nothing on the way overflows.
            Some(rate) => {
                assert_eq!((sent, report["failed"].to_string()), (arrived, "{}".into()));
                let most = rate * 0.25 + 1.0;
                assert!((1.0..=most).contains(&(sent as f64)), "{sent}");
            }
            None => assert!(arrived > 0 && arrived <= sent, "{arrived} of {sent}"),
        }
    }
    let large = packets("--size 1501");
    let stderr = String::from_utf8_lossy(&large.stderr);
    assert!(stderr.contains("at most 1500"), "{stderr}");
}
