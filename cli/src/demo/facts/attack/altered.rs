//! One bit of a message changes on its way.

use std::{
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{ARRIVES, Client, Drops, HELD_UP, Scene, Side};
use crate::demo::{
    facts::Demo,
    http::{self, Connected},
    onpath::{Held, Kind, Tap},
    pcap,
    plan::PSP_PORT,
    segment::Segment,
    tap::Verdict,
};

/// Parts of a message, each with the reasons for which a change in it may be dropped.
type Parts = Vec<(Range<usize>, &'static [&'static str])>;

const FORM: &[&str] = &["malformed", "no-identity"];
const BOUND: &[&str] = &["transcript-mismatch"];
const PROOF: &[&str] = &["bad-proof"];
const MAC: &[&str] = &["bad-mac"];
const CREDENTIAL: &[&str] = &[
    "bad-credential",
    "unknown-issuer",
    "wrong-trust-domain",
    "credential-expired",
];
/// Between two signatures that one queue of a gateway is made to look at: 1,500 in a second, of the
/// 2,500 that each of two has.
const SIGNATURE: Duration = Duration::from_micros(667);
/// Ethernet, IPv4 and UDP headers: the way of a tunnel packet, not the message.
const WAY: usize = 14 + 20 + 8;
const TUNNEL: &[&str] = &["tunnel-bad-auth", "tunnel-unknown-spi", "malformed"];

/// Flips each bit of HELLO, REPLY and CONFIRM, in both clusters. The eight bytes that name the key of
/// HELLO's proof are left out: they prove nothing, and a HELLO with an unknown key counts as one
/// without proof, which the rest of the handshake judges.
pub fn handshake(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    // With the client's credential known, a HELLO that carries another costs no signature check.
    scene.established(ARRIVES)?;
    let mut notes = Vec::new();
    for (name, kind) in [
        ("HELLO", Kind::Syn),
        ("REPLY", Kind::SynAck),
        ("CONFIRM", Kind::Later),
    ] {
        let mut bits = 0;
        for side in [Side::Near, Side::Far] {
            bits += flip_all(demo, &scene, kind, side)
                .with_context(|| format!("{name}, in the cluster on the {side:?} side"))?;
        }
        notes.push(format!("{bits} of {name}"));
    }
    Ok(Verdict::Holds(format!(
        "{}: bits flipped: {}",
        scene.pair.name(),
        notes.join(", ")
    )))
}

