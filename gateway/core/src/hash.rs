//! The hash that spreads flows over shards and slots.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use wire::flow::FlowKey;

/// SipHash-1-3 under a secret key: without it nobody can aim flows at one slot.
#[derive(Clone, Debug)]
pub struct FlowHasher(SipHasher13);

impl FlowHasher {
    /// With 16 secret, random bytes.
    #[must_use]
    pub fn new(key: &[u8; 16]) -> Self {
        Self(SipHasher13::new_with_key(key))
    }

    /// The same value for both directions of a flow.
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        let mut hasher = self.0;
        hasher.write(&key.symmetric());
        hasher.finish()
    }
}
