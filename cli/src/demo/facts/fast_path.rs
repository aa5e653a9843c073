//! Once established, a connection is the kernel's alone.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Demo, Enforcer, pairs};
use crate::demo::{content, http::Connected, tap::Verdict};

/// Bytes sent, and echoed.
const SIZE: usize = 10_000_000;
/// Longest pause between two reads.
const PAUSE: Duration = Duration::from_secs(5);

/// Sends and receives on a connection on which both sides have spoken, and compares what both
/// agents received in user space before and after.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let agents = [demo.agent_of(&pair.from)?, demo.agent_of(&pair.to)?];
    let Connected::Yes(mut stream) = pair.connect(demo, PAUSE)? else {
        bail!("{} was not connected", pair.name());
    };
    stream.set_read_timeout(Some(PAUSE))?;
    stream.set_write_timeout(Some(PAUSE))?;
    stream.set_nodelay(true)?;
    echo(&mut stream, 3 * content::BLOCK).context("the first bytes were not echoed")?;

    let received = |agent: &Enforcer| agent.counter("received");
    let before = [received(&agents[0])?, received(&agents[1])?];
    if before.contains(&0) {
        bail!("the agents counted {before:?} packets so far, so they did not prove the identities");
    }
    echo(&mut stream, SIZE).context("the transfer was not echoed")?;
    let after = [received(&agents[0])?, received(&agents[1])?];
    if before != after {
        bail!(
            "{}: {} received {} packets and {} received {} during an established transfer",
            pair.name(),
            agents[0].role,
            after[0] - before[0],
            agents[1].role,
            after[1] - before[1]
        );
    }
    Ok(Verdict::Holds(format!(
        "{}: {} MB each way, 0 packets in {} and {}",
        pair.name(),
        SIZE / 1_000_000,
        agents[0].role,
        agents[1].role
    )))
}

/// Sends `size` bytes and reads as many back; the server is not told to stop.
fn echo(stream: &mut TcpStream, size: usize) -> Result<()> {
    let mut sent = vec![0; size];
    content::fill(0, &mut sent);
    let mut got = vec![0; size];
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let write = scope.spawn(|| writer.write_all(&sent));
        let read = stream.read_exact(&mut got);
        if read.is_err() {
            // Ends a writer whose peer reads no more.
            let _ = stream.shutdown(Shutdown::Both);
        }
        read.context("reading")?;
        match write.join() {
            Ok(written) => written.context("writing"),
            Err(_) => bail!("the writer panicked"),
        }
    })?;
    if got != sent {
        bail!("other bytes came back");
    }
    Ok(())
}
