//! Sealing and opening tunnel packets in place: docs/spec/psp.md.

use std::{
    fmt,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use identity::fault::{self, Fault};
use policy::DropReason;
use wire::{
    ParseError, inplace,
    psp::{HEADER_LEN, Header, ICV_LEN, Layout, Version},
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{frame::Frame, replay::ReplayWindow};

/// The counter at which an association stops sealing.
pub const SEAL_LIMIT: u64 = 1 << 34;
/// After as many failures an association stops opening.
pub const FAILURE_LIMIT: u64 = 1 << 36;

/// The secret of an association. Zeroized on drop, never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub enum AssociationKey {
    /// For [`Version::Aes128Gcm`].
    Aes128([u8; 16]),
    /// For [`Version::Aes256Gcm`].
    Aes256([u8; 32]),
}

impl AssociationKey {
    /// A key of 16 or 32 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(bytes) = bytes.try_into() {
            return Some(Self::Aes128(bytes));
        }
        bytes.try_into().ok().map(Self::Aes256)
    }

    /// The secret bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Aes128(bytes) => bytes,
            Self::Aes256(bytes) => bytes,
        }
    }

    /// What a key of this length is for.
    #[must_use]
    pub fn version(&self) -> Version {
        match self {
            Self::Aes128(_) => Version::Aes128Gcm,
            Self::Aes256(_) => Version::Aes256Gcm,
        }
    }

    fn cipher(&self) -> LessSafeKey {
        let algorithm = match self {
            Self::Aes128(_) => &AES_128_GCM,
            Self::Aes256(_) => &AES_256_GCM,
        };
        match UnboundKey::new(algorithm, self.as_bytes()) {
            Ok(key) => LessSafeKey::new(key),
            // The only error is a key of the wrong length, and the types exclude that.
            Err(_) => unreachable!("the key has the length of its algorithm"),
        }
    }
}

impl fmt::Debug for AssociationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssociationKey({:?})", self.version())
    }
}

/// The sending half of an association: it seals each packet under a counter of its own.
///
/// A value of this type begins at counter 1 and must be the only one that ever seals under its
/// key: whoever makes it has just received the key and makes it once.
#[derive(Debug)]
pub struct SendAssociation {
    spi: u32,
    version: Version,
    source_port: u16,
    cipher: LessSafeKey,
    next: AtomicU64,
}

impl SendAssociation {
    /// With a fresh `key` that its receiver calls `spi`.
    #[must_use]
    pub fn new(spi: u32, key: &AssociationKey) -> Self {
        Self::starting_at(spi, key, 1)
    }

    fn starting_at(spi: u32, key: &AssociationKey, counter: u64) -> Self {
        // Any constant will do; different associations should meet different receive queues.
        let source_port = 0xc000 | (spi ^ spi >> 16) as u16 & 0x3fff;
        Self {
            spi,
            version: key.version(),
            source_port,
            cipher: key.cipher(),
            next: AtomicU64::new(counter),
        }
    }

    /// The receiver's name for it.
    #[must_use]
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// The UDP source port of all its packets.
    #[must_use]
    pub fn source_port(&self) -> u16 {
        self.source_port
    }

    /// How many packets took a counter so far.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(SEAL_LIMIT) - 1
    }

    /// Turns the IP packet in `frame` into a PSP packet. It costs a counter even when it fails.
    ///
    /// # Errors
    /// [`DropReason::NoTunnel`] at the limit of the counter, [`DropReason::TooBig`] without room
    /// in the frame, [`DropReason::Malformed`] when it holds no IP packet.
    pub fn seal(&self, frame: &mut Frame<'_>) -> Result<(), DropReason> {
        let next_header = inplace::tunnel_protocol(frame.packet()).ok_or(DropReason::Malformed)?;
        // Taken once and for all before anything is sealed. It cannot wrap: past the limit one
        // packet adds one, and nobody lives to see 2^64 packets.
        let iv = self.next.fetch_add(1, Ordering::Relaxed);
        if iv >= SEAL_LIMIT {
            self.next.store(SEAL_LIMIT, Ordering::Relaxed);
            return Err(DropReason::NoTunnel);
        }
        let header = Header::tunnel(next_header, self.version, self.spi, iv);
        let header_bytes = header.to_bytes();
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        let tag = self
            .cipher
            .seal_in_place_separate_tag(nonce, Aad::from(header_bytes), frame.packet_mut())
            .map_err(|_| DropReason::TooBig)?;
        let length = frame.packet().len();
        if !frame.extend_back(ICV_LEN) {
            return Err(DropReason::TooBig);
        }
        if let Some(icv) = frame.packet_mut().get_mut(length..) {
            icv.copy_from_slice(tag.as_ref());
        }
        if frame.push_front(&header_bytes) {
            Ok(())
        } else {
            Err(DropReason::TooBig)
        }
    }
}

