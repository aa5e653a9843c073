//! Raw packets between two namespaces of this test: what a flood sends is what a wire shows.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output, Stdio};

use landbridge_netns::possible;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_landbridge-loadtest");

/// Two namespaces with a link between them; removed when dropped.
struct Pair([String; 2]);

impl Pair {
    fn new() -> Self {
        let pair = ["a", "b"].map(|end| format!("lbt-loadtest-{}-{end}", std::process::id()));
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
    let pair = Pair::new();
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
