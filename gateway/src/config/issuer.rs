//! What of the file says where keys and certificates come from.

use std::path::PathBuf;

use anyhow::bail;
use identity::is_dns_subdomain;
use serde::Deserialize;
use workload_api::Socket;

/// Where private keys are, and what protects those on disk: a passphrase from a file or from a program, not
/// both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Keys {
    /// A file with a passphrase, readable by the owner alone.
    pub passphrase_file: Option<PathBuf>,
    /// A program and its arguments: what it prints is the passphrase.
    pub passphrase_command: Option<Vec<String>>,
    /// A program and its arguments, which keeps the private keys of X.509 roots and signs by them.
    pub signer_command: Option<Vec<String>>,
    /// Where the private key of the next X.509 root is: with the signer, where there is one.
    pub new_roots: Option<NewRoots>,
    /// The Secret in which they are kept too.
    pub secret: Option<KeptIn>,
}

/// A Secret of a Kubernetes API server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptIn {
    /// Its name.
    pub name: String,
    /// Its namespace: that of the gateway's own service account, or of the kubeconfig.
    pub namespace: Option<String>,
    /// How the API server is reached from outside of its cluster.
    pub kubeconfig: Option<PathBuf>,
}

impl Keys {
    /// Whether the private key of the next X.509 root is on disk.
    #[must_use]
    pub fn new_roots_on_disk(&self) -> bool {
        self.signer_command.is_none() || self.new_roots == Some(NewRoots::Disk)
    }

    pub(super) fn check(&self, svid: Option<&SvidSource>) -> anyhow::Result<()> {
        if self.passphrase_file.is_some() && self.passphrase_command.is_some() {
            bail!("keys: passphraseFile or passphraseCommand, not both");
        }
        for (field, command) in [
            ("passphraseCommand", &self.passphrase_command),
            ("signerCommand", &self.signer_command),
        ] {
            if command.as_ref().is_some_and(Vec::is_empty) {
                bail!("keys.{field}: names no program");
            }
        }
        if let Some(kept) = &self.secret
            && !is_dns_subdomain(&kept.name)
        {
            bail!("keys.secret.name: {:?} is no name of a Secret", kept.name);
        }
        if self.new_roots == Some(NewRoots::Signer) && self.signer_command.is_none() {
            bail!("keys.newRoots: signer needs signerCommand");
        }
        if svid.is_some() && (self.signer_command.is_some() || self.new_roots.is_some()) {
            bail!(
                "svid.workloadApi: the X.509 roots are those of the Workload API, and keys.signerCommand \
                 and keys.newRoots are for roots of this gateway's own"
            );
        }
        Ok(())
    }
}

/// An issuer of X.509-SVIDs.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SvidSource {
    /// The socket of a SPIFFE Workload API.
    pub workload_api: Socket,
}

/// Where a private key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NewRoots {
    /// With the signer.
    Signer,
    /// In the state directory.
    Disk,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{
        Config,
        tests::{FULL, error},
    };

    #[test]
    fn keys_are_on_disk_or_with_a_signer() {
        let with = |text: &str| format!("{FULL}keys: {{{text}}}\n");
        let on_disk = |text: &str| Config::parse(&with(text)).unwrap().keys.new_roots_on_disk();
        assert!(Config::parse(FULL).unwrap().keys.new_roots_on_disk());
        assert!(!on_disk("signerCommand: [/s, a], passphraseFile: /p"));
        assert!(!on_disk("signerCommand: [/s], newRoots: signer"));
        assert!(on_disk("signerCommand: [/s], newRoots: disk"));
        for (text, why) in [
            ("signerCommand: []", "keys.signerCommand: names no program"),
            ("passphraseCommand: []", "keys.passphraseCommand: names no"),
            ("newRoots: signer", "needs signerCommand"),
            ("secret: {}", "keys.secret: missing field `name`"),
            ("secret: {name: Keys}", "is no name of a Secret"),
            ("secret: {name: a..b}", "is no name of a Secret"),
            ("secret: {name: ''}", "is no name of a Secret"),
            (
                "signerCommand: [/s]}\nsvid: {workloadApi: \"unix:///s\"",
                "for roots of this gateway's own",
            ),
            (
                "}\nsvid: {workloadApi: \"tcp://127.0.0.1:1\"",
                "is a TCP port",
            ),
            ("newRoots: hsm", "unknown variant `hsm`"),
            ("passphraseCommand: [/a], passphraseFile: /b", "not both"),
        ] {
            assert!(error(&with(text)).contains(why), "{}", error(&with(text)));
        }
    }
}
