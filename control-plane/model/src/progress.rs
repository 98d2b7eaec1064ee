//! How far a source has read what a snapshot is made from. By it a replica knows whether it lags behind the one that a proxy
//! comes from: what it would send then is older than what the proxy has.

use std::collections::BTreeMap;

/// By kind of object, in versions of the API server, which grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress(BTreeMap<&'static str, Mark>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mark {
    /// All up to this one is known.
    read: u64,
    /// The last that made a difference, as far as that is known.
    changed: u64,
}

// === impl Progress ===

impl Progress {
    /// Everything of a kind is known up to this version. It may be a smaller one than before: of a server that was set back.
    pub fn read(&mut self, kind: &'static str, version: u64) {
        let mark = self.0.entry(kind).or_default();
        *mark = Mark { read: version, changed: mark.changed.min(version) };
    }

    /// The object of this version made a difference.
    pub fn changed(&mut self, kind: &'static str, version: u64) {
        let mark = self.0.entry(kind).or_default();
        *mark = Mark { read: mark.read.max(version), changed: mark.changed.max(version) };
    }

    /// What a client is to bring along when it comes back, to whichever replica: `KIND=VERSION` of what made a difference.
    pub fn token(&self) -> String {
        let marks = self.0.iter().filter(|(_, mark)| mark.changed > 0);
        marks.map(|(kind, mark)| format!("{kind}={}", mark.changed)).collect::<Vec<_>>().join(" ")
    }

    /// Whether all that made a difference to who gave the token is known here. A token from elsewhere asks for nothing.
    pub fn covers(&self, token: &str) -> bool {
        let marks = token.split(' ').filter_map(|mark| mark.split_once('='));
        let mut wanted = marks.filter_map(|(kind, version)| Some((kind, version.parse::<u64>().ok()?)));
        wanted.all(|(kind, version)| self.0.get(kind).is_none_or(|mark| mark.read >= version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lags_in_one_kind_lags() {
        let (mut ahead, mut other) = (Progress::default(), Progress::default());
        for progress in [&mut ahead, &mut other] {
            progress.read("Pod", 100);
            progress.changed("Pod", 90);
            progress.read("Service", 100);
        }
        assert_eq!(ahead.token(), "Pod=90");
        assert!(other.covers(&ahead.token()) && ahead.covers(&other.token()));
        ahead.changed("Service", 120);
        other.changed("Pod", 130);
        assert_eq!(ahead.token(), "Pod=90 Service=120");
        assert!(!other.covers(&ahead.token()) && !ahead.covers(&other.token()), "each lags behind the other");
        // It need not have made a difference to be known.
        other.read("Service", 125);
        assert!(other.covers(&ahead.token()));
    }

    #[test]
    fn what_can_not_be_compared_holds_nobody_up() {
        let mut progress = Progress::default();
        progress.read("Pod", 100);
        for token in ["", "17", "Pod", "Pod=x", "Pod=", "=7", "Later=200", " Pod=99  "] {
            assert!(progress.covers(token), "{token:?}");
        }
        assert!(Progress::default().covers("Pod=7"), "of a folder");
        // A server that was set back gives smaller versions.
        progress.changed("Pod", 110);
        progress.read("Pod", 50);
        assert_eq!(progress.token(), "Pod=50");
    }
}
