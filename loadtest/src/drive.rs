//! Closed and open loops around any attempt that succeeds or fails.
//!
//! A closed loop begins an attempt when another ended, so a target that stalls is asked less, and its
//! stall shows in a few attempts only (coordinated omission). An open loop begins them by the clock, as
//! independent users do, and counts the time from the moment when each should have begun.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration, time::Instant};

use anyhow::Result;
use tokio::{sync::Semaphore, task::JoinSet, time};

use crate::{
    outcome::Failure,
    pace::{self, Schedule},
    recorder::Recorder,
    run::Run,
};

/// How attempts follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loop {
    /// So many at a time.
    Closed {
        /// Attempts under way.
        in_flight: usize,
    },
    /// By the clock.
    Open {
        /// Attempts that begin in a second.
        rate: f64,
        /// The most under way; what is due beyond waits, and its waiting counts.
        in_flight: usize,
    },
}

/// Begins attempts until the run is over, then waits for those under way, at most `limit`.
pub async fn drive<A, F>(
    run: &Rc<Run>,
    recorder: &Rc<RefCell<Recorder>>,
    shape: Loop,
    limit: Duration,
    attempt: A,
) -> Result<()>
where
    A: Fn() -> F + Clone + 'static,
    F: Future<Output = Result<(), Failure>> + 'static,
{
    let mut tasks = JoinSet::new();
    let mut never_begun = 0;
    match shape {
        Loop::Closed { in_flight } => {
            for _ in 0..in_flight {
                let (run, recorder, attempt) = (run.clone(), recorder.clone(), attempt.clone());
                tasks.spawn_local(async move {
                    while !run.is_over() {
                        one(&recorder, Instant::now(), &attempt).await;
                    }
                });
            }
            run.over().await;
        }
        Loop::Open { rate, in_flight } => {
            let schedule = Schedule {
                rate,
                length: run.length,
            };
            let mut starts = pace::keep(schedule, run.begin, run.stop_flag())?;
            let room = Arc::new(Semaphore::new(in_flight));
            let end = given_up(run, limit);
            tokio::pin!(end);
            while let Some(start) = starts.recv().await {
                let permit = tokio::select! {
                    biased;
                    permit = room.clone().acquire_owned() => permit?,
                    () = &mut end => {
                        never_begun += 1;
                        break;
                    }
                };
                while tasks.try_join_next().is_some() {}
                let (recorder, attempt) = (recorder.clone(), attempt.clone());
                tasks.spawn_local(async move {
                    one(&recorder, start.intended, &attempt).await;
                    drop(permit);
                });
            }
            starts.close();
            while starts.try_recv().is_ok() {
                never_begun += 1;
            }
            run.over().await;
        }
    }
    let drain = async { while tasks.join_next().await.is_some() {} };
    // What is still under way then is counted below.
    let _ = time::timeout(run.patience(limit + Duration::from_millis(500)), drain).await;
    tasks.abort_all();
    let mut recorder = recorder.borrow_mut();
    let left = recorder.in_flight + never_begun;
    recorder.leave(left);
    Ok(())
}

/// When what is due is not begun any more: some time after the run is over, for what had to wait.
async fn given_up(run: &Run, limit: Duration) {
    run.over().await;
    time::sleep(run.patience(limit)).await;
}

async fn one<A, F>(recorder: &Rc<RefCell<Recorder>>, intended: Instant, attempt: &A)
where
    A: Fn() -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let begun = recorder.borrow_mut().start(intended, Instant::now());
    let result = attempt().await;
    recorder.borrow_mut().end(begun, result, Instant::now());
}
