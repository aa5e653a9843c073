//! Packets that a thread of its own sends: how many they are, and what the report says of them.

use std::{
    num::NonZeroU64,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::{
    outcome::Failure,
    report::{Better, Report, number},
    run::Run,
};

/// What was sent so far.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    sent: Arc<AtomicU64>,
    unsent: Arc<AtomicU64>,
}

impl Counts {
    /// The kernel took `sent` packets more and refused `unsent`.
    pub fn add(&self, sent: u64, unsent: u64) {
        self.sent.fetch_add(sent, Ordering::Relaxed);
        self.unsent.fetch_add(unsent, Ordering::Relaxed);
    }

    /// Packets that the kernel took.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Tells of them; `asked` is the rate that was asked for.
    pub fn tell(&self, report: &mut Report, asked: Option<f64>) {
        report.succeeded = self.sent();
        let unsent = self.unsent.load(Ordering::Relaxed);
        if unsent > 0 {
            report.failed.insert(Failure::Other.word().into(), unsent);
            report
                .notes
                .push("other: the kernel took these packets not; its queues were full".into());
        }
        let rate = report.succeeded as f64 / report.seconds.max(f64::EPSILON);
        report.figure("packets per second", "1/s", rate, Better::Higher);
        if let Some(asked) = asked.filter(|asked| rate < asked * 0.99 && !report.interrupted) {
            report.notes.push(format!(
                "{} packets/s were asked for: this host sends no more by one thread",
                number(asked)
            ));
        }
    }
}

/// A thread that sends.
pub struct Sending {
    counts: Counts,
    ended: oneshot::Receiver<Result<()>>,
}

impl Sending {
    /// Starts `work`, which counts what it sends.
    pub fn start(
        name: &str,
        work: impl FnOnce(&Counts) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (sender, ended) = oneshot::channel();
        let counts = Counts::default();
        let own = counts.clone();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // A kernel that refuses only costs precision.
                let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
                // Nobody listens any more when the run broke.
                let _ = sender.send(work(&own));
            })
            .context("cannot start a thread")?;
        Ok(Self { counts, ended })
    }

    /// The progress: packets since the line was last asked for.
    pub fn line(&self) -> impl FnMut() -> String + 'static {
        let (counts, mut before) = (self.counts.clone(), 0);
        move || {
            let sent = counts.sent();
            let recent = sent - std::mem::replace(&mut before, sent);
            format!("{} packets/s", number(recent as f64))
        }
    }

    /// Waits for the thread's end, which is that of the run.
    pub async fn ended(self, run: &Run) -> Result<Counts> {
        self.ended.await.context("the sending thread panicked")??;
        run.finish();
        Ok(self.counts)
    }
}
