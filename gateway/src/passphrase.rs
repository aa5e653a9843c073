//! The passphrase that protects private keys on disk, from a file or from a program that asks whoever
//! keeps it.

use std::time::Duration;

use anyhow::Context;
use quic::{Passphrase, read_secret};
use zeroize::Zeroizing;

use crate::{config::Keys, program::Program};

/// The longest passphrase in bytes.
const MAX: u64 = 4096;
/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The passphrase, if one is configured.
///
/// # Errors
/// When it is empty, or the file or the program gives none.
pub fn read(config: &Keys) -> anyhow::Result<Option<Passphrase>> {
    let (field, read) = match (&config.passphrase_file, &config.passphrase_command) {
        (Some(file), _) => {
            let read = read_secret(file, MAX).context("keys.passphraseFile")?;
            let missing = || format!("keys.passphraseFile: {} is not there", file.display());
            ("keys.passphraseFile", read.with_context(missing)?)
        }
        (None, Some(command)) => {
            let field = "keys.passphraseCommand";
            (field, said(command).context(field)?)
        }
        (None, None) => return Ok(None),
    };
    let passphrase = Passphrase::new(read).with_context(|| format!("{field}: it is empty"))?;
    Ok(Some(passphrase))
}

/// What a program prints. It may ask people.
fn said(command: &[String]) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let program = Program {
        command,
        arguments: &[],
        input: None,
        patience: PATIENCE,
        most: MAX,
        unattended: false,
    };
    program.run()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).into()
    }

    #[test]
    fn a_program_prints_it() {
        let bytes = said(&shell("echo one two")).unwrap();
        assert_eq!(*bytes, b"one two\n");
    }

    #[test]
    fn an_empty_one_is_refused() {
        let config = Keys {
            passphrase_command: Some(shell("echo")),
            ..Keys::default()
        };
        let error = format!("{:#}", read(&config).unwrap_err());
        assert!(error.contains("passphraseCommand: it is empty"), "{error}");
        assert!(read(&Keys::default()).unwrap().is_none());
    }
}
