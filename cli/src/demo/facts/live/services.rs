//! Servers and clients that do not speak as HTTP does.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{HOPELESS, passage::Passage};
use crate::demo::{
    facts::Demo,
    http::{self, Connected},
    netns,
    tap::Verdict,
    wait,
};

/// A refusal that takes longer came from a timeout.
const AT_ONCE: Duration = Duration::from_millis(500);
/// What the server says.
const GREETING: &[u8; 14] = b"220 who are yo";

/// Connects where policy allows it and nobody listens.
pub fn closed_port(demo: &mut Demo) -> Result<Verdict> {
    let Some(passage) = Passage::open(demo)? else {
        return Ok(Verdict::Skipped("no pair across clusters is denied".into()));
    };
    let address = passage.address(demo)?;
    let (_, client) = demo.place(&passage.pair.from)?;
    let mut took = Duration::MAX;
    let mut last = String::new();
    // Until the policies are in force there is silence.
    let refused = wait::until(HOPELESS, || {
        let begin = Instant::now();
        let connected = netns::inside(&client.netns, || Ok(http::connect(address, AT_ONCE)));
        took = begin.elapsed();
        last = format!("{connected:?}");
        matches!(
            connected,
            Ok(Connected::Refused(ErrorKind::ConnectionRefused))
        )
    });
    if !refused {
        bail!("{} was not refused: {last}", passage.pair.name());
    }
    let name = passage.pair.name();
    passage.lets_nothing_stay(demo)?;
    Ok(Verdict::Holds(format!(
        "{name}: refused after {} ms",
        took.as_millis()
    )))
}

/// A server that greets a client which never says a word.
pub fn server_speaks_first(demo: &mut Demo) -> Result<Verdict> {
    let Some(passage) = Passage::open(demo)? else {
        return Ok(Verdict::Skipped("no pair across clusters is denied".into()));
    };
    let address = passage.address(demo)?;
    let (_, server) = demo.place(&passage.pair.to)?;
    let listener = netns::inside(&server.netns, || Ok(TcpListener::bind(address)?))?;
    let greeted = thread::scope(|scope| {
        scope.spawn(|| greet(&listener));
        let greeted = listen_to(demo, &passage);
        // Ends the server, should nobody have come.
        let _ = netns::inside(&server.netns, || Ok(TcpStream::connect(address)?));
        greeted
    });
    let name = passage.pair.name();
    let took = greeted.with_context(|| name.clone())?;
    passage.lets_nothing_stay(demo)?;
    Ok(Verdict::Holds(format!(
        "{name}: greeted after {} ms",
        took.as_millis()
    )))
}

/// Greets the first client and waits until it leaves.
fn greet(listener: &TcpListener) {
    if let Ok((mut stream, _)) = listener.accept() {
        // Whoever left already hears nothing.
        let _ = stream.write_all(GREETING);
        let _ = stream.set_read_timeout(Some(HOPELESS));
        let _ = stream.read(&mut [0]);
    }
}

fn listen_to(demo: &Demo, passage: &Passage) -> Result<Duration> {
    let connected = wait::for_some(HOPELESS, || {
        let begin = Instant::now();
        match passage.pair.connect(demo, AT_ONCE) {
            Ok(Connected::Yes(stream)) => Some((stream, begin)),
            _ => None,
        }
    });
    let (mut stream, begin) = connected.context("it was not connected")?;
    stream.set_read_timeout(Some(HOPELESS))?;
    let mut heard = [0; GREETING.len()];
    stream
        .read_exact(&mut heard)
        .context("it heard no greeting")?;
    if heard != *GREETING {
        bail!("it heard {:?}", String::from_utf8_lossy(&heard));
    }
    Ok(begin.elapsed())
}
