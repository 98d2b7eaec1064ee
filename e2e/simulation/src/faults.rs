//! What goes wrong and when: all of it follows from the seed alone, whatever the hosts do meanwhile.

use std::time::Duration;

use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use crate::api::KINDS;

/// Of the run, in which things go wrong; all is well again at its end.
pub(crate) const TROUBLE: Duration = Duration::from_secs(20);

/// A proxy that knows more is kept waiting for 5 s by a replica that lags, and set back then (control-plane/xds).
const LAG: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing arrives, and nobody is told.
    Partition {
        proxy: usize,
        controller: usize,
    },
    /// Nothing arrives from the first, but the other way it does.
    Deaf {
        proxy: usize,
        controller: usize,
    },
    Dumb {
        proxy: usize,
        controller: usize,
    },
    /// All of it arrives, but later.
    Hold {
        proxy: usize,
        controller: usize,
    },
    Crash {
        controller: usize,
    },
    /// It comes back with what it had saved.
    Kill {
        proxy: usize,
    },
    /// A replica hears nothing of a kind.
    Lag {
        controller: usize,
        kind: usize,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) begins: Duration,
    pub(crate) ends: Duration,
    pub(crate) fault: Fault,
}

/// In any order; what one link or host suffers doesn't overlap.
pub(crate) fn plan(random: &mut SmallRng, proxies: usize, controllers: usize) -> Vec<Window> {
    let mut plan = Vec::new();
    for controller in 0..controllers {
        for proxy in 0..proxies {
            plan.extend(windows(random, 3, |random| {
                let faults = [
                    Fault::Partition { proxy, controller },
                    Fault::Deaf { proxy, controller },
                    Fault::Dumb { proxy, controller },
                    Fault::Hold { proxy, controller },
                ];
                *faults.choose(random).unwrap()
            }));
        }
        plan.extend(windows(random, 3, |_| Fault::Crash { controller }));
        for kind in 0..KINDS.len() {
            let lags = windows(random, 2, |_| Fault::Lag { controller, kind });
            plan.extend(lags.into_iter().map(|lag| Window { ends: lag.ends.min(lag.begins + LAG), ..lag }));
        }
    }
    for proxy in 0..proxies {
        // Twice, and what it had on trial were in quarantine.
        plan.extend(windows(random, 1, |_| Fault::Kill { proxy }));
    }
    plan
}

/// Up to `most`, one after the other.
fn windows(random: &mut SmallRng, most: u32, mut fault: impl FnMut(&mut SmallRng) -> Fault) -> Vec<Window> {
    let count = random.random_range(0..=most);
    let room = TROUBLE / count.max(1);
    let window = |index: u32| {
        let begins = room * index + room.mul_f64(random.random_range(0.0..0.5));
        // Some are over before anybody notices, some outlast each timeout.
        let ends = begins + room.mul_f64(0.45 * random.random_range(0.0..1.0f64).powi(2)) + Duration::from_millis(100);
        Window { begins, ends, fault: fault(random) }
    };
    (0..count).map(window).collect()
}
