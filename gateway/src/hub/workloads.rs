//! X.509-SVIDs of a SPIFFE Workload API: the roots of this cluster as it says them, and the gateway's own
//! certificate. docs/spire.md.

use quic::Svid;
use tokio::sync::watch::{Receiver, error::RecvError};
use tracing::info;
use workload_api::{Issued, Standing};

use super::Hub;
use crate::workloads;

/// Where it says what is wrong with it.
const ORIGIN: &str = "workload api";

/// Until it says something new; for ever where there is none.
pub(super) async fn changed(issued: &mut Option<Receiver<Standing>>) -> Result<(), RecvError> {
    match issued {
        Some(issued) => issued.changed().await,
        None => std::future::pending().await,
    }
}

impl Hub {
    /// Takes what the Workload API says now. What could not be taken is tried again with each tick.
    pub(super) fn take_issued(&mut self) {
        let Some(issued) = &mut self.issued else {
            return;
        };
        let Standing { issued, problem } = issued.borrow_and_update().clone();
        let taken = issued.map_or(Ok(()), |issued| self.take_svid(&issued));
        let problem = taken.err().unwrap_or(problem);
        if problem.is_empty() {
            self.problems.remove(ORIGIN);
        } else {
            self.say_once(ORIGIN, problem);
        }
    }

    fn take_svid(&mut self, issued: &Issued) -> Result<(), String> {
        let roots = workloads::foreign_roots(issued);
        if self.keys.foreign() != Some(&roots) {
            self.audited(&workloads::about_foreign(&roots))?;
            let told = self.keys.foreign().map(|told| &told.roots);
            let others = told != Some(&roots.roots);
            self.keys.set_foreign(roots);
            if others {
                let now = self.now();
                self.announce_keys(now);
                info!(
                    roots = issued.roots.len(),
                    "the X.509 roots of this cluster changed"
                );
            }
        }
        if self
            .identity
            .current()
            .chain()
            .ne(issued.chain.iter().map(Vec::as_slice))
        {
            let svid = Svid::received(&issued.chain, &issued.key);
            let svid = svid.map_err(|e| format!("the X.509-SVID of the Workload API: {e}"))?;
            self.next_svid = Some(svid);
        }
        Ok(())
    }

    /// Shows what was issued last, now that peers were told its roots; sessions that stand go on.
    pub(super) fn use_issued(&mut self) {
        if let Some(svid) = self.next_svid.take() {
            self.identity.set(svid);
        }
    }
}
