//! Inputs that are several packets: each begins with a byte that says where it goes, and two for its
//! length (big-endian). What is missing at the end is not there.

/// Packets of one input that are looked at.
const MOST: usize = 64;

/// The packets of `input`, with what their first byte says.
pub fn read(mut input: &[u8]) -> Vec<(u8, &[u8])> {
    let mut steps = Vec::new();
    while let [kind, high, low, rest @ ..] = input
        && steps.len() < MOST
    {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        steps.push((*kind, packet));
        input = rest;
    }
    steps
}

/// The input that [`read`] takes apart into `steps`.
pub fn write(steps: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut input = Vec::new();
    for (kind, packet) in steps {
        input.push(*kind);
        input.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
        input.extend(packet);
    }
    input
}
