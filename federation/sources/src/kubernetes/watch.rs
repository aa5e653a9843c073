//! One kind of objects, followed at the API server: listed page by page, then watched from that version on.
//!
//! A watch ends by itself every few minutes and is taken up where it ended. While nothing changes the server
//! sends a bookmark about once a minute: a connection on which nothing came for longer is a dead one, and is
//! made anew. Only a server that no longer knows our version (410) has everything listed again.
//!
//! kube's own watcher does not say when the server answers again after it did not, and takes five minutes to
//! see a dead connection (docs/decisions/watches.md).

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::TryStreamExt;
use kube::{
    Client, Error,
    api::{ListParams, WatchParams},
    core::{ApiResource, ObjectList, Request, WatchEvent},
};
use serde_json::Value;
use tokio::{sync::mpsc, time};

use super::kinds::Asked;
use crate::read::Kind;

/// Objects in one answer.
const PAGE: u32 = 500;
/// The server ends a watch after this.
const LIFE: Duration = Duration::from_secs(290);
/// Longer than between two bookmarks.
const SILENCE: Duration = Duration::from_secs(90);
/// After the first failure, doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Between two looks for a kind that the API server does not have.
const ABSENT_WAIT: Duration = Duration::from_secs(60);
/// So many times in a row a server must say that it does not have a kind that it had: one that starts may say so
/// of all kinds. Their objects are deleted one by one before that.
const ABSENT: u32 = 6;

/// What is told of one kind.
#[derive(Debug)]
pub(super) enum Told {
    /// All objects follow, and what is not among them is gone.
    Begins,
    /// An object as it is now.
    Is(Value),
    /// It was deleted.
    Gone(Value),
    /// All that there were since [`Told::Begins`] were told.
    Complete,
    /// The server does not say what there is. What it said before may be old.
    Trouble(Trouble),
    /// It says so again.
    Well,
}

/// Why the server does not say what there is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// This process may not ask: in the server's words, with the verb and the resource.
    Forbidden(String),
    /// No answer, or one that means nothing.
    Failed(String),
}

/// Something about one kind, from the watch with that number.
pub(super) type News = (Kind, u64, Told);

/// Follows a kind until nobody listens.
pub(super) async fn follow(client: Client, asked: Asked, number: u64, news: mpsc::Sender<News>) {
    let mut follower = Follower {
        resource: asked.kind.resource(),
        client,
        asked,
        number,
        news,
        is_well: true,
        may_be_absent: true,
        absences: 0,
    };
    // Nobody listens any more.
    let Err(Ended) = follower.run().await;
}

struct Ended;

struct Follower {
    client: Client,
    asked: Asked,
    resource: ApiResource,
    number: u64,
    news: mpsc::Sender<News>,
    is_well: bool,
    /// The server never had the kind, or has it no more.
    may_be_absent: bool,
    /// How often in a row it said that it does not have it.
    absences: u32,
}

/// Why a watch ended.
enum End {
    /// It can be taken up where it ended.
    Closed,
    /// The server no longer knows where it ended.
    Expired,
}

impl Follower {
    async fn run(&mut self) -> Result<Infallible, Ended> {
        let mut waits = Waits::default();
        loop {
            let mut version = match self.list().await? {
                Ok(version) => version,
                Err(error) => {
                    self.fail(error, &mut waits).await?;
                    continue;
                }
            };
            loop {
                match self.watch(&mut version, &mut waits).await? {
                    Ok(End::Closed) => {}
                    Ok(End::Expired) => break,
                    Err(error) => {
                        if is_expired(&error) {
                            break;
                        }
                        self.fail(error, &mut waits).await?;
                    }
                }
            }
            // A server that says so without end is not asked without end.
            time::sleep(waits.next()).await;
        }
    }

