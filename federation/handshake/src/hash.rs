//! The hash under which tables are kept that strangers can put entries into.

use std::net::IpAddr;

use siphasher::sip::SipHasher13;
use wire::flow::FlowKey;

/// SipHash-1-3 under a secret key: without it nobody can aim entries at one slot.
#[derive(Clone, Debug)]
pub struct Seed(SipHasher13);

impl Seed {
    /// Takes 16 secret, random bytes.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    /// The hash of a flow, another one for each direction.
    pub(crate) fn flow(&self, key: &FlowKey) -> u64 {
        // The two forms differ in length, which the hash covers.
        match (key.src, key.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut bytes = [0; 13];
                bytes[..4].copy_from_slice(&src.octets());
                bytes[4..8].copy_from_slice(&dst.octets());
                put_ports(&mut bytes[8..], key);
                self.0.hash(&bytes)
            }
            (src, dst) => {
                let mut bytes = [0; 37];
                bytes[..16].copy_from_slice(&octets(src));
                bytes[16..32].copy_from_slice(&octets(dst));
                put_ports(&mut bytes[32..], key);
                self.0.hash(&bytes)
            }
        }
    }

    /// The hash of a key of any other table, whose keys all have the same length.
    pub(crate) fn key(&self, key: &[u8]) -> u64 {
        self.0.hash(key)
    }
}

fn put_ports(bytes: &mut [u8], key: &FlowKey) {
    let [s0, s1] = key.sport.to_be_bytes();
    let [d0, d1] = key.dport.to_be_bytes();
    bytes.copy_from_slice(&[s0, s1, d0, d1, key.protocol]);
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}
