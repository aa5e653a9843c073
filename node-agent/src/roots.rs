//! The roots of the own cluster, as its bundle said last. Kept on disk: when the root that the
//! configuration pins has been exchanged, a restarted agent believes its gateway by these.

use std::path::Path;

use anyhow::Context;
use quic::{Pin, read_secret, write_secret};
use serde::{Deserialize, Serialize};

/// In the state directory.
const FILE: &str = "roots";
/// The longest file in bytes.
const MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// The pin by which the first of them was believed.
    pin: String,
    /// In hex of DER.
    roots: Vec<String>,
}

/// The roots that were stored while the configuration had the same `pin`: an operator who changes that
/// means another cluster, or begins anew.
///
/// # Errors
/// When the file is damaged.
pub fn load(state: &Path, pin: Pin) -> anyhow::Result<Option<Vec<Vec<u8>>>> {
    let path = state.join(FILE);
    let Some(bytes) = read_secret(&path, MAX)? else {
        return Ok(None);
    };
    let what = || {
        let path = path.display();
        format!("{path} is damaged: remove it, and the gateway is believed by gateway.rootPin")
    };
    let stored: Stored = serde_json::from_slice(&bytes).with_context(what)?;
    if stored.pin != pin.to_string() {
        return Ok(None);
    }
    let roots = stored.roots.iter().map(hex::decode);
    let roots: Vec<_> = roots.collect::<Result<_, _>>().with_context(what)?;
    Ok((!roots.is_empty()).then_some(roots))
}

/// Stores them, if they differ from what is stored.
///
/// # Errors
/// When the disk does not take it.
pub fn store(state: &Path, pin: Pin, roots: &[Vec<u8>]) -> anyhow::Result<()> {
    if load(state, pin).ok().flatten().as_deref() == Some(roots) {
        return Ok(());
    }
    let stored = Stored {
        pin: pin.to_string(),
        roots: roots.iter().map(hex::encode).collect(),
    };
    write_secret(&state.join(FILE), &serde_json::to_vec(&stored)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn roots_are_those_of_the_pin() {
        let state = tempfile::tempdir().unwrap();
        let (pin, other) = (Pin::of(b"one"), Pin::of(b"other"));
        assert_eq!(load(state.path(), pin).unwrap(), None);
        let roots = [b"two".to_vec(), b"three".to_vec()];
        store(state.path(), pin, &roots).unwrap();
        assert_eq!(load(state.path(), pin).unwrap().unwrap(), roots);
        assert_eq!(load(state.path(), other).unwrap(), None);
        store(state.path(), pin, &roots[1..]).unwrap();
        assert_eq!(load(state.path(), pin).unwrap().unwrap(), roots[1..]);
        write_secret(&state.path().join(FILE), b"{").unwrap();
        let error = format!("{:#}", load(state.path(), pin).unwrap_err());
        assert!(error.contains("remove it"), "{error}");
        store(state.path(), pin, &roots).unwrap();
        assert_eq!(load(state.path(), pin).unwrap().unwrap(), roots);
    }
}