    /// Tells all objects; returns the version of the list.
    async fn list(&mut self) -> Result<Result<String, Error>, Ended> {
        let mut parameters = ListParams::default().limit(PAGE);
        parameters.field_selector.clone_from(&self.asked.fields);
        let mut has_begun = false;
        loop {
            let page = match self.page(&parameters).await {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            if !has_begun {
                has_begun = true;
                self.tell(Told::Begins).await?;
            }
            for object in page.items {
                self.tell(Told::Is(object)).await?;
            }
            let more = page.metadata.continue_.filter(|token| !token.is_empty());
            if more.is_none() {
                (self.may_be_absent, self.absences) = (false, 0);
                self.tell(Told::Complete).await?;
                self.well().await?;
                return Ok(Ok(page.metadata.resource_version.unwrap_or_default()));
            }
            parameters.continue_token = more;
        }
    }

    async fn page(&self, parameters: &ListParams) -> Result<ObjectList<Value>, Error> {
        let path = self.path();
        let request = match self.asked.is_metadata {
            true => path.list_metadata(parameters),
            false => path.list(parameters),
        };
        let answered = self.client.request(request.map_err(Error::BuildRequest)?);
        time::timeout(LIFE, answered)
            .await
            .unwrap_or_else(|_| Err(silent()))
    }

    /// Tells what changes after `version`, and moves it on.
    async fn watch(
        &mut self,
        version: &mut String,
        waits: &mut Waits,
    ) -> Result<Result<End, Error>, Ended> {
        let parameters = WatchParams {
            field_selector: self.asked.fields.clone(),
            timeout: u32::try_from(LIFE.as_secs()).ok(),
            ..WatchParams::default()
        };
        let path = self.path();
        let request = match self.asked.is_metadata {
            true => path.watch_metadata(&parameters, version),
            false => path.watch(&parameters, version),
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return Ok(Err(Error::BuildRequest(error))),
        };
        let opened = time::timeout(SILENCE, self.client.request_events::<Value>(request)).await;
        let events = match opened.unwrap_or_else(|_| Err(silent())) {
            Ok(events) => events,
            Err(error) => return Ok(Err(error)),
        };
        let mut events = pin!(events);
        self.well().await?;
        loop {
            let event = match time::timeout(SILENCE, events.try_next()).await {
                Ok(Ok(Some(event))) => event,
                Ok(Ok(None)) => return Ok(Ok(End::Closed)),
                Ok(Err(error)) => return Ok(Err(error)),
                Err(_) => return Ok(Err(silent())),
            };
            waits.reset();
            let told = match event {
                WatchEvent::Bookmark(bookmark) => {
                    *version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(status) if status.code == 410 => return Ok(Ok(End::Expired)),
                WatchEvent::Error(status) => return Ok(Err(Error::Api(status))),
                WatchEvent::Added(object) | WatchEvent::Modified(object) => Told::Is(object),
                WatchEvent::Deleted(object) => Told::Gone(object),
            };
            if let Told::Is(object) | Told::Gone(object) = &told
                && let Some(at) = object
                    .pointer("/metadata/resourceVersion")
                    .and_then(Value::as_str)
            {
                at.clone_into(version);
            }
            self.tell(told).await?;
        }
    }

    fn path(&self) -> Request {
        let ApiResource {
            group,
            version,
            plural,
            ..
        } = &self.resource;
        match group.as_str() {
            "" => Request::new(format!("/api/{version}/{plural}")),
            group => Request::new(format!("/apis/{group}/{version}/{plural}")),
        }
    }

    /// Tells of `error` and waits.
    async fn fail(&mut self, error: Error, waits: &mut Waits) -> Result<(), Ended> {
        let is_absent = matches!(&error, Error::Api(status) if status.code == 404);
        self.absences = if is_absent { self.absences + 1 } else { 0 };
        self.may_be_absent |= self.absences >= ABSENT;
        let wait = match &error {
            // The kind is not installed: there is no such object.
            _ if is_absent && self.may_be_absent => {
                self.tell(Told::Begins).await?;
                self.tell(Told::Complete).await?;
                self.well().await?;
                ABSENT_WAIT
            }
            Error::Api(status) if status.code == 403 => {
                let message = status.message.clone();
                self.trouble(Trouble::Forbidden(message)).await?;
                waits.next()
            }
            error => {
                self.trouble(Trouble::Failed(words(error))).await?;
                waits.next()
            }
        };
        tokio::select! {
            () = time::sleep(wait) => Ok(()),
            () = self.news.closed() => Err(Ended),
        }
    }

    async fn trouble(&mut self, trouble: Trouble) -> Result<(), Ended> {
        self.is_well = false;
        self.tell(Told::Trouble(trouble)).await
    }

    async fn well(&mut self) -> Result<(), Ended> {
        if !std::mem::replace(&mut self.is_well, true) {
            self.tell(Told::Well).await?;
        }
        Ok(())
    }

    async fn tell(&self, told: Told) -> Result<(), Ended> {
        let news = (self.asked.kind, self.number, told);
        self.news.send(news).await.map_err(|_| Ended)
    }
}

/// An error with all its causes.
fn words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let more = error.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = error.source();
    }
    words
}

fn is_expired(error: &Error) -> bool {
    matches!(error, Error::Api(status) if status.code == 410)
}

fn silent() -> Error {
    let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "the server is silent");
    Error::Service(silent.into())
}

/// Waits that double, each by a random part shorter, so that those who lost the server together do not come
/// back together.
#[derive(Default)]
struct Waits(u32);

impl Waits {
    fn next(&mut self) -> Duration {
        let wait = FIRST_WAIT
            .saturating_mul(1 << self.0.min(16))
            .min(LONGEST_WAIT);
        self.0 = self.0.saturating_add(1);
        // Without randomness all wait equally long, and do come back.
        let random = getrandom::u32().unwrap_or_default();
        wait - (wait / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    fn reset(&mut self) {
        self.0 = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_begin_anew() {
        let mut waits = Waits::default();
        let first: Vec<Duration> = (0..12).map(|_| waits.next()).collect();
        assert!(
            first
                .iter()
                .all(|wait| *wait >= FIRST_WAIT / 2 && *wait <= LONGEST_WAIT)
        );
        assert!(first[0] <= FIRST_WAIT && first[11] >= LONGEST_WAIT / 2);
        for _ in 0..100 {
            assert!(waits.next() <= LONGEST_WAIT);
        }
        waits.reset();
        assert!(waits.next() <= FIRST_WAIT);
    }
}
