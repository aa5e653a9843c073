//! An external signer: a program that keeps the private keys of X.509 roots, or asks an HSM, a key service or
//! a smart card that does. It is run once for each thing that is wanted of it. docs/trust.md says what it is
//! told and what it answers; none of that is believed unseen.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use quic::Signer;
use tracing::{info, warn};
use zeroize::Zeroizing;

use crate::program::Program;

/// How long it may take for one thing. A node that asks for an X.509-SVID waits for 30 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that it may print, in bytes: a public key of 215, a signature of 104.
const MAX_ANSWER: u64 = 4096;

/// What it printed.
type Answer = Zeroizing<Vec<u8>>;

/// The program, and how it does. Clones are one.
#[derive(Clone)]
pub struct SignerCommand(Arc<Shared>);

struct Shared {
    command: Vec<String>,
    patience: Duration,
    asked: AtomicU64,
    failed: AtomicU64,
    problem: ArcSwapOption<String>,
}

impl SignerCommand {
    /// The program and its arguments.
    #[must_use]
    pub fn new(command: Vec<String>) -> Self {
        Self::with_patience(command, PATIENCE)
    }

    fn with_patience(command: Vec<String>, patience: Duration) -> Self {
        Self(Arc::new(Shared {
            command,
            patience,
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            problem: ArcSwapOption::empty(),
        }))
    }

    /// Makes the key of the root `number`, if it does not have it; DER of its SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When there is none, in words.
    pub fn new_key(&self, number: u32) -> anyhow::Result<Vec<u8>> {
        self.ask("new", number, |pem| Ok(quic::public_key(&pem)?))
    }

    /// Removes the key of the root `number`, or keeps it where nobody uses it.
    ///
    /// # Errors
    /// When it does not, in words.
    pub fn retire(&self, number: u32) -> anyhow::Result<()> {
        self.ask("retire", number, |_| Ok(()))
    }

    /// Signs by the key of the root `number`.
    #[must_use]
    pub fn of(&self, number: u32) -> Arc<dyn Signer> {
        Arc::new(Key {
            command: self.clone(),
            number,
        })
    }

    /// How often it was asked, and how often in vain.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        (count(&self.0.asked), count(&self.0.failed))
    }

    /// What was wrong the last time, if anything was.
    #[must_use]
    pub fn problem(&self) -> Option<Arc<String>> {
        self.0.problem.load_full()
    }

    fn run(&self, what: &str, number: u32, input: Option<&[u8]>) -> anyhow::Result<Answer> {
        let text = number.to_string();
        let program = Program {
            command: &self.0.command,
            arguments: &[what, &text],
            input,
            patience: self.0.patience,
            most: MAX_ANSWER,
            unattended: true,
        };
        program.run()
    }

    fn ask<T>(
        &self,
        what: &str,
        number: u32,
        read: impl FnOnce(Answer) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let answer = self.run(what, number, None).and_then(read);
        let answer = answer.with_context(|| format!("keys.signerCommand: {what} {number}"));
        self.note(answer.as_ref().map(|_| ()).map_err(|e| format!("{e:#}")));
        answer
    }

    /// Remembers how it went, and says it when that changes.
    fn note(&self, went: Result<(), String>) {
        let shared = &self.0;
        shared.asked.fetch_add(1, Ordering::Relaxed);
        match went {
            Ok(()) => {
                if shared.problem.swap(None).is_some() {
                    info!("the external signer answers again");
                }
            }
            Err(why) => {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                let why = Some(Arc::new(why));
                let before = shared.problem.swap(why.clone());
                if before != why {
                    warn!("{}", why.as_deref().map_or("", String::as_str));
                }
            }
        }
    }
}

impl fmt::Debug for SignerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SignerCommand({:?})", self.0.command.first())
    }
}

/// One key of a signer.
struct Key {
    command: SignerCommand,
    number: u32,
}

impl Key {
    fn words(&self, why: &str) -> String {
        format!("keys.signerCommand: sign {}: {why}", self.number)
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let signature = self.command.run("sign", self.number, Some(message));
        let signature = signature.map_err(|e| format!("{e:#}"))?;
        Ok(signature.to_vec())
    }

    fn judged(&self, went: Result<(), &str>) {
        self.command.note(went.map_err(|why| self.words(why)));
    }
}

#[cfg(test)]
mod tests;
