//! Consistent hashing by Maglev's lookup table (Eisenbud et al., NSDI 2016, section 3.4), with weights.

use std::sync::Arc;

use super::Endpoint;
use crate::hash::hash;

/// Primes; the smallest with a hundred places per endpoint is taken, or else the last.
const SIZES: [usize; 5] = [251, 1021, 4093, 16381, 65521];

/// More endpoints than this share no table; the rest get what isn't hashed.
const MOST: usize = SIZES[SIZES.len() - 1];

/// Who owns which hash.
#[derive(Debug)]
pub(super) struct Table(Box<[u32]>);

/// An endpoint's own order of the places.
struct Preference {
    endpoint: u32,
    next: usize,
    skip: usize,
    weight: f64,
    /// Rounds times relative weight that it has used.
    used: f64,
}

impl Table {
    pub(super) fn new(endpoints: &[Arc<Endpoint>], members: &[u32]) -> Self {
        const FREE: u32 = u32::MAX;
        if members.is_empty() {
            return Self(Box::default());
        }
        let size = SIZES.into_iter().find(|size| *size >= members.len() * 100).unwrap_or(MOST);
        let members = &members[..members.len().min(MOST)];
        let mut preferences: Vec<_> =
            members.iter().map(|&at| Preference::new(at, &endpoints[at as usize], size)).collect();
        let heaviest = preferences.iter().fold(1.0, |heaviest: f64, preference| heaviest.max(preference.weight));
        let mut places = vec![FREE; size].into_boxed_slice();
        let mut free = size;
        for round in 1_u32.. {
            for preference in &mut preferences {
                // The heaviest has a turn in each round, the others as often as they weigh beside it.
                if preference.used >= f64::from(round) * preference.weight / heaviest {
                    continue;
                }
                preference.used += 1.0;
                while places[preference.next] != FREE {
                    preference.next = (preference.next + preference.skip) % size;
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
    fn new(at: u32, endpoint: &Endpoint, size: usize) -> Self {
        let own = hash(format!("{} {}", endpoint.spec.workload, endpoint.spec.address).as_bytes());
        Self {
            endpoint: at,
            next: (own >> 32) as usize % size,
            // Prime size: every skip visits every place.
            skip: (own as u32 as usize) % (size - 1).max(1) + 1,
            weight: f64::from(endpoint.spec.weight.max(1)),
            used: 0.0,
        }
    }
}
