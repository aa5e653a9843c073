//! Named network namespaces: making, removing, and running something inside one.
//!
//! A thread of its own enters the namespace (`setns`) and ends afterwards, so no other thread is
//! moved. Sockets that it opens and processes that it starts stay in the namespace. Unlike
//! `ip netns exec`, mounts under /sys stay visible.

use std::{collections::BTreeSet, fs::File, path::PathBuf, process::Command, thread};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// Runs `work` inside the namespace `name`.
///
/// # Errors
/// When the namespace does not exist or cannot be entered, or `work` fails or panics.
pub fn inside<T: Send>(name: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = path(name);
    let file = File::open(&path)
        .with_context(|| format!("cannot open network namespace {}", path.display()))?;
    on_own_thread(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter network namespace {}", path.display()))?;
        work()
    })
}

/// Runs `work` inside a new namespace that ends with it.
pub fn inside_new<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        work()
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .spawn_scoped(scope, work)
            .context("cannot start a thread")?
            .join()
            .unwrap_or_else(|_| Err(anyhow!("a thread inside a network namespace panicked")))
    })
}

/// Makes the namespace `name`, with its loopback interface up.
pub fn add(name: &str) -> Result<()> {
    run(Command::new("ip").args(["netns", "add", name]))?;
    run(Command::new("ip").args(["-n", name, "link", "set", "lo", "up"]))
}

/// Removes the namespace `name`; it may be gone already.
pub fn remove(name: &str) -> Result<()> {
    if !path(name).exists() {
        return Ok(());
    }
    run(Command::new("ip").args(["netns", "delete", name]))
}

/// The names of all named namespaces.
pub fn names() -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return BTreeSet::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

/// Runs each of `commands` (arguments of `ip`) inside `name`, with one process for all.
pub fn ip_batch(name: &str, commands: &[String]) -> Result<()> {
    use std::{io::Write, process::Stdio};

    let mut child = Command::new("ip")
        .args(["-n", name, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    if let Some(mut input) = child.stdin.take() {
        // A child that gave up closes its end; its exit status says why.
        let _ = input.write_all(commands.join("\n").as_bytes());
        let _ = input.write_all(b"\n");
    }
    let output = child.wait_with_output().context("cannot run ip")?;
    if !output.status.success() {
        bail!(
            "ip -n {name} failed: {}\nits commands were:\n  {}",
            String::from_utf8_lossy(&output.stderr).trim(),
            commands.join("\n  ")
        );
    }
    Ok(())
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be run or does not exit with 0: its command line and what it said.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs a command to its end and returns what it wrote.
pub fn output(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}").replace('"', "");
    let output = command
        .output()
        .with_context(|| format!("cannot run {line}"))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        bail!(
            "{line} failed ({}): {}",
            output.status,
            String::from_utf8_lossy(&said).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}
