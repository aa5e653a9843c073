//! The tunnel's associations with one peer: those we offered it, and those it offered us.
//!
//! The receiver names an association and makes its key, and it alone decides when another takes its
//! place: it sees the counters that arrive. Make before break: the old one is open until 30 s after
//! the new one was first used.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use identity::Mono;
use rand_core::CryptoRng;

use crate::{
    control::ControlConfig,
    psp::{AssociationKey, FAILURE_LIMIT, REKEY_PACKETS, ReceiveAssociation, SendAssociation},
};

/// The age at which an association is replaced.
pub const REKEY_AGE: Duration = Duration::from_hours(1);
/// How long a replaced one stays open, counted from the first use of the new one.
pub const LINGER: Duration = Duration::from_secs(30);
/// The most associations that a peer may offer at a time.
pub const MAX_SLOTS: u16 = 256;
/// How many names of past associations of a peer are remembered, so that none is taken twice.
const MAX_PAST: usize = 4096;

/// An association that its receiver offers to the sender, over an authenticated session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The receiver's name for it, never 0.
    pub spi: u32,
    /// Which of the parallel associations it is, or replaces.
    pub slot: u16,
    /// The receiver's tunnel port.
    pub port: u16,
    /// The secret.
    pub key: AssociationKey,
}

/// Why an offer is not taken. The peer is at fault in all but the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// It comes from a cluster that is not a peer.
    #[error("the offer is not from a peer")]
    UnknownPeer,
    /// The name is 0, or the slot is out of range.
    #[error("the offer names SPI 0 or a slot out of range")]
    Invalid,
    /// The name was used before: taking it again would begin its counter anew.
    #[error("the offer repeats the SPI of an earlier association")]
    Repeated,
}

/// Both directions with one peer.
#[derive(Debug, Default)]
pub struct PeerAssociations {
    receiving: BTreeMap<u16, Receiving>,
    sending: BTreeMap<u16, Arc<SendAssociation>>,
    /// The peer's tunnel port.
    port: Option<u16>,
    /// Names that the peer gave to associations, past ones too.
    past: BTreeSet<u32>,
    past_order: VecDeque<u32>,
}

/// What we receive on, for one slot.
#[derive(Debug)]
struct Receiving {
    current: Arc<ReceiveAssociation>,
    made: Mono,
    /// The one before, and when it closes, once that is known.
    previous: Option<(Arc<ReceiveAssociation>, Option<Mono>)>,
}

impl PeerAssociations {
    /// Forgets all associations, but not the names that the peer gave: a session of the same peer
    /// must not bring one back either.
    pub fn reset(&mut self) {
        self.receiving.clear();
        self.sending.clear();
    }

    /// What is to be offered now: slots without an association, and replacements for those that are
    /// old or worn. `taken` are the names in use.
    pub fn renew<R: CryptoRng>(
        &mut self,
        config: &ControlConfig,
        taken: &[u32],
        rng: &mut R,
        now: Mono,
    ) -> Vec<Offer> {
        let mut offers = Vec::new();
        for slot in 0..config.associations.clamp(1, MAX_SLOTS) {
            if self
                .receiving
                .get(&slot)
                .is_some_and(|receiving| !receiving.is_due(now))
            {
                continue;
            }
            let key = AssociationKey::generate(config.version, rng);
            let used =
                |spi: u32| taken.contains(&spi) || offers.iter().any(|o: &Offer| o.spi == spi);
            let spi = loop {
                match rng.next_u32() {
                    0 => {}
                    spi if used(spi) => {}
                    spi => break spi,
                }
            };
            let current = Arc::new(ReceiveAssociation::new(spi, &key));
            let previous = self.receiving.remove(&slot).map(|old| (old.current, None));
            self.receiving.insert(
                slot,
                Receiving {
                    current,
                    made: now,
                    previous,
                },
            );
            offers.push(Offer {
                spi,
                slot,
                port: config.tunnel_port,
                key,
            });
        }
        offers
    }

    /// Closes replaced associations whose time has come; whether any was.
    pub fn retire(&mut self, now: Mono) -> bool {
        let mut closed = false;
        for receiving in self.receiving.values_mut() {
            let used = receiving.current.highest().is_some();
            if let Some((_, closes)) = &mut receiving.previous {
                if used && closes.is_none() {
                    *closes = Some(now.after(LINGER));
                }
                if closes.is_some_and(|closes| closes <= now) {
                    receiving.previous = None;
                    closed = true;
                }
            }
        }
        closed
    }

    /// Takes what the peer offers; it replaces what we sealed with in that slot.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn take_offer(&mut self, offer: &Offer) -> Result<(), OfferError> {
        if offer.spi == 0 || offer.slot >= MAX_SLOTS {
            return Err(OfferError::Invalid);
        }
        if !self.past.insert(offer.spi) {
            return Err(OfferError::Repeated);
        }
        self.past_order.push_back(offer.spi);
        if self.past_order.len() > MAX_PAST
            && let Some(oldest) = self.past_order.pop_front()
        {
            self.past.remove(&oldest);
        }
        self.port = Some(offer.port);
        let association = SendAssociation::new(offer.spi, &offer.key);
        self.sending.insert(offer.slot, Arc::new(association));
        Ok(())
    }

    /// What we open with.
    pub fn receiving(&self) -> impl Iterator<Item = &Arc<ReceiveAssociation>> {
        self.receiving.values().flat_map(|receiving| {
            let previous = receiving
                .previous
                .as_ref()
                .map(|(association, _)| association);
            std::iter::once(&receiving.current).chain(previous)
        })
    }

    /// What we seal with, by slot.
    pub fn sending(&self) -> impl Iterator<Item = &Arc<SendAssociation>> {
        self.sending.values()
    }

    /// The names that are in use for what we receive.
    pub fn names(&self) -> Vec<u32> {
        self.receiving()
            .map(|association| association.spi())
            .collect()
    }

    /// The peer's tunnel port, once it offered an association.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl Receiving {
    fn is_due(&self, now: Mono) -> bool {
        // One replacement at a time: while the sender has not moved, another would not help.
        self.previous.is_none()
            && (now.since(self.made) >= REKEY_AGE
                || self.current.highest() >= Some(REKEY_PACKETS)
                || self.current.failures() >= FAILURE_LIMIT / 2)
    }
}
