//! What the data plane understood of one packet, kept while somebody looks at packets.
//!
//! A [`Context`](crate::Context) without a witness, as it is nearly always, costs a packet a few branches.

use std::mem;

use handshake::transit::{Parties, Party};
use identity::TrustDomain;
use policy::RuleRef;
use wire::flow::FlowKey;

/// One packet, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    /// The peer that it came from or was to go to.
    pub peer: Option<TrustDomain>,
    /// The IP packet that a tunnel packet held, as it was opened. Empty for one that was not opened.
    pub opened: Vec<u8>,
    /// The IP packet with which it was answered, before that was put into a tunnel. Empty when it was not.
    pub answer: Vec<u8>,
    /// Addresses and ports, of an ICMP error those that it is about as its own ends have them.
    pub key: Option<FlowKey>,
    /// Who sent it.
    pub sender: Option<Party>,
    /// To whom.
    pub receiver: Option<Party>,
    /// The rule that refused it, where one did.
    pub rule: Option<RuleRef>,
}

impl Witness {
    /// Forgets the last packet, and keeps the memory.
    pub fn begin(&mut self) {
        let Self { opened, answer, .. } = self;
        opened.clear();
        answer.clear();
        *self = Self {
            opened: mem::take(opened),
            answer: mem::take(answer),
            ..Self::default()
        };
    }

    /// Takes what is known of the ends, where nothing stronger was known before.
    pub(crate) fn identify(&mut self, [sender, receiver]: Parties) {
        for (known, party) in [(&mut self.sender, sender), (&mut self.receiver, receiver)] {
            let stronger =
                |party: &Party| (known.as_ref()).is_none_or(|k| party.standing > k.standing);
            if let Some(party) = party.filter(stronger) {
                *known = Some(party);
            }
        }
    }
}
