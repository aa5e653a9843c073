//! Policies and labels that change under a live connection.

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{HOPELESS, IN_FORCE, ends, established, passage::Passage};
use crate::demo::{
    facts::{
        Demo,
        edit::{self, Edited},
        pairs,
    },
    http::{Connected, echo},
    netns,
    tap::Verdict,
    wait,
};

/// A label that no policy speaks of.
const IDLE: &str = "demo-check";

/// The policy that admits a live connection is deleted, on nodes whose connection tracking would take
/// the rest of the connection for a new one.
pub fn deleted(demo: &mut Demo) -> Result<Verdict> {
    let Some(passage) = Passage::open(demo)? else {
        return Ok(Verdict::Skipped("no pair across clusters is denied".into()));
    };
    let address = passage.address(demo)?;
    let server = demo.place(&passage.pair.to)?.1.netns.clone();
    for end in [&passage.pair.from, &passage.pair.to] {
        let (_, node) = demo.node_of(end)?;
        netns::inside(&node.netns, || {
            let path = "/proc/sys/net/netfilter/nf_conntrack_tcp_loose";
            std::fs::write(path, "1").with_context(|| format!("cannot write {path}"))
        })?;
    }
    let listener = netns::inside(&server, || Ok(TcpListener::bind(address)?))?;
    thread::scope(|scope| {
        scope.spawn(|| give_back(&listener));
        let outcome = cut(demo, passage);
        // Ends the server, should nobody have come.
        let _ = netns::inside(&server, || Ok(TcpStream::connect(address)?));
        outcome
    })
}

fn cut(demo: &Demo, passage: Passage) -> Result<Verdict> {
    let connected = wait::for_some(HOPELESS, || {
        match passage.pair.connect(demo, Duration::from_millis(150)) {
            Ok(Connected::Yes(stream)) => Some(stream),
            _ => None,
        }
    });
    let mut stream = connected.context("it was not connected")?;
    stream.set_read_timeout(Some(super::ECHO))?;
    stream.set_write_timeout(Some(super::ECHO))?;
    echo(&mut stream).context("it echoed nothing")?;
    let pair = passage.pair.clone();
    let since = passage.admits.undo()?;
    let heard = ends(&mut stream, &pair, since)?;
    Ok(Verdict::Holds(format!(
        "{}: last heard {} ms after the file was removed",
        pair.name(),
        heard.as_millis()
    )))
}

/// Sends back what the first client says, until it is cut off.
fn give_back(listener: &TcpListener) {
    if let Ok((stream, _)) = listener.accept() {
        // A client that is cut off says nothing more.
        let _ = stream.set_read_timeout(Some(HOPELESS));
        let _ = std::io::copy(&mut &stream, &mut &stream);
    }
}

/// The source of a live connection gets a label more, with which it is still allowed.
pub fn kept(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (cluster, pod) = demo.place(&pair.from)?;
    let gateways = [demo.gateway(cluster), demo.gateway(demo.place(&pair.to)?.0)];
    let epochs = || -> Result<Vec<u64>> {
        let epoch =
            |it: &super::super::Enforcer| it.ask("status")?["epoch"].as_u64().context("no epoch");
        gateways.iter().map(epoch).collect()
    };
    let dir = demo.state.config().join(&cluster.name);
    let (path, mut documents, place) = edit::find_pod(&dir, &pod.namespace, &pod.name)?;
    documents[place]["metadata"]["labels"][IDLE] = "on".into();
    let mut stream = established(demo, &pair)?;
    let before = epochs()?;
    let (edited, saved) = Edited::save(path, &edit::text(&documents)?)?;
    let both_know =
        || epochs().is_ok_and(|now| now.iter().zip(&before).all(|(now, before)| now > before));
    let known = wait::until(HOPELESS, both_know);
    let mut gone = None;
    // As long again as a connection may live that is denied.
    let until = Instant::now() + IN_FORCE;
    while known && gone.is_none() && Instant::now() < until {
        gone = echo(&mut stream).err();
    }
    edited.undo()?;
    if !known {
        bail!(
            "the gateways heard of no change within {} s",
            HOPELESS.as_secs()
        );
    }
    if let Some(error) = gone {
        bail!(
            "{} ended {} ms after the file was saved: {error}",
            pair.name(),
            saved.elapsed().as_millis()
        );
    }
    Ok(Verdict::Holds(format!("{} with {IDLE}=on", pair.name())))
}
