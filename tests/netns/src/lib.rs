//! Tests against the real kernel, in network namespaces that they make and remove. They need root;
//! without it they are skipped loudly, and with `CI=true` they fail.

pub mod machine;
pub mod outside;
pub mod plan;
pub mod probe;
pub mod verdicts;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};

/// Whether this test can run here.
///
/// # Errors
/// With `CI=true`, when it cannot: a test that CI never runs protects nothing.
pub fn possible(test: &str) -> Result<bool> {
    if nix::unistd::geteuid().is_root() {
        return Ok(true);
    }
    let why = format!("{test} needs root, because it makes network namespaces");
    if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
        bail!("{why}; in CI that is a failure");
    }
    // Not by `eprintln!`, whose output the test runner keeps to itself when a test passes.
    let bar = "=".repeat(80);
    writeln!(std::io::stderr(), "\n{bar}\nSKIPPED: {why}\n{bar}")?;
    Ok(false)
}

/// A demo of its own: namespaces and state directory carry the name of this process. It is ended
/// when it is dropped.
pub struct Demo {
    landbridge: PathBuf,
    state: PathBuf,
    prefix: String,
}

impl Demo {
    /// Brings up the demo of a configuration folder, named from the root of the sources.
    ///
    /// # Errors
    /// When it does not come up: what `demo up` said.
    pub fn up(config: &str) -> Result<Self> {
        Self::up_with(config, &[])
    }

    /// The same, with more options of `demo up`.
    ///
    /// # Errors
    /// As [`Demo::up`].
    pub fn up_with(config: &str, options: &[&str]) -> Result<Self> {
        let name = format!("lbt-netns-{}", std::process::id());
        let demo = Self {
            landbridge: program("landbridge")?,
            state: PathBuf::from("/run").join(&name),
            prefix: name,
        };
        let config = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(config);
        let config = config.display().to_string();
        let up = ["demo", "up", "--prefix", &demo.prefix, "--config", &config];
        demo.said(&[&up, options].concat())?;
        Ok(demo)
    }

    /// Where everything of it is.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.state.join("config")
    }

    /// What the names of its network namespaces start with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.landbridge
    }

    /// The network that was built.
    ///
    /// # Errors
    /// When the demo did not write it down.
    pub fn plan(&self) -> Result<plan::Plan> {
        let text = std::fs::read(self.state.join("plan.json"))?;
        serde_json::from_slice(&text).context("plan.json")
    }

    /// Runs `landbridge` with `--state` of this demo.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn landbridge(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.landbridge)
            .args(arguments)
            .arg("--state")
            .arg(&self.state)
            .output()
            .context("cannot run landbridge")
    }

    /// Runs `landbridge` and returns what it printed.
    ///
    /// # Errors
    /// When it exits with another status than 0: all that it said.
    pub fn said(&self, arguments: &[&str]) -> Result<String> {
        let output = self.landbridge(arguments)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!(
                "landbridge {} failed ({})\n{said}{}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(said)
    }

    /// Ends the demo.
    ///
    /// # Errors
    /// When something of it stays: namespaces, processes or files.
    pub fn down(&self) -> Result<()> {
        self.said(&["demo", "down"])?;
        let left = self.left()?;
        if !left.is_empty() {
            bail!("these stayed behind: {}", left.join(", "));
        }
        Ok(())
    }

    /// What there is of it, found without asking `landbridge`.
    ///
    /// # Errors
    /// When the machine cannot be asked.
    pub fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&self.prefix) {
                left.push(format!("namespace {name}"));
            }
        }
        for entry in std::fs::read_dir("/run")? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with(&self.prefix) {
                left.push(format!("/run/{name}"));
            }
        }
        let state = self.state.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        left.extend(
            mounts
                .lines()
                .filter(|m| m.contains(&state))
                .map(|m| format!("mount {m}")),
        );
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let Ok(environment) = std::fs::read(path.join("environ")) else {
                continue;
            };
            if String::from_utf8_lossy(&environment).contains(&state) {
                left.push(format!("process {}", path.display()));
            }
        }
        Ok(left)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // After `down` there is nothing, and a failed test reports its own error.
        let _ = self.landbridge(&["demo", "down"]);
    }
}

/// A program of this workspace: built beside the folder that holds this test.
fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let built = own.ancestors().nth(2).map(|folder| folder.join(name));
    match built.filter(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{name} is not built: cargo build --workspace --bins"),
    }
}
