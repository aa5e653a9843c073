//! Looking at packets. tcpdump sees nothing on an interface that AF_XDP serves, so the pipeline has a tap.
//!
//! While nobody captures, a batch costs one load of a pointer. One capture runs at a time; it is bounded in packets
//! per second and in packets that wait, and what goes beyond either is counted, not waited for.
//!
//! `tap` is what the queue threads see, `feed` turns it into lines for the one who asked.

mod feed;
mod identity;
mod tap;

use std::{collections::BTreeMap, sync::Arc};

use ::identity::TrustDomain;
use observe::{AuditLog, Caller, CaptureRequest, CaptureView};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub use identity::IdentitySelector;
pub use tap::{Filter, Running, Tap};

use crate::pipeline::Shared;

/// Packets that wait for the one who asked.
const WAITING: usize = 4096;
/// Lines that wait for the socket.
const LINES: usize = 64;
/// The most packets in a second that may be asked for.
const MAX_RATE: u32 = 100_000;
/// Bytes of a packet that are always kept: headers and marker.
const MIN_SNAPLEN: u32 = 64;

/// Begins captures of one gateway.
pub struct Capturer {
    /// Where the tap is.
    pub shared: Arc<Shared>,
    /// The gateway's name.
    pub gateway: String,
    /// The names of the interfaces towards nodes and peers.
    pub interfaces: [String; 2],
    /// Who captured what.
    pub audit: AuditLog,
}

impl Capturer {
    /// Begins a capture for `by`, who calls clusters as `clusters` does; it ends when the receiver is dropped. Every item is a line of JSON, the first one
    /// about the capture (docs/capture.md).
    ///
    /// # Errors
    /// Why there is none, in words: not root, an unknown peer, one that runs already, an audit log that cannot be
    /// written.
    pub fn begin(
        &self,
        request: &CaptureRequest,
        clusters: &BTreeMap<String, TrustDomain>,
        by: Caller,
    ) -> Result<mpsc::Receiver<String>, String> {
        if by.uid != 0 {
            return Err(format!(
                "only root may look at packets, not user {}",
                by.uid
            ));
        }
        let filter = filter(request, clusters)?;
        let (sender, packets) = mpsc::channel(WAITING);
        let about = json!({
            "uid": by.uid, "pid": by.pid, "peer": request.peer, "identity": request.identity,
            "view": request.view, "rate": request.rate, "snaplen": request.snaplen,
        });
        let running = Running::new(filter, request.rate, sender, about.clone());
        let running = Arc::new(running);
        let turn = self.shared.tap.begin(&running).ok_or(
            "a capture runs already, and there is one at a time: `status` says since when and whose",
        )?;
        // Nobody looks at what passes without a trace of it.
        self.audit
            .write("capture-begins", &about)
            .map_err(|e| format!("no capture without an audit log: {e}"))?;
        let first = json!({
            "capture": {
                "gateway": self.gateway, "lan": self.interfaces[0], "wan": self.interfaces[1],
                "snaplen": request.snaplen,
            }
        });
        let (lines, receiver) = mpsc::channel(LINES);
        let feed = feed::Feed {
            turn,
            packets,
            lines,
            about,
            audit: self.audit.clone(),
        };
        tokio::spawn(feed.run(first));
        Ok(receiver)
    }

    /// Of the capture that runs: for `status`.
    #[must_use]
    pub fn status(&self) -> Value {
        self.shared
            .tap
            .load()
            .as_ref()
            .map_or(Value::Null, |running| {
                let [captured, lost] = running.counts();
                let mut status = running.about.clone();
                status["since"] = running.since.into();
                status["captured"] = captured.into();
                status["lost"] = lost.into();
                status
            })
    }
}

fn filter(
    request: &CaptureRequest,
    clusters: &BTreeMap<String, TrustDomain>,
) -> Result<Filter, String> {
    let peer = request.peer.as_deref().map(|name| find(name, clusters));
    let selector = (request.identity.as_deref())
        .map(|text| IdentitySelector::parse(text, |name| find(name, clusters)));
    if !(1..=MAX_RATE).contains(&request.rate) {
        return Err(format!("rate: 1 to {MAX_RATE} packets in a second"));
    }
    if request.snaplen < MIN_SNAPLEN {
        return Err(format!("snaplen: at least {MIN_SNAPLEN} bytes"));
    }
    Ok(Filter {
        peer: peer.transpose()?,
        identity: selector.transpose()?,
        plain: request.view != Some(CaptureView::Sealed),
        sealed: request.view != Some(CaptureView::Plain),
        snaplen: request.snaplen as usize,
    })
}