/// The receiving half: it opens packets and refuses those it has seen.
#[derive(Debug)]
pub struct ReceiveAssociation {
    spi: u32,
    version: Version,
    cipher: LessSafeKey,
    window: Mutex<ReplayWindow>,
    failures: AtomicU64,
}

impl ReceiveAssociation {
    /// With a fresh `key` under the name `spi`.
    #[must_use]
    pub fn new(spi: u32, key: &AssociationKey) -> Self {
        Self {
            spi,
            version: key.version(),
            cipher: key.cipher(),
            window: Mutex::default(),
            failures: AtomicU64::new(0),
        }
    }

    /// Its name.
    #[must_use]
    pub fn spi(&self) -> u32 {
        self.spi
    }

    /// The highest counter that authenticated.
    #[cfg(test)]
    fn highest(&self) -> Option<u64> {
        self.window
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .highest()
    }

    /// Packets that did not authenticate.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Turns the PSP packet in `frame`, whose header is `header`, into the IP packet inside. On an
    /// error the content of the frame is lost.
    ///
    /// # Errors
    /// [`DropReason::TunnelBadAuth`], [`DropReason::TunnelReplay`], and [`DropReason::Malformed`]
    /// when it is too short or holds another protocol than it says.
    pub fn open(&self, header: &Header, frame: &mut Frame<'_>) -> Result<(), DropReason> {
        let malformed = |_: ParseError| DropReason::Malformed;
        let layout = Layout::of(header, frame.packet().len()).map_err(malformed)?;
        if header.version != self.version || self.failures() >= FAILURE_LIMIT {
            return Err(DropReason::TunnelBadAuth);
        }
        let split = frame.packet_mut().split_at_mut_checked(layout.aad.end);
        let (aad, sealed) = split.ok_or(DropReason::Malformed)?;
        let nonce = Nonce::assume_unique_for_key(header.nonce());
        if self
            .cipher
            .open_in_place(nonce, Aad::from(aad), sealed)
            .is_err()
        {
            self.failures.fetch_add(1, Ordering::Relaxed);
            return Err(DropReason::TunnelBadAuth);
        }
        // Only now: a forger must not move the window.
        let new = self
            .window
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .accept(header.iv);
        if !new && !fault::is(Fault::TunnelReplayed) {
            return Err(DropReason::TunnelReplay);
        }
        frame.truncate(layout.icv.start);
        let trimmed = frame.trim_front(HEADER_LEN);
        let agrees = inplace::tunnel_protocol(frame.packet()) == Some(header.next_header);
        if trimmed && agrees {
            Ok(())
        } else {
            Err(DropReason::Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, thread};

    use super::*;

    const KEY: AssociationKey = AssociationKey::Aes128([7; 16]);

    fn inner() -> Vec<u8> {
        [&[0x45, 0, 0, 60][..], &[9; 56]].concat()
    }

    /// Seals a packet with `association`; the PSP packet.
    fn seal(association: &SendAssociation) -> Result<Vec<u8>, DropReason> {
        let mut memory = [0; 200];
        memory[50..110].copy_from_slice(&inner());
        let mut frame = Frame::new(&mut memory, 50..110).unwrap();
        association
            .seal(&mut frame)
            .map(|()| frame.packet().to_vec())
    }

    fn open(association: &ReceiveAssociation, packet: &[u8]) -> Result<Vec<u8>, DropReason> {
        let header = Header::parse(packet).map_err(|_| DropReason::Malformed)?;
        let mut memory = packet.to_vec();
        let mut frame = Frame::new(&mut memory, 0..packet.len()).unwrap();
        association
            .open(&header, &mut frame)
            .map(|()| frame.packet().to_vec())
    }

    #[test]
    fn what_was_sealed_opens_once() {
        for key in [KEY, AssociationKey::Aes256([8; 32])] {
            let (tx, rx) = (
                SendAssociation::new(5, &key),
                ReceiveAssociation::new(5, &key),
            );
            let packets: Vec<_> = (0..3).map(|_| seal(&tx).unwrap()).collect();
            for packet in packets.iter().rev() {
                assert!(
                    !packet.windows(8).any(|w| w == [9; 8]),
                    "plain text on the wire"
                );
                assert_eq!(open(&rx, packet), Ok(inner()));
            }
            for packet in &packets {
                assert_eq!(open(&rx, packet), Err(DropReason::TunnelReplay));
            }
            assert_eq!((tx.sealed(), rx.highest(), rx.failures()), (3, Some(3), 0));
        }
    }

    /// Threat row 29.
    #[test]
    fn no_packet_with_one_bit_flipped_opens() {
        let (tx, rx) = (
            SendAssociation::new(5, &KEY),
            ReceiveAssociation::new(5, &KEY),
        );
        let packet = seal(&tx).unwrap();
        for bit in 0..packet.len() * 8 {
            let mut flipped = packet.clone();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            let refused = open(&rx, &flipped).unwrap_err();
            assert!(
                matches!(refused, DropReason::TunnelBadAuth | DropReason::Malformed),
                "bit {bit}: {refused}"
            );
        }
        assert_eq!(rx.highest(), None, "a forger moved the window");
        assert!(rx.failures() > 0);
        assert_eq!(open(&rx, &packet), Ok(inner()));
    }

    #[test]
    fn every_shorter_packet_is_refused() {
        let (tx, rx) = (
            SendAssociation::new(5, &KEY),
            ReceiveAssociation::new(5, &KEY),
        );
        let packet = seal(&tx).unwrap();
        for length in 0..packet.len() {
            assert!(open(&rx, &packet[..length]).is_err(), "{length}");
        }
    }

    /// Threat row 7.
    #[test]
    fn at_its_limit_an_association_seals_once_more_and_then_never() {
        let tx = SendAssociation::starting_at(5, &KEY, SEAL_LIMIT - 1);
        assert!(seal(&tx).is_ok());
        for _ in 0..3 {
            assert_eq!(seal(&tx), Err(DropReason::NoTunnel));
        }
        assert_eq!(tx.sealed(), SEAL_LIMIT - 1);
    }

    /// Threat row 7: no counter twice, whichever threads share the association.
    #[test]
    fn threads_never_take_the_same_counter() {
        let tx = Arc::new(SendAssociation::new(5, &KEY));
        #[expect(clippy::disallowed_methods, reason = "the test is about threads")]
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let tx = tx.clone();
                thread::spawn(move || {
                    let iv = |packet: Vec<u8>| Header::parse(&packet).unwrap().iv;
                    (0..2000)
                        .map(|_| iv(seal(&tx).unwrap()))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let all: Vec<u64> = threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect();
        let unique: BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!((all.len(), unique.len()), (8000, 8000));
        assert_eq!((unique.first(), unique.last()), (Some(&1), Some(&8000)));
    }

    #[test]
    fn a_packet_without_room_is_refused_and_its_counter_is_not_used_again() {
        let tx = SendAssociation::new(5, &KEY);
        let mut memory = inner();
        let length = memory.len();
        let mut frame = Frame::new(&mut memory, 0..length).unwrap();
        assert_eq!(tx.seal(&mut frame), Err(DropReason::TooBig));
        assert_eq!(Header::parse(&seal(&tx).unwrap()).unwrap().iv, 2);
    }

    #[test]
    fn keys_are_never_printed() {
        let printed = format!("{KEY:?} {:?}", SendAssociation::new(5, &KEY));
        assert!(!printed.contains("7, 7"), "{printed}");
    }
}
