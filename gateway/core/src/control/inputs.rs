//! What control hears.

use std::{net::SocketAddr, time::Duration};

use handshake::admission::{Revocation, Target};
use identity::{IssuerKey, Now, TrustDomain, Workload};
use peering::{
    join,
    node_messages::JoinedCluster,
    peer_messages::AnnouncedRange,
    peers::{
        IntroduceError, MembershipError, OwnKeys, Pair, Party, RestoreError, RevokeError, Sequences,
    },
};
use policy::model::PolicySet;

use super::{Control, Member, PeerEnd, assemble::Link};
use crate::snapshot::Side;

impl Control {
    /// Takes the clusters that were joined, for the agents.
    pub fn set_joined(&mut self, members: &[join::Member]) {
        let clusters = members.iter().map(|member| {
            let cluster = JoinedCluster {
                name: member.name.clone(),
                // Agents and policies know of no other addresses than those that are seen.
                ranges: member.seen().collect(),
            };
            (member.trust_domain.clone(), cluster)
        });
        self.issuer.set_clusters(&clusters.collect());
    }

    /// Tells `peer` that we are no peer of its any more.
    pub fn leave(&mut self, peer: &TrustDomain, why: &str) {
        self.peering.leave(peer, why);
    }

    /// Takes the keys by which this cluster is to be believed, and announces them.
    pub fn set_own_keys(&mut self, keys: OwnKeys, now: Now) {
        self.now = now;
        self.peering.set_own_keys(keys, now);
    }

    /// Takes the key that signs from now on, one of those announced: `key` makes it, once for peers and
    /// once for agents. `reissue`: agents get credentials of it at once.
    pub fn set_issuer_key(&mut self, key: impl Fn() -> IssuerKey, reissue: bool, now: Now) {
        self.now = now;
        self.peering.set_issuer_key(key(), now);
        self.issuer.set_key(key(), reissue, now);
    }

    /// Takes the SHA-256 of the X.509 root that signs SVIDs from now on, for the agents.
    pub fn set_signing_root(&mut self, root: [u8; 32]) {
        self.issuer.set_signing_root(root);
    }

    /// Introduces two peers to each other.
    ///
    /// # Errors
    /// [`IntroduceError`]; nothing changed then.
    pub fn introduce(
        &mut self,
        parties: [Party; 2],
        life: Duration,
        now: Now,
    ) -> Result<Pair, IntroduceError> {
        self.now = now;
        self.peering.introduce(parties, life, now)
    }

    /// Takes an introduction back.
    ///
    /// # Errors
    /// When there is none.
    pub fn withdraw(
        &mut self,
        one: &TrustDomain,
        other: &TrustDomain,
        now: Now,
    ) -> Result<Pair, IntroduceError> {
        self.now = now;
        self.peering.withdraw(one, other, now)
    }

    /// Takes the pod ranges of this cluster.
    pub fn set_own_ranges(&mut self, ranges: Vec<AnnouncedRange>, now: Now) {
        self.now = now;
        self.peering.set_own_ranges(ranges, now);
    }

    /// Takes the list of peers. One that is not in it loses everything at once.
    ///
    /// # Errors
    /// When the list contradicts itself; the last one stays.
    pub fn set_peers(&mut self, members: Vec<Member>, now: Now) -> Result<(), MembershipError> {
        self.now = now;
        let configs = members.iter().map(|member| member.config.clone()).collect();
        self.peering.set_peers(configs, now)?;
        let mut old = std::mem::take(&mut self.ends);
        for Member { config, address } in members {
            let kept = old.remove(&config.trust_domain);
            let tunnel = kept.filter(|end| end.address == address);
            let end = PeerEnd {
                address,
                tunnel: tunnel.and_then(|end| end.tunnel),
            };
            self.ends.insert(config.trust_domain, end);
        }
        self.judge_again = true;
        Ok(())
    }

