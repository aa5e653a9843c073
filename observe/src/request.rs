//! What can be asked at the admin socket.

use identity::{TrustDomain, Workload};
use serde::{Deserialize, Serialize};

use crate::TrustRequest;

/// One line of JSON, such as `{"op":"status"}`. An unknown field is an error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How everything stands, in words and numbers.
    Status {},
    /// Every packet accounted for.
    Counters {},
    /// The live flows.
    Flows {},
    /// Which rule decides, and why.
    Explain {
        /// `cluster/namespace/pod`.
        from: String,
        /// `cluster/namespace/pod`.
        to: String,
        /// The destination port as the pod gets it.
        port: u16,
        /// `tcp` when it is left out.
        #[serde(default)]
        protocol: Protocol,
        /// What the caller knows of the pods: who is asked may know nothing of another cluster's.
        #[serde(default)]
        described: Vec<DescribedPod>,
    },
    /// The policies in force, of the own cluster.
    Policies {},
    /// Shows packets until the caller leaves. Root only.
    Capture(CaptureRequest),
    /// Whom the cluster trusts. Root only, where it changes something.
    Trust(TrustRequest),
}

/// A pod, as its own cluster's source describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DescribedPod {
    /// What it is called in the request.
    pub name: String,
    /// Its cluster.
    pub trust_domain: TrustDomain,
    /// All that is to be known of it.
    pub workload: Workload,
}

impl DescribedPod {
    /// The pod called `name` among `described`.
    #[must_use]
    pub fn find<'a>(described: &'a [Self], name: &str) -> Option<&'a Self> {
        described.iter().find(|pod| pod.name == name)
    }
}

/// Which packets are shown.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Only those from and to this peer.
    #[serde(default)]
    pub peer: Option<String>,
    /// Only those of which an end fits this selector.
    #[serde(default)]
    pub identity: Option<String>,
    /// In clear or as they are between gateways; both when it is left out.
    #[serde(default)]
    pub view: Option<CaptureView>,
    /// The most packets in a second; more are counted.
    #[serde(default = "rate")]
    pub rate: u32,
    /// The most bytes of a packet.
    #[serde(default = "snaplen")]
    pub snaplen: u32,
}

/// A form of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CaptureView {
    /// In clear.
    Plain,
    /// As they are between gateways.
    Sealed,
}

fn rate() -> u32 {
    5_000
}

fn snaplen() -> u32 {
    65_535
}

/// Who asks: what the kernel says of the other end of the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its effective user.
    pub uid: u32,
    /// Its process, where it is known.
    pub pid: Option<i32>,
}

/// A protocol with ports, and its number in IP headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 9293.
    #[default]
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl Protocol {
    /// Its number in IP headers.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(read(r#"{"op":"counters"}"#).unwrap(), Request::Counters {});
        let explain = |more: &str| {
            let text = format!(r#"{{"op":"explain","from":"a/b/c","to":"d/e/f","port":80{more}}}"#);
            match read(&text) {
                Ok(Request::Explain { protocol, .. }) => Some(protocol.number()),
                _ => None,
            }
        };
        assert_eq!(explain(""), Some(6));
        assert_eq!(explain(r#","protocol":"sctp""#), Some(132));
        assert_eq!(explain(r#","protocol":"icmp""#), None);
        let capture = |text: &str| match read(text) {
            Ok(Request::Capture(capture)) => Some((capture.rate, capture.view)),
            _ => None,
        };
        assert_eq!(capture(r#"{"op":"capture"}"#), Some((5_000, None)));
        let sealed = r#"{"op":"capture","view":"sealed","peer":"west","rate":7}"#;
        assert_eq!(capture(sealed), Some((7, Some(CaptureView::Sealed))));
        assert_eq!(capture(r#"{"op":"capture","peers":"west"}"#), None);
        for wrong in [r#"{"op":"stop"}"#, r#"{"op":"flows","x":1}"#, "[]", ""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
