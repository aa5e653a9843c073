//! The passphrase that protects private keys on disk, from a file or from a program that asks whoever
//! keeps it.

use std::{
    io::{self, Read},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use quic::{Passphrase, read_secret};
use zeroize::Zeroizing;

use crate::config::Keys;

/// The longest passphrase in bytes.
const MAX: u64 = 4096;
/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked at whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

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
            (field, said(command, PATIENCE).context(field)?)
        }
        (None, None) => return Ok(None),
    };
    let passphrase = Passphrase::new(read).with_context(|| format!("{field}: it is empty"))?;
    Ok(Some(passphrase))
}

/// What a program prints. What it has to say to people goes where the gateway's own words go.
fn said(command: &[String], patience: Duration) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let [program, arguments @ ..] = command else {
        bail!("no program");
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program:?}"))?;
    let stdout = child.stdout.take().context("no pipe")?;
    let ended = wait(&mut child, stdout, patience);
    if ended.is_err() {
        // It may have ended meanwhile.
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

fn wait(
    child: &mut Child,
    stdout: ChildStdout,
    patience: Duration,
) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let begun = Instant::now();
    let (sender, read) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Zeroizing::new(Vec::new());
        let read = stdout.take(MAX + 1).read_to_end(&mut bytes);
        // Nobody hears it when the time is over.
        let _ = sender.send(read.map(|_| bytes));
    });
    let late = || format!("it has not ended after {} s", patience.as_secs());
    let bytes: io::Result<_> = read.recv_timeout(patience).with_context(late)?;
    let bytes: Zeroizing<Vec<u8>> = bytes?;
    if bytes.len() as u64 > MAX {
        bail!("it prints more than {MAX} bytes");
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begun.elapsed() > patience {
            bail!(late());
        }
        thread::sleep(LOOK);
    };
    if !status.success() {
        bail!("it ended with {status}");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shell(script: &str) -> Vec<String> {
        ["sh", "-c", script].map(str::to_owned).into()
    }

    fn error(script: &str, patience: Duration) -> String {
        format!("{:#}", said(&shell(script), patience).unwrap_err())
    }

    #[test]
    fn a_program_prints_it_or_there_is_none() {
        let bytes = said(&shell("echo one two"), PATIENCE).unwrap();
        assert_eq!(*bytes, b"one two\n");
        assert!(error("echo x; exit 3", PATIENCE).contains("exit status: 3"));
        assert!(error("yes", PATIENCE).contains("more than 4096 bytes"));
        let short = Duration::from_millis(50);
        assert!(error("exec sleep 60", short).contains("has not ended"));
        assert!(error("exec >&-; exec sleep 60", short).contains("has not ended"));
        let none = said(&["/no/such/program".to_owned()], PATIENCE).unwrap_err();
        assert!(format!("{none:#}").contains("cannot run"), "{none:#}");
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
