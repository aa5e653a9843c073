//! The ciphers of the tunnel's associations: made once per key, and kept as long as `peering` names
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use identity::TrustDomain;
use peering::{peer_messages::TunnelKey, peers::TunnelState};

use crate::psp::{AssociationKey, ReceiveAssociation, SendAssociation};

/// The most names of a peer's past associations that are remembered.
const MAX_PAST: usize = 65_536;

/// The associations with all peers.
#[derive(Debug, Default)]
pub struct Tunnels(BTreeMap<TrustDomain, Tunnel>);

/// The associations with one peer.
#[derive(Debug, Default)]
pub struct Tunnel {
    /// What we open with, by SPI.
    pub receive: BTreeMap<u32, Arc<ReceiveAssociation>>,
    /// What we seal with, in the order of the queues.
    pub send: Vec<Arc<SendAssociation>>,
    /// Names that sending associations had. A cipher made a second time would begin its counter
    /// anew, under the same key.
    past: BTreeSet<u32>,
}

impl Tunnels {
    /// Makes the associations with `peer` what `state` says. Those that it offered before, or
    /// whose key is none, are not taken: their names are returned.
    pub fn set(&mut self, peer: &TrustDomain, state: &TunnelState) -> Vec<u32> {
        let tunnel = self.0.entry(peer.clone()).or_default();
        tunnel.set_receive(&state.receive);
        tunnel.set_send(&state.send)
    }

    /// The associations with `peer`.
    #[must_use]
    pub fn of(&self, peer: &TrustDomain) -> Option<&Tunnel> {
        self.0.get(peer)
    }

    /// The peer is none any more.
    pub fn remove(&mut self, peer: &TrustDomain) {
        if let Some(tunnel) = self.0.get_mut(peer) {
            // The memory of names stays, in case the peer comes back.
            tunnel.receive.clear();
            tunnel.send.clear();
        }
    }

    /// How many packets were sealed on each association.
    pub fn sealed(&self) -> impl Iterator<Item = (&TrustDomain, u32, u64)> {
        self.0.iter().flat_map(|(peer, tunnel)| {
            let sending = tunnel.send.iter();
            sending.map(move |association| (peer, association.spi(), association.sealed()))
        })
    }
}

impl Tunnel {
    fn set_receive(&mut self, keys: &[TunnelKey]) {
        let mut old = std::mem::take(&mut self.receive);
        for key in keys {
            // The replay window of one that stays must stay too.
            let kept = old.remove(&key.spi);
            let made = || {
                let secret = AssociationKey::from_bytes(key.secret.expose())?;
                Some(Arc::new(ReceiveAssociation::new(key.spi, &secret)))
            };
            if let Some(association) = kept.or_else(made) {
                self.receive.insert(key.spi, association);
            }
        }
    }

    fn set_send(&mut self, keys: &[TunnelKey]) -> Vec<u32> {
        let mut refused = Vec::new();
        let old = std::mem::take(&mut self.send);
        for key in keys {
            let kept = old.iter().find(|a| a.spi() == key.spi).cloned();
            if let Some(association) = kept {
                self.send.push(association);
                continue;
            }
            let secret = AssociationKey::from_bytes(key.secret.expose());
            let unused = self.past.len() < MAX_PAST && !self.past.contains(&key.spi);
            match secret.filter(|_| unused) {
                Some(secret) => {
                    self.past.insert(key.spi);
                    self.send
                        .push(Arc::new(SendAssociation::new(key.spi, &secret)));
                }
                None => refused.push(key.spi),
            }
        }
        refused
    }
}

#[cfg(test)]
mod tests {
    use peering::peer_messages::TunnelSecret;

    use super::*;

    fn key(spi: u32) -> TunnelKey {
        TunnelKey {
            spi,
            secret: TunnelSecret::from_bytes(vec![spi as u8; 16]),
        }
    }

    fn state(send: &[u32], receive: &[u32]) -> TunnelState {
        TunnelState {
            endpoint: None,
            send: send.iter().map(|spi| key(*spi)).collect(),
            receive: receive.iter().map(|spi| key(*spi)).collect(),
        }
    }

    #[test]
    fn what_stays_is_kept_and_no_sending_half_is_made_twice() {
        let peer = TrustDomain::new("west").unwrap();
        let mut tunnels = Tunnels::default();
        assert!(tunnels.set(&peer, &state(&[1, 2], &[7])).is_empty());
        let first = tunnels.of(&peer).unwrap();
        let (sender, receiver) = (first.send[1].clone(), first.receive[&7].clone());
        assert!(tunnels.set(&peer, &state(&[2, 3], &[7, 8])).is_empty());
        let second = tunnels.of(&peer).unwrap();
        assert!(Arc::ptr_eq(&second.send[0], &sender));
        assert!(Arc::ptr_eq(&second.receive[&7], &receiver));
        assert_eq!(second.send.len(), 2);
        assert_eq!(
            tunnels.set(&peer, &state(&[1, 3], &[8])),
            [1],
            "it was used before"
        );
        let third = tunnels.of(&peer).unwrap();
        let spis: Vec<u32> = third.send.iter().map(|a| a.spi()).collect();
        assert_eq!((spis, third.receive.len()), (vec![3], 1));
        tunnels.remove(&peer);
        assert!(tunnels.of(&peer).unwrap().send.is_empty());
        assert_eq!(tunnels.set(&peer, &state(&[3], &[])), [3]);
    }
}
