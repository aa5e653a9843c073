//! Policies -> a table that is quick to ask. Its size grows with rules, never with pods.
//!
//! A table is never changed. [`Table::update`] makes the next one, which shares with it what is the
//! same in both, and which answers everything as a table does that was compiled from nothing.

use std::{cmp::Ordering, sync::Arc};

use identity::TrustDomain;

use crate::{
    CompileError,
    canonical::{canonical_policy, check, check_size},
    held::{Hanger, Held, Lane, canonical_order, hangers, rules_in, shared},
    index::Index,
    model::{Policy, PolicySet, Tier},
    order::{Id, Standing, Turn},
    seen::Seen,
};

/// Everything one cluster enforces, ready to be asked. Build it with [`compile`].
#[derive(Clone, Debug)]
pub struct Table {
    cluster: TrustDomain,
    /// As they were given, each with the slot of its canonical form. Several may have one.
    sources: Vec<(Arc<Policy>, u32)>,
    /// In canonical order.
    pub(crate) held: Vec<Arc<Held>>,
    /// By slot: where its policy stands in `held`. A policy keeps its slot.
    standings: Vec<Standing>,
    /// Slots of no policy.
    free: Vec<u32>,
    /// How many policies are of the admin tier, and of that or the application tier.
    tiers: [usize; 2],
    /// Whether any policy is staged.
    has_staged: bool,
    pub(crate) index: Index,
    pub(crate) seen: Seen,
}

/// Compiles `set`. Equal sets give equal tables, however their lists are ordered.
///
/// # Errors
/// When a policy cannot be meant so, or there are too many; see [`CompileError`].
pub fn compile(set: &PolicySet) -> Result<Table, CompileError> {
    Table::empty(set.cluster.clone()).update(set)
}

impl Table {
    /// What a cluster without policies enforces.
    #[must_use]
    pub fn empty(cluster: TrustDomain) -> Self {
        Self {
            cluster,
            sources: Vec::new(),
            held: Vec::new(),
            standings: Vec::new(),
            free: Vec::new(),
            tiers: [0; 2],
            has_staged: false,
            index: Index::default(),
            seen: Seen::default(),
        }
    }

    /// The table of `set`. Only policies that are not in this one are compiled; one that is there by
    /// the same pointer is not even looked at.
    ///
    /// # Errors
    /// As [`compile`].
    pub fn update(&self, set: &PolicySet) -> Result<Self, CompileError> {
        if set.cluster != self.cluster {
            return compile(set);
        }
        check_size(set)?;
        let mut next = Self {
            cluster: self.cluster.clone(),
            sources: Vec::with_capacity(set.policies.len()),
            held: Vec::new(),
            standings: self.standings.clone(),
            free: self.free.clone(),
            tiers: [0; 2],
            has_staged: false,
            index: self.index.clone(),
            seen: Seen::default(),
        };
        let mut kept = vec![false; self.held.len()];
        let added = next.take_sources(self, set, &mut kept)?;
        let gone = self.held.iter().zip(&kept).filter(|(_, kept)| !**kept);
        for (held, _) in gone {
            for hanger in hangers(&held.policy, held.slot) {
                hanger.unhang(&mut next.index);
            }
            next.free.push(held.slot);
        }
        let hung = added.iter().flat_map(|new| hangers(&new.policy, new.slot));
        let hung: Vec<Hanger<'_>> = hung.collect();
        hung.iter().for_each(|hanger| hanger.count(&mut next.index));
        hung.iter().for_each(|hanger| hanger.hang(&mut next.index));
        drop(hung);
        next.held = merge(&self.held, &kept, added);
        next.stand();
        Ok(next)
    }

    /// Finds for each policy of `set` the slot that it has in `old`, which is `kept` then, or gives
    /// it one. Returns those that are new, in canonical order.
    fn take_sources(
        &mut self,
        old: &Self,
        set: &PolicySet,
        kept: &mut [bool],
    ) -> Result<Vec<Arc<Held>>, CompileError> {
        // `old` keeps its sources alive, so that no two policies have one address.
        let addresses = old
            .sources
            .iter()
            .map(|(policy, slot)| (Arc::as_ptr(policy), *slot));
        let mut addresses: Vec<_> = addresses.collect();
        addresses.sort_unstable();
        let mut fresh = Vec::new();
        for (policy, place) in set.policies.iter().zip(0_usize..) {
            let address = Arc::as_ptr(policy);
            let same = addresses.binary_search_by(|(of, _)| of.cmp(&address));
            let mut slot = same.ok().map(|found| addresses[found].1);
            if slot.is_none() {
                check(policy, &set.cluster)?;
                let canonical = canonical_policy(Policy::clone(policy));
                let equal = old
                    .held
                    .binary_search_by(|held| canonical_order(&held.policy, &canonical));
                match equal {
                    Ok(found) => slot = Some(old.held[found].slot),
                    Err(_) => fresh.push((shared(canonical, policy), place)),
                }
            }
            if let Some(slot) = slot {
                kept[old.standings[slot as usize].place as usize] = true;
            }
            self.sources
                .push((Arc::clone(policy), slot.unwrap_or_default()));
        }
        fresh.sort_by(|(a, _), (b, _)| canonical_order(a, b));
        let mut added: Vec<Arc<Held>> = Vec::new();
        for (policy, place) in fresh {
            let slot = match added.last() {
                // Equal ones are one.
                Some(last) if last.policy == policy => last.slot,
                _ => {
                    let slot = self.new_slot();
                    added.push(Arc::new(Held::new(&set.cluster, slot, policy)));
                    slot
                }
            };
            self.sources[place].1 = slot;
        }
        Ok(added)
    }

