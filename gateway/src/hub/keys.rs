//! The lives of the keys by which the cluster is believed: what is due is done, and what an operator
//! wants is begun. docs/trust.md.

use std::{fmt::Write, time::Duration};

use identity::{Now, UnixMillis};
use observe::RotateRequest;
use peering::key_ring::{Phase, Step};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Hub;
use crate::keys::KeyKind;

/// Where it says that a step could not be done.
const KEYS: &str = "keys";

impl Hub {
    /// Does what is due.
    pub(super) fn advance_keys(&mut self) {
        let now = self.now();
        while let Some((kind, step)) = self.keys.due(now.unix) {
            if let Err(why) = self.key_step(kind, step, now) {
                let words = format!("the {} is not exchanged: {why}", kind.as_str());
                if self.problems.get(KEYS) != Some(&words) {
                    warn!("{words}");
                    self.problem(KEYS, words);
                }
                return;
            }
        }
        self.problems.remove(KEYS);
    }

    /// Begins to exchange a key.
    pub(super) fn rotate(&mut self, wanted: &RotateRequest) -> Result<Value, String> {
        let schedule = *self.keys.schedule(wanted.key);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let publish = wanted.use_after.map_or(schedule.publish, seconds);
        let keep = wanted.retire_after.map_or(schedule.keep, seconds);
        let now = self.now();
        if publish.is_zero() {
            return Err(
                "nobody would have heard of a key that is used at once: wait a second at \
                        least"
                    .into(),
            );
        }
        if !wanted.anyway && (publish < schedule.publish || keep < schedule.keep) {
            self.all_would_hear(&schedule)?;
        }
        let open = self.members.invitations.open_until(now.unix);
        if let Some(open) = open.filter(|open| *open > now.unix.after(publish))
            && wanted.key == KeyKind::Root
            && !wanted.anyway
        {
            return Err(format!(
                "a token that is out names the root that signs now, and is good until {open}: use \
                 the next root after that, or say --anyway, and the token is void"
            ));
        }
        self.publish_key(wanted.key, (publish, keep), now)?;
        Ok(self.list_keys())
    }

    /// Whether whoever believes this cluster would hear at once what changes.
    fn all_would_hear(&self, schedule: &peering::key_ring::Schedule) -> Result<(), String> {
        let status = self.control.peering().status(self.now().unix);
        let peers = status.peers.iter().filter(|peer| !peer.connected);
        let peers = peers.map(|peer| format!("peer {}", peer.trust_domain));
        let nodes = self.config.nodes.iter().map(|node| &node.name);
        let nodes = nodes.filter(|node| !self.nodes.is_connected(node));
        let away: Vec<_> = peers
            .chain(nodes.map(|node| format!("node {node}")))
            .collect();
        if away.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} would not hear of it in time: wait for it, leave the times out ({} and {}), or say \
             --anyway",
            away.join(", "),
            words(schedule.publish),
            words(schedule.keep)
        ))
    }

    fn key_step(&mut self, kind: KeyKind, step: Step, now: Now) -> Result<(), String> {
        match step {
            Step::Publish => {
                let schedule = *self.keys.schedule(kind);
                self.publish_key(kind, (schedule.publish, schedule.keep), now)
            }
            Step::Use(number) => self.use_key(kind, number, now),
            Step::Retire(number) => {
                self.audit_key(kind, number, "retire")?;
                self.take(kind, step, now)?;
                self.announce_keys(now);
                info!(key = kind.as_str(), number, "is believed no more");
                Ok(())
            }
        }
    }

    fn publish_key(
        &mut self,
        kind: KeyKind,
        times: (Duration, Duration),
        now: Now,
    ) -> Result<(), String> {
        let number = self.keys.ring(kind).generations().last();
        let number = number.map_or(1, |last| last.number + 1);
        self.audit_key(kind, number, "publish")?;
        let published = self.keys.publish(kind, times, &mut self.rng, now.unix);
        published.map_err(|e| format!("{e:#}"))?;
        self.announce_keys(now);
        info!(key = kind.as_str(), number, "is published");
        Ok(())
    }

    fn use_key(&mut self, kind: KeyKind, number: u32, now: Now) -> Result<(), String> {
        self.audit_key(kind, number, "use")?;
        let keep = self.keys.ring(kind).keep_before(number);
        self.take(kind, Step::Use(number), now)?;
        match kind {
            KeyKind::Root => {
                self.control.set_signing_root(self.keys.root_pin().0);
                self.renew_svid.notify_one();
            }
            KeyKind::IssuerKey => {
                // Whoever asks by itself does so before its credential ends.
                let reissue = keep.is_none_or(|keep| keep < self.keys.schedule(kind).keep);
                let keys = &self.keys;
                self.control
                    .set_issuer_key(|| keys.issuer_key(), reissue, now);
            }
        }
        info!(key = kind.as_str(), number, "signs from now on");
        Ok(())
    }

    fn take(&mut self, kind: KeyKind, step: Step, now: Now) -> Result<(), String> {
        let taken = self.keys.take(kind, step, now.unix);
        taken.map_err(|e| format!("{e:#}"))
    }

    /// Before it happens.
    fn audit_key(&self, kind: KeyKind, number: u32, step: &str) -> Result<(), String> {
        self.audited(&json!({"do": "key", "key": kind, "number": number, "step": step}))
    }

    fn announce_keys(&mut self, now: Now) {
        self.control.set_own_keys(self.keys.own_keys(), now);
        self.nodes.believe(self.own.clone(), self.keys.x509_roots());
    }

    pub(super) fn list_keys(&self) -> Value {
        let all = KeyKind::ALL.into_iter().flat_map(|kind| {
            self.keys.list(kind).map(move |(generation, name)| {
                let (phase, at) = match generation.phase {
                    Phase::Next { use_at, .. } => ("next", use_at),
                    Phase::Current { since } => ("current", since),
                    Phase::Old { retire_at } => ("old", retire_at),
                };
                json!({
                    "key": kind,
                    "number": generation.number,
                    "name": name,
                    "phase": phase,
                    "at": at.to_string(),
                    "next": self.next_exchange(kind, generation.phase),
                })
            })
        });
        all.collect()
    }

    /// When the one after a key that signs is published by itself.
    fn next_exchange(&self, kind: KeyKind, phase: Phase) -> Option<String> {
        let Phase::Current { since } = phase else {
            return None;
        };
        let life = self.keys.schedule(kind).life?;
        self.keys
            .ring(kind)
            .next()
            .is_none()
            .then(|| since.after(life).to_string())
    }

    /// The pin that a token of this life names: that of the root by which this gateway will be met.
    pub(super) fn token_pin(&self, life: Duration, now: UnixMillis) -> Result<[u8; 32], String> {
        match self.keys.ring(KeyKind::Root).next() {
            Some((_, use_at)) if use_at < now.after(life) => Err(format!(
                "the X.509 root is exchanged at {use_at}, and the token would name the one before: \
                 make one that ends sooner (--ttl), or make it after that"
            )),
            _ => Ok(self.keys.root_pin().0),
        }
    }
}

/// A time as people write it.
fn words(time: Duration) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let mut left = time.as_secs();
    let mut words = String::new();
    for (unit, name) in units {
        if left >= unit {
            let _ = write!(words, "{}{name}", left / unit);
            left %= unit;
        }
    }
    words
}
