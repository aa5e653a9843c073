//! What a seed makes happen, as a list that can be read, cut down and replayed.

use std::time::Duration;

use identity::Mono;

use crate::dice::Dice;

/// How long people, pods, machines and attackers do things.
const SPAN: Duration = Duration::from_secs(10);
/// Of 100 seeds, how many have worlds of at most so many clusters.
const SIZES: [(usize, usize); 7] = [
    (40, 2),
    (76, 3),
    (88, 4),
    (94, 5),
    (97, 6),
    (99, 7),
    (100, 8),
];

/// The transitions of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Objects, keys and the network follow from it.
    pub seed: u64,
    /// How many clusters there are.
    pub clusters: usize,
    /// In their order.
    pub steps: Vec<Step>,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its place in the whole list of its seed.
    pub number: usize,
    /// When.
    pub at: Mono,
    /// What.
    pub what: Transition,
    /// Its own dice: what happens in it does not depend on what happened before.
    pub seed: u64,
}

/// What can happen. The first five hold for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Of 100 packets, so many are lost.
    Loss(u32),
    /// So many come twice.
    Duplication(u32),
    /// So many are held back.
    Reordering(u32),
    /// The agents of a cluster let everything pass.
    LaxAgents(usize),
    /// The gateway of a cluster does.
    LaxGateway(usize),
    /// A pod opens a connection.
    Connect,
    /// A pod gets another label.
    Relabel,
    /// A cluster gets other policies.
    Rewrite,
    /// A pod is deleted, and another gets its address.
    Replace,
    /// A cluster revokes pods of its own, or takes that back.
    Revoke,
    /// A cluster offers other pods of its own to another one.
    Offer,
    /// A cluster exchanges its issuer key.
    Rotate,
    /// An agent dies, and comes back.
    CrashAgent,
    /// A gateway dies, and comes back.
    KillGateway,
    /// Two clusters cannot reach each other.
    Partition,
    /// A session breaks.
    BreakLine,
    /// A gateway says something again.
    Repeat,
    /// Something is injected in a cluster.
    Strike,
    /// Something is injected between clusters.
    StrikeTunnel,
    /// A gateway lies.
    Lie,
    /// A pod sends a token.
    Forge,
    /// Somebody before a node takes hold of a handshake.
    Grip,
    /// Somebody on a link drops, delays or alters what passes.
    Tamper,
}

/// Of 100 transitions, how many are at most these.
const SHARES: [(usize, Transition); 18] = [
    (44, Transition::Connect),
    (46, Transition::Offer),
    (49, Transition::Revoke),
    (50, Transition::Rotate),
    (55, Transition::Relabel),
    (62, Transition::Rewrite),
    (67, Transition::Replace),
    (70, Transition::CrashAgent),
    (72, Transition::Partition),
    (74, Transition::BreakLine),
    (76, Transition::KillGateway),
    (78, Transition::Repeat),
    (87, Transition::Strike),
    (91, Transition::StrikeTunnel),
    (93, Transition::Lie),
    (95, Transition::Forge),
    (98, Transition::Grip),
    (100, Transition::Tamper),
];

impl Plan {
    /// All that `seed` makes happen after `begun`.
    #[must_use]
    pub fn of(seed: u64, begun: Mono) -> Self {
        let mut dice = Dice::new(!seed);
        let clusters = share(&SIZES, &mut dice);
        let mut plan = Self {
            seed,
            clusters,
            steps: Vec::new(),
        };
        let conditions = [
            Transition::Loss(dice.below(6) as u32),
            Transition::Duplication(dice.below(4) as u32),
            Transition::Reordering(dice.below(20) as u32),
        ];
        for what in conditions {
            plan.push(Mono::default(), what, &mut dice);
        }
        // Never both in one cluster.
        for number in 0..clusters {
            match dice.below(4) {
                0 => plan.push(Mono::default(), Transition::LaxAgents(number), &mut dice),
                1 => plan.push(Mono::default(), Transition::LaxGateway(number), &mut dice),
                _ => {}
            }
        }
        let mut at = begun;
        loop {
            at = at.after(dice.millis(1, 200));
            if at > end(begun) {
                return plan;
            }
            let what = share(&SHARES, &mut dice);
            plan.push(at, what, &mut dice);
        }
    }

    /// Nothing happens.
    #[must_use]
    pub fn idle(seed: u64, clusters: usize) -> Self {
        Self {
            seed,
            clusters,
            steps: Vec::new(),
        }
    }

    /// Only the steps of these numbers.
    #[must_use]
    pub fn only(&self, numbers: &[usize]) -> Self {
        let steps = self.steps.iter().copied();
        Self {
            steps: steps
                .filter(|step| numbers.contains(&step.number))
                .collect(),
            ..*self
        }
    }

    /// The numbers of its steps.
    #[must_use]
    pub fn numbers(&self) -> Vec<usize> {
        self.steps.iter().map(|step| step.number).collect()
    }

    fn push(&mut self, at: Mono, what: Transition, dice: &mut Dice) {
        let number = self.steps.len();
        let seed = dice.seed();
        self.steps.push(Step {
            number,
            at,
            what,
            seed,
        });
    }
}

impl Transition {
    /// Whether it holds for the whole run.
    #[must_use]
    pub fn is_condition(&self) -> bool {
        use Transition::{Duplication, LaxAgents, LaxGateway, Loss, Reordering};
        matches!(
            self,
            Loss(_) | Duplication(_) | Reordering(_) | LaxAgents(_) | LaxGateway(_)
        )
    }
}

/// When all has happened.
#[must_use]
pub fn end(begun: Mono) -> Mono {
    begun.after(SPAN)
}

fn share<T: Copy>(shares: &[(usize, T)], dice: &mut Dice) -> T {
    let thrown = dice.below(100);
    let found = shares.iter().find(|(end, _)| thrown < *end);
    found.expect("they add up to 100").1
}
