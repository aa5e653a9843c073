//! The program as people and scripts use it: reports, Ctrl-C, wrong words, `compare`.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landbridge-loadtest"));
    command.args(arguments);
    command
}

fn said(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"))
}

/// Echoes; tells of each connection.
fn echo() -> (SocketAddr, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = sender.send(());
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, receiver)
}

/// The names and kinds of all fields, so that a field that is renamed or goes away is seen.
fn shape(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(k, v)| format!("{k}:{}", shape(v)))
                .collect();
            format!("{{{}}}", fields.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.first().map(shape).unwrap_or_default()),
        Value::Null => "null".into(),
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
    }
}

const TIMES: &str = "{count:number max:number mean:number min:number p50:number p90:number \
                     p99:number p999:number}";

#[test]
fn the_form_of_the_report_is_stable() {
    let (address, _connections) = echo();
    let target = address.to_string();
    let rest = "failed:{} figures:[{better:string name:string unit:string value:number}] from:null \
                interrupted:bool notes:[] per_second:[[number]] schema:string seconds:number";
    for (command, settings) in [
        (
            "connect",
            "{exchange_bytes:number in_flight_limit:number rate:number}",
        ),
        (
            "latency",
            "{connections:number rate:number size_bytes:number}",
        ),
    ] {
        let report = json(&said(&[
            command, &target, "--rate", "50", "-d", "300ms", "-o", "json",
        ]));
        assert_eq!(report["schema"], "landbridge-loadtest/1");
        assert_eq!(report["succeeded"], 15);
        assert_eq!(
            shape(&report),
            format!(
                "{{checked_bytes:null command:string drops:[] {rest} settings:{settings} started_at:number \
                 succeeded:number target:string times:{{late:{TIMES} response:{TIMES} \
                 service:{TIMES}}}}}"
            )
        );
        let names: Vec<_> = report["figures"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| f["name"].as_str().unwrap())
            .collect();
        let things = if command == "connect" {
            "connections"
        } else {
            "requests"
        };
        let per_second = format!("{things} per second");
        let quantiles = [
            "response p50",
            "response p90",
            "response p99",
            "response p99.9",
            "response max",
        ];
        assert_eq!(names[..2], [per_second.as_str(), "failed"]);
        assert_eq!(names[2..], quantiles);
    }
}

#[test]
fn ctrl_c_ends_a_run_early_and_it_still_reports() {
    for arguments in [
        &["connect", "--rate", "100"][..],
        &["connect", "--in-flight", "2"],
        &["latency", "--rate", "100"],
        &["latency"],
    ] {
        let (address, connections) = echo();
        let target = address.to_string();
        let mut child = program(arguments)
            .args([&target, "-d", "1h", "-o", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It is in the middle of its work.
        connections.recv().unwrap();
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments:?}");
        let report: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["interrupted"], true);
        assert!(report["seconds"].as_f64().unwrap() < 60.0);
    }
}

#[test]
fn wrong_words_are_explained() {
    for (arguments, remedy) in [
        (&["connect", "10.0.0.1"][..], "HOST:PORT"),
        (
            &["connect", "10.0.0.1:80", "-d", "5parsecs"],
            "use ms, s, m or h",
        ),
        (&["connect", "10.0.0.1:80", "--rate", "0"], "above 0"),
        (&["connect", "a/b/c:80"], "--demo"),
        (&["latency", "x:1", "--demo=/nowhere"], "landbridge demo up"),
        (&["latency", "x:1", "--from", "a/b/c"], "--demo"),
        (&["latency", "x:1", "--netns", "no such"], "ip netns list"),
        (&["connect", "x:1", "--metrics", "ftp://x"], "http://"),
        (&["compare", "/nowhere", "/nowhere"], "cannot read /nowhere"),
        (&["compare", "/etc/hostname", "/etc/hostname"], "-o json"),
    ] {
        let output = said(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(stderr.contains(remedy), "{arguments:?}: {stderr}");
    }
}

fn compare(folder: &Path, more: &[&str]) -> Output {
    let [before, after] = ["before", "after"].map(|n| folder.join(n).display().to_string());
    said(&[&["compare", &before, &after], more].concat())
}

#[test]
fn compare_says_what_got_worse_and_exits_so_when_asked_to() {
    let (address, _connections) = echo();
    let folder = tempfile::tempdir().unwrap();
    let target = address.to_string();
    let output = said(&[
        "latency", &target, "--rate", "50", "-d", "200ms", "-o", "json",
    ]);
    std::fs::write(folder.path().join("before"), &output.stdout).unwrap();
    std::fs::write(folder.path().join("after"), &output.stdout).unwrap();
    assert!(
        compare(folder.path(), &["--fail-if-worse"])
            .status
            .success()
    );

    let mut report = json(&output);
    let p99 = report["figures"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .find(|f| f["name"] == "response p99")
        .unwrap();
    p99["value"] = (p99["value"].as_f64().unwrap() * 1.5).into();
    std::fs::write(folder.path().join("after"), report.to_string()).unwrap();
    let output = compare(folder.path(), &[]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|l| l.starts_with("response p99 "))
        .unwrap();
    assert!(line.ends_with("WORSE") && line.contains("1.500"), "{line}");
    assert_eq!(text.matches("WORSE").count(), 1, "{text}");
    assert_eq!(
        compare(folder.path(), &["--fail-if-worse"]).status.code(),
        Some(3)
    );
    let lenient = compare(folder.path(), &["--fail-if-worse", "--threshold", "60"]);
    assert!(lenient.status.success());

    report["figures"].as_array_mut().unwrap().pop();
    std::fs::write(folder.path().join("after"), report.to_string()).unwrap();
    let rows = json(&compare(
        folder.path(),
        &["-o", "json", "--threshold", "60"],
    ));
    let last = rows["figures"].as_array().unwrap().last().unwrap();
    assert_eq!(last["verdict"], "gone");
}
