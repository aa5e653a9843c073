//! Another key signs from now on.

use identity::{IssuerKey, Now, PodChange};

use super::{Issuer, IssuerEvent};

impl Issuer {
    /// Takes the key that signs from now on: one of the keys announced. What is retained of this
    /// cluster is signed anew, since who hears it later may believe the old key no more. `reissue`:
    /// agents get credentials of the new key at once, not when they ask; for when the old one is
    /// believed for less time than a credential lives.
    pub fn set_key(&mut self, key: IssuerKey, reissue: bool, now: Now) {
        self.now = now;
        self.press.key = key;
        self.nodes
            .values_mut()
            .for_each(super::nodes::Node::forget_signed);
        // A new generation each: one that is known already is not passed on.
        let gone: Vec<_> = self.gone.keys().cloned().collect();
        for uid in gone {
            let generation = self.next_number();
            if let Some(mark) = self.gone.get_mut(&uid) {
                mark.generation = generation;
            }
            let key = (self.press.trust_domain.clone(), uid.clone());
            let about = self.records.value(&key).and_then(|held| held.about.clone());
            self.record(uid, generation, PodChange::Gone, about);
        }
        let pods = self.pods.iter().filter(|(_, pod)| pod.last_key.is_some());
        let pods: Vec<_> = pods
            .map(|(uid, pod)| {
                let recorded = pod.relabelled || pod.withdrawn;
                (uid.clone(), pod.workload.node.clone(), recorded)
            })
            .collect();
        for (uid, node, recorded) in pods {
            if recorded {
                self.relabel(&uid);
            } else if reissue {
                self.issue_for_all_keys(&node, &uid);
            }
        }
        self.emit(IssuerEvent::StateChanged);
    }
}
