//! Links that delay, lose, duplicate, reorder and break.

use identity::Mono;

use crate::dice::Dice;

/// One direction of one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// Between two nodes of a cluster.
    Nodes,
    /// Between a node and its gateway.
    Access,
    /// Between two gateways.
    Wan,
}

/// How badly the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Of 100 packets, how many are lost.
    pub loss: u32,
    /// Of 100 packets, how many come twice.
    pub duplication: u32,
    /// Of 100 packets, how many are held back by up to 50 ms, behind later ones.
    pub reordering: u32,
}

impl Weather {
    /// A network that does nothing wrong.
    pub const FAIR: Self = Self {
        loss: 0,
        duplication: 0,
        reordering: 0,
    };

    /// When copies of a packet sent at `now` arrive; none when it is lost.
    pub fn arrivals(&self, link: Link, now: Mono, dice: &mut Dice) -> Vec<Mono> {
        if dice.percent(self.loss) {
            return Vec::new();
        }
        let copies = if dice.percent(self.duplication) { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let base = match link {
                    Link::Nodes | Link::Access => dice.millis(0, 1),
                    Link::Wan => dice.millis(5, 30),
                };
                let held = dice.percent(self.reordering);
                let late = if held {
                    dice.millis(1, 50)
                } else {
                    Default::default()
                };
                now.after(base + late)
            })
            .collect()
    }
}
