//! The program of tests/peers/go-spiffe, built into the target folder and run.

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    time::timeout,
};

/// The oldest Go that the module can be built with, as its go.mod says.
const GO: u32 = 24;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program; `None`, said loudly, without Go; under CI that is a failure.
pub fn program() -> Option<&'static Path> {
    static BUILT: OnceLock<Option<PathBuf>> = OnceLock::new();
    BUILT.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    if !go_is_there() {
        let why = format!("tests against go-spiffe need Go 1.{GO} or later");
        let ci = env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "{why}; in CI that is a failure");
        // Not by `eprintln!`, whose output the test runner keeps to itself when a test passes.
        let bar = "=".repeat(80);
        let _ = writeln!(std::io::stderr(), "\n{bar}\nSKIPPED: {why}\n{bar}");
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (built, program) = (
        target.join(format!("go-spiffe.{}", std::process::id())),
        target.join("go-spiffe"),
    );
    let output = Command::new("go")
        .current_dir(module())
        // The one that is installed: none is downloaded.
        .env("GOTOOLCHAIN", "local")
        .args(["build", "-trimpath", "-o"])
        .arg(&built)
        .arg(".")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "go build: {said}");
    fs::rename(&built, &program).unwrap();
    Some(program)
}

/// The module's folder, from whichever crate.
fn module() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut above = above.map(|folder| folder.join("tests/peers/go-spiffe"));
    above.find(|folder| folder.is_dir()).unwrap()
}

fn go_is_there() -> bool {
    let Ok(output) = Command::new("go").args(["env", "GOVERSION"]).output() else {
        return false;
    };
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .strip_prefix("go1.")
        .and_then(|version| version.split('.').next()?.parse().ok())
        .is_some_and(|minor: u32| minor >= GO)
}

/// A running one. It ends when this is dropped.
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = tokio::process::Command::new(program().unwrap())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    /// The next thing that it says.
    pub async fn says(&mut self) -> Value {
        let line = timeout(PATIENCE, self.output.next_line()).await;
        let line = line.expect("it says something in time").unwrap();
        let line = line.expect("it did not end");
        serde_json::from_str(&line).unwrap()
    }

    pub async fn command(&mut self, line: &str) {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).await.unwrap();
        let done = self.says().await;
        assert_eq!(done["done"], line.trim(), "{done}");
    }
}

/// Runs it to its end: what it said.
pub async fn ask(arguments: &[&str]) -> Value {
    let mut peer = Peer::start(arguments);
    let said = peer.says().await;
    timeout(PATIENCE, peer.child.wait()).await.unwrap().unwrap();
    said
}
