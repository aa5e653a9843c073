//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A running ones' complement sum of 16-bit big-endian words. Parts are summed as if each started
/// at an even offset; only the last part may have an odd length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The pseudo-header of RFC 9293 section 3.1 (IPv4) and RFC 8200 section 8.1 (IPv6) for
    /// `length` bytes of `protocol`. The families of the addresses must agree.
    #[must_use]
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, length: usize) -> Self {
        let addresses =
            [src, dst]
                .into_iter()
                .fold(Self::default(), |sum, address| match address {
                    IpAddr::V4(a) => sum.bytes(&a.octets()),
                    IpAddr::V6(a) => sum.bytes(&a.octets()),
                });
        // A length is at most 65,575 here; as a 32-bit word it is two 16-bit words, and adding
        // the whole value to the wide sum is the same after folding.
        Self(addresses.0 + u64::from(protocol) + length as u64)
    }

    /// Adds `bytes`.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Four bytes at a time, because 2^16 = 1 modulo 2^16 - 1: wide words fold to the same sum.
        // In the order of this machine: swapping the bytes of all words swaps those of their sum
        // (RFC 1071 section 2 B).
        let (words, rest) = bytes.as_chunks::<4>();
        let mut sum = 0;
        for word in words {
            sum += u64::from(u32::from_ne_bytes(*word));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let sum = fold(sum + u64::from(u32::from_ne_bytes(last)));
        Self(self.0 + u64::from(u16::from_be(sum)))
    }

    /// The checksum field: the complement of the sum.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !fold(self.0)
    }

    /// Whether what was summed included a checksum that holds.
    #[must_use]
    pub fn holds(self) -> bool {
        fold(self.0) == 0xffff
    }
}

/// The checksum after the 16-bit word `old` under it became `new` (RFC 1624, equation 3).
#[must_use]
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(u64::from(!checksum) + u64::from(!old) + u64::from(new))
}

/// What changes under checksums when words become others (RFC 1624): the same change is applied to
/// every checksum that covers them.
#[derive(Clone, Copy, Debug)]
pub struct Change(u64);

impl Change {
    /// From `old` to `new`, which have the same, even length and begin at an even offset.
    #[must_use]
    pub fn of(old: &[u8], new: &[u8]) -> Self {
        debug_assert!(old.len() == new.len() && old.len().is_multiple_of(2));
        let (old, _) = old.as_chunks::<2>();
        let (new, _) = new.as_chunks::<2>();
        let words = old.iter().zip(new).map(|(old, new)| {
            u64::from(!u16::from_be_bytes(*old)) + u64::from(u16::from_be_bytes(*new))
        });
        Self(words.sum())
    }

    /// `checksum` after it.
    #[must_use]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(u64::from(!checksum) + self.0)
    }
}

/// Folds into 16 bits with end-around carry.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The loop left at most 16 bits.
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 section 2, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().bytes(&bytes).checksum(), !0xddf2);
    }

    /// RFC 1624 section 4: the case that RFC 1141's equation gets wrong.
    #[test]
    fn the_example_of_rfc_1624_section_4() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn equals_the_word_by_word_sum(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).checksum(), naive(&bytes));
        }

        #[test]
        fn an_update_equals_a_new_sum(
            mut bytes in prop::collection::vec(any::<u8>(), 4..200), at in any::<prop::sample::Index>(), new: u16,
        ) {
            bytes.truncate(bytes.len() & !1);
            // A sum of only zero words has two representations (RFC 1624 section 3).
            bytes[0] |= 1;
            let word = 2 + 2 * at.index(bytes.len() / 2 - 1);
            let before = Sum::default().bytes(&bytes).checksum();
            let old = u16::from_be_bytes([bytes[word], bytes[word + 1]]);
            bytes[word..word + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), Sum::default().bytes(&bytes).checksum());
        }
    }
}
