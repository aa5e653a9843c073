//! The sessions of the control plane: reliable, in order, late, and now and then broken.

use std::collections::BTreeMap;

use identity::Mono;

use crate::dice::Dice;

/// Between whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Line {
    /// Two gateways, the lower number first.
    Gateways(usize, usize),
    /// The agent of a node (cluster, node), and its gateway.
    Agent(usize, usize),
}

/// One of the two ends of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The lower gateway, or the agent.
    First,
    /// The other gateway, or the agent's.
    Second,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    id: u64,
    /// When the last message to each end arrives.
    last: [Mono; 2],
}

/// A time without a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// Since when.
    pub from: Mono,
    /// Until when; `None` while it lasts.
    pub to: Option<Mono>,
}

/// All lines.
#[derive(Debug, Default)]
pub struct Lines {
    sessions: BTreeMap<Line, Session>,
    next: u64,
    outages: BTreeMap<Line, Vec<Outage>>,
}

impl Lines {
    /// The session that stands.
    #[must_use]
    pub fn session(&self, line: Line) -> Option<u64> {
        self.sessions.get(&line).map(|session| session.id)
    }

    /// A new session.
    pub fn connect(&mut self, line: Line, now: Mono) {
        self.next += 1;
        let id = self.next;
        let last = [now; 2];
        self.sessions.insert(line, Session { id, last });
        if let Some(outage) = self.outages.entry(line).or_default().last_mut() {
            outage.to.get_or_insert(now);
        }
    }

    /// The session is over, if there was one; what is under way is lost.
    pub fn cut(&mut self, line: Line, now: Mono) -> bool {
        let stood = self.sessions.remove(&line).is_some();
        let outages = self.outages.entry(line).or_default();
        if outages.last().is_none_or(|last| last.to.is_some()) {
            outages.push(Outage {
                from: now,
                to: None,
            });
        }
        stood
    }

    /// When a message that is sent to `end` now arrives, and in which session; `None` without one.
    pub fn send(
        &mut self,
        line: Line,
        end: End,
        now: Mono,
        dice: &mut Dice,
    ) -> Option<(u64, Mono)> {
        let session = self.sessions.get_mut(&line)?;
        let late = match line {
            Line::Gateways(..) => dice.millis(5, 30),
            Line::Agent(..) => dice.millis(0, 2),
        };
        let [first, second] = &mut session.last;
        let last = match end {
            End::First => first,
            End::Second => second,
        };
        *last = (*last).max(now.after(late));
        Some((session.id, *last))
    }

    /// When there was no session.
    #[must_use]
    pub fn outages(&self, line: Line) -> &[Outage] {
        self.outages.get(&line).map_or(&[], Vec::as_slice)
    }
}
