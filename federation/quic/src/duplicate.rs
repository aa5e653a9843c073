//! Which of two sessions with one peer stays.

use identity::TrustDomain;

use crate::Instance;

/// What the rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// We dialled it.
    pub dialled: bool,
    /// The process at the other end.
    pub instance: Instance,
}

/// Which one stays; the other is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preferred {
    /// The one that stood already.
    Old,
    /// The one that was made just now.
    New,
}

/// Both ends come to the same answer: of two sessions with one process of the peer that were dialled
/// from different ends, the one stays whose dialler has the lower trust domain name. Dialled twice
/// from one end, the newer stays, since its dialler gave up the older. Another process of the peer
/// means that the older session's is gone.
#[must_use]
pub fn preferred(own: &TrustDomain, peer: &TrustDomain, old: Facts, new: Facts) -> Preferred {
    if old.instance != new.instance || old.dialled == new.dialled {
        return Preferred::New;
    }
    if new.dialled == (own < peer) {
        Preferred::New
    } else {
        Preferred::Old
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_ends_keep_the_same_session_whichever_came_first() {
        let (east, west) = (
            TrustDomain::new("east").unwrap(),
            TrustDomain::new("west").unwrap(),
        );
        let facts = |dialled| Facts {
            dialled,
            instance: Instance([1; 16]),
        };
        // East dialled one, west the other; east's must stay, in every order of arrival.
        assert_eq!(
            preferred(&east, &west, facts(true), facts(false)),
            Preferred::Old
        );
        assert_eq!(
            preferred(&east, &west, facts(false), facts(true)),
            Preferred::New
        );
        assert_eq!(
            preferred(&west, &east, facts(true), facts(false)),
            Preferred::New
        );
        assert_eq!(
            preferred(&west, &east, facts(false), facts(true)),
            Preferred::Old
        );
        assert_eq!(
            preferred(&west, &east, facts(true), facts(true)),
            Preferred::New
        );
    }

    #[test]
    fn a_restarted_peer_is_let_in_at_once() {
        let (east, west) = (
            TrustDomain::new("east").unwrap(),
            TrustDomain::new("west").unwrap(),
        );
        let old = Facts {
            dialled: true,
            instance: Instance([1; 16]),
        };
        let new = Facts {
            dialled: false,
            instance: Instance([2; 16]),
        };
        assert_eq!(preferred(&east, &west, old, new), Preferred::New);
    }
}
