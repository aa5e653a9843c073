//! The lives of the keys by which the cluster is believed: what is due is done, and what an operator
//! wants is begun. docs/trust.md.

use std::{fmt::Write, time::Duration};

use identity::{Mono, Now, UnixMillis};
use observe::{RotateRequest, TrustRequest};
use peering::key_ring::{Phase, Step};
use quic::{Backoff, Pin};
use serde_json::{Value, json};
use tracing::info;

use super::{
    Hub,
    links::{Answer, Input},
};
use crate::keys::{KeyKind, MadeRoot};

/// Where it says that a step could not be done.
const KEYS: &str = "keys";
/// Where it says that a Secret does not have the keys.
const KEPT: &str = "keys kept";
/// Where it says that a signer does not retire a key.
const RETIRING: &str = "keys retiring";

/// What is done for roots beside the hub.
pub(super) struct RootWork {
    making: Option<Making>,
    make_after: Mono,
    make_pauses: Backoff,
    retiring: bool,
    retire_after: Mono,
    retire_pauses: Backoff,
}

/// The next root is being made.
struct Making {
    times: (Duration, Duration),
    /// Who asked for it, and what of that stands in the audit log.
    answer: Option<(Answer, Value)>,
}

impl Default for RootWork {
    fn default() -> Self {
        let pauses = || Backoff::new(Duration::from_secs(5), Duration::from_mins(10));
        Self {
            making: None,
            make_after: Mono::default(),
            make_pauses: pauses(),
            retiring: false,
            retire_after: Mono::default(),
            retire_pauses: pauses(),
        }
    }
}

impl RootWork {
    fn may_try(&self, now: Mono) -> bool {
        self.making.is_none() && now >= self.make_after
    }

    fn tried(&mut self, well: bool, now: Mono) {
        pause(&mut self.make_after, &mut self.make_pauses, well, now);
    }

    fn may_retire(&self, now: Mono) -> bool {
        !self.retiring && now >= self.retire_after
    }

    fn retired(&mut self, well: bool, now: Mono) {
        pause(&mut self.retire_after, &mut self.retire_pauses, well, now);
    }
}

fn pause(after: &mut Mono, pauses: &mut Backoff, well: bool, now: Mono) {
    match well {
        true => pauses.reset(),
        false => *after = now.after(pauses.wait(u32::MAX)),
    }
}

impl Hub {
    /// Does what is due. What of one kind cannot be done holds up nothing of the other.
    pub(super) fn advance_keys(&mut self) {
        let now = self.now();
        for kind in KeyKind::ALL {
            while let Some(step) = self.keys.due(kind, now.unix) {
                match self.key_step(kind, step, now) {
                    // It is made beside this, or is tried again later.
                    Ok(false) => break,
                    Ok(true) => self.key_problem(kind, None),
                    Err(why) => {
                        self.key_problem(kind, Some(why));
                        break;
                    }
                }
            }
        }
        self.retire_with_signer(now);
        self.have_kept();
    }

    /// Says why a key is not exchanged.
    fn key_problem(&mut self, kind: KeyKind, why: Option<String>) {
        let origin = format!("{KEYS} {}", kind.as_str());
        let Some(why) = why else {
            self.problems.remove(&origin);
            return;
        };
        let words = format!("the {} is not exchanged: {why}", kind.as_str());
        self.say_once(&origin, words);
    }

    /// Begins to exchange a key. A root may have to be made first: then it is not answered here.
    pub(super) fn rotate(&mut self, wanted: &RotateRequest) -> Result<Value, String> {
        let schedule = *self.keys.schedule(wanted.key);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let publish = wanted.use_after.map_or(schedule.publish, seconds);
        let keep = wanted.retire_after.map_or(schedule.keep, seconds);
        let now = self.now();
        if wanted.key == KeyKind::Root && self.keys.no_roots() {
            return Err(
                "the X.509 roots of this cluster are those of the Workload API: exchange them there, and \
                 the gateway follows"
                    .into(),
            );
        }
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
        match wanted.key {
            KeyKind::Root => self.begin_root((publish, keep))?,
            KeyKind::IssuerKey => self.publish_issuer_key((publish, keep), now)?,
        }
        Ok(self.list_keys())
    }

