//! A digest that is longer than a message, one piece after the other: the next is sent when it is asked
//! for, so that never more than one is under way. docs/spec/peering.md, section 4.

use std::sync::Arc;

use identity::MAX_SIGNED;

use super::inbox::Misbehaved;
use crate::peer_messages::{DigestPiece, MAX_PIECE, PieceWanted};

/// A digest that is being sent.
#[derive(Debug)]
pub(crate) struct Sending {
    sequence: u64,
    signed: Arc<[u8]>,
    /// Up to where it was sent.
    sent: usize,
}

impl Sending {
    pub(crate) fn new(sequence: u64, signed: Arc<[u8]>) -> Self {
        Self {
            sequence,
            signed,
            sent: 0,
        }
    }

    pub(crate) fn next(&mut self) -> DigestPiece {
        let offset = self.sent;
        let bytes = self.signed.iter().skip(offset).take(MAX_PIECE).copied();
        let bytes: Vec<u8> = bytes.collect();
        self.sent += bytes.len();
        DigestPiece {
            sequence: self.sequence,
            length: self.signed.len() as u64,
            offset: offset as u64,
            bytes,
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.sent == self.signed.len()
    }

    /// Whether the piece asked for is the next one.
    pub(crate) fn expects(&self, wanted: PieceWanted) -> bool {
        (wanted.sequence, wanted.offset) == (self.sequence, self.sent as u64)
    }
}

/// A digest of which pieces came.
#[derive(Debug, Default)]
pub(crate) struct Gathering {
    sequence: u64,
    length: u64,
    /// Never more than came.
    bytes: Vec<u8>,
}

/// What a piece made of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gathered {
    /// The next piece is missing.
    Wanting(PieceWanted),
    /// The signed object.
    Whole(Vec<u8>),
}

impl Gathering {
    /// Adds the next piece. The first piece of a digest takes the place of what came of another.
    pub(crate) fn add(&mut self, piece: DigestPiece) -> Result<Gathered, Misbehaved> {
        if piece.offset == 0 {
            *self = Self {
                sequence: piece.sequence,
                length: piece.length,
                bytes: Vec::new(),
            };
        }
        let is_next = (piece.sequence, piece.length, piece.offset)
            == (self.sequence, self.length, self.bytes.len() as u64);
        let end = piece.offset.saturating_add(piece.bytes.len() as u64);
        let fits = !piece.bytes.is_empty() && end <= piece.length;
        if !is_next || !fits || piece.length > MAX_SIGNED as u64 {
            return Err("a piece of its digest is not the next one".into());
        }
        self.bytes.extend(piece.bytes);
        if end == self.length {
            return Ok(Gathered::Whole(std::mem::take(self).bytes));
        }
        Ok(Gathered::Wanting(PieceWanted {
            sequence: self.sequence,
            offset: end,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn signed(length: usize) -> Arc<[u8]> {
        let bytes = (0..length).map(|n| (n % 251) as u8);
        bytes.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_make_the_whole(length in 1..3 * MAX_PIECE) {
            let signed = signed(length);
            let (mut sending, mut gathering) = (Sending::new(7, signed.clone()), Gathering::default());
            loop {
                let piece = sending.next();
                prop_assert!(piece.bytes.len() <= MAX_PIECE);
                match gathering.add(piece).unwrap() {
                    Gathered::Wanting(wanted) => {
                        prop_assert!(sending.expects(wanted) && !sending.is_done());
                    }
                    Gathered::Whole(bytes) => {
                        prop_assert!(sending.is_done());
                        prop_assert_eq!(&*bytes, &*signed);
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_piece_that_is_not_the_next_is_refused() {
        let first = || Sending::new(7, signed(MAX_PIECE + 10)).next();
        let mut sending = Sending::new(7, signed(MAX_PIECE + 10));
        sending.next();
        let second = sending.next();
        let changes: [fn(&mut DigestPiece); 7] = [
            |piece| piece.sequence += 1,
            |piece| piece.length += 1,
            |piece| piece.length = MAX_SIGNED as u64 + 1,
            |piece| piece.offset += 1,
            |piece| piece.offset = u64::MAX,
            |piece| piece.bytes.push(0),
            |piece| piece.bytes.clear(),
        ];
        for change in changes {
            let mut gathering = Gathering::default();
            gathering.add(first()).unwrap();
            let mut other = second.clone();
            change(&mut other);
            assert!(gathering.add(other.clone()).is_err(), "{:?}", other.offset);
        }
        // Without the first.
        assert!(Gathering::default().add(second.clone()).is_err());
        let mut long = first();
        long.length = MAX_SIGNED as u64 + 1;
        assert!(Gathering::default().add(long).is_err());
        // The first again begins again.
        let mut gathering = Gathering::default();
        gathering.add(first()).unwrap();
        gathering.add(first()).unwrap();
        assert!(matches!(gathering.add(second), Ok(Gathered::Whole(_))));
    }
}
