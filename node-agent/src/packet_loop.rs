//! The one thread that gives verdicts, and how others talk to it.
//!
//! Everything that a verdict depends on is changed on this thread, between two batches: a snapshot
//! that takes a permission away and the connection mark that carried it change together.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::mpsc::{self, Receiver, SyncSender, TrySendError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::{error, warn};
use wire::flow::FlowKey;

use crate::{
    capture::{Capture, nfqueue::Waker},
    clock::Clock,
    enforcer::Enforcer,
    handled::HandledCount,
    judge::{Judge, Touched},
};

/// Commands that may wait.
const INBOX: usize = 64;
/// The longest wait for packets, so that a missed wake-up does little harm.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often in a row the queues may fail before the thread gives up.
const MAX_FAILURES: u32 = 16;

type Question<E> = Box<dyn FnOnce(&mut Judge<E>, &dyn Capture) + Send>;

/// What the thread is told.
enum Command<E: Enforcer> {
    Snapshot(E::Snapshot, Touched),
    RemovePod(IpAddr, SyncSender<io::Result<usize>>),
    Reconcile(u64, BTreeSet<FlowKey>),
    Ask(Question<E>),
    Stop,
}

/// The thread is gone: every new flow is dropped, and the process should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet thread has ended")]
pub struct Gone;

/// The handle of the thread.
pub struct PacketLoop<E: Enforcer> {
    inbox: SyncSender<Command<E>>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

impl<E: Enforcer + 'static> PacketLoop<E> {
    /// Starts the thread. It inherits the calling thread's network namespace.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(
        judge: Judge<E>,
        capture: impl Capture + 'static,
        waker: Waker,
        handled: HandledCount,
        clock: Clock,
    ) -> io::Result<Self> {
        let (inbox, commands) = mpsc::sync_channel(INBOX);
        let state = State {
            judge,
            capture,
            handled,
            clock,
            commands,
        };
        let thread = thread::Builder::new()
            .name("packets".to_owned())
            .spawn(move || state.run())?;
        Ok(Self {
            inbox,
            waker,
            thread: Some(thread),
        })
    }

    /// Decides by `snapshot` from now on.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn set_snapshot(&self, snapshot: E::Snapshot, touched: Touched) -> Result<(), Gone> {
        self.tell(Command::Snapshot(snapshot, touched))
    }

    /// Removes every connection of a pod that is gone, and waits until it is done.
    ///
    /// # Errors
    /// [`Gone`] as an `io::Error`, or what the kernel says.
    pub fn remove_pod(&self, address: IpAddr) -> io::Result<usize> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(Command::RemovePod(address, reply))
            .map_err(io::Error::other)?;
        answer.recv().map_err(|_| io::Error::other(Gone))?
    }

    /// Forgets flows recorded up to `age` that are not among `tracked`.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn reconcile(&self, age: u64, tracked: BTreeSet<FlowKey>) -> Result<(), Gone> {
        self.tell(Command::Reconcile(age, tracked))
    }

    /// Asks the thread between two batches, and waits for the answer.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Judge<E>, &dyn Capture) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(Command::Ask(Box::new(move |judge, capture| {
            // Nobody waits any more when this fails.
            let _ = reply.send(question(judge, capture));
        })))?;
        answer.recv().map_err(|_| Gone)
    }

    /// Whether the thread still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Ends the thread and waits for it; packets in the queues are dropped.
    pub fn stop(mut self) {
        self.end();
    }
}

impl<E: Enforcer> PacketLoop<E> {
    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A thread that is gone already needs no word.
        let _ = self.tell(Command::Stop);
        if thread.join().is_err() {
            error!("the packet thread panicked");
        }
    }

    fn tell(&self, command: Command<E>) -> Result<(), Gone> {
        // The thread empties its inbox before each batch; a full one waits for that.
        let sent = match self.inbox.try_send(command) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(command)) => {
                self.waker.wake();
                self.inbox.send(command).map_err(|_| Gone)
            }
            Err(TrySendError::Disconnected(_)) => Err(Gone),
        };
        self.waker.wake();
        sent
    }
}

impl<E: Enforcer> Drop for PacketLoop<E> {
    fn drop(&mut self) {
        self.end();
    }
}

struct State<E: Enforcer, C> {
    judge: Judge<E>,
    capture: C,
    handled: HandledCount,
    clock: Clock,
    commands: Receiver<Command<E>>,
}

impl<E: Enforcer, C: Capture> State<E, C> {
    fn run(mut self) {
        let mut failures = 0;
        while self.obey() {
            match self.step() {
                Ok(()) => failures = 0,
                Err(error) if failures < MAX_FAILURES => {
                    failures += 1;
                    warn!(%error, "packets cannot be received");
                }
                Err(error) => {
                    error!(%error, "packets cannot be received any more");
                    return;
                }
            }
        }
    }

    /// Carries out what waits in the inbox; false when the thread should end.
    fn obey(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Snapshot(snapshot, touched) => {
                    self.judge
                        .set_snapshot(snapshot, &touched, self.clock.now());
                }
                Command::RemovePod(address, reply) => {
                    // Nobody waits any more when this fails.
                    let _ = reply.send(self.judge.remove_pod(address));
                }
                Command::Reconcile(age, tracked) => self.judge.reconcile(age, &tracked),
                Command::Ask(question) => question(&mut self.judge, &self.capture),
                Command::Stop => return false,
            }
        }
        true
    }

    fn step(&mut self) -> io::Result<()> {
        let now = self.clock.now();
        let wait = match (self.judge.tidy(), self.judge.enforcer.poll_timeout()) {
            (true, _) => Duration::ZERO,
            (false, Some(due)) => due.since(now.mono),
            (false, None) => LONGEST_WAIT,
        };
        let (judge, clock) = (&mut self.judge, &self.clock);
        let judged = self
            .capture
            .poll(Some(wait.min(LONGEST_WAIT)), &mut |path, packet| {
                judge.judge(path, packet, clock.now())
            })?;
        self.judge.handle_timeout(self.clock.now());
        self.handled.add(judged as u64)
    }
}