    /// Whether whoever believes this cluster would hear at once what changes.
    fn all_would_hear(&self, schedule: &peering::key_ring::Schedule) -> Result<(), String> {
        let status = self.control.peering().status(self.now().unix);
        let peers = status.peers.iter().filter(|peer| !peer.connected);
        let peers = peers.map(|peer| format!("peer {}", peer.trust_domain));
        let nodes = self.node_names().into_iter();
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

    /// Whether the step is done.
    fn key_step(&mut self, kind: KeyKind, step: Step, now: Now) -> Result<bool, String> {
        match step {
            Step::Publish => {
                let schedule = *self.keys.schedule(kind);
                let times = (schedule.publish, schedule.keep);
                match kind {
                    KeyKind::IssuerKey => self.publish_issuer_key(times, now).map(|()| true),
                    KeyKind::Root if self.roots.may_try(now.mono) => {
                        self.begin_root(times).map(|()| false)
                    }
                    KeyKind::Root => Ok(false),
                }
            }
            Step::Use(number) => {
                self.all_are_kept()?;
                self.use_key(kind, number, now).map(|()| true)
            }
            Step::Retire(number) => {
                self.audit_key(kind, number, "retire")?;
                self.take(kind, step, now)?;
                self.announce_keys(now);
                info!(key = kind.as_str(), number, "is believed no more");
                Ok(true)
            }
        }
    }

    /// Whether the Secret, if there is to be one, has every key that is announced: one that is used and lost with
    /// the state directory would take the cluster's name with it.
    fn all_are_kept(&self) -> Result<(), String> {
        let Some(kept) = &self.kept else {
            return Ok(());
        };
        if kept.steps.is_some_and(|steps| steps >= self.keys.steps()) {
            return Ok(());
        }
        let why = self.problems.get(KEPT);
        Err(why
            .map_or("its Secret does not have it yet", String::as_str)
            .into())
    }

    /// The Secret has the keys, or not.
    pub(super) fn keys_kept(&mut self, kept: anyhow::Result<u64>) {
        match (kept, &mut self.kept) {
            (Ok(steps), Some(held)) => {
                held.steps = Some(steps);
                self.problems.remove(KEPT);
            }
            (Ok(_), None) => {}
            (Err(e), _) => self.say_once(KEPT, format!("the keys are not kept: {e:#}")),
        }
    }

    /// Whoever keeps the keys hears of each step that was taken.
    fn have_kept(&self) {
        if let Some(kept) = &self.kept
            && kept.steps.is_some_and(|steps| steps < self.keys.steps())
        {
            kept.changed.notify_one();
        }
    }

    fn publish_issuer_key(&mut self, times: (Duration, Duration), now: Now) -> Result<(), String> {
        let kind = KeyKind::IssuerKey;
        let number = self.keys.next_number(kind);
        self.audit_key(kind, number, "publish")?;
        let published = self.keys.publish_issuer_key(times, &mut self.rng, now.unix);
        published.map_err(|e| format!("{e:#}"))?;
        self.announce_keys(now);
        info!(key = kind.as_str(), number, "is published");
        Ok(())
    }

    /// Has the next root made beside this: its key may be with a signer, who may take his time.
    fn begin_root(&mut self, times: (Duration, Duration)) -> Result<(), String> {
        if self.roots.making.is_some() {
            return Err("the next root is being made".into());
        }
        let ring = self.keys.ring(KeyKind::Root);
        // Nothing is made that could not be published.
        ring.clone()
            .publish(times.0, times.1, self.now().unix)
            .map_err(|e| e.to_string())?;
        self.roots.making = Some(Making {
            times,
            answer: None,
        });
        let (maker, clock) = (self.keys.root_maker(), self.clock);
        let (desk, inputs) = (self.desk.clone(), self.sender.clone());
        tokio::spawn(async move {
            let made = desk.run(move || maker.make(clock.now().unix)).await;
            // A hub that is gone does not care.
            let _ = inputs.send(Input::RootMade(made)).await;
        });
        Ok(())
    }

    /// Whoever asked for the root that is being made is answered when it is published. `None`: it is not
    /// being made for this request.
    pub(super) fn answer_root_later(
        &mut self,
        request: &TrustRequest,
        answer: Answer,
        about: Value,
    ) -> Option<Answer> {
        let is_root =
            matches!(request, TrustRequest::Rotate(wanted) if wanted.key == KeyKind::Root);
        match &mut self.roots.making {
            Some(making) if is_root && making.answer.is_none() => {
                making.answer = Some((answer, about));
                None
            }
            _ => Some(answer),
        }
    }

    pub(super) fn root_made(&mut self, made: anyhow::Result<MadeRoot>) {
        let Some(making) = self.roots.making.take() else {
            return;
        };
        let now = self.now();
        let published = made
            .map_err(|e| format!("{e:#}"))
            .and_then(|made| self.publish_root(made, making.times, now));
        let failed = published.as_ref().err();
        self.roots.tried(failed.is_none(), now.mono);
        match making.answer {
            Some((answer, about)) => {
                if let Some(why) = failed {
                    self.audit_refused(about, why);
                }
                let said = published.map(|()| self.list_keys());
                self.waiting.push((answer, said));
            }
            None => self.key_problem(KeyKind::Root, published.err()),
        }
    }

    fn publish_root(
        &mut self,
        made: MadeRoot,
        times: (Duration, Duration),
        now: Now,
    ) -> Result<(), String> {
        let number = self.keys.next_number(KeyKind::Root);
        self.audit_key(KeyKind::Root, number, "publish")?;
        let published = self.keys.publish_root(made, times, now.unix);
        published.map_err(|e| format!("{e:#}"))?;
        self.announce_keys(now);
        self.key_problem(KeyKind::Root, None);
        info!(key = KeyKind::Root.as_str(), number, "is published");
        Ok(())
    }

    /// Has the signer retire the key of a root that is believed no more.
    fn retire_with_signer(&mut self, now: Now) {
        if !self.roots.may_retire(now.mono) {
            return;
        }
        let Some((number, retire)) = self.keys.retiring() else {
            return;
        };
        self.roots.retiring = true;
        let (desk, inputs) = (self.desk.clone(), self.sender.clone());
        tokio::spawn(async move {
            let retired = desk.run(retire).await;
            let _ = inputs.send(Input::RootRetired(number, retired)).await;
        });
    }

    pub(super) fn root_retired(&mut self, number: u32, retired: anyhow::Result<()>) {
        self.roots.retiring = false;
        let now = self.now().mono;
        self.roots.retired(retired.is_ok(), now);
        match retired {
            Ok(()) => {
                self.keys.retired(number);
                self.problems.remove(RETIRING);
                info!(number, "the signer has retired the key of the root");
            }
            Err(e) => {
                let words =
                    format!("root {number} is believed no more, and its key is not retired: {e:#}");
                self.say_once(RETIRING, words);
            }
        }
    }

    fn use_key(&mut self, kind: KeyKind, number: u32, now: Now) -> Result<(), String> {
        self.audit_key(kind, number, "use")?;
        let keep = self.keys.ring(kind).keep_before(number);
        self.take(kind, Step::Use(number), now)?;
        match kind {
            KeyKind::Root => {
                if let Some(pin) = self.keys.root_pin() {
                    self.control.set_signing_root(pin.0);
                }
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

    pub(super) fn announce_keys(&mut self, now: Now) {
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
                    "with_signer": kind == KeyKind::Root && !self.keys.is_held(generation.number),
                    "next": self.next_exchange(kind, generation.phase),
                })
            })
        });
        all.chain(self.list_foreign()).collect()
    }

    fn list_foreign(&self) -> impl Iterator<Item = Value> + '_ {
        let foreign = self.keys.foreign().into_iter();
        foreign.flat_map(|foreign| {
            foreign.roots.iter().zip(1..).map(|(root, number)| {
                let pin = Pin::of(root);
                json!({
                    "key": KeyKind::Root,
                    "number": number,
                    "name": pin.to_string(),
                    "phase": "workload-api",
                    "shown": pin == foreign.shown,
                })
            })
        })
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
            _ => {
                let pin = self.keys.root_pin();
                let pin = pin.ok_or("this gateway has no X.509-SVID yet")?;
                Ok(pin.0)
            }
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
