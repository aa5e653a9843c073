//! What becomes of connections that stand when something changes, and of those that nobody expects.

mod passage;
pub mod policy;
pub mod revoked;
pub mod rotated;
pub mod services;
pub mod withdrawn;

use std::{
    io::ErrorKind,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{Demo, pairs::Pair};
use crate::demo::http::{Connected, echo};

/// What is saved must be in force after this time.
const IN_FORCE: Duration = Duration::from_secs(1);
/// After this nobody waits any longer.
const HOPELESS: Duration = Duration::from_secs(5);
/// An echo on this machine takes a few milliseconds.
const ECHO: Duration = Duration::from_millis(150);

/// A connection of `pair` on which both sides have spoken.
pub fn established(demo: &Demo, pair: &Pair) -> Result<TcpStream> {
    let Connected::Yes(mut stream) = pair.connect(demo, HOPELESS)? else {
        bail!("{} was not connected", pair.name());
    };
    stream.set_read_timeout(Some(ECHO))?;
    stream.set_write_timeout(Some(ECHO))?;
    echo(&mut stream).with_context(|| format!("{} echoed nothing", pair.name()))?;
    Ok(stream)
}

/// How long after `since` the connection was last heard.
///
/// # Errors
/// When that is longer than 1 s.
pub fn ends(stream: &mut TcpStream, pair: &Pair, since: Instant) -> Result<Duration> {
    let mut heard = Duration::ZERO;
    while since.elapsed() < IN_FORCE + IN_FORCE {
        match echo(stream) {
            Ok(()) => heard = since.elapsed(),
            // Silence may be followed by an echo; a reset by nothing.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    if heard > IN_FORCE {
        bail!(
            "{} still echoed {} ms after the change",
            pair.name(),
            heard.as_millis()
        );
    }
    Ok(heard)
}
