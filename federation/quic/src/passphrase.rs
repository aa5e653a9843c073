//! Private keys that a passphrase protects on disk: PKCS#8 (RFC 5958) encrypted by PBES2 (RFC 8018) with
//! scrypt (RFC 7914) and AES-256, as `openssl pkcs8` reads and writes it too.

use std::{fmt, path::Path};

use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use zeroize::Zeroizing;

use crate::{PkiError, pem, pki::content};

/// Before the 32 bytes of an Ed25519 seed in PKCS#8 (RFC 8410, section 7).
const ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A passphrase; never empty, overwritten when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// `bytes` without the line's end that an editor or a program leaves; `None` when nothing is left.
    #[must_use]
    pub fn new(mut bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        while bytes
            .last()
            .is_some_and(|last| matches!(last, b'\n' | b'\r'))
        {
            bytes.pop();
        }
        (!bytes.is_empty()).then_some(Self(bytes))
    }

    pub(crate) fn encrypt(&self, pkcs8: &[u8]) -> Result<Zeroizing<Vec<u8>>, PkiError> {
        let failed = |e: pkcs8::Error| PkiError::Encrypt(e.to_string());
        let key = PrivateKeyInfoRef::try_from(pkcs8).map_err(failed)?;
        let sealed = key.encrypt(&*self.0).map_err(failed)?;
        Ok(Zeroizing::new(sealed.as_bytes().to_vec()))
    }

    pub(crate) fn decrypt(&self, der: &[u8]) -> Result<Zeroizing<Vec<u8>>, &'static str> {
        let sealed = EncryptedPrivateKeyInfoRef::try_from(der);
        let sealed = sealed.map_err(|_| "its encrypted private key cannot be read")?;
        let opened = sealed.decrypt(&*self.0);
        let opened = opened.map_err(|_| "the passphrase is another")?;
        Ok(Zeroizing::new(opened.as_bytes().to_vec()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

/// The seed of an Ed25519 key as a file holds it: under a passphrase as PEM, else its 32 bytes.
///
/// # Errors
/// [`PkiError::Encrypt`].
pub fn write_seed(
    seed: &[u8; 32],
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    if passphrase.is_none() {
        return Ok(Zeroizing::new(seed.to_vec()));
    }
    let mut der = Zeroizing::new(ED25519.to_vec());
    der.extend_from_slice(seed);
    pem::write(Some(&der), &[], passphrase)
}

/// Reads what [`write_seed`] wrote to `path`.
///
/// # Errors
/// [`PkiError::Content`] when it is neither, or the passphrase is another or missing.
pub fn read_seed(
    path: &Path,
    stored: &[u8],
    passphrase: Option<&Passphrase>,
) -> Result<Zeroizing<[u8; 32]>, PkiError> {
    if let Ok(seed) = stored.try_into() {
        return Ok(Zeroizing::new(seed));
    }
    let wrong = || content(path, "neither 32 bytes nor an encrypted Ed25519 key".into());
    if !pem::is_encrypted(stored) {
        return Err(wrong());
    }
    let (key, _) = pem::read(path, stored, passphrase)?;
    let seed = key.secret_pkcs8_der().strip_prefix(&ED25519);
    // Another program may have put the public key behind it.
    let seed = seed.and_then(|rest| rest.first_chunk()).ok_or_else(wrong)?;
    Ok(Zeroizing::new(*seed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn passphrase(text: &str) -> Option<Passphrase> {
        Passphrase::new(Zeroizing::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn a_seed_is_read_with_the_passphrase_it_was_written_with() {
        let (path, seed) = (Path::new("issuer.key"), [7; 32]);
        let one = passphrase("one\n");
        let stored = write_seed(&seed, one.as_ref()).unwrap();
        assert!(stored.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----"));
        assert_eq!(*read_seed(path, &stored, one.as_ref()).unwrap(), seed);
        // No two files are alike, and the line's end is none of it.
        assert_ne!(*write_seed(&seed, one.as_ref()).unwrap(), *stored);
        let bare = passphrase("one");
        assert_eq!(*read_seed(path, &stored, bare.as_ref()).unwrap(), seed);
        let error = |passphrase: Option<Passphrase>, stored: &[u8]| {
            read_seed(path, stored, passphrase.as_ref())
                .unwrap_err()
                .to_string()
        };
        assert!(error(passphrase("two"), &stored).contains("the passphrase is another"));
        assert!(error(None, &stored).contains("no passphrase"));
        assert!(error(None, b"short").contains("neither 32 bytes"));
        let clear = write_seed(&seed, None).unwrap();
        assert_eq!(*clear, seed);
        assert_eq!(*read_seed(path, &clear, one.as_ref()).unwrap(), seed);
    }

    /// OpenSSL reads what we write, and we what it writes.
    #[test]
    fn openssl_agrees() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let (ours, theirs, clear) = (path("ours"), path("theirs"), path("clear"));
        let (seed, passphrase) = ([7; 32], passphrase("one"));
        let stored = write_seed(&seed, passphrase.as_ref()).unwrap();
        std::fs::write(&ours, stored).unwrap();
        let openssl = |arguments: &[&str], from: &Path, to: &Path| {
            let mut command = std::process::Command::new("openssl");
            let command = command.arg("pkcs8").args(arguments);
            let command = command.arg("-in").arg(from).arg("-out").arg(to);
            assert!(command.status().unwrap().success());
        };
        openssl(&["-passin", "pass:one", "-outform", "DER"], &ours, &clear);
        let der = std::fs::read(&clear).unwrap();
        assert_eq!(der, [&ED25519[..], &seed].concat());
        let encrypt = ["-topk8", "-inform", "DER", "-v2", "aes-256-cbc", "-scrypt"];
        let encrypt = [&encrypt[..], &["-passout", "pass:one"]].concat();
        openssl(&encrypt, &clear, &theirs);
        let stored = std::fs::read(&theirs).unwrap();
        assert_eq!(
            *read_seed(&theirs, &stored, passphrase.as_ref()).unwrap(),
            seed
        );
    }

    #[test]
    fn an_empty_passphrase_is_none() {
        assert!(passphrase("").is_none());
        assert!(passphrase("\r\n").is_none());
        assert_eq!(format!("{:?}", passphrase("secret").unwrap()), "Passphrase");
    }
}