/// Flips each bit of a tunnel packet.
pub fn tunnel(demo: &mut Demo) -> Result<Verdict> {
    let Some(scene) = Scene::find(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let (_, mut stream) = scene.established(ARRIVES)?;
    let (near, far) = (
        &demo.place(&scene.pair.from)?.0,
        &demo.place(&scene.pair.to)?.0,
    );
    let wan = demo.plan.wan.clone();
    let mut tap = Tap::open(&wan, &near.wan_port())?;
    let held = Held::frames(
        &wan,
        &format!("ip saddr {} udp dport {PSP_PORT}", near.gateway.wan),
    )?;
    http::ping(&mut stream)?;
    let from_us = near.gateway.wan.octets();
    // What we just sent, and no late acknowledgment: PSP header and trailer of 16 bytes each, IPv4,
    // TCP with or without timestamps, and the five bytes.
    let lengths = [20, 32].map(|tcp| WAY + 16 + 20 + tcp + 5 + 16);
    let frame = tap.next(ARRIVES, |frame| {
        frame.get(26..30) == Some(&from_us[..])
            && pcap::udp_ports(frame).is_some_and(|ports| ports[1] == PSP_PORT)
            && lengths.contains(&frame.len())
    })?;
    let message = WAY..frame.len();
    let bits = message.len() * 8;
    let mut onward = Tap::open(&wan, &far.wan_port())?;
    flip(
        demo,
        &mut onward,
        &frame,
        &vec![(message, TUNNEL)],
        |frame| {
            // Without a checksum, which IPv4 leaves to the sender (RFC 768), nothing but the tunnel's
            // own authentication looks at it.
            frame[WAY - 2..WAY].fill(0);
        },
    )?;
    onward.send(&frame)?;
    http::pong(&mut stream).context("the packet as it was did not arrive")?;
    held.release()?;
    http::echo(&mut stream).context("the connection did not go on")?;
    Ok(Verdict::Holds(format!(
        "{bits} bits flipped, none of them answered"
    )))
}

fn flip_all(demo: &Demo, scene: &Scene, kind: Kind, side: Side) -> Result<usize> {
    let client: Client = scene.client()?;
    let which = scene.segments(&client, kind);
    let hop = scene.hop(side, kind);
    let (mut tap, held) = hop.hold(&which)?;
    let mut onward = hop.onward()?;
    let (bits, connected) = client.connect_while(HELD_UP, || {
        let frame = tap.next(ARRIVES, |frame| which.takes(frame))?;
        let segment = Segment::parse(&frame).context("it is no segment")?;
        let parts = parts(kind, &segment, &frame)?;
        flip(demo, &mut onward, &frame, &parts, |frame| {
            segment.mend(frame)
        })?;
        onward.send(&frame)?;
        held.release()?;
        Ok(parts.iter().map(|(range, _)| range.len() * 8).sum())
    })?;
    let Connected::Yes(mut stream) = connected else {
        bail!("with the message as it was there is no connection: {connected:?}");
    };
    stream.set_read_timeout(Some(ARRIVES))?;
    http::echo(&mut stream).context("with the message as it was, nothing is echoed")?;
    Ok(bits)
}

/// The parts of a message (docs/spec/handshake.md).
fn parts(kind: Kind, segment: &Segment, frame: &[u8]) -> Result<Parts> {
    let option = segment
        .our_option(frame)
        .context("it has no option of ours")?;
    let at = segment.payload();
    let head = |range: Range<usize>| at.start + range.start..at.start + range.end;
    Ok(match kind {
        Kind::Syn => vec![
            (option, FORM),
            (head(0..8), FORM),
            (head(8..32), PROOF),
            (head(32..72), BOUND),
            (head(72..104), PROOF),
            (head(112..128), PROOF),
            (at.start + 128..at.end, BOUND),
        ],
        Kind::SynAck => vec![
            (option, FORM),
            (head(0..8), FORM),
            (head(8..24), MAC),
            (at.start + 24..at.end - 16, CREDENTIAL),
            (at.end - 16..at.end, MAC),
        ],
        Kind::Later => vec![
            (option.start..option.start + 4, FORM),
            (option.start + 4..option.end, MAC),
        ],
    })
}

/// Sends `frame` once for each bit of `parts`, with that bit flipped, and waits until every one of them
/// was dropped for a reason of its part.
fn flip(
    demo: &Demo,
    onward: &mut Tap,
    frame: &[u8],
    parts: &Parts,
    mend: impl Fn(&mut [u8]),
) -> Result<()> {
    let mut before = Drops::now(demo)?;
    for (range, reasons) in parts {
        let bits: Vec<_> = range
            .clone()
            .flat_map(|at| (0..8).map(move |bit| (at, 1_u8 << bit)))
            .collect();
        let signed = *reasons == CREDENTIAL;
        for batch in bits.chunks(if signed { 64 } else { 256 }) {
            let begin = Instant::now();
            for (at, bit) in batch {
                let mut altered = frame.to_vec();
                altered[*at] ^= bit;
                mend(&mut altered);
                onward.send(&altered)?;
            }
            before = before
                .wait_for(demo, reasons, batch.len() as u64, ARRIVES)
                .with_context(|| {
                    let first = batch.first().map_or(0, |(at, _)| at - range.start);
                    format!("{} bits of bytes {range:?}, from {first} on", batch.len())
                })?;
            if signed {
                // The next ones within the budget, or they are dropped unseen.
                let due = SIGNATURE * u32::try_from(batch.len())?;
                thread::sleep(due.saturating_sub(begin.elapsed()));
            }
        }
    }
    Ok(())
}
