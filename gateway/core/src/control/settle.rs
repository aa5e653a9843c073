//! Events carried from machine to machine.

use peering::{issuer::IssuerEvent, peers::PeerEvent};

use super::Control;

impl Control {
    pub(super) fn peer_event(&mut self, event: &PeerEvent) {
        match event {
            PeerEvent::BundlesChanged => {
                self.issuer.set_bundles(self.peering.bundles());
                // Whatever was signed before the bundle came can be checked now.
                self.take_own_records();
                self.judge_again = true;
            }
            PeerEvent::DigestChanged(_) => self.judge_again = true,
            PeerEvent::RangesChanged => {
                self.issuer.set_ranges(self.peering.ranges());
                self.judge_again = true;
            }
            PeerEvent::RestrictionsChanged => {
                self.issuer.set_restrictions(self.peering.restrictions());
                self.judge_again = true;
            }
            PeerEvent::RestoredChanged => self.assemble_again = true,
            PeerEvent::TunnelChanged(peer) => {
                let state = self.peering.tunnel(peer);
                for spi in self.tunnels.set(peer, &state) {
                    let words = format!("{peer} offered the association {spi} before, or no key");
                    self.warnings.push(words);
                }
                if let Some(end) = self.ends.get_mut(peer) {
                    end.tunnel = state.endpoint.or(end.tunnel);
                }
                self.assemble_again = true;
            }
            PeerEvent::Records(records) => {
                for (signed, verified) in records {
                    if self.records.insert(verified, self.now.mono) {
                        self.issuer.handle_peer_record(signed, verified);
                        self.judge_again = true;
                    }
                }
            }
            PeerEvent::Removed(peer) => {
                self.tunnels.remove(peer);
                self.records.remove_domain(peer);
                // Set up anew under another pin it is one again, of which nothing is known.
                if let Some(end) = self.ends.get_mut(peer) {
                    end.tunnel = None;
                }
                self.judge_again = true;
            }
            PeerEvent::Connected(_)
            | PeerEvent::Disconnected(_)
            | PeerEvent::IntroductionsChanged(_)
            | PeerEvent::Left { .. }
            | PeerEvent::Clock { .. }
            | PeerEvent::Alarm { .. }
            | PeerEvent::Close { .. } => {}
        }
    }

    pub(super) fn issuer_event(&mut self, event: &IssuerEvent) {
        match event {
            IssuerEvent::RegistryChanged | IssuerEvent::SegmentKeysChanged => {
                self.judge_again = true;
            }
            IssuerEvent::RecordsChanged => {
                self.take_own_records();
                self.peering.handle_records_changed();
            }
            IssuerEvent::StateChanged
            | IssuerEvent::Refused { .. }
            | IssuerEvent::Misbehaved { .. }
            | IssuerEvent::Problem(_) => {}
        }
    }

    /// What our own issuer said of pods holds here too.
    fn take_own_records(&mut self) {
        let Some(bundle) = self.peering.bundles().bundle(&self.own) else {
            return;
        };
        for (position, record) in self.issuer.own_records(self.own_records) {
            match record.verify(bundle, self.now.unix) {
                Ok(verified) => self.judge_again |= self.records.insert(&verified, self.now.mono),
                Err(e) => self
                    .warnings
                    .push(format!("our own record does not hold: {e}")),
            }
            self.own_records = position;
        }
    }
}
