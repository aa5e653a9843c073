//! The whole demo: up, every fact, down, nothing left, and all of it again.

use std::io::Write;

use landbridge_netns::{Demo, possible};

#[test]
fn the_demo_shows_every_fact_twice_and_leaves_nothing() -> anyhow::Result<()> {
    if !possible("the demo")? {
        return Ok(());
    }
    let demo = Demo::up("deploy/examples/three-tier")?;
    let output = demo.landbridge(&["demo", "check", "--full"])?;
    // Shown even when the test passes: what was skipped must be seen.
    let mut stderr = std::io::stderr();
    stderr.write_all(&output.stdout)?;
    stderr.write_all(&output.stderr)?;
    let tap = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(output.status.success(), "not every fact holds");
    anyhow::ensure!(
        !tap.contains("# SKIP"),
        "the example is there to show every fact, and one was skipped"
    );
    demo.down()
}
