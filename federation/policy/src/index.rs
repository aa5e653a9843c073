//! Finds the few rules that could concern an identity, without asking all of them.
//!
//! Each selector hangs on the rarest thing that it requires (a namespace, a label value, a service
//! account, a cluster, a prefix of addresses); what requires nothing of the kind is asked always. The index may offer
//! rules that do not match; it must never hide one that could, known or unknown.
//!
//! It holds hashes instead of the things themselves: two that have one hash are offered together.
//! Where a rule hangs depends on what hung there before it, what is decided never does.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::{
    anchor::{Anchor, Choice, Family, Mark, Marks, Needs, Offer, Wanted, bit},
    order::Id,
    shared::{Mixer, SharedMap},
};

/// Rules by what they require of an identity or an address, for every lane and purpose.
#[derive(Clone, Debug, Default)]
pub(crate) struct Index {
    hooks: SharedMap<Hook>,
    /// Where anything hangs at all, and how much.
    uses: Arc<BTreeMap<(Shelf, Family), u32>>,
    /// By shelf: the bits of the families in use. Most labels of a pod are of no interest to anybody,
    /// and are not looked for.
    bits: [u64; Shelf::COUNT],
    /// A bit for each shelf on which prefixes hang.
    prefixes: u16,
}

/// What hangs on one thing.
#[derive(Clone, Debug, Default)]
struct Hook {
    /// How many selectors require it, wherever they hang.
    wanted: u32,
    hung: Vec<Hung>,
}

/// A rule, and what it needs beside the thing that it hangs on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hung {
    pub id: Id,
    pub needs: Needs,
}

/// What is looked for, and in which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shelf {
    pub lane: u8,
    pub purpose: Purpose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Rules that are found by the subject.
    Subject,
    /// Rules that are found by the peer, because that is rarer.
    Peer,
    /// Allow rules, found by the peer alone.
    Admission,
    /// Policies that isolate, found by the subject.
    Isolation,
}

impl Index {
    /// Counts what `wanted` requires.
    pub(crate) fn count(&mut self, shelf: Shelf, wanted: &Wanted<'_>) {
        for anchor in wanted.0.iter().flatten() {
            self.hooks.at(shelf.hash(anchor.mark())).wanted += 1;
        }
    }

    /// How many would be offered beside what hangs there already, in the rarest place; the most
    /// there can be when nothing that can be looked up is required.
    pub(crate) fn cost(&self, shelf: Shelf, wanted: &Wanted<'_>) -> u32 {
        self.best(shelf, wanted).map_or(u32::MAX, |(cost, _)| cost)
    }

