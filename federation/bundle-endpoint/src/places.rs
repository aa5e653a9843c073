//! How many connections there may be at once, and of one source.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The places of a server.
pub(crate) struct Places {
    all: usize,
    per_source: usize,
    taken: Mutex<BTreeMap<IpAddr, usize>>,
}

/// A taken place. It is free again when this is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Places {
    pub(crate) fn new(all: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self {
            all,
            per_source,
            taken: Mutex::default(),
        })
    }

    /// `None` when all are taken, or the source has its share.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let source = source(address);
        let mut taken = self.taken();
        if taken.values().sum::<usize>() >= self.all {
            return None;
        }
        let of_source = taken.entry(source).or_default();
        if *of_source >= self.per_source {
            return None;
        }
        *of_source += 1;
        Some(Place {
            places: Arc::clone(self),
            source,
        })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(of_source) = taken.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                taken.remove(&self.source);
            }
        }
    }
}

/// An IPv4 address, or the /64 that one owner has of IPv6.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_source_has_its_share_and_gives_it_back() {
        let places = Places::new(3, 2);
        let at = |text: &str| places.take(text.parse().unwrap());
        let first = at("192.0.2.1").unwrap();
        let _second = at("::ffff:192.0.2.1").unwrap();
        assert!(at("192.0.2.1").is_none(), "its share is two");
        let third = at("2001:db8::1").unwrap();
        assert!(at("192.0.2.2").is_none(), "all are taken");
        drop(first);
        let _fourth = at("2001:db8::2").unwrap();
        assert!(at("2001:db8::3").is_none(), "all are taken again");
        drop(third);
        let _fifth = at("2001:db8::3").unwrap();
        assert!(at("2001:db8::4").is_none(), "a /64 is one source");
    }
}
