//! Network namespaces for the tests of this crate.

use std::{fs::File, process::Command, thread};

use nix::sched::{CloneFlags, setns};

/// False, said loudly, without root; under CI that is a failure.
pub fn root_or_skip() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!ci, "network namespaces need root");
    eprintln!("SKIPPED: network namespaces need root");
    false
}

/// Namespaces of one test, removed when dropped.
pub struct Namespaces {
    prefix: String,
    names: Vec<&'static str>,
}

impl Namespaces {
    pub fn new(test: &str, names: &[&'static str]) -> Self {
        let prefix = format!("lbt-{test}-{}", std::process::id());
        for name in names {
            ip(&format!("netns add {prefix}-{name}"));
            ip(&format!("-n {prefix}-{name} link set lo up"));
        }
        Self {
            prefix,
            names: names.to_vec(),
        }
    }

    /// The whole name of a namespace.
    pub fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// A veth between two namespaces: `a:interface`, `b:interface`.
    pub fn join(&self, a: (&str, &str), b: (&str, &str)) {
        let (na, nb) = (self.name(a.0), self.name(b.0));
        ip(&format!(
            "link add {} netns {na} numrxqueues 1 numtxqueues 1 type veth peer name {} netns {nb} \
             numrxqueues 1 numtxqueues 1",
            a.1, b.1
        ));
    }

    /// `ip` inside a namespace.
    pub fn ip(&self, name: &str, line: &str) -> String {
        ip(&format!("-n {} {line}", self.name(name)))
    }

    /// Any command inside a namespace.
    pub fn run(&self, name: &str, line: &str) {
        ip(&format!("netns exec {} {line}", self.name(name)));
    }

    /// Moves the calling thread into a namespace.
    pub fn enter(&self, name: &str) {
        let file = File::open(format!("/run/netns/{}", self.name(name))).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// Runs `f` on a thread inside a namespace.
    pub fn within<T: Send>(&self, name: &str, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter(name);
                f()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the namespaces were {}-*", self.prefix);
        }
        for name in &self.names {
            let name = self.name(name);
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Runs `ip` and returns what it printed.
pub fn ip(line: &str) -> String {
    let output = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {line}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
