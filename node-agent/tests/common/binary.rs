//! The real program on a node.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{Netns, SOON};

/// How long an agent may take to be ready.
const READY: Duration = Duration::from_secs(20);

pub struct Binary {
    child: Child,
    state: PathBuf,
}

impl Binary {
    /// Starts the agent with the configuration file `config`, whose `stateDir` is `state`.
    pub fn start(node: &Netns, config: &Path, state: &Path) -> Self {
        let child = Command::new("nsenter")
            .arg(format!("--net={}", node.path()))
            .arg(env!("CARGO_BIN_EXE_landbridge-agent"))
            .args(["run", "--config"])
            .arg(config)
            .spawn()
            .unwrap();
        Self {
            child,
            state: state.into(),
        }
    }

    /// Waits until `/readyz` says 200.
    pub fn ready(&mut self, node: &Netns) {
        let begun = Instant::now();
        let mut last = String::new();
        while begun.elapsed() < READY {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "the agent ended by itself"
            );
            last = node
                .run(|| get("/readyz"))
                .unwrap_or_else(|error| error.to_string());
            if last.starts_with("HTTP/1.1 200") {
                return;
            }
            // There is nothing to wait on: probes ask again, too.
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("not ready: {last}");
    }

    /// One request to the admin socket.
    pub fn ask(&self, request: &str) -> Value {
        let mut stream = UnixStream::connect(self.state.join("admin.sock")).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// For each of its threads what proc_pid_status(5) says of this field, a number in hex.
    pub fn of_each_thread(&self, field: &str) -> Vec<u64> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let value = |thread: io::Result<fs::DirEntry>| {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            let (_, value) = lines.find(|(name, _)| *name == field).unwrap();
            u64::from_str_radix(value.trim(), 16).unwrap()
        };
        threads.map(value).collect()
    }

    /// Processor time so far, in hundredths of a second (proc_pid_stat(5), fields 14 and 15).
    pub fn cpu_ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11);
        fields
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum()
    }

    /// SIGKILL: nothing is tidied up.
    pub fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and its end is awaited.
    pub fn terminate(mut self) {
        kill(
            Pid::from_raw(self.child.id().cast_signed()),
            Signal::SIGTERM,
        )
        .unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        // Nothing is left to do when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A GET to the agent's metrics endpoint, inside its namespace.
pub fn get(path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect("127.0.0.1:9465")?;
    stream.set_read_timeout(Some(SOON))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
