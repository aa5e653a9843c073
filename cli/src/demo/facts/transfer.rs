//! A large transfer between two clusters arrives byte for byte.

use std::{
    io::{BufRead, BufReader, Read},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use super::{Demo, pairs};
use crate::demo::{
    content,
    http::{self, Connected},
    tap::Verdict,
};

/// Bytes to transfer.
const SIZE: u64 = 100_000_000;
/// Longest pause between two reads.
const PAUSE: Duration = Duration::from_secs(5);

/// Downloads, compares every byte with what it must be, and the digest with the server's.
pub fn look(demo: &mut Demo) -> Result<Verdict> {
    let Some(pair) = pairs::allowed_across(demo)? else {
        return Ok(Verdict::Skipped(
            "no pair across clusters is allowed".into(),
        ));
    };
    let Connected::Yes(mut stream) = pair.connect(demo, Duration::from_secs(5))? else {
        bail!("{} was not connected", pair.name());
    };
    http::send_get(&mut stream, &format!("/bytes/{SIZE}"), PAUSE)?;
    let mut reader = BufReader::with_capacity(256 * 1024, stream);
    let announced = read_head(&mut reader).with_context(|| pair.name())?;
    // Only now: before it answers, the server computes the digest.
    let begin = Instant::now();

    let mut hash = Sha256::new();
    let (mut got, mut wanted) = (vec![0; 256 * 1024], vec![0; 256 * 1024]);
    let mut at = 0;
    loop {
        let length = reader
            .read(&mut got)
            .with_context(|| format!("{} broke after {at} bytes", pair.name()))?;
        if length == 0 {
            break;
        }
        content::fill(at, &mut wanted[..length]);
        if got[..length] != wanted[..length] {
            let i = (0..length).find(|&i| got[i] != wanted[i]).unwrap_or(0);
            bail!("{}: byte {} is another", pair.name(), at + i as u64);
        }
        hash.update(&got[..length]);
        at += length as u64;
    }
    let digest = STANDARD.encode(hash.finalize());
    if at != SIZE || digest != announced {
        bail!(
            "{}: {at} of {SIZE} bytes with SHA-256 {digest}; announced was {announced}",
            pair.name()
        );
    }
    let seconds = begin.elapsed().as_secs_f64();
    let rate = SIZE as f64 * 8.0 / seconds / 1e6;
    Ok(Verdict::Holds(format!("{}: {rate:.0} Mbit/s", pair.name())))
}

/// Reads the head of the answer; its digest.
fn read_head(reader: &mut impl BufRead) -> Result<String> {
    let mut digest = None;
    for number in 0..32 {
        let mut line = String::new();
        reader.read_line(&mut line).context("no whole answer")?;
        let line = line.trim_end();
        if number == 0 && line != "HTTP/1.1 200 OK" {
            bail!("the answer begins with {line:?}");
        }
        if line.is_empty() {
            return digest.context("the answer has no Repr-Digest");
        }
        if let Some(value) = line.strip_prefix("Repr-Digest: sha-256=:") {
            digest = Some(value.trim_end_matches(':').to_string());
        }
    }
    bail!("the answer's head does not end")
}
