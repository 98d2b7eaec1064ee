//! How much memory the cgroup of this process has left. Who is killed for it loses all its connections at once; who sheds in
//! time loses those that it can't carry.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::{sys, telemetry::Metrics};

/// The cgroup that bounds this process, and whoever shares it.
#[derive(Debug, PartialEq, Eq)]
pub struct Cgroup {
    folder: PathBuf,
    names: &'static Names,
}

/// What its files are called, and in memory.stat what the kernel takes back by itself.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    limit: &'static str,
    used: &'static str,
    cache: &'static str,
}

/// In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    used: u64,
    limit: u64,
}

/// How it is with memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Calm,
    /// Nothing new is taken, what is open is asked to end, and what is idle ends.
    Tight,
    /// What is open is ended: in a moment the kernel would do so.
    Critical,
}

const V2: Names = Names { limit: "memory.max", used: "memory.current", cache: "inactive_file" };
const V1: Names = Names { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", cache: "total_inactive_file" };

/// In percent of what there is. A sidecar's limit is 256 MiB as a rule: a twentieth of it is what a few stuck peers can hold.
const TIGHT: u64 = 85;
const CRITICAL: u64 = 95;
/// Below that it was enough. Nearer to the mark, each connection that comes back would tip it again.
const CALM: u64 = 75;
/// How long a measure may take to help.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks; the second one when half of it is in use: a full link brings 100 MB in that time.
const SELDOM: Duration = Duration::from_secs(1);
const OFTEN: Duration = Duration::from_millis(100);

/// What is made of readings.
#[derive(Debug, Clone, Copy)]
struct Watch {
    level: Level,
    since: Instant,
    /// What stayed when everything had been shed: configuration, or what others in the cgroup take. Shedding isn't for that.
    floor: u64,
}

/// Says how it is whenever that changes, for as long as anybody listens.
pub async fn follow(cgroup: Cgroup, level: watch::Sender<Level>, metrics: Arc<Metrics>) {
    let mut watch = Watch { level: Level::Calm, since: Instant::now(), floor: 0 };
    while !level.is_closed() {
        let reading = match cgroup.read() {
            Ok(Some(reading)) => reading,
            Ok(None) => {
                // A limit may be set at any time.
                tokio::time::sleep(SELDOM).await;
                continue;
            }
            Err(error) => return tracing::warn!(%error, folder = %cgroup.folder.display(), "memory isn't watched"),
        };
        let before = watch;
        watch.look(reading, Instant::now());
        watch.tell(before, reading);
        metrics.set_memory_level(watch.level as i64);
        level.send_if_modified(|it| std::mem::replace(it, watch.level) != watch.level);
        if watch.level > Level::Calm {
            sys::give_back_free_memory();
        }
        tokio::time::sleep(if reading.used > reading.limit / 2 { OFTEN } else { SELDOM }).await;
    }
}

// === impl Cgroup ===

impl Cgroup {
    /// The one that this process is in; `None` where memory isn't accounted for.
    pub fn own() -> Option<Self> {
        Self::find(&fs::read_to_string("/proc/self/cgroup").ok()?, Path::new("/sys/fs/cgroup"))
    }

    /// By the lines of cgroup(7). In a container they may name a path that only its host has: what is mounted is its own then.
    fn find(lines: &str, mounted: &Path) -> Option<Self> {
        let all = lines.lines().filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
            let (names, root) = match controllers {
                "" => (&V2, mounted.to_owned()),
                "memory" => (&V1, mounted.join("memory")),
                _ => return None,
            };
            Some([root.join(path), root].map(|folder| Self { folder, names }))
        });
        all.flatten().find(|cgroup| cgroup.read().is_ok())
    }

    /// `None`: there is no limit.
    fn read(&self) -> io::Result<Option<Reading>> {
        let file = |name| fs::read_to_string(self.folder.join(name));
        let number = |text: &str| text.trim().parse::<u64>().map_err(io::Error::other);
        let limit = file(self.names.limit)?;
        // Version 1 has a number for it, which depends on the size of pages.
        let limit = if limit.trim() == "max" { u64::MAX } else { number(&limit)? };
        let used = number(&file(self.names.used)?)?;
        if limit > i64::MAX as u64 / 2 {
            return Ok(None);
        }
        let stat = file("memory.stat")?;
        let cache = stat.lines().find_map(|line| line.strip_prefix(self.names.cache)?.strip_prefix(' '));
        let cache = number(cache.unwrap_or("0"))?;
        Ok(Some(Reading { used: used.saturating_sub(cache), limit }))
    }
}

// === impl Watch ===

impl Watch {
    fn look(&mut self, Reading { used, limit }: Reading, now: Instant) {
        // Above a floor they are nearer to the limit, as shares of what it leaves: 70, 90 and 50 %.
        let mark = |percent: u64, floor: u64| match floor {
            0 => u128::from(limit) * u128::from(percent) / 100,
            _ => u128::from(floor) + u128::from(limit.saturating_sub(floor)) * u128::from(percent - 50) / 50,
        };
        let used_now = u128::from(used);
        if used_now < mark(CALM, 0) {
            self.floor = 0;
        }
        let by_now = match self.floor {
            floor if used_now >= mark(CRITICAL, floor) => Level::Critical,
            floor if used_now >= mark(TIGHT, floor) => Level::Tight,
            floor if used_now >= mark(CALM, floor) => self.level.min(Level::Tight),
            _ => Level::Calm,
        };
        let over = now.saturating_duration_since(self.since) >= PATIENCE;
        let next = match (self.level, by_now) {
            (_, Level::Calm) => Level::Calm,
            (Level::Tight, Level::Tight) if over => Level::Critical,
            (Level::Critical, _) if over => {
                self.floor = used;
                Level::Calm
            }
            (before, now) => before.max(now),
        };
        if next != self.level {
            (self.level, self.since) = (next, now);
        }
    }

    fn tell(&self, before: Self, Reading { used, limit }: Reading) {
        if self.level > before.level {
            tracing::warn!(used, limit, level = ?self.level, "memory runs out: connections are shed");
        } else if self.floor > before.floor {
            tracing::error!(used, limit, "no connection holds this memory, so none is shed for it: raise the limit");
        } else if self.level < before.level {
            tracing::info!(used, limit, "there is memory again");
        }
    }
}

#[cfg(test)]
mod tests;
