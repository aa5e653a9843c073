//! What a seed means: a world and what happens to it; and, when that fails, what of it is needed.

use std::{fmt, time::Duration};

use crate::{
    plan::Plan,
    shrink::shrink,
    trial::{self, Failure},
    world::{Summary, World},
};

/// A run that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// What happened.
    pub plan: Plan,
    /// The same in words, up to the failure.
    pub log: Vec<String>,
    /// What was seen then.
    pub failure: Failure,
}

/// Everything that a seed makes happen.
#[must_use]
pub fn plan(seed: u64) -> Plan {
    Plan::of(seed, World::begun())
}

/// Runs the world of a plan.
///
/// # Errors
/// What failed.
pub fn run(plan: &Plan) -> Result<Summary, Box<Failed>> {
    let mut log = Vec::new();
    trial::quietly(|| World::of(plan).run(plan, &mut log)).map_err(|failure| {
        Box::new(Failed {
            plan: plan.clone(),
            log,
            failure,
        })
    })
}

impl Failed {
    /// The shortest list that fails in the same place, of those found within `budget`.
    #[must_use]
    pub fn shrunk(self, budget: Duration) -> Self {
        let mut least = self.clone();
        let all = self.plan.numbers();
        shrink(&all, budget, |numbers| {
            let Err(failed) = run(&self.plan.only(numbers)) else {
                return false;
            };
            let same = failed.failure.place == self.failure.place;
            if same {
                least = *failed;
            }
            same
        });
        least
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, clusters, .. } = self.plan;
        writeln!(f, "seed {seed} fails: {}", self.failure)?;
        let count = self.plan.steps.len();
        writeln!(f, "{count} transitions in a world of {clusters} clusters:")?;
        for line in &self.log {
            writeln!(f, "  {line}")?;
        }
        let numbers: Vec<String> = self.plan.numbers().iter().map(usize::to_string).collect();
        write!(
            f,
            "replay: SIM_FIRST={seed} SIM_ONLY={} cargo test -p landbridge-sim --test seeds",
            numbers.join(",")
        )
    }
}
