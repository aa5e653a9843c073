//! How many packets were dropped, and why, in the whole demo.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::super::Demo;
use crate::demo::wait;

/// The reasons of all gateways and agents, summed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops(BTreeMap<String, u64>);

impl Drops {
    /// As counted until now.
    pub fn now(demo: &Demo) -> Result<Self> {
        let enforcers = demo.enforcers();
        // At once, because an agent asks the kernel for some of them.
        let answers: Vec<Result<Value>> = thread::scope(|scope| {
            let asked: Vec<_> = enforcers
                .iter()
                .map(|enforcer| scope.spawn(|| enforcer.ask("counters")))
                .collect();
            let answers = asked
                .into_iter()
                .map(|it| it.join().unwrap_or(Ok(Value::Null)));
            answers.collect()
        });
        let mut all = BTreeMap::new();
        for counters in answers {
            let counters = counters?;
            for (reason, count) in counters["dropped"].as_object().into_iter().flatten() {
                *all.entry(reason.clone()).or_default() += count.as_u64().unwrap_or_default();
            }
        }
        Ok(Self(all))
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().filter_map(|(reason, now)| {
            // A process that was restarted counts from nothing.
            let more = now.saturating_sub(before.of(reason));
            (more > 0).then(|| (reason.clone(), more))
        });
        Self(grown.collect())
    }

    /// Drops for `reason`.
    pub fn of(&self, reason: &str) -> u64 {
        self.0.get(reason).copied().unwrap_or(0)
    }

    /// Waits until `count` more than in `self` were dropped for one of `reasons`; all drops until then.
    ///
    /// # Errors
    /// When they were not within `limit`: what was dropped instead.
    pub fn wait_for(
        &self,
        demo: &Demo,
        reasons: &[&str],
        count: u64,
        limit: Duration,
    ) -> Result<Self> {
        let mut more = Self::default();
        let enough = wait::for_some(limit, || {
            let now = Self::now(demo).ok()?;
            more = now.since(self);
            let sum: u64 = reasons.iter().map(|reason| more.of(reason)).sum();
            (sum >= count).then_some(now)
        });
        match enough {
            Some(now) => Ok(now),
            None => bail!(
                "dropped were to be {count} as {}; dropped were {}",
                reasons.join(" or "),
                json!(more.0)
            ),
        }
    }
}