    fn new_slot(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.standings.push(Standing::default());
            // There are at most MAX_POLICIES of two tables.
            u32::try_from(self.standings.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// Writes down where each policy stands.
    fn stand(&mut self) {
        let mut group = 0;
        let mut before = None;
        for (held, place) in self.held.iter().zip(0_u32..) {
            let of = (held.policy.tier, held.policy.order);
            if before != Some(of) {
                (before, group) = (Some(of), place);
            }
            self.standings[held.slot as usize] = Standing { place, group };
        }
        let up_to = |tier| self.held.partition_point(|held| held.policy.tier <= tier);
        self.has_staged = self.held.iter().any(|held| held.policy.staged);
        self.tiers = [up_to(Tier::Admin), up_to(Tier::Application)];
    }

    /// The cluster that enforces it.
    #[must_use]
    pub fn cluster(&self) -> &TrustDomain {
        &self.cluster
    }

    /// The policies as they were given.
    #[must_use]
    pub fn set(&self) -> PolicySet {
        PolicySet {
            cluster: self.cluster.clone(),
            policies: self.sources.iter().map(|(p, _)| Arc::clone(p)).collect(),
        }
    }

    /// The policies in canonical order: by tier, order, kind, namespace and name.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.held.iter().map(|held| &*held.policy)
    }

    /// Whether both hold the same policies.
    #[must_use]
    pub fn has_policies_of(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<Held>, &Arc<Held>)| Arc::ptr_eq(a, b) || a.policy == b.policy;
        self.cluster == other.cluster
            && self.held.len() == other.held.len()
            && self.held.iter().zip(&other.held).all(same)
    }

    /// How many rules all policies have.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.policies().map(|p| p.rules.len()).sum()
    }

    /// When the rule or policy is asked.
    pub(crate) fn turn(&self, id: Id) -> Turn {
        self.standings[id.slot as usize].turn(id)
    }

    /// Those of `turns`, which ascend, that belong to `tier`.
    pub(crate) fn of_tier<'t>(&self, tier: Tier, turns: &'t [Turn]) -> &'t [Turn] {
        let up_to = |end: usize| turns.partition_point(|turn| turn.group() < end);
        let [admin, application] = self.tiers;
        let range = match tier {
            Tier::Admin => 0..up_to(admin),
            Tier::Application => up_to(admin)..up_to(application),
            Tier::Baseline => up_to(application)..turns.len(),
        };
        &turns[range]
    }

    /// Whether any policy is staged.
    pub(crate) fn has_staged(&self) -> bool {
        self.has_staged
    }

    /// Those of `turns` whose policies are not staged.
    pub(crate) fn enforced(&self, mut turns: Vec<Turn>) -> Vec<Turn> {
        if self.has_staged {
            turns.retain(|turn| !self.held[turn.policy()].policy.staged);
        }
        turns
    }

    /// Every rule of a lane, in the order in which they are asked.
    pub(crate) fn rules_of(&self, lane: Lane) -> Vec<Turn> {
        let mut turns = Vec::new();
        for held in &self.held {
            let rules = rules_in(&held.policy, lane);
            let ids = rules.map(|(rule, place)| Id::rule(held.slot, &held.policy, rule, place));
            turns.extend(ids.map(|id| self.turn(id)));
        }
        turns.sort_unstable();
        turns
    }

    /// Every policy that isolates in a lane, in canonical order.
    pub(crate) fn isolating(&self, lane: Lane) -> Vec<Turn> {
        let isolating = self
            .held
            .iter()
            .filter(|held| held.policy.isolates.contains(&lane));
        isolating
            .map(|held| self.turn(Id::policy(held.slot)))
            .collect()
    }
}

/// Those of `old` that are `kept`, and `added`, all in canonical order.
fn merge(old: &[Arc<Held>], kept: &[bool], added: Vec<Arc<Held>>) -> Vec<Arc<Held>> {
    let mut out = Vec::with_capacity(old.len() + added.len());
    let mut from = 0;
    let mut take_to = |to: usize, out: &mut Vec<_>| {
        let part = old[from..to].iter().zip(&kept[from..to]);
        out.extend(
            part.filter(|(_, kept)| **kept)
                .map(|(held, _)| Arc::clone(held)),
        );
        from = to;
    };
    for new in added {
        let before =
            |held: &Arc<Held>| canonical_order(&held.policy, &new.policy) == Ordering::Less;
        take_to(old.partition_point(before), &mut out);
        out.push(new);
    }
    take_to(old.len(), &mut out);
    out
}
