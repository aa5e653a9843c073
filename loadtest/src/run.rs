//! The frame of a run: how long it goes on, who may end it, and what is seen meanwhile.

use std::{
    cell::Cell,
    future::Future,
    io::{IsTerminal, Write},
    process::ExitCode,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::LocalSet,
    time,
};

/// How long attempts under way may still take after Ctrl-C.
const IMPATIENCE: Duration = Duration::from_secs(1);
/// What a shell says of a command that Ctrl-C ended: 128 + SIGINT.
pub const INTERRUPTED: u8 = 130;

/// One run.
pub struct Run {
    /// When it began.
    pub begin: Instant,
    /// How long nothing ends it.
    pub length: Duration,
    stop: Arc<AtomicBool>,
    over: watch::Sender<bool>,
    interrupted: Cell<bool>,
    measured: Cell<Option<Duration>>,
}

impl Run {
    /// Begins now.
    pub fn new(length: Duration) -> Rc<Self> {
        Rc::new(Self {
            begin: Instant::now(),
            length,
            stop: Arc::default(),
            over: watch::Sender::new(false),
            interrupted: Cell::new(false),
            measured: Cell::new(None),
        })
    }

    /// Whether nothing new may begin.
    pub fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Set when it is over: for threads.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// Waits for the end.
    pub async fn over(&self) {
        // The sender lives as long as `self`.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Ends it before its time: there is nothing left to do.
    pub fn finish(&self) {
        if !self.is_over() {
            self.measured.set(Some(self.begin.elapsed()));
            self.stop.store(true, Ordering::Relaxed);
            self.over.send_replace(true);
        }
    }

    /// From the beginning until it was over.
    pub fn measured(&self) -> Duration {
        self.measured.get().unwrap_or_else(|| self.begin.elapsed())
    }

    /// Whether Ctrl-C ended it.
    pub fn interrupted(&self) -> bool {
        self.interrupted.get()
    }

    /// How long attempts that are under way at the end may still take.
    pub fn patience(&self, limit: Duration) -> Duration {
        match self.interrupted() {
            true => limit.min(IMPATIENCE),
            false => limit,
        }
    }

    /// What the process says with its exit status.
    pub fn exit_code(&self) -> ExitCode {
        match self.interrupted() {
            true => ExitCode::from(INTERRUPTED),
            false => ExitCode::SUCCESS,
        }
    }

    /// Ends the run at its time or by a signal, and draws `line` once a second where somebody looks.
    async fn conduct(self: Rc<Self>, mut line: impl FnMut() -> String) -> Result<()> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle signals")?;
        let mut second = time::interval_at(
            (self.begin + Duration::from_secs(1)).into(),
            Duration::from_secs(1),
        );
        let end = time::sleep_until((self.begin + self.length).into());
        let by_work = self.over();
        tokio::pin!(end, by_work);
        let draw = std::io::stderr().is_terminal();
        loop {
            tokio::select! {
                () = &mut end => break,
                () = &mut by_work => break,
                _ = interrupt.recv() => { self.interrupted.set(true); break }
                _ = terminate.recv() => { self.interrupted.set(true); break }
                _ = second.tick() => if draw {
                    let at = self.begin.elapsed().as_secs();
                    // Back to the start of the line, and clear what is longer.
                    let _ = write!(std::io::stderr(), "\r{at:4} s  {}\x1b[K", line());
                }
            }
        }
        if draw {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        self.finish();
        // Who asks twice does not want the report.
        interrupt.recv().await;
        std::process::exit(INTERRUPTED.into());
    }

    /// Runs `work`, which ends soon after the run is over.
    ///
    /// # Errors
    /// What `work` says, or that there is no runtime.
    pub fn block_on<T>(
        self: &Rc<Self>,
        line: impl FnMut() -> String + 'static,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let local = LocalSet::new();
        let conductor = self.clone();
        local.block_on(&runtime, async move {
            let conducted = tokio::task::spawn_local(conductor.conduct(line));
            tokio::select! {
                done = work => done,
                broken = conducted => match broken.context("the conductor of the run ended")? {
                    Err(e) => Err(e),
                    Ok(()) => anyhow::bail!("the conductor of the run ended"),
                },
            }
        })
    }
}

/// Lets this process open as many sockets as the system allows it.
pub fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With fewer descriptors the run goes on and counts `no-local-port`.
    let _ = setrlimit(Resource::Nofile, limit);
}
