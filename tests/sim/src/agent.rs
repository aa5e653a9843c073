//! The control side of a node's agent: what it hears from its source and from its issuer, and what
//! its enforcer decides by.

use std::{collections::BTreeMap, sync::Arc};

use handshake::node::NodeSnapshot;
use identity::{BundleMark, IdentityNetworks, Mono, Now, TrustDomain};
use peering::member::{AgentMember, MemberEvent};
use policy::model::PolicySet;

use crate::{
    dice::Dice,
    objects::{self, Objects},
};

/// An agent's control side. Its disk outlives it.
#[derive(Debug)]
pub struct Agent {
    cluster: usize,
    node: usize,
    dice: Dice,
    /// On disk.
    marks: BTreeMap<TrustDomain, BundleMark>,
    epoch: u64,
    life: Option<Life>,
    /// When the machine is due, since it was pumped.
    due: Option<Mono>,
}

#[derive(Debug)]
struct Life {
    member: AgentMember,
    policy: Arc<policy::Table>,
    networks: IdentityNetworks,
    changed: bool,
}

impl Agent {
    /// The agent of a node, which does not run yet.
    #[must_use]
    pub fn new(cluster: usize, node: usize, dice: Dice) -> Self {
        Self {
            cluster,
            node,
            dice,
            marks: BTreeMap::new(),
            epoch: 0,
            life: None,
            due: None,
        }
    }

    /// The process is killed.
    pub fn kill(&mut self) {
        self.life = None;
        self.due = None;
    }

    /// A new process reads what `objects` say, and these policies.
    ///
    /// # Panics
    /// When the policies cannot be compiled.
    pub fn start(&mut self, objects: &Objects, policies: &PolicySet, now: Now) {
        let cluster = &objects.clusters[self.cluster];
        let member = AgentMember::new(
            cluster.domain.clone(),
            &objects::node_name(self.node),
            self.marks.clone(),
            Box::new(self.dice.rng()),
            now,
        );
        self.life = Some(Life {
            member,
            policy: Arc::new(policy::compile(policies).expect("valid policies")),
            networks: objects.networks(),
            changed: true,
        });
        self.hear(objects, policies, now);
    }

    /// Its source says what `objects` say, and these policies.
    ///
    /// # Panics
    /// When the policies cannot be compiled.
    pub fn hear(&mut self, objects: &Objects, policies: &PolicySet, now: Now) {
        let Some(life) = &mut self.life else { return };
        let cluster = &objects.clusters[self.cluster];
        life.policy = Arc::new(policy::compile(policies).expect("valid policies"));
        life.member.set_pods(cluster.workloads(), now);
        life.changed = true;
    }

    /// The machine that talks to the issuer, while the process runs.
    pub fn member(&mut self) -> Option<&mut AgentMember> {
        self.life.as_mut().map(|life| &mut life.member)
    }

    /// The same, to be looked at.
    #[must_use]
    pub fn held(&self) -> Option<&AgentMember> {
        self.life.as_ref().map(|life| &life.member)
    }

    /// When the machine is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Mono> {
        self.due
    }

    /// What it has to say to its issuer.
    ///
    /// # Panics
    /// When it complains: nobody misbehaves here.
    pub fn pump(&mut self) -> Vec<Vec<u8>> {
        let Some(life) = &mut self.life else {
            return Vec::new();
        };
        while let Some(event) = life.member.poll_event() {
            match event {
                MemberEvent::ClustersChanged | MemberEvent::SigningRoot(_) => {}
                MemberEvent::Changed => life.changed = true,
                MemberEvent::MarksChanged => self.marks.clone_from(life.member.bundle_marks()),
                MemberEvent::RecordsMissed => panic!("records were missed"),
                MemberEvent::Problem(words) => panic!("an agent complains: {words}"),
            }
        }
        let messages = std::iter::from_fn(|| life.member.poll_transmit()).collect();
        self.due = life.member.poll_timeout();
        messages
    }

    /// What the enforcer decides by from now on, if it changed.
    pub fn take_snapshot(&mut self) -> Option<Arc<NodeSnapshot>> {
        let life = self.life.as_mut()?;
        if !std::mem::take(&mut life.changed) {
            return None;
        }
        self.epoch += 1;
        // Every pod is attached where its source says.
        let (policy, networks) = (&life.policy, || life.networks.clone());
        let next = life
            .member
            .snapshot(self.epoch, policy, networks, |_, _| true);
        Some(Arc::new(next))
    }
}