/// The trust domain of the cluster `name`, which may be its trust domain already.
fn find(name: &str, clusters: &BTreeMap<String, TrustDomain>) -> Result<TrustDomain, String> {
    let named = clusters.get(name);
    let found = named.or_else(|| clusters.values().find(|domain| domain.as_str() == name));
    found.cloned().ok_or_else(|| {
        let names: Vec<&str> = clusters.keys().map(String::as_str).collect();
        format!(
            "the federation has no cluster `{name}`; it has {}",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use handshake::budget::CoreShare;

    use super::*;
    use crate::start;

    const ROOT: Caller = Caller {
        uid: 0,
        pid: Some(7),
    };

    fn capturer(state: &Path) -> Capturer {
        Capturer {
            shared: start::data_plane(&domain("east"), CoreShare::default()).unwrap(),
            gateway: "east/gw1".into(),
            interfaces: ["lan0".into(), "wan0".into()],
            audit: AuditLog::new(state),
        }
    }

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::new(&format!("{name}.example")).unwrap()
    }

    fn clusters() -> BTreeMap<String, TrustDomain> {
        BTreeMap::from(["east", "west"].map(|name| (name.to_owned(), domain(name))))
    }

    fn request(text: &str) -> CaptureRequest {
        serde_json::from_str(text).unwrap()
    }

    fn events(state: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(state.join("audit.log")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn one_at_a_time_for_root_and_never_without_a_trace() {
        let state = tempfile::tempdir().unwrap();
        let capturer = capturer(state.path());
        let begin = |by| capturer.begin(&request(r#"{"peer":"west"}"#), &clusters(), by);
        let other = Caller { uid: 1000, ..ROOT };
        assert!(begin(other).unwrap_err().contains("1000"));
        assert!(events(state.path()).is_empty());

        let mut lines = begin(ROOT).unwrap();
        let first: Value = serde_json::from_str(&lines.recv().await.unwrap()).unwrap();
        assert_eq!(first["capture"]["lan"], "lan0");
        assert!(begin(ROOT).unwrap_err().contains("one at a time"));
        assert_eq!(capturer.status()["pid"], 7);
        assert_eq!(events(state.path()).len(), 1);
        // Also when nothing passes.
        drop(lines);
        while events(state.path()).len() < 2 {
            tokio::task::yield_now().await;
        }
        let ended = &events(state.path())[1];
        assert_eq!(
            (&ended["event"], &ended["peer"]),
            (&"capture-ends".into(), &"west".into())
        );
        while !capturer.status().is_null() {
            tokio::task::yield_now().await;
        }
        drop(begin(ROOT).unwrap());
    }

    #[tokio::test]
    async fn no_audit_log_no_capture() {
        let state = tempfile::tempdir().unwrap();
        let capturer = capturer(&state.path().join("gone"));
        let refused = capturer.begin(&request("{}"), &clusters(), ROOT);
        let error = refused.unwrap_err();
        assert!(error.contains("gone/audit.log"), "{error}");
        assert!(capturer.status().is_null());
    }

    #[test]
    fn what_cannot_be_asked_for_is_named() {
        for (text, named) in [
            (r#"{"peer":"north"}"#, "`north`; it has east, west"),
            (r#"{"identity":"north/a/b"}"#, "`north`"),
            (r#"{"identity":"a~b"}"#, "`a~b`"),
            (r#"{"rate":0}"#, "rate"),
            (r#"{"rate":100001}"#, "rate"),
            (r#"{"snaplen":63}"#, "snaplen"),
        ] {
            let error = filter(&request(text), &clusters()).unwrap_err();
            assert!(error.contains(named), "{text}: {error}");
        }
        for name in ["west", "west.example"] {
            let filter = filter(&request(&format!(r#"{{"peer":"{name}"}}"#)), &clusters());
            assert_eq!(filter.unwrap().peer, Some(domain("west")));
        }
    }
}
