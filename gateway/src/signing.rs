//! Work that waits for the signer of the X.509 root, beside the tasks of the gateway: none of them ever does.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

/// A signer that is asked for many nodes at once is run so often at once; one that can do a thing at a
/// time makes its programs wait for each other.
const AT_ONCE: usize = 4;

/// Where signatures are made. Clones are one.
#[derive(Clone, Debug)]
pub struct Desk(Arc<Semaphore>);

impl Default for Desk {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Desk {
    /// Waits for its turn. Who waits is bounded by who asks: one for each node, and three of the gateway's own.
    pub async fn turn(&self) -> anyhow::Result<Turn> {
        let permit = Arc::clone(&self.0).acquire_owned().await?;
        Ok(Turn { _permit: permit })
    }

    /// Does `work` when its turn comes.
    ///
    /// # Errors
    /// What it says, or that it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.turn().await?.run(work).await
    }
}

/// A turn at the desk; over when dropped.
#[derive(Debug)]
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turn {
    /// Does `work`, on a thread that may wait.
    ///
    /// # Errors
    /// As [`Desk::run`].
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        // Whoever waits no longer does not end the work: its turn is as long as the work.
        let done = spawn_blocking(move || {
            let done = work();
            drop(self);
            done
        });
        done.await?
    }
}
