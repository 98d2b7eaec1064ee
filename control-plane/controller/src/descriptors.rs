//! The process's descriptors: as many as it may have, and how many of them are for whom. Whoever only opens connections can't
//! have those that known proxies, the watches and the files need.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::listener::Room;

/// For all that this process opens itself: watches, as many token reviews as there may be at once, files.
const OWN: usize = 192;
/// Where there is no end of descriptors, other things come to theirs.
const MOST_PROXIES: usize = 16_384;
const MOST_STRANGERS: usize = 256;
/// When a controller ends, thousands of proxies come to another at once, which shakes hands with some hundreds in that time.
const GRACE_OF_PROXIES: Duration = Duration::from_secs(1);
/// A kubelet doesn't wait longer for its probes, behind whoever else has come.
const GRACE: Duration = Duration::from_millis(100);
/// If nobody says how many there are.
const FEW: usize = 1024;

/// Who may have how many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rooms {
    pub(crate) proxies: Room,
    pub(crate) webhook: Room,
    /// Of each listener that has pages.
    pub(crate) pages: Room,
}

/// Raises the limit as far as that is allowed, and shares it out.
pub(crate) fn rooms() -> Rooms {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, hard)| {
        let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        raised.map(|()| hard).unwrap_or_else(|error| {
            tracing::warn!(%error, "the limit of file descriptors stays as it is");
            soft
        })
    });
    Rooms::of(limit.map_or(FEW, |limit| usize::try_from(limit).unwrap_or(usize::MAX)))
}

// === impl Rooms ===

impl Rooms {
    fn of(limit: usize) -> Self {
        let rest = limit - OWN.min(limit / 2);
        let (eighth, sixteenth) = ((rest / 8).max(1), (rest / 16).max(1));
        let strangers = |share: usize| share.min(MOST_STRANGERS);
        Self {
            proxies: Room {
                known: (4 * eighth).min(MOST_PROXIES),
                strangers: strangers(2 * eighth),
                grace: GRACE_OF_PROXIES,
            },
            webhook: Room { known: strangers(sixteenth), strangers: strangers(sixteenth), grace: GRACE },
            // Nobody is known there. What has just ended counts for a moment still.
            pages: Room { known: 1, strangers: strangers(sixteenth / 2), grace: GRACE },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_leave_what_the_process_needs_itself() {
        for limit in [256, 1024, 4096, 65_536, 1 << 20, usize::MAX] {
            let Rooms { proxies, webhook, pages } = Rooms::of(limit);
            let all = [proxies, webhook, pages, pages].map(|room| room.known + room.strangers);
            assert!(all.iter().sum::<usize>() <= limit - OWN.min(limit / 2), "{limit}: {all:?}");
            assert!(proxies.strangers <= limit / 4 && proxies.strangers < proxies.known, "{limit}: {proxies:?}");
        }
        let most = Rooms::of(usize::MAX).proxies;
        assert_eq!((most.known, most.strangers), (MOST_PROXIES, MOST_STRANGERS));
    }
}
