//! Consistent hashing by Maglev's lookup table (Eisenbud et al., NSDI 2016, section 3.4), with weights.

use std::sync::Arc;

use super::Endpoint;
use crate::hash::hash;

/// Places; prime, so that every skip visits all. Fixed, because another size would move almost every key. Shares are
/// exact to 1% up to 160 endpoints; more than there are places get nothing that is hashed.
const SIZE: usize = 16_381;

/// Who owns which hash.
#[derive(Debug)]
pub(super) struct Table(Box<[u16]>);

/// An endpoint's own order of the places.
struct Preference {
    endpoint: u16,
    next: usize,
    skip: usize,
    weight: f64,
    /// Turns that it had.
    used: f64,
}

impl Table {
    pub(super) fn new(endpoints: &[Arc<Endpoint>], members: &[u32]) -> Self {
        const FREE: u16 = u16::MAX;
        let numbered = |&at: &u32| Some(Preference::new(u16::try_from(at).ok()?, endpoints.get(at as usize)?));
        let mut preferences: Vec<_> = members.iter().take(SIZE).filter_map(numbered).collect();
        preferences.retain(|preference| preference.endpoint != FREE);
        if preferences.is_empty() {
            return Self(Box::default());
        }
        let heaviest = preferences.iter().fold(1.0, |heaviest: f64, preference| heaviest.max(preference.weight));
        let mut places = vec![FREE; SIZE].into_boxed_slice();
        let mut free = SIZE;
        for round in 1_u32.. {
            for preference in &mut preferences {
                // The heaviest has a turn in each round, the others as often as they weigh beside it.
                if preference.used >= f64::from(round) * preference.weight / heaviest {
                    continue;
                }
                preference.used += 1.0;
                while places[preference.next] != FREE {
                    preference.next = (preference.next + preference.skip) % SIZE;
                }
                places[preference.next] = preference.endpoint;
                free -= 1;
                if free == 0 {
                    return Self(places);
                }
            }
        }
        Self(places)
    }

    /// Position of the endpoint that owns a hash; `None` if there is none at all.
    pub(super) fn owner(&self, hash: u64) -> Option<usize> {
        let place = hash.checked_rem(self.0.len() as u64)?;
        self.0.get(place as usize).map(|&at| at as usize)
    }
}

impl Preference {
    fn new(at: u16, endpoint: &Endpoint) -> Self {
        let own = hash(format!("{} {}", endpoint.spec.workload, endpoint.spec.address).as_bytes());
        Self {
            endpoint: at,
            next: (own >> 32) as usize % SIZE,
            skip: own as u32 as usize % (SIZE - 1) + 1,
            weight: f64::from(endpoint.spec.weight.max(1)),
            used: 0.0,
        }
    }
}
