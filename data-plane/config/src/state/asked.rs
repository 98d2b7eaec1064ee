//! Addresses that the app called and the control plane is asked about.

use std::{collections::HashMap, net::IpAddr};

/// An app that scans the network must not grow us, or the control plane.
pub(crate) const MAX_ASKED: usize = 4096;

#[derive(Default)]
pub(crate) struct Asked {
    addresses: HashMap<IpAddr, Ask>,
    next: u64,
}

struct Ask {
    /// Grows with each.
    order: u64,
    /// Known not to be in the mesh.
    absent: bool,
}

// === impl Asked ===

impl Asked {
    /// Adds an address. To make room, the oldest absent one goes, or the oldest at all; it is returned.
    pub(crate) fn insert(&mut self, address: IpAddr) -> Option<IpAddr> {
        if self.addresses.contains_key(&address) {
            return None;
        }
        let mut evicted = None;
        if self.addresses.len() >= MAX_ASKED {
            evicted = self.addresses.iter().min_by_key(|(_, ask)| (!ask.absent, ask.order)).map(|(ip, _)| *ip);
            self.addresses.retain(|ip, _| Some(*ip) != evicted);
        }
        self.addresses.insert(address, Ask { order: self.next, absent: false });
        self.next += 1;
        evicted
    }

    /// Notes the answer. False if nobody asked.
    pub(crate) fn answer(&mut self, address: IpAddr, absent: bool) -> bool {
        self.addresses.get_mut(&address).map(|ask| ask.absent = absent).is_some()
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    /// The oldest first: so they are saved, and so they are taken up again.
    pub(crate) fn by_age(&self) -> Vec<IpAddr> {
        let mut by_age: Vec<_> = self.addresses.iter().map(|(ip, ask)| (ask.order, *ip)).collect();
        by_age.sort_unstable();
        by_age.into_iter().map(|(_, ip)| ip).collect()
    }

    pub(crate) fn absent(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().filter(|(_, ask)| ask.absent).map(|(ip, _)| *ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_comes_first() {
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        let mut asked = Asked::default();
        let order = [7, 3, 200, 1, 90];
        for last in order {
            assert_eq!(asked.insert(ip(last)), None);
        }
        assert_eq!(asked.insert(ip(3)), None, "it is there");
        assert_eq!(asked.by_age(), order.map(ip));
    }
}
