//! Ctrl-C as a value that is asked for, so that a command undoes what it did before it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP, which from now on end this process only when it looks.
#[derive(Clone)]
pub struct Interrupts(Arc<AtomicBool>);

impl Interrupts {
    /// Handles the signals instead of blocking them: what is blocked here would be blocked in
    /// every process that is started.
    pub fn handle() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("cannot start the runtime")?;
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        let signals = {
            let _context = runtime.enter();
            kinds
                .map(signal)
                .into_iter()
                .collect::<std::io::Result<Vec<_>>>()
                .context("cannot handle signals")?
        };
        let came = Arc::new(AtomicBool::new(false));
        let flag = came.clone();
        thread::spawn(move || {
            runtime.block_on(first(signals));
            flag.store(true, Ordering::Relaxed);
            // Later signals find handlers that nobody reads: undoing goes on.
        });
        Ok(Self(came))
    }

    /// Whether one came.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error once a signal came.
    pub fn check(&self) -> Result<()> {
        if self.came() {
            bail!("interrupted");
        }
        Ok(())
    }
}

async fn first(mut signals: Vec<Signal>) {
    std::future::poll_fn(|context| {
        let ready = signals.iter_mut().any(|s| s.poll_recv(context).is_ready());
        if ready {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
