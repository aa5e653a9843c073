//! `demo check --full`: the demo ends without a trace, and all facts hold again in a second one.

use anyhow::{Context, Result, bail};

use super::{
    check::{self, Report, Wanted},
    down::{self, Keep},
    interrupt::Interrupts,
    netns,
    plan::Plan,
    process,
    state::{self, State},
    tap::Verdict,
    up::Site,
};
use crate::say::say;

/// Ends the demo, looks for what stayed behind, brings it up again and looks at what is wanted.
pub fn check(
    wanted: &Wanted,
    state: &State,
    interrupts: &Interrupts,
    report: &mut Report,
) -> Result<()> {
    let plan = state.running_plan()?;
    let kept = Kept::copy(state)?;
    report.line("demo down leaves nothing behind", || {
        let undone = down::down(state, Keep::Nothing)?.context("there was no demo")?;
        if !undone.remarks.is_empty() {
            bail!("{}", undone.remarks.join("\n"));
        }
        nothing_left(&plan, state)
    });
    let mut is_up = false;
    report.line("a second demo comes up from the same configuration", || {
        let site = Site {
            plan: &plan,
            state,
            folder: kept.folder(),
            interrupts,
            enforcement: true,
            // A comment in the protocol's sense.
            say: |line| say!("# {line}"),
        };
        site.bring_up_again()?;
        is_up = true;
        Ok(Verdict::Holds(String::new()))
    });
    if is_up {
        return check::look_at(wanted, "again: ", state, interrupts, report);
    }
    for fact in &wanted.facts {
        report.line(&format!("again: {}", fact.title), || {
            bail!("there is no second demo")
        });
    }
    Ok(())
}

fn nothing_left(plan: &Plan, state: &State) -> Result<Verdict> {
    let mut left = Vec::new();
    let ours = format!("{}-", plan.prefix);
    for name in netns::names()
        .into_iter()
        .filter(|name| name.starts_with(&ours))
    {
        left.push(format!("network namespace {name}"));
    }
    for id in process::marked(state.dir()) {
        if id.is_alive() && i32::try_from(std::process::id()) != Ok(id.pid) {
            left.push(format!("process {}", id.pid));
        }
    }
    for mount in down::mounts_below(state.dir()) {
        left.push(format!("mount {}", mount.display()));
    }
    if state.journal().exists() || state.config().exists() {
        left.push(format!("files in {}", state.dir().display()));
    }
    if left.is_empty() {
        return Ok(Verdict::Holds(String::new()));
    }
    bail!("these stayed behind:\n{}", left.join("\n"))
}

/// A copy of the configuration, for the second demo; gone when it is dropped.
struct Kept(std::path::PathBuf);

impl Kept {
    fn copy(state: &State) -> Result<Self> {
        let mut name = state.dir().as_os_str().to_owned();
        name.push(format!(".config-{}", std::process::id()));
        let kept = Self(name.into());
        state::copy_folder(&state.config(), &kept.0)?;
        Ok(kept)
    }

    fn folder(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Nothing can be done about it here; the folder is named after this process.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
