//! Once established, a connection is the kernel's alone.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{Demo, pairs};
use crate::demo::{content, http::Connected, netns, tap::Verdict};

/// Bytes sent, and echoed.
const SIZE: usize = 10_000_000;
/// Transfers that are looked at, should another connection's packet be queued during one.
const LOOKS: usize = 3;
/// Longest pause between two reads.
const PAUSE: Duration = Duration::from_secs(5);

/// Sends and receives on a connection on which both sides have spoken, and compares how many packets
/// the kernel handed to each agent before and after. Were one packet of this connection queued, each
/// transfer would show it; a packet of another one, such as a late answer, shows in one of them.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let nodes = [demo.node_of(&pair.from)?.1, demo.node_of(&pair.to)?.1];
    let Connected::Yes(mut stream) = pair.connect(demo, PAUSE)? else {
        bail!("{} was not connected", pair.name());
    };
    stream.set_read_timeout(Some(PAUSE))?;
    stream.set_write_timeout(Some(PAUSE))?;
    stream.set_nodelay(true)?;
    echo(&mut stream, 3 * content::BLOCK).context("the first bytes were not echoed")?;

    let before = [queued(&nodes[0].netns)?, queued(&nodes[1].netns)?];
    if before.contains(&0) {
        bail!("the kernels queued {before:?} packets so far, so no agent proved anything");
    }
    let mut after = before;
    for _ in 0..LOOKS {
        let begin = after;
        echo(&mut stream, SIZE).context("the transfer was not echoed")?;
        after = [queued(&nodes[0].netns)?, queued(&nodes[1].netns)?];
        if begin == after {
            return Ok(Verdict::Holds(format!(
                "{}: {} MB each way; the queues of {} and {} stayed at {} and {} packets",
                pair.name(),
                SIZE / 1_000_000,
                nodes[0].netns,
                nodes[1].netns,
                after[0],
                after[1]
            )));
        }
    }
    bail!(
        "{}: {} packets went through the agent of {} and {} through that of {}, in each of {LOOKS} transfers",
        pair.name(),
        after[0] - before[0],
        nodes[0].netns,
        after[1] - before[1],
        nodes[1].netns
    )
}

/// How many packets the kernel of a node has ever handed to user space, by its own count: the sum
/// over its queues of the newest packet's number (eighth column of nfnetlink_queue).
fn queued(netns: &str) -> Result<u64> {
    let path = "/proc/thread-self/net/netfilter/nfnetlink_queue";
    let text = netns::inside(netns, || {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
    })?;
    let newest = |line: &str| line.split_whitespace().nth(7)?.parse::<u64>().ok();
    text.lines()
        .map(|line| newest(line).with_context(|| format!("{path} has the line {line:?}")))
        .sum()
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