    fn best<'w, 'a>(&self, shelf: Shelf, wanted: &'w Wanted<'a>) -> Option<(u32, &'w Choice<'a>)> {
        let count = |anchor: &Anchor<'_>| {
            let hook = self.hooks.get(shelf.hash(anchor.mark()));
            hook.map_or(0, |hook| hook.wanted)
        };
        let cost = |choice: &Choice<'_>| {
            let counts = choice.iter().map(count);
            counts.fold(0, u32::saturating_add)
        };
        let costs = wanted.0.iter().map(|choice| (cost(choice), choice));
        costs.min()
    }

    /// The rule is offered for everything that `wanted` could fit.
    pub(crate) fn hang(&mut self, shelf: Shelf, wanted: &Wanted<'_>, rule: Hung) {
        let Some((_, choice)) = self.best(shelf, wanted) else {
            return self.hang_on(shelf, Anchor::Always.mark(), rule);
        };
        for anchor in choice {
            let mark = anchor.mark();
            self.hang_on(shelf, mark, rule);
            if let Some(key) = anchor.key() {
                self.hang_on(shelf, key.mark(), rule);
            }
            if let Some(family) = anchor.family() {
                self.bits[shelf.number()] |= bit(mark.family);
                if matches!(family, Family::Length(_)) {
                    self.prefixes |= 1 << shelf.number();
                }
                *Arc::make_mut(&mut self.uses)
                    .entry((shelf, family))
                    .or_default() += 1;
            }
        }
    }

    fn hang_on(&mut self, shelf: Shelf, mark: Mark, rule: Hung) {
        let hung = &mut self.hooks.at(shelf.hash(mark)).hung;
        if hung.is_empty() {
            hung.reserve_exact(1); // Mostly it stays alone.
        }
        hung.push(rule);
    }

    /// Takes `id` from wherever it hangs for `wanted`, which was counted before.
    pub(crate) fn unhang(&mut self, shelf: Shelf, wanted: &Wanted<'_>, id: Id) {
        self.take(shelf, &Anchor::Always, id, 0);
        for anchor in wanted.0.iter().flatten() {
            if !self.take(shelf, anchor, id, 1) {
                continue;
            }
            if let Some(key) = anchor.key() {
                self.take(shelf, &key, id, 0);
            }
            if let Some(family) = anchor.family() {
                self.use_less(shelf, family);
            }
        }
    }

    fn use_less(&mut self, shelf: Shelf, family: Family) {
        let uses = Arc::make_mut(&mut self.uses);
        let key = (shelf, family);
        let Some(count) = uses.get_mut(&key) else {
            return;
        };
        *count -= 1;
        if *count > 0 {
            return;
        }
        uses.remove(&key);
        if self.uses.range(shelf.lengths()).next().is_none() {
            self.prefixes &= !(1 << shelf.number());
        }
        let families = self
            .uses
            .range(shelf.families())
            .map(|((_, family), _)| family);
        self.bits[shelf.number()] = families.fold(0, |bits, f| bits | bit(f.hash()));
    }

    /// Whether `id` hung there, once less. What nothing requires any more is forgotten.
    fn take(&mut self, shelf: Shelf, anchor: &Anchor<'_>, id: Id, wanted: u32) -> bool {
        let hash = shelf.hash(anchor.mark());
        let place = |hook: &Hook| hook.hung.iter().position(|one| one.id == id);
        let Some(place) = self.hooks.get(hash).map(place) else {
            return false;
        };
        if place.is_none() && wanted == 0 {
            return false;
        }
        let hook = self.hooks.at(hash);
        hook.wanted -= wanted;
        if let Some(place) = place {
            hook.hung.swap_remove(place);
        }
        if hook.wanted == 0 && hook.hung.is_empty() {
            self.hooks.remove(hash);
        }
        place.is_some()
    }

    /// Tells `out` what could concern an identity and fit `offer`, in any order, possibly twice.
    pub(crate) fn offer(
        &self,
        shelf: Shelf,
        marks: &Marks<'_>,
        offer: Offer,
        mut out: impl FnMut(Id),
    ) {
        self.tell(shelf, Anchor::Always.mark(), offer, &mut out);
        let in_use = self.bits[shelf.number()];
        for mark in marks.iter().filter(|mark| in_use & bit(mark.family) != 0) {
            self.tell(shelf, mark, offer, &mut out);
        }
        if marks.is_narrowed() {
            // The value of such a key is unknown, so any could be it.
            for ((_, family), _) in self.uses.range(shelf.families()) {
                if let Family::Label(whose, key) = family
                    && !marks.carries(key)
                {
                    self.tell(shelf, Anchor::Key(*whose, key).mark(), offer, &mut out);
                }
            }
        }
    }

    /// Tells `out` what could concern an address, whether or not it has an identity.
    pub(crate) fn offer_address(
        &self,
        shelf: Shelf,
        address: IpAddr,
        offer: Offer,
        mut out: impl FnMut(Id),
    ) {
        if self.prefixes & (1 << shelf.number()) == 0 {
            return;
        }
        for ((_, family), _) in self.uses.range(shelf.lengths()) {
            // A length that this family of addresses does not have is no prefix of the address.
            if let Family::Length(length) = family
                && let Ok(net) = IpNet::new(address, *length)
            {
                self.tell(shelf, Anchor::Net(net.trunc()).mark(), offer, &mut out);
            }
        }
    }

    /// Tells `out` what could concern anything.
    pub(crate) fn offer_always(&self, shelf: Shelf, offer: Offer, mut out: impl FnMut(Id)) {
        self.tell(shelf, Anchor::Always.mark(), offer, &mut out);
    }

    fn tell(&self, shelf: Shelf, mark: Mark, offer: Offer, out: &mut impl FnMut(Id)) {
        if let Some(hook) = self.hooks.get(shelf.hash(mark)) {
            let fitting = hook.hung.iter().filter(|hung| offer.may_fit(hung.needs));
            fitting.for_each(|hung| out(hung.id));
        }
    }
}

impl Shelf {
    /// How many there are.
    const COUNT: usize = 16;

    fn number(self) -> usize {
        usize::from(self.lane % 4) * 4 + self.purpose as usize
    }

    /// Of a thing on this shelf.
    fn hash(self, mark: Mark) -> u64 {
        let mut mixer = Mixer(mark.whole);
        mixer.word(self.number() as u64);
        mixer.0
    }

    /// Where in a map everything of it stands.
    fn families(self) -> std::ops::RangeInclusive<(Self, Family)> {
        (self, Family::Cluster)..=(self, Family::Length(u8::MAX))
    }

    fn lengths(self) -> std::ops::RangeInclusive<(Self, Family)> {
        (self, Family::Length(0))..=(self, Family::Length(u8::MAX))
    }
}
