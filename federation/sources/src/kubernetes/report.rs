//! What became of objects, said on the objects themselves: the condition `Accepted` of our own kinds, and an
//! Event on any object whenever that is something else than before.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Error,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{self, Instant, MissedTickBehavior},
};

use super::lease::{Holder, RENEWED};
use crate::{
    Effect, Problem,
    crd::API_VERSION,
    read::{Kind, ObjectKey},
};

/// As what fields are owned and Events are sent.
const MANAGER: &str = "landbridge";
const CONTROLLER: &str = "landbridge.io/gateway";
const ACCEPTED: &str = "Accepted";
/// Longest message, in characters: of an Event the API server takes 1,024 bytes.
const MAX_MESSAGE: usize = 900;

/// Which version of an object it is, and what is said of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct About {
    uid: Option<String>,
    generation: Option<i64>,
    accepted: Option<Condition>,
}

impl About {
    /// Whether it is of the same version of the same object.
    pub fn is_as(&self, other: &Self) -> bool {
        (&self.uid, self.generation) == (&other.uid, other.generation)
    }

    /// Of `tree`, as the API server sent it.
    pub fn of(tree: &Value) -> Self {
        let metadata = |field: &str| tree.get("metadata")?.get(field);
        let conditions = tree.pointer("/status/conditions").and_then(Value::as_array);
        let mut conditions = conditions.into_iter().flatten();
        let accepted =
            conditions.find(|one| one.get("type").and_then(Value::as_str) == Some(ACCEPTED));
        Self {
            uid: metadata("uid").and_then(Value::as_str).map(str::to_owned),
            generation: metadata("generation").and_then(Value::as_i64),
            accepted: accepted.and_then(|one| serde_json::from_value(one.clone()).ok()),
        }
    }
}

/// What is to be said of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    about: About,
    is_accepted: bool,
    reason: &'static str,
    message: String,
}

impl Report {
    pub fn new(about: &About, problems: &[&Problem]) -> Self {
        let is_accepted = problems.iter().all(|problem| problem.is_warning());
        let worst = problems.iter().map(|problem| problem.effect).max();
        let words: Vec<String> = problems.iter().map(|problem| problem.words()).collect();
        Self {
            about: about.clone(),
            is_accepted,
            reason: match worst {
                None => "Accepted",
                Some(Effect::Warning | Effect::PassedOver) => "AcceptedWithWarnings",
                Some(Effect::KeptPrevious) => "KeptPrevious",
                Some(Effect::NotInForce) => "NotInForce",
                Some(Effect::Closed) => "Closed",
            },
            message: words.join("; ").chars().take(MAX_MESSAGE).collect(),
        }
    }

    fn status(&self) -> &'static str {
        match self.is_accepted {
            true => "True",
            false => "False",
        }
    }

    /// Whether the object says so already.
    fn is_said(&self) -> bool {
        self.about.accepted.as_ref().is_some_and(|said| {
            said.status == self.status()
                && said.reason == self.reason
                && said.message == self.message
                && said.observed_generation == self.about.generation
        })
    }
}

/// What is to be said of all objects.
pub(super) type Reports = BTreeMap<ObjectKey, Report>;

/// Says it, as long as this gateway is the one that does, until nobody has anything to say.
pub(super) struct Reporter {
    client: Client,
    holder: Holder,
    /// The gateway's name.
    instance: String,
    reports: watch::Receiver<Arc<Reports>>,
    /// What was said last.
    said: Reports,
    /// What stood in the way last, of the lease and of what is to be said.
    failures: [String; 2],
}

impl Reporter {
    pub fn new(
        client: Client,
        cluster: &str,
        instance: &str,
        reports: watch::Receiver<Arc<Reports>>,
    ) -> Self {
        let leases = Api::default_namespaced(client.clone());
        let random = getrandom::u64().unwrap_or_default();
        let identity = format!("{instance}_{random:016x}");
        Self {
            holder: Holder::new(leases, &format!("landbridge-{cluster}"), &identity),
            client,
            instance: instance.to_owned(),
            reports,
            said: Reports::new(),
            failures: Default::default(),
        }
    }