    /// Takes the policies of this cluster. If they cannot be compiled, the last ones stay in force
    /// and [`Control::problems`] says so.
    pub fn set_policies(&mut self, policies: &PolicySet, now: Now) {
        self.now = now;
        if !self.judge.set_policies(policies) {
            return;
        }
        if let Some(policy) = self.judge.policy() {
            let (hash, part) = (policy.hash(), policy.digest_part());
            self.peering.set_policy(hash, &part, now);
            self.peering.set_enforcing(hash, now);
        }
        self.judge_again = true;
    }

    /// Takes the pods of this cluster, all of them. To be called only with what a source says that
    /// has loaded.
    pub fn set_workloads(&mut self, workloads: Vec<Workload>, now: Now) {
        self.now = now;
        self.issuer.set_workloads(workloads, now);
        self.judge_again = true;
    }

    /// Revokes `target` of `domain`: of this cluster for everybody, of a peer here alone.
    ///
    /// # Errors
    /// [`RevokeError`]; nothing changed then.
    pub fn revoke(
        &mut self,
        domain: &TrustDomain,
        target: Target,
        reason: &str,
        now: Now,
    ) -> Result<Revocation, RevokeError> {
        self.now = now;
        self.peering.revoke(domain, target, reason, now)
    }

    /// Takes back what [`Self::revoke`] did.
    ///
    /// # Errors
    /// When that was not here.
    pub fn restore_revoked(
        &mut self,
        domain: &TrustDomain,
        target: Target,
        now: Now,
    ) -> Result<Revocation, RevokeError> {
        self.now = now;
        self.peering.restore_revoked(domain, target, now)
    }

    /// Goes on with a state of the past.
    ///
    /// # Errors
    /// When it is none, or revocations would be lost.
    pub fn confirm_restored(
        &mut self,
        without_revocations: bool,
        now: Now,
    ) -> Result<Sequences, RestoreError> {
        self.now = now;
        self.peering.confirm_restored(without_revocations, now)
    }

    /// Takes one side's interface and the kernel's tables for it.
    pub fn set_link(&mut self, side: Side, link: Link) {
        match side {
            Side::Lan => self.lan = link,
            Side::Wan => self.wan = link,
        }
        self.assemble_again = true;
    }

    /// Takes whether what must not be forgotten can be stored.
    pub fn set_storing(&mut self, storing: bool) {
        self.assemble_again |= self.storing != storing;
        self.storing = storing;
    }

    /// A session with the gateway of `peer` is up, authenticated; one before it is gone.
    pub fn handle_peer_connected(&mut self, peer: &TrustDomain, remote: SocketAddr, now: Now) {
        self.now = now;
        self.peering.handle_connected(peer, remote, now);
    }

    /// The session with `peer` ended.
    pub fn handle_peer_disconnected(&mut self, peer: &TrustDomain, why: &str, now: Now) {
        self.now = now;
        self.peering.handle_disconnected(peer, why, now);
    }

    /// Dialling `peer` failed, or somebody who claims to be `peer` was refused.
    pub fn handle_peer_refused(&mut self, peer: &TrustDomain, why: &str, now: Now) {
        self.now = now;
        self.peering.handle_refused(peer, why, now);
    }

    /// A message came on the session of `peer`.
    pub fn handle_peer_message(&mut self, peer: &TrustDomain, bytes: &[u8], now: Now) {
        self.now = now;
        self.peering.handle_message(peer, bytes, now);
    }

    /// A session with the agent of `node` is up, authenticated.
    pub fn handle_node_connected(&mut self, node: &str, now: Now) {
        self.now = now;
        self.issuer.handle_node_connected(node, now);
    }

    /// The session with the agent of `node` ended.
    pub fn handle_node_disconnected(&mut self, node: &str, now: Now) {
        self.now = now;
        self.issuer.handle_node_disconnected(node, now);
    }

    /// A message came on the session of `node`.
    pub fn handle_node_message(&mut self, node: &str, bytes: &[u8], now: Now) {
        self.now = now;
        self.issuer.handle_node_message(node, bytes, now);
    }
}
