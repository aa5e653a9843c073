//! The ciphers of the associations with one peer, kept as long as they are named.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use gateway_core::psp::{AssociationKey, ReceiveAssociation, SendAssociation};
use peering::peers::TunnelState;

/// The associations with one peer.
#[derive(Debug, Default)]
pub struct Tunnel {
    /// What is opened with, by SPI.
    pub receive: BTreeMap<u32, Arc<ReceiveAssociation>>,
    /// What is sealed with.
    pub send: Vec<Arc<SendAssociation>>,
    past: BTreeSet<u32>,
}

impl Tunnel {
    /// Makes the associations what `state` says.
    ///
    /// # Panics
    /// When the peer names an association twice: its counter would begin anew under the same key.
    pub fn set(&mut self, state: &TunnelState) {
        let mut old = std::mem::take(&mut self.receive);
        for key in &state.receive {
            let association = old.remove(&key.spi).unwrap_or_else(|| {
                let secret = AssociationKey::from_bytes(key.secret.expose()).expect("a key");
                Arc::new(ReceiveAssociation::new(key.spi, &secret))
            });
            self.receive.insert(key.spi, association);
        }
        let old = std::mem::take(&mut self.send);
        for key in &state.send {
            let kept = old.iter().find(|a| a.spi() == key.spi).cloned();
            let association = kept.unwrap_or_else(|| {
                assert!(self.past.insert(key.spi), "an association begins anew");
                let secret = AssociationKey::from_bytes(key.secret.expose()).expect("a key");
                Arc::new(SendAssociation::new(key.spi, &secret))
            });
            self.send.push(association);
        }
    }
}