    pub async fn run(mut self) {
        let mut ticks = time::interval(RENEWED);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_ours = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let held = self.holder.hold().await;
                    is_ours = *held.as_ref().unwrap_or(&false);
                    self.note(0, held.err());
                }
                changed = self.reports.changed() => if changed.is_err() { return },
            }
            if is_ours {
                let reports = Arc::clone(&self.reports.borrow_and_update());
                let said = self.say_all(&reports).await;
                self.note(1, said.err());
            }
        }
    }

    /// That something fails is logged, and not again and again.
    fn note(&mut self, of: usize, error: Option<Error>) {
        let words = error.map(|error| error.to_string()).unwrap_or_default();
        if !words.is_empty() && self.failures[of] != words {
            tracing::warn!("cannot say on objects what became of them: {words}");
        }
        self.failures[of] = words;
    }

    /// What is new, as far as there is time until the lease is to be renewed. Of an object of which nothing can be
    /// said nothing is said until it is something else.
    async fn say_all(&mut self, reports: &Reports) -> Result<(), Error> {
        self.said.retain(|key, _| reports.contains_key(key));
        let until = Instant::now() + RENEWED;
        for (key, report) in reports {
            if Instant::now() >= until {
                return Ok(());
            }
            if self.said.get(key) == Some(report) {
                continue;
            }
            match self.say(key, report).await {
                Err(Error::Api(status)) if matches!(status.code, 400 | 413 | 422) => {
                    let words = &status.message;
                    tracing::warn!("cannot say on {key} what became of it: {words}");
                }
                said => said?,
            }
            self.said.insert(key.clone(), report.clone());
        }
        Ok(())
    }

    async fn say(&self, key: &ObjectKey, report: &Report) -> Result<(), Error> {
        let before = self.said.get(key);
        let has_status = key.kind.has_status();
        if has_status && before.is_none() && report.is_said() {
            return Ok(());
        }
        if has_status {
            self.set_condition(key, report).await?;
        }
        let was = before.map(|before| (before.reason, &before.message));
        // Of what is as it should be from the begin only our own objects say so.
        if was != Some((report.reason, &report.message))
            && (was.is_some() || report.reason != "Accepted")
        {
            self.send_event(key, report).await?;
        }
        Ok(())
    }

    async fn set_condition(&self, key: &ObjectKey, report: &Report) -> Result<(), Error> {
        let before = report
            .about
            .accepted
            .as_ref()
            .filter(|said| said.status == report.status());
        let since = before.map_or_else(
            || Time(Timestamp::now()),
            |said| said.last_transition_time.clone(),
        );
        let condition = Condition {
            type_: ACCEPTED.into(),
            status: report.status().into(),
            reason: report.reason.into(),
            message: report.message.clone(),
            observed_generation: report.about.generation,
            last_transition_time: since,
        };
        let resource = key.kind.resource();
        let objects: Api<DynamicObject> = match key.kind.is_namespaced() {
            true => Api::namespaced_with(self.client.clone(), &key.namespace, &resource),
            false => Api::all_with(self.client.clone(), &resource),
        };
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": key.kind.word(),
            // Another object of the name is not spoken of.
            "metadata": {"name": key.name, "uid": report.about.uid},
            "status": {"conditions": [condition]},
        });
        let parameters = PatchParams::apply(MANAGER).force();
        let patched = objects
            .patch_status(&key.name, &parameters, &Patch::Apply(&patch))
            .await;
        unless_gone(patched)
    }

    async fn send_event(&self, key: &ObjectKey, report: &Report) -> Result<(), Error> {
        let namespace = match key.namespace.as_str() {
            "" => "default",
            namespace => namespace,
        };
        let of = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", key.name)),
                namespace: Some(namespace.into()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(Timestamp::now())),
            action: Some("Read".into()),
            reason: Some(report.reason.into()),
            note: of(&report.message),
            type_: Some(
                if report.reason == "Accepted" {
                    "Normal"
                } else {
                    "Warning"
                }
                .into(),
            ),
            regarding: Some(ObjectReference {
                api_version: Some(key.kind.api_version().into()),
                kind: Some(key.kind.word().into()),
                name: Some(key.name.clone()),
                namespace: of(&key.namespace),
                uid: report.about.uid.clone(),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        let events = Api::namespaced(self.client.clone(), namespace);
        unless_gone(events.create(&PostParams::default(), &event).await)
    }
}

/// Whoever wrote of an object that is gone, or another one now, has nothing more to say of it.
fn unless_gone<T>(written: Result<T, Error>) -> Result<(), Error> {
    match written {
        Ok(_) => Ok(()),
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}

impl Kind {
    /// Whether an object of this kind says itself what became of it.
    fn has_status(self) -> bool {
        self.api_version() == API_VERSION
    }
}
