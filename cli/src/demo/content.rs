//! The bytes of `GET /bytes/N`: the same on every machine, so that whoever downloads them knows
//! each one, and marked, so that a capture shows whether they crossed a wire in clear.

use sha2::{Digest, Sha256};

/// Stands at the start of every block.
pub const MARKER: &[u8] = b"LANDBRIDGE-CLEARTEXT-MARKER";
/// Size of a block in bytes; shorter than any packet's payload but the last, so that no packet of
/// a transfer lacks a marker.
pub const BLOCK: usize = 512;

/// Writes the bytes from `offset` on into `buffer`.
pub fn fill(offset: u64, buffer: &mut [u8]) {
    let mut at = offset;
    let mut rest = buffer;
    while !rest.is_empty() {
        let (number, within) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
        let block = block(number);
        let length = rest.len().min(BLOCK - within);
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(&block[within..within + length]);
        at += length as u64;
        rest = later;
    }
}

/// SHA-256 of the first `length` bytes.
pub fn checksum(length: u64) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * BLOCK];
    let mut at = 0;
    while at < length {
        let size = buffer
            .len()
            .min(usize::try_from(length - at).unwrap_or(usize::MAX));
        fill(at, &mut buffer[..size]);
        hash.update(&buffer[..size]);
        at += size as u64;
    }
    hash.finalize().into()
}

/// Marker, then numbers of a xorshift generator seeded by the block's number.
fn block(number: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for chunk in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    bytes[..MARKER.len()].copy_from_slice(MARKER);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let mut whole = vec![0; 5 * BLOCK + 7];
        fill(0, &mut whole);
        for (from, to) in [
            (0, 1),
            (1, 600),
            (511, 513),
            (512, 1024),
            (1000, whole.len()),
        ] {
            let mut part = vec![0; to - from];
            fill(from as u64, &mut part);
            assert_eq!(part, whole[from..to]);
        }
        assert!(whole[..BLOCK] != whole[BLOCK..2 * BLOCK]);
    }

    #[test]
    fn the_checksum_is_that_of_the_bytes() {
        for length in [0, 1, 512, 513, 200_000] {
            let mut bytes = vec![0; length];
            fill(0, &mut bytes);
            let expected: [u8; 32] = Sha256::digest(&bytes).into();
            assert_eq!(checksum(length as u64), expected);
        }
    }

    #[test]
    fn every_full_packet_holds_a_marker() {
        let mut bytes = vec![0; 4000];
        fill(0, &mut bytes);
        let packet = &bytes[700..700 + BLOCK + MARKER.len()];
        assert!(packet.windows(MARKER.len()).any(|w| w == MARKER));
    }
}
