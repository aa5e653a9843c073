//! The security associations with one peer: each direction's are made by its receiver, and the next
//! are in use before the old ones go. docs/spec/peering.md, section 5.

use std::{collections::BTreeSet, fmt, net::SocketAddr, time::Duration};

use identity::Mono;
use rand_core::CryptoRng;

use crate::peer_messages::{Associations, MAX_ASSOCIATIONS, TunnelKey, TunnelSecret};

/// A receiver offers new associations after this time.
pub const REKEY_AFTER: Duration = Duration::from_hours(1);
/// A sender asks for new ones after so many packets on one association.
pub const REKEY_PACKETS: u64 = 1 << 32;
/// How long a replaced association still receives what is under way.
pub const DRAIN: Duration = Duration::from_secs(30);

/// Most generations of ours at once.
const MAX_GENERATIONS: usize = 4;

/// The algorithm of the tunnel, by its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TunnelCipher {
    /// AES-128-GCM, 16 bytes.
    #[default]
    Aes128Gcm,
    /// AES-256-GCM, 32 bytes.
    Aes256Gcm,
}

/// The tunnel with one peer, as the data plane is to have it: what is not named here is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelState {
    /// Where the peer receives; none before it said so.
    pub endpoint: Option<SocketAddr>,
    /// The peer's associations on which we send: queue number modulo their number.
    pub send: Vec<TunnelKey>,
    /// Our associations on which the peer sends.
    pub receive: Vec<TunnelKey>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Tunnel {
    /// Rises for as long as the process lives, over all sessions.
    generation: u64,
    /// Ours, the newest last.
    offered: Vec<Offered>,
    /// The peer's.
    send: Option<Sending>,
    pub endpoint: Option<SocketAddr>,
}

struct Offered {
    generation: u64,
    keys: Vec<TunnelKey>,
    at: Mono,
    in_use: bool,
    /// When it goes, once a newer one is in use.
    until: Option<Mono>,
}

struct Sending {
    generation: u64,
    keys: Vec<TunnelKey>,
    asked_for_next: bool,
}

impl Tunnel {
    /// A new session: everything of the old one goes at once, whether anything was there.
    pub(crate) fn reset(&mut self) -> bool {
        let had = !self.offered.is_empty() || self.send.is_some() || self.endpoint.is_some();
        self.offered.clear();
        self.send = None;
        self.endpoint = None;
        had
    }

    /// Makes the next associations, one per sending queue of the peer.
    pub(crate) fn offer(
        &mut self,
        queues: u8,
        cipher: TunnelCipher,
        taken: &BTreeSet<u32>,
        now: Mono,
        rng: &mut dyn CryptoRng,
    ) {
        let count = usize::from(queues).clamp(1, MAX_ASSOCIATIONS);
        let mut fresh = BTreeSet::new();
        while fresh.len() < count {
            let spi = rng.next_u32();
            if spi != 0 && !taken.contains(&spi) {
                fresh.insert(spi);
            }
        }
        let keys = fresh.into_iter().map(|spi| {
            let mut secret = vec![
                0;
                match cipher {
                    TunnelCipher::Aes128Gcm => 16,
                    TunnelCipher::Aes256Gcm => 32,
                }
            ];
            rng.fill_bytes(&mut secret);
            TunnelKey {
                spi,
                secret: TunnelSecret::from_bytes(secret),
            }
        });
        let keys = keys.collect();
        self.generation += 1;
        self.offered.push(Offered {
            generation: self.generation,
            keys,
            at: now,
            in_use: false,
            until: None,
        });
    }

    /// The newest of ours, as it is told.
    pub(crate) fn newest(&self) -> Option<Associations> {
        self.offered.last().map(|offered| Associations {
            generation: offered.generation,
            keys: offered.keys.clone(),
        })
    }

    /// The peer uses `generation`: older ones drain. False when it was never offered.
    pub(crate) fn in_use(&mut self, generation: u64, now: Mono) -> bool {
        let Some(used) = self.offered.iter_mut().find(|o| o.generation == generation) else {
            return false;
        };
        used.in_use = true;
        for older in &mut self.offered {
            if older.generation < generation {
                older.until.get_or_insert(now.after(DRAIN));
            }
        }
        true
    }

    /// The peer asks for what follows `generation`: granted when that is the newest, is in use, and
    /// few are still draining.
    pub(crate) fn wants_next(&self, generation: u64) -> bool {
        let newest = self.offered.last();
        self.offered.len() < MAX_GENERATIONS
            && newest.is_some_and(|newest| newest.in_use && newest.generation == generation)
    }

    /// The peer's associations from now on; whether they are new.
    pub(crate) fn take(&mut self, theirs: Associations) -> bool {
        if self
            .send
            .as_ref()
            .is_some_and(|send| send.generation >= theirs.generation)
        {
            return false;
        }
        self.send = Some(Sending {
            generation: theirs.generation,
            keys: theirs.keys,
            asked_for_next: false,
        });
        true
    }

    /// The generation that we send on.
    pub(crate) fn sending(&self) -> Option<u64> {
        self.send.as_ref().map(|send| send.generation)
    }

    /// So many packets were sent on `spi`; the generation to ask the next of, once.
    pub(crate) fn sent(&mut self, spi: u32, packets: u64) -> Option<u64> {
        let send = self.send.as_mut()?;
        let due = packets >= REKEY_PACKETS
            && !send.asked_for_next
            && send.keys.iter().any(|key| key.spi == spi);
        if !due {
            return None;
        }
        send.asked_for_next = true;
        Some(send.generation)
    }

    /// When ours grow too old. One offer at a time: none while the peer has not said that it uses
    /// the last one.
    pub(crate) fn rekey_at(&self) -> Option<Mono> {
        let newest = self.offered.last().filter(|newest| newest.in_use)?;
        Some(newest.at.after(REKEY_AFTER))
    }

    /// When the next drained one goes.
    pub(crate) fn drained_at(&self) -> Option<Mono> {
        self.offered
            .iter()
            .filter_map(|offered| offered.until)
            .min()
    }

    /// Drops what is drained; whether anything was.
    pub(crate) fn drop_drained(&mut self, now: Mono) -> bool {
        let before = self.offered.len();
        self.offered
            .retain(|offered| offered.until.is_none_or(|until| until > now));
        self.offered.len() != before
    }

    pub(crate) fn spis(&self) -> impl Iterator<Item = u32> {
        let keys = self.offered.iter().flat_map(|offered| &offered.keys);
        keys.map(|key| key.spi)
    }

    pub(crate) fn state(&self) -> TunnelState {
        TunnelState {
            endpoint: self.endpoint,
            send: self.send.as_ref().map_or(vec![], |send| send.keys.clone()),
            receive: self
                .offered
                .iter()
                .flat_map(|offered| offered.keys.clone())
                .collect(),
        }
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("generation", &self.generation)
            .field("receive", &self.spis().count())
            .field("sending", &self.sending())
            .finish_non_exhaustive()
    }
}
